"""Renames: a protected column or table keeps its meaning only under names that the policy knows. Pure.

The new name must be in the policy before the rename, with the same domain, type, ring and search options;
then nothing stored changes its meaning. Several renames in one statement are a DO block, since there is
no other way to put them into one.
"""

from proxy.postgres.ddl.context import Ddl, Sealed, alike
from proxy.postgres.ddl.spans import statement_end
from proxy.postgres.grammar import Node
from proxy.postgres.indexing import hidden_names, index_columns
from proxy.postgres.names import hidden, quoted
from proxy.postgres.plan import Refusal
from proxy.postgres.predicates import refuse
from proxy.postgres.snapshot import ProtectedColumn


def _kind(statement: Node) -> str:
    names = statement.DESCRIPTOR.fields_by_name["rename_type"].enum_type.values_by_number
    return str(names[statement.rename_type].name).removeprefix("OBJECT_")


def rename(ddl: Ddl, statement: Node) -> None:
    """ALTER … RENAME."""
    which = _kind(statement)
    if which == "SCHEMA":
        schemas = {schema for schema, _, _ in ddl.names.snapshot.protected}
        if {statement.subname, statement.newname} & schemas:
            raise refuse("rename", None, "renaming the schema of a protected table")
        return
    if not statement.HasField("relation"):
        return
    schema, table = ddl.key(statement.relation)
    sealed = ddl.names.protected((schema, table))
    if which == "COLUMN":
        if sealed:
            _column(ddl, statement, sealed, (schema, table))
    elif which == "TABCONSTRAINT":
        ddl.not_hidden(statement.subname, sealed)
    elif not statement.subname:  # of any relation: ALTER INDEX renames tables, too
        moved(ddl, (schema, table), (schema, statement.newname))


def moved(ddl: Ddl, old: tuple[str, str], new: tuple[str, str]) -> None:
    """A relation gets another name or schema: the policy must say the same of it under both."""
    snapshot = ddl.names.snapshot
    sealed, there = snapshot.protected_columns(*old), snapshot.protected_columns(*new)
    if not old[0] and any(t == new[1] for _, t, _ in snapshot.protected):
        raise refuse("rename", None, "renaming a table that is not known to a protected name")
    if not sealed and not there:
        return
    if set(sealed) == set(there) and all(alike(sealed[n], there[n]) for n in sealed):
        return
    example = next(iter((sealed or there).values()))
    raise Refusal(
        "0A000",
        f'renaming "{old[1]}" to "{new[1]}": they are not protected alike',
        _hint(example, f"{new[0]}.{new[1]}.{example.column}" if sealed else ".".join(old)),
    )


def _hint(column: ProtectedColumn, name: str) -> str:
    return (
        f"First list {name} in the configuration with `domain: {column.domain}` and the same type,"
        " ring and search options, beside the old name, and reload."
    )


def _column(ddl: Ddl, statement: Node, sealed: Sealed, key: tuple[str, str]) -> None:
    old, new = sealed.get(statement.subname), sealed.get(statement.newname)
    for name in (statement.subname, statement.newname):
        if name in hidden_names(sealed):
            raise hidden(name)
    if old is None and new is None:
        return
    if old is None or new is None or not alike(old, new):
        column = old or new
        assert column is not None
        name = f"{key[0]}.{key[1]}.{statement.newname}"
        raise Refusal(
            "0A000",
            f'renaming "{statement.subname}" to "{statement.newname}": they are not protected alike',
            _hint(column, name)
            if old
            else "Rename to a name that the configuration does not list.",
            0,
        )
    text = ddl.text
    where = text.at(statement.relation.location)
    first = where
    while text.word(first) != "alter":
        first -= 1
    table = quoted(key[0]) + b"." + quoted(key[1])
    beside = zip(index_columns(old), index_columns(new), strict=True)
    lines = [
        b"ALTER TABLE %s RENAME COLUMN %s TO %s;" % (table, quoted(a), quoted(b))
        for a, b in [
            (old.column, new.column),
            *((i.name, j.name) for i, j in beside),
        ]
    ]
    lines.append(
        b"IF EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE conrelid = %s::pg_catalog.regclass"
        b" AND conname = %s) THEN ALTER TABLE %s RENAME CONSTRAINT %s TO %s; END IF;"
        % (
            _text(table), _text(old.check_name.encode()), table,
            quoted(old.check_name), quoted(new.check_name),
        )
    )  # fmt: skip
    if b"$sealgate$" in b"".join(lines):
        raise refuse("rename", old, "renaming it")
    ddl.edits.columns.update((old, new))
    block = b"DO $sealgate$ BEGIN " + b" ".join(lines) + b" END $sealgate$"
    ddl.edits.replace(text.starts[first], text.ends[statement_end(text, where)], block)


def _text(value: bytes) -> bytes:
    return b"'" + value.replace(b"'", b"''") + b"'"
