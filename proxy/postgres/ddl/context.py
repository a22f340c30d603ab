"""What every DDL rewrite works with: the text, its edits, and what the policy says of a table. Pure."""

from collections.abc import Iterable

from proxy.postgres.edits import Edits
from proxy.postgres.grammar import Node, Text, type_text
from proxy.postgres.indexing import hidden_names, index_columns
from proxy.postgres.names import Names, Scope, Value, hidden, table_entry
from proxy.postgres.names import Sealed as Provenance
from proxy.postgres.plan import Refusal, UnknownColumns
from proxy.postgres.predicates import refuse
from proxy.postgres.query import Query, relations_in
from proxy.postgres.snapshot import Column, ProtectedColumn, Relation
from proxy.postgres.types.registry import same_type

Sealed = dict[str, ProtectedColumn]


class Ddl:
    """Of one statement."""

    def __init__(self, text: Text, edits: Edits, names: Names) -> None:
        self.text = text
        self.edits = edits
        self.names = names
        self.creating: tuple[str, str] | None = None  # what our view says of it is out of date

    def key(self, relation: Node) -> tuple[str, str]:
        """What a table name means; for a new table, where it would be created as far as the policy
        is concerned: the first schema of the path that it knows."""
        return self.names.locate(relation.schemaname, relation.relname)

    def sealed(self, relation: Node) -> Sealed:
        """The protected columns of a relation by name."""
        return self.names.protected(self.key(relation))

    def visible(self, relation: Node, known: bool = False) -> list[str]:
        """Names of a table's columns, as clients see them; the protected ones, which the policy knows,
        of a table that our view does not have yet. `known`: then Refusal, after one more look."""
        key = self.key(relation)
        if self.names.relation(key) is None:
            if known:
                raise UnknownColumns(
                    "0A000", f'the columns of "{relation.relname}" are not known yet',
                    "It does not exist, or its creation is not committed.",
                )  # fmt: skip
            return list(self.names.protected(key))
        entry = self.names.entry(key, relation.relname)
        return [field.name for field in entry.fields or ()]

    def listed(self, relation: Node) -> Sealed:
        """The columns that the policy itself names, without what the catalogue says of parents."""
        schema, table = self.key(relation)
        return self.names.snapshot.protected_columns(schema, table)

    def free_of_sealed(
        self, node: Node, table: str, columns: Iterable[str], sealed: Sealed, rule: str, what: str
    ) -> None:
        """The server evaluates this expression on every row: of a sealed column it may ask only
        whether it is NULL. Tags would not do: they change with the index key."""
        read = [self.names.locate(r.schemaname, r.relname) for r in relations_in(node)]
        if not sealed and not any(self.names.concerns(key) for key in read):
            return
        scratch = Edits()
        query = Query(self.text, scratch, self.names.anew())
        scope = Scope()
        described = Relation("", table, "r", tuple(Column(n, 0) for n in {*columns, *sealed}))
        values: dict[str, Value] = {n: Provenance(c, c.type) for n, c in sealed.items()}
        scope.add(table_entry(described, values, hidden_names(sealed), table, True))
        try:
            query.expressions.plain(node, scope)
            query.finish()
        except Refusal as refusal:
            column = next(iter(scratch.columns), next(iter(sealed.values()), None))
            raise refuse(rule, column, what, refusal.position) from None
        if scratch.any or scratch.checks:
            column = next(iter(scratch.columns), next(iter(sealed.values()), None))
            raise refuse(rule, column, what)

    def not_hidden(self, name: str, sealed: Sealed) -> None:
        """Refuses to touch what belongs to a protected column by its own name."""
        for column in sealed.values():
            if name in (*(i.name for i in index_columns(column)), column.check_name):
                raise hidden(name)


def check_type(definition: Node, column: ProtectedColumn, position: int) -> None:
    """The declared type is the policy's. Refusal 42804 otherwise."""
    name, array = type_text(definition.type_name)
    if not same_type(column.type, name, array, exact=True):
        raise Refusal(
            "42804",
            f'protected column "{column.table}.{column.column}" is configured as '
            f"{column.type.name}, not {name}{'[]' if array else ''}",
            "Declare the type that the configuration names, or change the configuration first.",
            position,
        )


def alike(one: ProtectedColumn, other: ProtectedColumn) -> bool:
    """What is stored in one may be stored in the other as it is, and is searched in the same way."""
    return (
        one.domain == other.domain
        and one.type.oid == other.type.oid
        and one.ring == other.ring
        and one.transform_id == other.transform_id
        and (one.equality, one.search, one.layout) == (other.equality, other.search, other.layout)
    )


def constraint_kind(node: Node) -> str:
    """ "UNIQUE", "FOREIGN", "ATTR_DEFERRABLE", …"""
    names = node.DESCRIPTOR.fields_by_name["contype"].enum_type.values_by_number
    return str(names[node.contype].name).removeprefix("CONSTR_")
