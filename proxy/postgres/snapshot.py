"""An immutable view of the server's schema, as far as names and types go. Pure; no I/O.

The policy decides what is protected; this view is only checked against it, since the server is
not trusted. `catalog.py` builds it; tests build it by hand.
"""

from dataclasses import dataclass, field

from proxy.crypto.tokens import Search
from proxy.policy.model import Mask, Verdict

# pg_type OIDs used all over (PostgreSQL, src/include/catalog/pg_type.dat)
BOOL, BYTEA, INT8, INT2, INT4, TEXT, OID = 16, 17, 20, 21, 23, 25, 26
FLOAT4, FLOAT8, UNKNOWN, BPCHAR, VARCHAR = 700, 701, 705, 1042, 1043
DATE, TIMESTAMP, TIMESTAMPTZ, NUMERIC, UUID = 1082, 1114, 1184, 1700, 2950
BYTEA_ARRAY, TEXT_ARRAY = 1001, 1009


@dataclass(frozen=True, slots=True)
class SealedType:
    """The declared type of a protected column: what clients see.

    `typlen` and `typmod` are as in RowDescription; `name` is the canonical SQL spelling.
    """

    oid: int
    typlen: int
    typmod: int
    name: str
    array_oid: int  # 0: it is an array itself
    labels: tuple[str, ...] = ()  # of an enum, or of an array of one


@dataclass(frozen=True, slots=True)
class ProtectedColumn:
    """One protected column, from the policy file."""

    schema: str
    table: str
    column: str
    domain: str
    type: SealedType
    ring: str
    equality: bool
    transform_id: int = 0
    pad_to_bytes: int = 0
    search: Search = Search()
    layout: str = "generated"  # or "expression": nothing beside the column, indexes on expressions
    max_buckets: int = 256  # of one range search
    ascii_case: bool = False  # ILIKE maps A to Z only
    equal_defaults: bool = (
        False  # the operator accepts that rows with a DEFAULT are seen to be equal
    )
    null_on_error: bool = False  # a value that does not open is NULL for readers
    migrating: bool = False  # the server's catalogue says whether it is sealed (`layouts.py`)
    # what a reader gets instead of the value: a mask, or Verdict.NULL (set for a principal by
    # `masks.shown_to`, never by the configuration of the column)
    shown: Mask | Verdict | None = None

    def __hash__(self) -> int:
        """Of the domain, whose hash Python remembers: columns are keys on every message."""
        return hash(self.domain)

    @property
    def index_column(self) -> str:
        """Name of the generated column that carries the equality tag (layout G)."""
        return f"{self.column}__bx"

    @property
    def check_name(self) -> str:
        """Name of the CHECK that only a sealed value passes."""
        return f"{self.column}__sealed"


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type_oid: int
    typmod: int = -1
    generated: bool = False
    not_null: bool = False
    has_default: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """`kind` is pg_class.relkind: r, p, v, m, f. `definition`: a view's SELECT text."""

    schema: str
    name: str
    kind: str
    columns: tuple[Column, ...]
    definition: str | None = None
    parents: tuple[tuple[str, str], ...] = ()  # inheritance and partition parents (schema, name)
    reads: tuple[tuple[str, str], ...] = ()  # relations that a view's definition names
    primary_key: tuple[str, ...] = ()  # names of its columns, in order; tags stand for their column
    indexes: tuple[str, ...] = ()  # their names
    in_clear: tuple[str, ...] = ()  # columns that the policy protects and that are no bytea
    # columns beside those of clients: the other form of a column that is, or was, being migrated
    beside: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Snapshot:
    """`version` rises with every refresh; plans name the version they were made under."""

    version: int
    database: str
    relations: dict[tuple[str, str], Relation]
    protected: dict[tuple[str, str, str], ProtectedColumn]
    schemas: frozenset[str] = field(default_factory=frozenset)
    # columns of the system's own relations that `catalog_masking.py` knows
    system: dict[str, tuple[str, ...]] = field(default_factory=dict)
    masked_for: frozenset[str] = frozenset()  # roles that see the catalogue masked; "*": all
    # tables with a column that is being migrated, in whichever form it is now. Where it is in clear,
    # `protected` lacks it.
    moving: frozenset[tuple[str, str]] = frozenset()

    def protected_columns(self, schema: str, table: str) -> dict[str, ProtectedColumn]:
        """Protected columns of one relation by name; empty when none."""
        return {c: p for (s, t, c), p in self.protected.items() if s == schema and t == table}
