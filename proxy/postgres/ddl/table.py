"""CREATE TABLE that makes, or is made like, a protected table. Pure."""

from dataclasses import replace

from proxy.postgres.ddl.columns import Table, column
from proxy.postgres.ddl.context import Ddl, Sealed, alike
from proxy.postgres.ddl.keys import plain_reference, table_constraint
from proxy.postgres.ddl.spans import elements, name_last
from proxy.postgres.grammar import Node, kind
from proxy.postgres.plan import Refusal
from proxy.postgres.predicates import refuse

_GENERATED, _CONSTRAINTS, _DEFAULTS = 1 << 4, 1 << 2, 1 << 3  # TableLikeOption
_ALL = 0x7FFFFFFF


def create_table(ddl: Ddl, statement: Node) -> None:
    """CREATE [TEMP] TABLE in all forms but AS."""
    sealed = ddl.sealed(statement.relation)
    parents = [node.range_var for node in statement.inh_relations]
    if not sealed and not any(ddl.sealed(p) for p in parents):
        _plain(ddl, statement)
        return
    if statement.relation.relpersistence == "t" and sealed:
        raise refuse("statement", None, "a temporary table with a protected table's name")
    ddl.creating = ddl.key(statement.relation)
    inherited = _inherited(ddl, parents, sealed, statement.HasField("partbound"))
    held: Sealed = {**inherited, **sealed}
    own = [n.column_def.colname for n in statement.table_elts if kind(n) == "column_def"]
    for parent in parents:
        own += ddl.visible(parent)
    table = Table(statement.relation.relname, ddl.key(statement.relation), own, held)
    for node, (_, last) in zip(statement.table_elts, _elements(ddl, statement), strict=True):
        if kind(node) == "column_def":
            _element(ddl, node.column_def, last, table, inherited)
        elif kind(node) == "constraint":
            table_constraint(ddl, node.constraint, last, table.name, table.key, own, held)
        else:
            _like(ddl, node.table_like_clause, last, sealed)
    if statement.HasField("partspec"):
        _partition_key(ddl, statement.partspec, table)


def _element(ddl: Ddl, definition: Node, last: int, table: Table, inherited: Sealed) -> None:
    name = definition.colname
    found = table.sealed.get(name)
    if found is None:
        for node in definition.constraints:
            constraint = node.constraint
            if constraint.HasField("pktable"):
                plain_reference(ddl, constraint)
            elif constraint.raw_expr.ByteSize():
                ddl.free_of_sealed(
                    constraint.raw_expr, table.name, table.columns, table.sealed,
                    "constraint", "this expression",
                )  # fmt: skip
        return
    if not definition.HasField("type_name"):  # PARTITION OF … (c WITH OPTIONS …)
        raise refuse("constraint", found, "column options of a partition", definition.location + 1)
    if name in inherited:
        raise refuse("constraint", found, "a second definition", definition.location + 1)
    column(ddl, definition, last, found, table)


def _elements(ddl: Ddl, statement: Node) -> list[tuple[int, int]]:
    if not statement.table_elts:
        return []
    text = ddl.text
    opening = name_last(text, statement.relation.location) + 1
    if text.word(opening) == "partition":  # PARTITION OF parent (…)
        opening = name_last(text, statement.inh_relations[0].range_var.location) + 1
    return elements(text, opening)


def _plain(ddl: Ddl, statement: Node) -> None:
    """A table without protected columns: neither made of, nor referring to, some."""
    for node in statement.table_elts:
        if kind(node) == "table_like_clause":
            source = node.table_like_clause.relation
            if ddl.names.concerns(ddl.key(source)):
                raise refuse("like", None, "LIKE of a protected table")
        if kind(node) == "constraint" and node.constraint.HasField("pktable"):
            plain_reference(ddl, node.constraint)
        elif kind(node) == "column_def":
            for constraint in node.column_def.constraints:
                if constraint.constraint.HasField("pktable"):
                    plain_reference(ddl, constraint.constraint)


def _inherited(ddl: Ddl, parents: "list[Node]", sealed: Sealed, partition: bool) -> Sealed:
    """Protected columns that the parents hand down. The policy must say the same of them; it may be
    silent of a partition, which is then reached through its parent only."""
    found: Sealed = {}
    for parent in parents:
        there = ddl.sealed(parent)
        for name in sealed:
            if name not in there and name in ddl.visible(parent, known=True):
                raise refuse("like", sealed[name], "inheriting it from a plain column")
        for name, above in there.items():
            here = sealed.get(name)
            silent = here is None and partition and not sealed
            if not silent and (here is None or not alike(here, above)):
                raise refuse("domain", above, "inheriting it under another policy")
            found[name] = above
    return found


def _like(ddl: Ddl, clause: Node, last: int, sealed: Sealed) -> None:
    """LIKE copies plain `bytea`: tags and CHECK must come along, and the policy must agree."""
    there = ddl.sealed(clause.relation)
    names = ddl.visible(clause.relation, known=not there)
    for name in names:
        here, other = sealed.get(name), there.get(name)
        if here is None and other is None:
            continue
        if here is None or other is None:
            raise refuse("like", here or other, "LIKE between plain and protected columns")
        same = here.type == other.type and alike(
            replace(here, domain=""), replace(other, domain="")
        )
        if not same or (clause.options & _DEFAULTS and here.domain != other.domain):
            raise refuse("domain", here, "LIKE of a column under another policy")
    if there and clause.options != _ALL:
        wanted = ((_GENERATED, b"GENERATED"), (_CONSTRAINTS, b"CONSTRAINTS"))
        missing = [b" INCLUDING " + word for bit, word in wanted if not clause.options & bit]
        end = ddl.text.ends[last]
        ddl.edits.replace(end, end, *missing)
    ddl.edits.columns.update(there.values())


def _partition_key(ddl: Ddl, spec: Node, table: Table) -> None:
    for node in spec.part_params:
        element = node.partition_elem
        if element.name in table.sealed:
            raise refuse(
                "partition", table.sealed[element.name], "PARTITION BY", element.location + 1
            )
        if element.expr.ByteSize():
            ddl.free_of_sealed(
                element.expr, table.name, table.columns, table.sealed, "partition", "PARTITION BY"
            )


def attach(ddl: Ddl, statement: Node, child: Node) -> None:
    """ATTACH or DETACH PARTITION, [NO] INHERIT: both ends are protected in the same way."""
    above, below = ddl.sealed(statement.relation), ddl.listed(child)
    if not above and not below:
        return
    if set(above) != set(below) or not all(alike(above[n], below[n]) for n in above):
        raise Refusal(
            "0A000",
            f'"{child.relname}" and "{statement.relation.relname}" are not protected alike',
            "List the columns of both tables in the configuration, with one `domain` for each pair.",
        )
