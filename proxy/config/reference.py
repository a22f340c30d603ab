"""The manual and the JSON schema of the configuration, from its types and their comments.

`python -m proxy.config.reference` writes docs/reference/configuration.md and config/schema.json;
a test compares them, so that neither can say something else than the types.
"""

import ast
import inspect
import io
import json
import tokenize
import types
import typing
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from proxy.config import model
from proxy.config.base import Section

_ROOT = Path(__file__).parents[2]
MANUAL = _ROOT / "docs" / "reference" / "configuration.md"
SCHEMA = _ROOT / "config" / "schema.json"
_INTRODUCTION = """# Configuration

Written by `python -m proxy.config.reference` from the types in `proxy/config`; do not edit.

One YAML file; `config/sealgate.yaml` is a commented example, `config/schema.json` its JSON schema, and
`sealgate check --config FILE` names every problem with its line. An unknown setting is an error. Any
setting can come from the environment, with a double underscore between levels:
`SEALGATE_KEYS__CACHE__MAX_AGE_SECONDS=60`. Units are in the names. A setting without a default has to
be written, where its section is.
"""
_SYMBOLS = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}


def manual() -> str:
    """The whole page."""
    comments = _comments()
    parts = [_INTRODUCTION.rstrip()]
    for path, section in _sections(model.Config, ""):
        parts.append(f"\n## {section.__name__}\n")
        parts.append(f"At `{path}`.\n" if path else "The whole file.\n")
        text = inspect.cleandoc(section.__doc__ or "") if section.__doc__ else ""
        if text and text != inspect.cleandoc(Section.__doc__ or ""):
            parts.append(text + "\n")
        parts.append("| setting | type | default | meaning |\n|---|---|---|---|")
        for name, field in section.model_fields.items():
            shown = _type(field.annotation) + _bounds(field)
            meaning = _comment_of(section, name, comments)
            parts.append(f"| `{name}` | {shown} | {_default(field)} | {_cell(meaning)} |")
    return "\n".join(parts) + "\n"


def schema() -> str:
    return json.dumps(model.Config.model_json_schema(), indent=1, ensure_ascii=False) + "\n"


def write() -> None:
    MANUAL.write_text(manual(), encoding="utf-8")
    SCHEMA.write_text(schema(), encoding="utf-8")


def _sections(section: type[BaseModel], path: str) -> list[tuple[str, type[BaseModel]]]:
    """Every section once, in reading order, with the first path that leads to it."""
    found: dict[type[BaseModel], str] = {}

    def walk(at: type[BaseModel], where: str) -> None:
        if at in found:
            return
        found[at] = where
        for name, field in at.model_fields.items():
            inner = _models(field.annotation)
            for one in inner:
                suffix = "[]" if _is_list(field.annotation) else ""
                kind = f" ({one.model_fields['kind'].annotation.__args__[0]})" if (  # type: ignore[union-attr]
                    len(inner) > 1 and "kind" in one.model_fields
                ) else ""  # fmt: skip
                walk(one, f"{where}.{name}{suffix}{kind}".lstrip("."))

    walk(section, path)
    return [(where, at) for at, where in found.items()]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in typing.get_args(annotation) for m in _models(a)]


def _is_list(annotation: Any) -> bool:
    if typing.get_origin(annotation) is tuple:
        return True
    return any(_is_list(a) for a in typing.get_args(annotation))


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return " \\| ".join(f"`{a}`" for a in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"mapping of {_type(arguments[1])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(a) for a in arguments if a is not type(None))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    names = {str: "text", int: "whole number", float: "number", bool: "true \\| false"}
    return names.get(annotation, str(annotation))


def _bounds(field: FieldInfo) -> str:
    shown = []
    for bound in field.metadata:
        for kind, symbol in _SYMBOLS.items():
            if isinstance(bound, kind):
                shown.append(f"{symbol} {getattr(bound, kind.__name__.lower())}")
        if isinstance(bound, MinLen):
            shown.append(f"at least {bound.min_length}")
    return f", {', '.join(shown)}" if shown else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None or value == () or value == {}:
        return "none"
    if isinstance(value, BaseModel):
        return "its own defaults" if value == type(value).model_construct() else f"`{value}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return ", ".join(f"`{v}`" for v in value)
    return f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _comment_of(section: type[BaseModel], name: str, comments: dict[tuple[str, str], str]) -> str:
    """Of the class that defines the field: a section may add to another."""
    for owner in section.__mro__:
        if (owner.__name__, name) in comments:
            return comments[owner.__name__, name]
    return ""


def _comments() -> dict[tuple[str, str], str]:
    """What stands behind each field, or on lines of its own above it, by class and field."""
    modules = {inspect.getmodule(section) for _, section in _sections(model.Config, "")}
    found: dict[tuple[str, str], str] = {}
    for module in modules:
        assert module is not None
        found |= _comments_in(inspect.getsource(module))
    return found


def _comments_in(source: str) -> dict[tuple[str, str], str]:
    lines = source.splitlines()
    behind = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found: dict[tuple[str, str], str] = {}
    for section in ast.parse(source).body:
        if not isinstance(section, ast.ClassDef):
            continue
        for item in section.body:
            if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
                continue
            words: list[str] = []
            line = item.lineno - 1
            while lines[line - 1].lstrip().startswith("#"):
                words.insert(0, behind[line])
                line -= 1
            if item.end_lineno in behind:
                words.append(behind[item.end_lineno])
            found[section.name, item.target.id] = " ".join(words)
    return found


if __name__ == "__main__":
    write()
