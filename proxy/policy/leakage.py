"""What does this column configuration give away, and has the operator accepted it?

One finding per leak and column, in words that an operator can decide on. A finding with `refused`
stops the start until its code stands in the column's `acknowledge` list. Pure; reads only
`config.model.ColumnConfig`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.config.model import ColumnConfig

EQUALITY = "equality"
LOW_CARDINALITY = "equality-low-cardinality"
SHARED_DOMAIN = "equality-shared-domain"
LENGTH = "length"
TRANSFORM = "transform"
RANGE = "range"
ORDER = "order"
ORDER_CORRELATED = "order-correlated"
MATCH = "match"

# Types whose values number at most a few tens of thousands, so that counting equal tags and a
# little outside knowledge (a census, the table's purpose) give every value back.
_FEW_VALUES = {"bool", "boolean", "int2", "smallint", "smallserial", '"char"', "date"}
_ONE_CHARACTER = re.compile(r"(?:char|character|bpchar|varchar|character varying)\s*\(\s*1\s*\)")
_ONE_CHARACTER_BARE = {"char", "character"}

# Types whose every value has the same length in binary form: nothing to pad.
_FIXED_LENGTH = {
    "bool", "boolean", "int2", "smallint", "int4", "int", "integer", "int8", "bigint",
    "float4", "real", "float8", "double precision", "date", "time", "time without time zone",
    "timetz", "time with time zone", "timestamp", "timestamp without time zone", "timestamptz",
    "timestamp with time zone", "interval", "uuid", '"char"',
}  # fmt: skip

# Everything else that a column may be declared as; a name in none of the sets is an enum or a
# domain of the user's, of which only the server knows how many values it has.
_OPEN_ENDED = {
    "text", "varchar", "character varying", "char", "character", "bpchar", "name", "citext",
    "bytea", "numeric", "decimal", "json", "jsonb", "xml", "inet", "cidr", "macaddr", "macaddr8",
    "money", "bit", "bit varying", "varbit", "oid",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One leak of one column. `refused`: it needs `code` in the column's `acknowledge`."""

    column: str
    code: str
    text: str
    refused: bool = False

    def __str__(self) -> str:
        return f"{self.column}: {self.code}: {self.text}"


def findings(columns: Sequence[ColumnConfig]) -> list[Finding]:
    """Everything that the configured columns leak, in the order of the configuration."""
    by_domain: dict[str, list[str]] = {}
    for column in columns:
        if column.equality and column.domain is not None:
            by_domain.setdefault(column.domain, []).append(column.column)
    ordered: dict[str, list[str]] = {}
    for column in columns:
        if column.order:
            ordered.setdefault(_table(column), []).append(column.column)
    found: list[Finding] = []
    for column in columns:
        found.extend(_of_column(column, by_domain))
        found.extend(_of_searches(column, ordered))
    return found


def _table(column: ColumnConfig) -> str:
    return column.column.rpartition(".")[0]


def refusals(columns: Sequence[ColumnConfig]) -> list[Finding]:
    """Only the findings that must be acknowledged and are not."""
    return [finding for finding in findings(columns) if finding.refused]


def _of_column(column: ColumnConfig, by_domain: dict[str, list[str]]) -> list[Finding]:
    found: list[Finding] = []
    name, declared = column.column, _normal(column.type)
    is_array = declared.endswith("[]")
    base = declared.split("(")[0].split("[")[0].strip()
    if column.equality:
        found.append(
            Finding(
                name,
                EQUALITY,
                "equality search: equal values carry equal tags, so whoever reads the stored "
                "column learns which rows are equal and how often each value occurs",
            )
        )
        if _has_few_values(declared, base):
            found.append(
                Finding(
                    name,
                    LOW_CARDINALITY,
                    f"equality search on {declared}: the type has so few values (or only the "
                    "server knows how many) that the frequency of the tags gives the values "
                    f'themselves away; write acknowledge: ["{LOW_CARDINALITY}"] to accept it',
                    refused=LOW_CARDINALITY not in column.acknowledge,
                )
            )
        others = [other for other in by_domain.get(column.domain or "", []) if other != name]
        if others:
            found.append(
                Finding(
                    name,
                    SHARED_DOMAIN,
                    f"shares its domain with {', '.join(others)}: equal values can be seen across "
                    "these columns, which is what joins on them need",
                )
            )
    if not column.pad_to_bytes and column.pad == "none" and (is_array or base not in _FIXED_LENGTH):
        found.append(
            Finding(
                name,
                LENGTH,
                f"the length of every value ({declared}) can be read off its ciphertext; "
                "pad_to_bytes hides it up to a multiple of that size, pad: max whole",
            )
        )
    return found


def _of_searches(column: ColumnConfig, ordered: dict[str, list[str]]) -> list[Finding]:
    """What the searches beyond equality give away."""
    found: list[Finding] = []

    def add(code: str, text: str, must: bool) -> None:
        refused = must and code not in column.acknowledge
        asked = f'; write acknowledge: ["{code}"] to accept it' if must else ""
        found.append(Finding(column.column, code, text + asked, refused))

    declared = _normal(column.type)
    if column.transform != "none":
        few = _has_few_values(declared, declared.split("(")[0].strip())
        add(
            LOW_CARDINALITY if few else TRANSFORM,
            f"transform {column.transform}: values that are equal behind it carry equal tags, with "
            "the frequency of each",
            few,
        )
    if column.range is not None:
        add(
            RANGE,
            f"range search: rows of one bucket ({column.range.width} wide) carry equal tags, so the "
            "histogram over the buckets shows, though not their order; a search shows which "
            "buckets it asks for, and neighbours are asked for together",
            False,
        )
    if column.order:
        add(
            ORDER,
            "order search: whoever reads the stored column can sort it, sees which values are equal, "
            "and of any two values the first bit in which they differ; with a little outside "
            "knowledge that comes close to the values themselves",
            True,
        )
        others = [name for name in ordered[_table(column)] if name != column.column]
        if others:
            add(
                ORDER_CORRELATED,
                f"order search here and on {', '.join(others)} of the same table: the two orders "
                "together give away far more than each alone (Durak, DuBuisson, Cash 2016)",
                True,
            )
    if column.match is not None:
        what = f"every run of {column.match.ngram} characters" if column.match.ngram else ""
        if column.match.prefixes:
            lengths = ", ".join(map(str, sorted(set(column.match.prefixes))))
            what += (" and " if what else "") + f"the first {lengths} characters"
        add(
            MATCH,
            f"pattern search: {what} (case aside) carry tags that are equal in all rows; the "
            "frequencies of a language's letter groups give much of a text back",
            True,
        )
    return found


def _has_few_values(declared: str, base: str) -> bool:
    if base in _FEW_VALUES or declared in _ONE_CHARACTER_BARE:
        return True
    if _ONE_CHARACTER.fullmatch(declared) or re.fullmatch(r"bit(\s*\(\s*\d\s*\))?", declared):
        return True
    return base not in _OPEN_ENDED and base not in _FIXED_LENGTH


def _normal(type_text: str) -> str:
    return " ".join(type_text.lower().split())
