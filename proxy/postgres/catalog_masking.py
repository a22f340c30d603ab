"""What the catalogue says of protected columns, for clients that look there: the declared type. Pure.

In a query that reads the catalogue and no protected table, the names `pg_attribute`, `pg_constraint`,
`pg_index` and `information_schema.columns` become sub-selects over the same relations, in which constants
of our policy stand in the place of what sealing made of a column: its type and length; no tags beside it;
keys on tags are keys on the column; no CHECK. `pg_get_constraintdef` and `pg_get_indexdef` name the column
instead of its tags. Nothing leaks: only names and types of the policy are sent. A form that is not
understood is forwarded as it is, and shows `bytea`.
"""

import re
from collections.abc import Iterable

from proxy.postgres.edits import Edits
from proxy.postgres.grammar import Node, Text, fields, strings
from proxy.postgres.indexing import index_columns, quoted
from proxy.postgres.names import Names
from proxy.postgres.snapshot import ProtectedColumn, SealedType

WORDS = ("pg_attribute", "pg_constraint", "pg_index", "pg_get_constraintdef", "pg_get_indexdef",
         "information_schema")  # fmt: skip
_CATALOGS = frozenset({"pg_attribute", "pg_constraint", "pg_index"})
_DEFINITIONS = frozenset({"pg_get_constraintdef", "pg_get_indexdef"})
_SYSTEM = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})
_LENGTHS = frozenset({1042, 1043})
_NUMERIC = 1700

Masked = list[tuple[tuple[str, str], ProtectedColumn]]


def mask(text: Text, statement: Node, names: Names, edits: Edits) -> None:
    """Records the edits of one query; none where it does not read the catalogue or is not understood."""
    masked = [(key, c) for key, found in sorted(names.tables.items()) for c in found.values()]
    scan = _Scan()
    scan.walk(statement)
    tables = [(r, which) for r in scan.relations if (which := _which(r, names))]
    if not masked or scan.odd or any(which not in names.snapshot.system for _, which in tables):
        return
    for relation, which in tables:
        start = text.at(relation.location)
        last = start
        while text.word(last + 1) == ".":
            last += 2
        alias = b"" if relation.HasField("alias") else b" AS " + quoted(relation.relname)
        body = _BODIES[which](masked, names.snapshot.system[which])
        edits.replace(text.starts[start], text.ends[last], b"(" + body + b")" + alias)
    bare = {r.relname for r, _ in tables if not r.HasField("alias")}
    for ref in scan.references:
        parts = strings(ref.fields)
        if len(parts) == 3 and parts[1] in bare:
            first = text.at(ref.location)
            edits.replace(text.starts[first], text.starts[first + 2])
    for call in scan.calls:
        _definition(text, call, masked, edits)
    if edits.any:
        for param in scan.params:
            end = text.ends[text.at(param.location)]
            edits.param(param.location, end, param.number)


class _Scan:
    """Everything below a message that a mask has to look at."""

    def __init__(self) -> None:
        self.relations: list[Node] = []
        self.references: list[Node] = []
        self.calls: list[Node] = []
        self.params: list[Node] = []
        self.odd = False
        self._ctes: set[str] = set()

    def walk(self, node: Node) -> None:
        stack = [node]
        while stack:
            message = stack.pop()
            name = message.DESCRIPTOR.name
            if name == "RangeVar":
                self.relations.append(message)
                self.odd = self.odd or not message.inh or len(message.alias.colnames) > 0
            elif name == "ColumnRef":
                self.references.append(message)
                self.odd = self.odd or strings(message.fields)[-1] in _SYSTEM
            elif name == "FuncCall":
                if strings(message.funcname)[-1] in _DEFINITIONS:
                    self.calls.append(message)
            elif name == "ParamRef":
                self.params.append(message)
            elif name in ("RangeTableSample", "LockingClause", "IntoClause"):
                self.odd = True
            elif name == "CommonTableExpr":
                self.odd = self.odd or message.ctename in _CATALOGS or message.ctename == "columns"
            stack += fields(message)


def _which(relation: Node, names: Names) -> str:
    """Which relation that has a mask is meant; "" if none."""
    name, schema = relation.relname, relation.schemaname
    if name in _CATALOGS and (
        schema == "pg_catalog" or (not schema and names.locate("", name)[0] == "")
    ):
        return str(name)
    return "columns" if name == "columns" and schema == "information_schema" else ""


def _definition(text: Text, call: Node, masked: Masked, edits: Edits) -> None:
    """The server's text of a key or index, with the column's name where its tags' stands."""
    tags = sorted({i.name for _, c in masked for i in index_columns(c)}, key=len, reverse=True)
    if not tags:
        return
    at = text.at(call.location)
    while text.word(at) != "(":
        at += 1
    end = text.ends[text.matching(at, 1)]
    shown = "|".join(sorted((re.escape(t.rpartition("__")[0]) for t in tags), reverse=True))
    ends = "|".join(sorted({t.rpartition("__")[2] for t in tags}))
    pattern = _text(rf"\m({shown})__({ends})\M")
    edits.replace(call.location, call.location, b"pg_catalog.regexp_replace(")
    edits.replace(end, end, b", " + pattern + b", " + _text(r"\1") + b", 'g')")


def _text(value: str) -> bytes:
    """A literal that means the same whatever the settings."""
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return b"E'" + escaped.encode() + b"'"


def _oid(key: tuple[str, str]) -> bytes:
    """The table's oid: NULL where there is none of this name."""
    return b"pg_catalog.to_regclass(%s)::pg_catalog.oid" % _text(
        (quoted(key[0]) + b"." + quoted(key[1])).decode()
    )


def _rows(rows: Iterable[tuple[bytes, ...]]) -> bytes:
    return b"(VALUES " + b", ".join(b"(" + b", ".join(row) + b")" for row in rows) + b")"


def _name(value: str) -> bytes:
    return _text(value) + b"::pg_catalog.name"


def _columns(masked: Masked) -> bytes:
    """(rel, col, type, length, typmod) of the protected columns."""
    return _rows(
        (_oid(key), _name(c.column), b"%d::pg_catalog.oid" % c.type.oid,
         b"(%d)::pg_catalog.int2" % c.type.typlen, b"(%d)::pg_catalog.int4" % c.type.typmod)
        for key, c in masked
    )  # fmt: skip


def _hidden(masked: Masked) -> bytes:
    """(rel, tag, col): the columns beside the protected ones; one row of NULLs where there are none."""
    rows = [
        (_oid(key), _name(i.name), _name(c.column)) for key, c in masked for i in index_columns(c)
    ]
    return _rows(
        rows or [(b"NULL::pg_catalog.oid", b"NULL::pg_catalog.name", b"NULL::pg_catalog.name")]
    )


def _listed(columns: Iterable[str], instead: dict[str, bytes]) -> bytes:
    """A select list of all the columns of alias `s`, some computed."""
    return b", ".join(
        instead[c] + b" AS " + quoted(c) if c in instead else b"s." + quoted(c) for c in columns
    )


def _attribute(masked: Masked, columns: tuple[str, ...]) -> bytes:
    shown = _listed(columns, {
        "atttypid": b"coalesce(m.t, s.atttypid)",
        "attlen": b"coalesce(m.l, s.attlen)",
        "atttypmod": b"coalesce(m.d, s.atttypmod)",
        "attnotnull": b"(s.attnotnull OR EXISTS (SELECT FROM pg_catalog.pg_attribute b JOIN "
        + _hidden(masked) + b" h (r, x, c) ON h.r = b.attrelid AND h.x = b.attname"
        b" WHERE h.r = s.attrelid AND h.c = s.attname AND b.attnotnull))",
        "atthasdef": b"(s.atthasdef AND m.r IS NULL)",
    })  # fmt: skip
    return (
        b"SELECT " + shown + b" FROM pg_catalog.pg_attribute s LEFT JOIN " + _columns(masked)
        + b" m (r, c, t, l, d) ON m.r = s.attrelid AND m.c = s.attname WHERE NOT EXISTS (SELECT FROM "
        + _hidden(masked) + b" h (r, x, c) WHERE h.r = s.attrelid AND h.x = s.attname)"
    )  # fmt: skip


def _numbers(masked: Masked, relation: bytes, numbers: bytes) -> bytes:
    """An array of column numbers with the column's number where its tags' stands."""
    return (
        b"ARRAY(SELECT coalesce(y.attnum, k.n)::pg_catalog.int2 FROM pg_catalog.unnest(" + numbers
        + b") WITH ORDINALITY k (n, i) LEFT JOIN (pg_catalog.pg_attribute x JOIN " + _hidden(masked)
        + b" h (r, x, c) ON h.r = x.attrelid AND h.x = x.attname JOIN pg_catalog.pg_attribute y"
        b" ON y.attrelid = h.r AND y.attname = h.c) ON x.attrelid = " + relation
        + b" AND x.attnum = k.n ORDER BY k.i)"
    )  # fmt: skip


def _constraint(masked: Masked, columns: tuple[str, ...]) -> bytes:
    keys = {
        name: b"CASE WHEN s." + name.encode() + b" IS NOT NULL THEN "
        + _numbers(masked, relation, b"s." + name.encode()) + b" END"
        for name, relation in (("conkey", b"s.conrelid"), ("confkey", b"s.confrelid"))
    }  # fmt: skip
    checks = _rows((_oid(key), _name(c.check_name)) for key, c in masked)
    return (
        b"SELECT " + _listed(columns, keys) + b" FROM pg_catalog.pg_constraint s WHERE NOT (s.contype"
        b" = 'c' AND EXISTS (SELECT FROM " + checks + b" h (r, c) WHERE h.r = s.conrelid"
        b" AND h.c = s.conname))"
    )  # fmt: skip


def _index(masked: Masked, columns: tuple[str, ...]) -> bytes:
    key = (
        b"pg_catalog.array_to_string(" + _numbers(masked, b"s.indrelid", b"s.indkey")
        + b", ' ')::pg_catalog.int2vector"
    )  # fmt: skip
    return b"SELECT " + _listed(columns, {"indkey": key}) + b" FROM pg_catalog.pg_index s"


def _information(masked: Masked, columns: tuple[str, ...]) -> bytes:
    rows = []
    for (schema, table), c in masked:
        kind = c.type
        rows.append(
            (
                _name(schema), _name(table), _name(c.column), b"%d::pg_catalog.oid" % kind.oid,
                _length(kind), *_precision(kind),
            )
        )  # fmt: skip
    hidden = _rows(
        [
            (_name(schema), _name(table), _name(i.name))
            for (schema, table), c in masked
            for i in index_columns(c)
        ]
        or [(b"NULL::pg_catalog.name",) * 3]
    )
    own = b"CASE WHEN m.c IS NULL THEN s.%s ELSE %s END"
    shown = _listed(columns, {
        "data_type": own % (b"data_type", b"pg_catalog.format_type(m.t, NULL)"),
        "udt_name": own % (
            b"udt_name", b"(SELECT p.typname FROM pg_catalog.pg_type p WHERE p.oid = m.t)"
        ),
        "character_maximum_length": own % (b"character_maximum_length", b"m.l"),
        "character_octet_length": own % (b"character_octet_length", b"m.l * 4"),
        "numeric_precision": own % (b"numeric_precision", b"m.p"),
        "numeric_precision_radix": own % (
            b"numeric_precision_radix", b"CASE WHEN m.p IS NOT NULL THEN 10 END"
        ),
        "numeric_scale": own % (b"numeric_scale", b"m.q"),
        "column_default": own % (b"column_default", b"NULL"),
    })  # fmt: skip
    match = b" ON %s.s = s.table_schema AND %s.t0 = s.table_name AND %s.c = s.column_name"
    return (
        b"SELECT " + shown + b" FROM information_schema.columns s LEFT JOIN " + _rows(rows)
        + b" m (s, t0, c, t, l, p, q)" + match % (b"m", b"m", b"m")
        + b" WHERE NOT EXISTS (SELECT FROM " + hidden + b" h (s, t0, c) WHERE"
        + (match % (b"h", b"h", b"h")).removeprefix(b" ON") + b")"
    )  # fmt: skip


def _length(kind: SealedType) -> bytes:
    shown = b"%d" % (kind.typmod - 4) if kind.oid in _LENGTHS and kind.typmod >= 4 else b"NULL"
    return shown + b"::pg_catalog.int4"


def _precision(kind: SealedType) -> tuple[bytes, bytes]:
    if kind.oid != _NUMERIC or kind.typmod < 4:
        return b"NULL::pg_catalog.int4", b"NULL::pg_catalog.int4"
    scale = (kind.typmod - 4) & 0x7FF
    scale -= 2048 if scale >= 1024 else 0
    return (
        b"(%d)::pg_catalog.int4" % ((kind.typmod - 4) >> 16 & 0xFFFF),
        b"(%d)::pg_catalog.int4" % scale,
    )


_BODIES = {
    "pg_attribute": _attribute,
    "pg_constraint": _constraint,
    "pg_index": _index,
    "columns": _information,
}
