"""What does a name mean here? Relations by search_path, columns by scope, as PostgreSQL resolves them."""

from dataclasses import dataclass, field

from proxy.postgres.indexing import hidden_names, quoted
from proxy.postgres.plan import Refusal, SessionContext, UnknownColumns
from proxy.postgres.snapshot import ProtectedColumn, Relation, Snapshot

__all__ = ["Entry", "Field", "Names", "Scope", "hidden", "quoted"]


@dataclass(frozen=True, slots=True)
class Field:
    """A column of a range entry. `sealed`: its provenance when protected. `base`: a column of a table
    itself, so that its tag has a column of its own beside it."""

    name: str
    sealed: ProtectedColumn | None = None
    base: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in FROM. `fields` is None when its columns are not known (then none is protected)."""

    alias: str
    fields: tuple[Field, ...] | None
    hidden: frozenset[str] = frozenset()

    @property
    def protected(self) -> bool:
        return any(f.sealed for f in self.fields or ())


@dataclass
class Scope:
    """Range entries of one query level, the CTEs that it sees, and the level around it."""

    parent: "Scope | None" = None
    entries: list[Entry] = field(default_factory=list)
    ctes: dict[str, tuple[Field, ...] | None] = field(default_factory=dict)

    def cte(self, name: str) -> tuple[bool, tuple[Field, ...] | None]:
        """(is there such a CTE, its fields)."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.ctes:
                return True, scope.ctes[name]
            scope = scope.parent
        return False, None

    def entry(self, alias: str) -> Entry | None:
        scope: Scope | None = self
        while scope is not None:
            for entry in scope.entries:
                if entry.alias == alias:
                    return entry
            scope = scope.parent
        return None

    def any_protected(self) -> bool:
        return any(e.protected for e in self.entries)

    def column(self, name: str) -> tuple[Entry, Field] | None:
        """The field that an unqualified name means; None when it is none that we know of."""
        scope: Scope | None = self
        while scope is not None:
            found = [
                (entry, f) for entry in scope.entries for f in entry.fields or () if f.name == name
            ]
            for entry in scope.entries:
                if name in entry.hidden:
                    raise hidden(name)
            sealed = [pair for pair in found if pair[1].sealed]
            if sealed and len(found) > 1:
                raise Refusal("42702", f'column reference "{name}" is ambiguous')
            if found:
                return found[0]
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

    def __init__(self, snapshot: Snapshot, ctx: SessionContext) -> None:
        self.snapshot = snapshot
        path = [ctx.user if s == "$user" else s for s in ctx.search_path]
        self._path = [*(["pg_catalog"] if "pg_catalog" not in path else []), *path]
        self.visited: set[int] = set()  # where the table names stand that were analysed
        self._tables: dict[tuple[str, str], dict[str, ProtectedColumn]] = {}
        for (schema, table, column), found in snapshot.protected.items():
            self._tables.setdefault((schema, table), {})[column] = found

    def locate(self, schema: str, name: str) -> tuple[str, str]:
        """(schema, name) of the relation; the first schema of the path for an unknown one."""
        if schema:
            return schema, name
        for candidate in self._path:
            key = (candidate, name)
            if key in self.snapshot.relations or key in self._tables:
                return key
        return "", name

    def relation(self, key: tuple[str, str]) -> Relation | None:
        return self.snapshot.relations.get(key)

    def protected(self, key: tuple[str, str]) -> dict[str, ProtectedColumn]:
        return self._tables.get(key, {})

    def entry(self, key: tuple[str, str], alias: str) -> Entry:
        """The range entry of a relation. Refusal for views and children of protected ones."""
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
        if not sealed:
            self._refuse_dependent(found)
        bx = hidden_names(sealed)
        visible = tuple(
            Field(c.name, sealed.get(c.name), True) for c in found.columns if c.name not in bx
        )
        return Entry(alias, visible, bx)

    def _refuse_dependent(self, relation: Relation) -> None:
        hint = "Use the protected table itself."
        for parent in relation.parents:
            if self.protected(parent):
                raise Refusal("0A000", f'"{relation.name}" is a child of a protected table', hint)
        if relation.definition is not None:
            text = relation.definition.lower()
            for _, table in self._tables:
                if table.lower() in text:
                    raise Refusal("0A000", f'view "{relation.name}" reads a protected table', hint)

    def watched(self) -> set[str]:
        """Names whose mention needs the grammar: protected tables, and views and children of them."""
        words = {table for _, table in self._tables}
        for relation in self.snapshot.relations.values():
            text = (relation.definition or "").lower()
            if any(parent in self._tables for parent in relation.parents) or any(
                table.lower() in text for _, table in self._tables if text
            ):
                words.add(relation.name)
        return words
