"""Options that several commands of a ceremony have, each written once.

A command takes them as one of these classes; `spread` shows typer their fields in its place.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

State = Annotated[
    Path, typer.Option(help="This side's folder: whom it trusts, what it has done.")
]  # fmt: skip
Out = Annotated[
    Path, typer.Option("--out", "-o", help="The file to write; it must not exist.")
]  # fmt: skip
Roster = Annotated[
    Path, typer.Option(help="The roster: who the custodians are, and how many must agree.")
]
KeyLabel = Annotated[str, typer.Option(help="Label of the key in the token.")]


@dataclass(frozen=True)
class TokenOptions:
    module: Annotated[str | None, typer.Option(help="PKCS #11 module of the token.")] = None
    token: Annotated[str | None, typer.Option(help="Label of the token.")] = None
    pin_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds the PIN.")
    ] = None
    pin_file: Annotated[Path | None, typer.Option(help="File that holds the PIN.")] = None


@dataclass(frozen=True)
class PlacedOptions(TokenOptions):
    """A token that a configuration may name, too."""

    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Take the token from keys.provider there.")
    ] = None


@dataclass(frozen=True)
class KeyOptions:
    """A custodian's key file."""

    key: Annotated[Path | None, typer.Option(help="The custodian's key file.")] = None
    passphrase_env: Annotated[
        str | None, typer.Option(help="Variable with the key file's passphrase.")
    ] = None
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File with the key file's passphrase.")
    ] = None


@dataclass(frozen=True)
class SignerOptions(TokenOptions, KeyOptions):
    """A custodian's key, in a file or in a token."""

    key_label: KeyLabel = "sealgate-custodian"


@dataclass(frozen=True)
class RootOptions:
    """A sealed root file."""

    root_file: Annotated[
        Path | None, typer.Option(help="A sealed root file (keys.provider.file).")
    ] = None
    passphrase_env: Annotated[
        str | None, typer.Option(help="Variable with the root's passphrase.")
    ] = None
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File with the root's passphrase.")
    ] = None


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """`command` as typer can take it: each parameter of a class above is that class's fields."""
    shown: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if dataclasses.is_dataclass(kind):
            groups[name] = kind
            fields = get_type_hints(kind, include_extras=True)
            shown += [_option(f.name, fields[f.name], f.default) for f in dataclasses.fields(kind)]
        else:
            shown.append(_option(name, kind, parameter.default))

    @functools.wraps(command)
    def typed(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{f.name: given.pop(f.name) for f in dataclasses.fields(kind)})
        command(**given)

    typed.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    typed.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return typed


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
    )
