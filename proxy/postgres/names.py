"""What does a name mean here? Relations by search_path, columns by scope, as PostgreSQL resolves them.

A `Field` is a column of something in FROM with its provenance. A `Cell` is a column that only
parameters, literals and NULL feed (VALUES, unnest, a sub-select of such): it takes the form that its
uses ask for, one form for all of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.postgres.indexing import hidden_names, quoted
from proxy.postgres.plan import Refusal, SessionContext, UnknownColumns
from proxy.postgres.predicates import refuse
from proxy.postgres.snapshot import ProtectedColumn, Relation, SealedType, Snapshot

__all__ = ["Entry", "Field", "Names", "Scope", "Sealed", "hidden", "quoted"]

if TYPE_CHECKING:
    from proxy.postgres.views import Views


TEMPORARY = "pg_temp"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed value of `column`'s domain; `shown`: the type that a client sees it as."""

    column: ProtectedColumn
    shown: SealedType


@dataclass(frozen=True, slots=True)
class Broken:
    """A column of a view that is computed from sealed values in a way that is not understood."""

    refusal: Refusal


class Cell:
    """Undecided until asked for; `form` is "", "plain", "tag" or "sealed" (of `column`)."""

    def __init__(self) -> None:
        self.form = ""
        self.column: ProtectedColumn | None = None

    def want_plain(self, position: int) -> None:
        """It is used as it is. Refusal if it is wanted sealed elsewhere."""
        if self.form in ("tag", "sealed"):
            raise refuse("both", self.column, "a value used sealed and in clear", position)
        self.form = "plain"

    def want(self, form: str, column: ProtectedColumn, position: int) -> None:
        """It is used as a tag or sealed value. Refusal if it has another use already."""
        if self.form == "plain":
            raise refuse("both", column, "a value used sealed and in clear", position)
        if self.column is not None and self.column.domain != column.domain:
            raise refuse("domain", column, "a value of two protected columns", position)
        if self.form == "sealed" and form == "sealed" and self.column != column:
            raise refuse("domain", column, "a value of two protected columns", position)
        if self.form != "sealed":
            self.form, self.column = form, column


Value = Sealed | Cell | Broken | None


@dataclass(frozen=True, slots=True)
class Field:
    """A visible column. `text`: how it is written wherever its entry can be named. `lead`: what stands
    before the names of the columns beside it that carry its tokens; empty where there are none, and
    tokens must be cut from the value. `merged`: of JOIN … USING that became ON, so that its bare name
    means nothing any more. `type_oid`: 0 where not known."""

    name: str
    value: Value = None
    text: bytes = b""
    lead: bytes = b""
    merged: bool = False
    type_oid: int = 0

    @property
    def sealed(self) -> ProtectedColumn | None:
        return self.value.column if isinstance(self.value, Sealed) else None


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in FROM. `fields` is None when its columns are not known (then none is protected)."""

    alias: str
    fields: tuple[Field, ...] | None
    hidden: frozenset[str] = frozenset()
    writable: bool = True
    absent: frozenset[str] = (
        frozenset()
    )  # protected by the policy, not in our view of the table (yet)

    @property
    def protected(self) -> bool:
        return any(isinstance(f.value, Sealed | Broken) for f in self.fields or ())

    def named(self, name: str) -> Field | None:
        found = next((f for f in self.fields or () if f.name == name), None)
        if found is None and name in self.absent:
            # another session may just have added it: it must not be taken for a plain one
            raise UnknownColumns("42703", f'column "{name}" of "{self.alias}" does not exist')
        return found


@dataclass(frozen=True, slots=True)
class Derived:
    """Columns of a sub-select or CTE before it has an alias, each (name, value, type's OID or 0): None
    when they are not known."""

    columns: tuple[tuple[str, Value, int], ...] | None

    def entry(self, alias: str, names: list[str]) -> Entry:
        """Under an alias, with its first columns renamed."""
        if self.columns is None:
            return Entry(alias, None)
        renamed = names + [column[0] for column in self.columns[len(names) :]]
        lead = quoted(alias) + b"."
        return Entry(
            alias,
            tuple(
                Field(n, value, lead + quoted(n), type_oid=type_oid)
                for n, (_, value, type_oid) in zip(renamed, self.columns, strict=False)
            ),
        )


@dataclass
class Scope:
    """One query level: what is in FROM, the columns that bare names and `*` mean, the CTEs that it
    sees, the fields that it groups by, and the level around it."""

    parent: "Scope | None" = None
    entries: list[Entry] = field(default_factory=list)
    visible: list[Field] = field(default_factory=list)
    ctes: dict[str, Derived] = field(default_factory=dict)
    grouped: set[Field] = field(default_factory=set)

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.visible += entry.fields or ()

    def beside(self) -> "Scope":
        """The surroundings of a sub-select in FROM that is not LATERAL."""
        return Scope(self.parent, ctes=self.ctes)

    def cte(self, name: str) -> Derived | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.ctes:
                return scope.ctes[name]
            scope = scope.parent
        return None

    def entry(self, alias: str) -> "tuple[Entry, Scope] | None":
        scope: Scope | None = self
        while scope is not None:
            for entry in scope.entries:
                if entry.alias == alias:
                    return entry, scope
            scope = scope.parent
        return None

    def any_protected(self) -> bool:
        return any(e.protected for e in self.entries)

    def column(self, name: str) -> "tuple[Field, Scope] | None":
        """The field that a bare name means; None when it is none that we know of."""
        scope: Scope | None = self
        doubt = False
        while scope is not None:
            found = [f for f in scope.visible if f.name == name]
            for entry in scope.entries:
                if name in entry.hidden:
                    raise hidden(name)
            if len(found) > 1 and any(f.value is not None for f in found):
                raise Refusal("42702", f'column reference "{name}" is ambiguous')
            if found:
                if doubt and found[0].value is not None:
                    raise refuse("qualify", None, f'column "{name}" could be one of two')
                return found[0], scope
            for entry in scope.entries:
                entry.named(name)
            doubt = doubt or any(e.fields is None for e in scope.entries)
            scope = scope.parent
        return None


def hidden(name: str) -> Refusal:
    return Refusal(
        "0A000",
        f'column "{name}" carries the search tags of a protected column',
        "Name the protected column itself; the proxy uses its tags where they serve.",
    )


class Names:
    """Relations as one session sees them."""

    def __init__(
        self, snapshot: Snapshot, ctx: SessionContext, views: "Views | None" = None
    ) -> None:
        self.snapshot = snapshot
        self.ctx = ctx
        path = [(ctx.user, True) if s == "$user" else (s, False) for s in ctx.search_path]
        system = [] if ("pg_catalog", False) in path else [("pg_catalog", False)]
        self._path = [*system, *path]  # with whether it is there as "$user"
        if ctx.temporary and (TEMPORARY, False) not in path:
            self._path.insert(0, (TEMPORARY, False))
        self.visited: set[int] = set()  # where the table names stand that were analysed
        self._views = views
        self._tables = views.tables if views is not None else tables_of(snapshot)

    def locate(self, schema: str, name: str) -> tuple[str, str]:
        """(schema, name) of the relation; the first schema of the path for an unknown one. Refusal: a
        temporary table or one in the schema "$user" hides a protected one. The path has these schemas
        by default, and who runs the server could put a table there that is written in clear. Of
        temporary tables no column is known."""
        if schema:
            return schema, name
        for i, (candidate, users_own) in enumerate(self._path):
            key = (candidate, name)
            if key in self._tables:
                return key
            if candidate == TEMPORARY and name in self.ctx.temporary:
                if any(self.concerns((s, name)) for s, _ in self._path[i + 1 :]):
                    raise Refusal(
                        "0A000",
                        f'temporary table "{name}" hides a protected one',
                        "Write the schema before the table's name, or drop the temporary table.",
                    )
                return key
            if key in self.snapshot.relations:
                hides = [s for s, _ in self._path[i + 1 :] if (s, name) in self._tables]
                if users_own and hides:
                    raise Refusal(
                        "0A000",
                        f'table "{candidate}.{name}" hides protected table "{hides[0]}.{name}"',
                        "Write the schema before the table's name, or set search_path.",
                    )
                return key
        return "", name

    @property
    def tables(self) -> dict[tuple[str, str], dict[str, ProtectedColumn]]:
        """All protected columns by table, children included."""
        return self._tables

    def anew(self) -> "Names":
        """The same view, with nothing visited."""
        return Names(self.snapshot, self.ctx, self._views)

    def relation(self, key: tuple[str, str]) -> Relation | None:
        return self.snapshot.relations.get(key)

    def protected(self, key: tuple[str, str]) -> dict[str, ProtectedColumn]:
        """Protected columns of a table, a partition or a child of one."""
        return self._tables.get(key, {})

    def entry(self, key: tuple[str, str], alias: str) -> Entry:
        """The range entry of a relation."""
        sealed = self.protected(key)
        found = self.relation(key)
        if found is None:
            if not sealed:
                return Entry(alias, None)
            raise UnknownColumns(
                "0A000",
                f'the columns of protected relation "{key[1]}" are not known yet',
                "It does not exist, or its creation is not committed.",
            )
        if found.definition is not None and not sealed:
            values = self._views.columns(key) if self._views is not None else {}
            return table_entry(found, values, frozenset(), alias, False)
        if found.in_clear:
            raise UnknownColumns(
                "0A000",
                f'column "{found.name}.{found.in_clear[0]}" is protected by the configuration, but the'
                " server holds it in clear",
                "Seal what is there first: docs/how-to/migrate.md.",
            )
        bx = hidden_names(sealed) | found.beside
        columns: dict[str, Value] = {n: Sealed(c, c.type) for n, c in sealed.items()}
        return table_entry(found, columns, bx, alias, True)

    def watched(self) -> set[str]:
        """Names whose mention needs the grammar: protected tables, and views and children of them."""
        if self._views is not None:
            return self._views.watched
        return {table for _, table in self._tables}

    def concerns(self, key: tuple[str, str]) -> bool:
        """Whether the relation is protected, or a view that may read a protected one."""
        return key in self._tables or (self._views is not None and key in self._views.dependent)

    def moves(self, node_names: "Iterable[tuple[str, str]]") -> bool:
        """Whether one of these tables (schema as written, name) has a column that is being migrated."""
        moving = self.snapshot.moving
        return bool(moving) and any(self.locate(*written) in moving for written in node_names)


def table_entry(
    relation: Relation, values: "dict[str, Value]", bx: frozenset[str], alias: str, base: bool
) -> Entry:
    """A relation under an alias. `bx`: its hidden columns. `base`: its tags have columns of their own."""
    lead = quoted(alias) + b"."
    fields = []
    for c in relation.columns:
        if c.name in bx:
            continue
        value = values.get(c.name)
        beside = lead if base and isinstance(value, Sealed) else b""
        fields.append(Field(c.name, value, lead + quoted(c.name), beside, False, c.type_oid))
    absent = (
        frozenset(n for n, v in values.items() if isinstance(v, Sealed)) if base else frozenset()
    )
    return Entry(alias, tuple(fields), bx, base, absent - {c.name for c in relation.columns})


def tables_of(snapshot: Snapshot) -> dict[tuple[str, str], dict[str, ProtectedColumn]]:
    """Protected columns by table, children of protected tables included.

    What the catalogue says of inheritance is not trusted: it can only add tables to those of the
    policy, whose values then are sealed for, and open as, their parent's column.
    """
    tables: dict[tuple[str, str], dict[str, ProtectedColumn]] = {}
    for (schema, table, column), found in snapshot.protected.items():
        tables.setdefault((schema, table), {})[column] = found
    grew = True
    while grew:
        grew = False
        for key, relation in snapshot.relations.items():
            for parent in relation.parents:
                inherited = tables.get(parent, {})
                own = tables.get(key, {})
                if any(name not in own for name in inherited):
                    tables[key] = {**inherited, **own}
                    grew = True
    return tables
