"""What is executed for one client statement: the contract between the rewriter and the session.

Made once per distinct statement by `rewrite.py`, cached by `plancache.py`, executed by
`session.py`. Computed from our own provenance only, never from the server's RowDescription.
Values never live in a plan except as `Literal`s of a plan for one exact text.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from proxy.postgres.snapshot import ProtectedColumn, SealedType


class Use(Enum):
    """What a client's value becomes on the server leg."""

    PASS = "pass"  # noqa: S105 - forwarded as the client sent it
    STORE = "store"  # sealed value, bytea, of the column's length and scale
    SHOW = "show"  # sealed value, bytea, as it is: it is shown to the client and not written
    TAG = "tag"  # equality tag under the active index key, bytea (16 bytes)
    SEARCH = "search"  # what finds a value: its tag; while there are several index keys, all its
    # tags as bytea[] ({NULL} for NULL), with `Either` around it in the text
    TAG_ARRAY = "tag_array"  # array of the declared type -> bytea[] of tags under the active key
    SEARCH_ARRAY = "search_array"  # array of the declared type -> bytea[] of all its elements' tags
    STORE_ARRAY = "store_array"  # array of the declared type -> bytea[] of sealed values
    TRANSFORM = "transform"  # tag of the transformed value, bytea (16 bytes)
    TRANSFORMED = "transformed"  # tag of a value that is compared with transformed ones
    LIKE_TAG = "like_tag"  # tags of a pattern that has no wildcard
    ILIKE_TAG = "ilike_tag"
    ORDER_LT = "order_lt"  # bounds among order tokens, bytea: below it lies what is less, ...
    ORDER_LE = "order_le"
    ORDER_GT = "order_gt"  # ... and from it on what is greater
    ORDER_GE = "order_ge"
    ORDER_START = "order_start"  # the ends of the order under its key; NULL for a NULL operand
    ORDER_END = "order_end"
    BUCKETS = "buckets"  # bytea[]: tags of the buckets of a range
    MATCH = "match"  # text[]: tokens of a pattern


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand of the client's: the text of a literal (None: NULL) with its OID or 0, the 0-based
    number of a parameter, or a text that is put together of several."""

    text: bytes | None = None
    oid: int = 0
    parameter: int = -1
    parts: "tuple[Operand, ...]" = ()


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a range: `sign` is <, <=, > or >=."""

    sign: str
    operand: Operand


@dataclass(frozen=True, slots=True)
class Pattern:
    """A LIKE pattern; `escape` is its escape character, or empty."""

    escape: str
    operand: Operand


@dataclass(frozen=True, slots=True)
class Cast:
    """A value is cast explicitly to a type with a length or scale before it is used: it is cut."""

    type: SealedType


# what a list of tokens is made of, or what is done to a value before
How = tuple[Bound, ...] | Pattern | Cast | None


@dataclass(frozen=True, slots=True)
class Leaf:
    """One predicate that opened rows are tested for: column `value` of the check, `sign` one of <, <=,
    >, >=, ~~ (LIKE), or "null" and "not null", which are said of the operand alone. `case`: lower or
    upper is applied to the value before; `pattern_case`: to the pattern."""

    value: int
    sign: str
    operand: Operand
    escape: str = "\\"
    case: str = ""
    pattern_case: str = ""


@dataclass(frozen=True, slots=True)
class Junction:
    """All of the parts hold, or any of them."""

    every: bool
    parts: "tuple[Test, ...]"


Test = Leaf | Junction


@dataclass(frozen=True, slots=True)
class Check:
    """Rows stay only where `test` holds for the columns that the plan added behind the client's."""

    columns: tuple[ProtectedColumn, ...]
    test: Test
    limit: Operand | None = None  # counted here, since the server's rows are a superset
    offset: Operand | None = None


@dataclass(frozen=True, slots=True)
class ParamTarget:
    """One parameter on the server leg: which client parameter feeds it, and as what."""

    client_index: int  # 0-based, into the client's parameter list
    use: Use
    column: ProtectedColumn | None = None  # None only with Use.PASS
    server_oid: int = 0  # OID to declare in Parse; 0 = let the server infer (PASS only)
    how: How = None  # of BUCKETS and MATCH, which may read other parameters, too


@dataclass(frozen=True, slots=True)
class ClientParam:
    """What ParameterDescription says of the client's parameter: 0 = take the server's answer
    for `pass_target` (its 0-based index in the server's list)."""

    oid: int
    pass_target: int = -1


@dataclass(frozen=True, slots=True)
class Literal:
    """A literal of the client's text that becomes a sealed value or tag, spliced as
    `'\\x..'::bytea`. `text` is the literal's value (quotes and escapes resolved), PostgreSQL text
    input of its own type, which is the column's where it has none, as UTF-8."""

    column: ProtectedColumn
    use: Use
    text: bytes
    oid: int = 0  # its own type; 0: an untyped string; -1: a bare number, whose digits decide
    how: How = None  # as in ParamTarget


@dataclass(frozen=True, slots=True)
class Either:
    """A piece of the text that depends on how many index keys the column has now."""

    column: ProtectedColumn
    one: bytes
    several: bytes


_ANALYSED_EARLY = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE"})

Segment = bytes | Literal | Either


class Effect(Enum):
    """What the session must do after the statement succeeds."""

    SCHEMA_CHANGED = "schema_changed"  # refresh the snapshot before the next plan
    SETTINGS_CHANGED = "settings_changed"  # search_path and friends: re-read before the next plan
    BEGIN = "begin"
    END = "end"


@dataclass(frozen=True)
class CopyPlan:
    """The data stream of a COPY with protected columns (PostgreSQL documentation, COPY).

    `columns`: name and provenance (None = passes) of every cell, in order. `relation` is what the
    server calls the table in its CONTEXT; empty for COPY (query). `form`: native.COPY_*_FORMAT.
    `header`: "", "yes" or "match". The `force_*` hold indexes of columns.
    """

    relation: str
    inwards: bool  # FROM STDIN
    form: int
    columns: tuple[tuple[str, ProtectedColumn | None], ...]
    delimiter: bytes = b"\t"
    null: bytes = b"\\N"
    quote: bytes = b'"'
    escape: bytes = b'"'
    default: bytes | None = None
    header: str = ""
    force_quote: frozenset[int] = frozenset()
    force_not_null: frozenset[int] = frozenset()
    force_null: frozenset[int] = frozenset()

    @property
    def outputs(self) -> tuple[ProtectedColumn | None, ...]:
        return tuple(column for _, column in self.columns)


@dataclass(frozen=True, slots=True)
class Cursor:
    """What a statement does to the SQL cursor `name`. `verb`: declare, fetch, move or close (of all
    where the name is empty). `outputs` and `shown`: of a declared query, as in StatementPlan."""

    verb: str
    name: bytes
    binary: bool = False
    hold: bool = False
    outputs: tuple[ProtectedColumn | None, ...] | None = None
    shown: tuple[SealedType | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of EXECUTE: as it is written, and its value as text (None: NULL) if it is a constant."""

    text: bytes
    constant: bool
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Named:
    """What a statement does to the prepared statement `name` (of DEALLOCATE ALL: empty). `verb`: prepare,
    execute, deallocate, or inside (EXECUTE within another statement). Of PREPARE, `head` is the text
    up to the name, `types` the declared types with their OIDs (0: not known), `sql` the query."""

    verb: str
    name: bytes
    head: bytes = b""
    types: tuple[tuple[bytes, int], ...] = ()
    sql: bytes = b""
    arguments: tuple[Argument, ...] = ()


@dataclass(frozen=True)
class StatementPlan:
    """One statement of the client's text.

    `segments` is the text for the server (for a forwarded one: exactly the client's bytes,
    including the separator that follows it). `outputs` is None when no output column is
    protected (rows are then forwarded untouched); else one entry per output column, None = pass.
    `returns_rows` tells whether a RowDescription is to be expected (None: not known, forwarded).
    """

    segments: tuple[Segment, ...]
    rewritten: bool
    params: tuple[ParamTarget, ...] = ()
    client_params: tuple[ClientParam, ...] = ()
    outputs: tuple[ProtectedColumn | None, ...] | None = None
    effects: frozenset[Effect] = frozenset()
    command: str = ""  # for metrics and logs: "SELECT", "INSERT", ...
    protected: frozenset[ProtectedColumn] = field(default_factory=frozenset)  # all columns used
    # for plans that serve other literals too (`templates.py`): the spans of the client's text that
    # were replaced, and the offsets of the constants whose values cannot matter (None: not known)
    edits: tuple[tuple[int, int, tuple[Segment, ...]], ...] = ()
    free: frozenset[int] | None = None
    check: Check | None = None  # its columns are the last of `outputs`; the client never sees them
    # where a cast or function changed it: the type as which an output is shown, else None
    shown: tuple[SealedType | None, ...] | None = None
    # columns whose stored tags are compared with each other, or with one tag alone: what the
    # statement says is true only while they have one index key
    compared: frozenset[ProtectedColumn] = field(default_factory=frozenset)
    copy: CopyPlan | None = None
    cursor: Cursor | None = None
    named: Named | None = None
    # names a table with a column that is being migrated (`motion.py`); and surely locks it
    moving: bool = False
    locks: bool = False

    @property
    def locks_early(self) -> bool:
        """Its Parse and its Bind lock the table, too. (Of other commands the server looks at the tables
        when they are executed.)"""
        return self.locks and self.command in _ANALYSED_EARLY

    @property
    def visible(self) -> tuple[ProtectedColumn | None, ...] | None:
        """The client's outputs."""
        if self.outputs is None or self.check is None:
            return self.outputs
        return self.outputs[: -len(self.check.columns)]


@dataclass(frozen=True)
class Plan:
    """A whole client text: one statement (extended protocol) or several (simple Query)."""

    statements: tuple[StatementPlan, ...]
    snapshot_version: int
    sensitive: bool = False  # names something protected, be it only a namesake in another schema

    @property
    def transparent(self) -> bool:
        """Nothing protected is touched: the client's bytes are forwarded as they came."""
        return not any(
            s.rewritten or s.outputs or s.copy or (s.cursor and s.cursor.outputs)
            for s in self.statements
        )


class Refusal(Exception):
    """A statement that is refused: SQLSTATE, message, hint, 1-based character position or 0."""

    def __init__(self, sqlstate: str, message: str, hint: str = "", position: int = 0) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message
        self.hint = hint
        self.position = position


class UnknownColumns(Refusal):
    """A protected relation whose columns our view of the schema does not have (yet): it may have been
    created through another worker. Worth one refresh before it is said."""


class SessionContext(NamedTuple):
    """What changes the meaning of a text: part of the plan cache's key."""

    database: str
    user: str
    search_path: tuple[str, ...] = ("$user", "public")
    standard_conforming_strings: bool = True
    temporary: frozenset[str] = (
        frozenset()
    )  # names of the session's temporary tables, views, sequences
