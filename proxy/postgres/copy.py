"""What a COPY statement on protected columns asks for: its columns, format and options. Pure.

`plan()` pins the column list into the server's text, so that the cells of the stream are known by
their position; the options mean what `ProcessCopyOptions` of the server makes of them. COPY to or
from a server's file or program is refused: it would read or write sealed values, or store plain ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.native import COPY_BINARY_FORMAT, COPY_CSV_FORMAT, COPY_TEXT_FORMAT
from proxy.postgres.grammar import Node, inner, kind, strings
from proxy.postgres.names import Entry, Scope, Sealed, hidden, quoted
from proxy.postgres.plan import CopyPlan, Refusal
from proxy.postgres.predicates import refuse
from proxy.postgres.snapshot import ProtectedColumn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.postgres.query import Output, Query

_FORMATS = {"text": COPY_TEXT_FORMAT, "csv": COPY_CSV_FORMAT, "binary": COPY_BINARY_FORMAT}
_TRUE = frozenset({"", "true", "on", "1"})
_FALSE = frozenset({"false", "off", "0"})
# a sealed cell consists of these, and must not be taken for anything else
_SEALED_BYTES = frozenset(b"\\x0123456789abcdef")
_LISTS = ("force_quote", "force_not_null", "force_null")
_KNOWN = frozenset({"format", "delimiter", "null", "header", "quote", "escape", "encoding",
                    "freeze", "default", "on_error", "log_verbosity", *_LISTS})  # fmt: skip


def plan(query: Query, statement: Node, outputs: Sequence[Output] | None) -> CopyPlan | None:
    """The plan of a COPY, its edits recorded; None if it moves nothing protected.

    `outputs`: of the query of COPY (query) TO, which the caller has analysed. Refusal.
    """
    if outputs is not None:
        origins = [o.origin if isinstance(o.origin, Sealed) else None for o in outputs]
        if not any(origins):
            return None
        _no_file(statement)
        columns = tuple(
            (o.name, None if s is None else s.column) for o, s in zip(outputs, origins, strict=True)
        )
        found = _with_options(statement, "", columns)
        for s in origins:
            if s is not None and found.form == COPY_BINARY_FORMAT and s.shown != s.column.type:
                raise refuse("cast", s.column, "COPY in binary of a cast")
        return found
    entry = _relation(query, statement)
    if entry is None:
        return None
    if entry.protected:
        _no_file(statement)
    columns = _columns(query, statement, entry)
    if statement.where_clause.ByteSize():
        # a generated column is not computed yet where WHERE is evaluated
        scope = Scope()
        fields = tuple(replace(f, lead=b"") for f in entry.fields or ())
        scope.add(replace(entry, fields=fields))
        query.expressions.plain(statement.where_clause, scope)
        query.finish()
    if not any(sealed for _, sealed in columns):
        return None
    for _, sealed in columns:
        if sealed is not None:
            query.edits.columns.add(sealed)
    return _with_options(statement, statement.relation.relname, columns)


def _relation(query: Query, statement: Node) -> Entry | None:
    relation = statement.relation
    query.names.visited.add(relation.location)
    key = query.names.locate(relation.schemaname, relation.relname)
    entry = query.names.entry(key, relation.relname)
    if entry.protected and not entry.writable:
        raise refuse("view", None, f'COPY of view "{relation.relname}"')
    return entry if entry.protected or entry.hidden else None


def _no_file(statement: Node) -> None:
    if statement.filename or statement.is_program:
        what = "a program" if statement.is_program else "a file"
        raise Refusal(
            "0A000",
            f"COPY of protected columns with {what} on the server is not supported",
            "Use COPY … FROM STDIN or TO STDOUT; psql has \\copy.",
        )


def _columns(
    query: Query, statement: Node, entry: Entry
) -> tuple[tuple[str, ProtectedColumn | None], ...]:
    """Names of the stream's cells; pinned in the text where the client leaves them to the server."""
    relation = statement.relation
    by_name = {f.name: f.sealed for f in entry.fields or ()}
    if statement.attlist:
        named = strings(statement.attlist)
        for name in named:
            if name in entry.hidden:
                raise hidden(name)
        return tuple((name, by_name.get(name)) for name in named)
    found = query.names.relation(query.names.locate(relation.schemaname, relation.relname))
    generated = {c.name for c in found.columns if c.generated} if found is not None else set()
    named = [name for name in by_name if name not in generated]
    parts = 1 + bool(relation.schemaname) + bool(relation.catalogname)
    end = query.text.name_end(relation.location, parts)
    query.edits.replace(end, end, b" (" + b", ".join(quoted(n) for n in named) + b")")
    return tuple((name, by_name[name]) for name in named)


# ---- options -----------------------------------------------------------------------------------
def _with_options(
    statement: Node, relation: str, columns: tuple[tuple[str, ProtectedColumn | None], ...]
) -> CopyPlan:
    options: dict[str, Node] = {}
    for node in statement.options:
        element = node.def_elem
        if element.defname in options:
            raise Refusal("42601", "conflicting or redundant options", "", element.location + 1)
        if element.defname not in _KNOWN:
            raise Refusal(
                "42601", f'option "{element.defname}" not recognized', "", element.location + 1
            )
        options[element.defname] = element.arg
    name = _word(options.get("format"), "text")
    form = _FORMATS.get(name)
    if form is None:
        raise Refusal("22023", f'COPY format "{name}" not recognized')
    if _word(options.get("on_error"), "stop").lower() != "stop":
        raise Refusal(
            "0A000",
            "COPY with ON_ERROR on protected columns is not supported",
            "Leave ON_ERROR out: the first bad value then ends the COPY.",
        )
    if _word(options.get("encoding"), "UTF8").upper().replace("-", "") not in ("UTF8", "UNICODE"):
        raise Refusal(
            "0A000",
            "COPY of protected columns with another ENCODING than UTF8 is not supported",
            "Convert the data to UTF-8.",
        )
    csv = form == COPY_CSV_FORMAT
    quote = _byte(options, "quote", b'"')
    header = _header(options.get("header"), "header" in options, statement.is_from)
    found = CopyPlan(
        relation=relation,
        inwards=bool(statement.is_from),
        form=form,
        columns=columns,
        delimiter=_byte(options, "delimiter", b"," if csv else b"\t"),
        null=_word(options.get("null"), "" if csv else "\\N").encode(),
        quote=quote,
        escape=_byte(options, "escape", quote),
        default=_word(options["default"], "").encode() if "default" in options else None,
        header=header,
        force_quote=_forced(options, "force_quote", columns),
        force_not_null=_forced(options, "force_not_null", columns),
        force_null=_forced(options, "force_null", columns),
    )
    _legible(found)
    return found


def _word(arg: Node | None, default: str) -> str:
    """An option's value as the server's defGetString has it."""
    if arg is None or not kind(arg):
        return default
    if kind(arg) == "string":
        return str(arg.string.sval)
    if kind(arg) == "integer":
        return str(arg.integer.ival)
    if kind(arg) == "float":
        return str(arg.float.fval)
    if kind(arg) == "boolean":
        return "true" if arg.boolean.boolval else "false"
    if kind(arg) == "type_name":
        return ".".join(strings(inner(arg).names))
    return default


def _header(arg: Node | None, given: bool, inwards: bool) -> str:
    word = _word(arg, "").lower() if given else "false"
    if word in _TRUE:
        return "yes"
    if word in _FALSE:
        return ""
    if word == "match":
        if inwards:
            return "match"
        raise Refusal("0A000", 'cannot use "match" with HEADER in COPY TO')
    raise Refusal("42601", 'header requires a Boolean value or "match"')


def _byte(options: dict[str, Node], name: str, default: bytes) -> bytes:
    if name not in options:
        return default
    value = _word(options[name], "").encode()
    if len(value) != 1:
        shown = "delimiter" if name == "delimiter" else name
        raise Refusal("0A000", f"COPY {shown} must be a single one-byte character")
    return value


def _forced(
    options: dict[str, Node], name: str, columns: tuple[tuple[str, ProtectedColumn | None], ...]
) -> frozenset[int]:
    if name not in options:
        return frozenset()
    if kind(options[name]) == "a_star":
        return frozenset(range(len(columns)))
    wanted = set(strings(inner(options[name]).items))
    return frozenset(i for i, (column, _) in enumerate(columns) if column in wanted)


def _legible(found: CopyPlan) -> None:
    """The stream can be read, and a sealed cell in it can be told from its punctuation."""
    if found.form == COPY_BINARY_FORMAT:
        return
    marks = [found.delimiter]
    if found.form == COPY_CSV_FORMAT:
        marks += [found.quote]
        if found.delimiter == found.quote:
            raise Refusal("22023", "COPY delimiter and quote must be different")
    if any(mark in (b"\n", b"\r", b"\0") for mark in marks):
        raise Refusal("22023", "COPY delimiter cannot be newline or carriage return")
    if any(mark[0] in _SEALED_BYTES for mark in marks):
        raise Refusal(
            "0A000",
            "COPY of protected columns with this delimiter or quote is not supported",
            "Use another than a backslash, x, a hexadecimal digit.",
        )
    for text in (found.null, found.default):
        if text is not None and (b"\n" in text or b"\r" in text or found.delimiter in text):
            raise Refusal("22023", "COPY null representation cannot use newline or the delimiter")
        if text is not None and text.startswith(b"\\x"):
            raise refuse("statement", None, "COPY with a NULL or DEFAULT that begins like bytea")
