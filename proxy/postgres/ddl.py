"""DDL that names protected columns: CREATE TABLE, ALTER TABLE, CREATE INDEX. Pure.

A protected column becomes `bytea` with a CHECK that only a sealed value passes; with equality search a
generated, stored column beside it carries the tags, and takes over UNIQUE, PRIMARY KEY, REFERENCES and
indexes (layout G).
"""

from proxy.postgres.edits import Edits
from proxy.postgres.grammar import Node, Text, kind, strings, type_text
from proxy.postgres.indexing import TRANSFORM, index_columns, indexed_by, tokens_of
from proxy.postgres.names import Names, quoted
from proxy.postgres.patterns import transform_operand
from proxy.postgres.plan import Refusal
from proxy.postgres.predicates import refuse
from proxy.postgres.snapshot import ProtectedColumn
from proxy.postgres.types.registry import same_type

_NULL, _NOT_NULL, _CHECK, _PRIMARY, _UNIQUE, _FOREIGN = 1, 2, 6, 7, 8, 10
_ATTRIBUTES = frozenset(range(11, 17))
_OPERATOR_CLASSES = frozenset({"gin_trgm_ops", "array_ops"})
LEAST_BYTES = 67


def check_text(column: str) -> bytes:
    """The condition that only a sealed value passes (docs/reference/format.md, "Column value")."""
    name = quoted(column)
    return b"CHECK (octet_length(%s) >= %d AND get_byte(%s, 0) = 197 AND get_byte(%s, 1) = 1)" % (
        name,
        LEAST_BYTES,
        name,
        name,
    )


class Ddl:
    """Of one statement."""

    def __init__(self, text: Text, edits: Edits, names: Names) -> None:
        self.text = text
        self.edits = edits
        self.names = names

    def _target(self, relation: Node) -> dict[str, ProtectedColumn]:
        """Protected columns of the relation that a DDL statement names; for a new one, of where it
        would be created: the first schema of the path that the policy knows."""
        key = self.names.locate(relation.schemaname, relation.relname)
        return self.names.protected(key)

    def create_table(self, statement: Node) -> bool:
        """Whether it names a protected table; then the edits are made."""
        sealed = self._target(statement.relation)
        self._no_copies(statement)
        if not sealed:
            return self._references(statement.table_elts)
        if statement.relation.relpersistence == "t":
            raise refuse("statement", None, "a temporary table with a protected table's name")
        if statement.inh_relations or statement.HasField("partbound"):
            raise refuse("statement", None, "inheritance of a protected table")
        if not statement.table_elts:
            raise refuse("statement", None, "a protected table without columns of its own")
        for node in statement.table_elts:
            if kind(node) == "column_def":
                column = sealed.get(node.column_def.colname)
                if column is None:
                    self._references([node])
                else:
                    self.column(node.column_def, column)
            elif kind(node) == "constraint":
                self._constraint(node.constraint, sealed)
            else:
                raise refuse("statement", None, "LIKE in a protected table")
        return True

    def _no_copies(self, statement: Node) -> None:
        """LIKE and INHERITS of a protected table would make columns that nobody protects."""
        sources = [n.range_var for n in statement.inh_relations]
        for node in statement.table_elts:
            if kind(node) == "table_like_clause":
                sources.append(node.table_like_clause.relation)
        for source in sources:
            if self._target(source):
                raise refuse("statement", None, "LIKE or INHERITS of a protected table")

    def column(self, definition: Node, column: ProtectedColumn, added: bool = False) -> None:
        """Rewrites one column definition; `added`: of ALTER TABLE ADD COLUMN."""
        self._check_type(definition, column)
        self.edits.columns.add(column)
        start = definition.location
        name = self.text.at(start)
        last = self.text.type_end(name + 1)
        words = [quoted(column.column) + b" bytea"]
        extra: list[bytes] = []
        end = self.text.ends[last]
        for node in definition.constraints:
            constraint = node.constraint
            end = max(end, self._constraint_end(constraint))
            if constraint.contype == _NOT_NULL:
                words.append(b"NOT NULL")
            elif constraint.contype in (_PRIMARY, _UNIQUE, _FOREIGN):
                if constraint.contype == _PRIMARY:
                    words.append(b"NOT NULL")
                extra.append(self._moved(constraint, column))
            elif constraint.contype not in (_NULL, *_ATTRIBUTES):
                rule = "DEFAULT" if constraint.contype == 3 else "constraint"
                raise refuse(rule, column, "this constraint", constraint.location + 1)
        if definition.HasField("coll_clause"):
            raise refuse("constraint", column, "COLLATE")
        words.append(check_text(column.column))
        text = b" ".join(words)
        lead = b", ADD COLUMN " if added else b", "
        for tokens in index_columns(column):
            text += lead + tokens.definition
        for part in extra:
            text += (b", ADD " if added else b", ") + part
        self.edits.replace(start, end, text)

    def _check_type(self, definition: Node, column: ProtectedColumn) -> None:
        name, array = type_text(definition.type_name)
        if not same_type(column.type, name, array, exact=True):
            raise Refusal(
                "42804",
                f'protected column "{column.table}.{column.column}" is configured as '
                f"{column.type.name}, not {name}",
                "Declare the type that the configuration names, or change the configuration.",
                definition.location + 1,
            )

    def _constraint_end(self, constraint: Node) -> int:
        """Where a column constraint ends: at the comma or bracket that closes the definition, or where
        the next constraint begins; the caller takes the furthest."""
        index = self.text.at(constraint.location)
        while index < len(self.text.starts):
            word = self.text.word(index)
            if word == "(":
                index = self.text.matching(index, 1)
            elif word in (",", ")", ";"):
                break
            index += 1
        return self.text.ends[index - 1]

    def _moved(self, constraint: Node, column: ProtectedColumn) -> bytes:
        """A column's key constraint as a table constraint on its tags."""
        self._can_be_key(column, constraint)
        name = b"CONSTRAINT " + quoted(constraint.conname) + b" " if constraint.conname else b""
        tags = b"(" + quoted(column.index_column) + b")"
        if constraint.contype == _PRIMARY:
            return name + b"PRIMARY KEY " + tags
        if constraint.contype == _UNIQUE:
            distinct = b" NULLS NOT DISTINCT" if constraint.nulls_not_distinct else b""
            return name + b"UNIQUE" + distinct + b" " + tags
        return name + b"FOREIGN KEY " + tags + b" " + self._reference(constraint, column)

    def _can_be_key(self, column: ProtectedColumn, constraint: Node) -> None:
        if not column.equality:
            raise refuse("no equality", column, "a key", constraint.location + 1)
        if column.layout != "generated":
            raise refuse("layout", column, "a key", constraint.location + 1)

    def _reference(self, constraint: Node, column: ProtectedColumn) -> bytes:
        there = self.names.protected(
            self.names.locate(constraint.pktable.schemaname, constraint.pktable.relname)
        )
        keys = strings(constraint.pk_attrs)
        target = there.get(keys[0]) if len(keys) == 1 else None
        if target is not None and target.layout != "generated":
            raise refuse("layout", column, "this reference", constraint.location + 1)
        if target is None or target.domain != column.domain or not target.equality:
            raise refuse("domain", column, "this reference", constraint.location + 1)
        if constraint.fk_del_action not in ("a", "r", "c", "") or constraint.fk_upd_action not in (
            "a", "r", "",
        ):  # fmt: skip
            raise refuse("constraint", column, "this referential action", constraint.location + 1)
        table = quoted(constraint.pktable.relname)
        if constraint.pktable.schemaname:
            table = quoted(constraint.pktable.schemaname) + b"." + table
        cascade = b" ON DELETE CASCADE" if constraint.fk_del_action == "c" else b""
        return b"REFERENCES " + table + b" (" + quoted(target.index_column) + b")" + cascade

    def _constraint(self, constraint: Node, sealed: dict[str, ProtectedColumn]) -> None:
        """A table constraint: keys on protected columns move to their tags."""
        named = strings(constraint.keys) + strings(constraint.fk_attrs)
        touched = [sealed[n] for n in named if n in sealed]
        if constraint.contype == _CHECK or constraint.contype == 9:
            for name, column in sealed.items():
                if self._mentions(constraint, name):
                    raise refuse(
                        "constraint", column, "a CHECK or EXCLUDE", constraint.location + 1
                    )
            return
        if not touched:
            return
        if constraint.contype == _FOREIGN:
            if len(named) != 1:
                raise refuse("constraint", touched[0], "a reference of several columns")
            key = b"FOREIGN KEY (" + quoted(touched[0].index_column) + b") "
            label = (
                b"CONSTRAINT " + quoted(constraint.conname) + b" " if constraint.conname else b""
            )
            end = self._constraint_end(constraint)
            start = constraint.location
            self.edits.replace(start, end, label + key + self._reference(constraint, touched[0]))
            return
        for column in touched:
            self._can_be_key(column, constraint)
            self._rename_in_brackets(constraint.location, column, quoted(column.index_column))

    def _mentions(self, constraint: Node, name: str) -> bool:
        index = self.text.at(constraint.location)
        last = self.text.at(self._constraint_end(constraint))
        low = name.lower()
        return any(self.text.word(i) in (low, f'"{low}"') for i in range(index, last + 1))

    def _rename_in_brackets(self, offset: int, column: ProtectedColumn, tokens: bytes) -> None:
        """The first mention of the column in brackets behind `offset` names its tokens instead, and an
        operator class that follows goes: it was one for the declared type."""
        index = self.text.at(offset)
        while self.text.word(index) != "(":
            index += 1
        low = column.column.lower()
        while self.text.word(index) not in (low, f'"{low}"'):
            index += 1
            if index >= len(self.text.starts):
                raise refuse("constraint", column, "this constraint")
        self.edits.columns.add(column)
        last = index
        if self.text.word(index + 1) in _OPERATOR_CLASSES:
            last = index + 1
        self.edits.replace(self.text.starts[index], self.text.ends[last], tokens)

    def _references(self, elements: "list[Node]") -> bool:
        """A plain table's reference to a protected key cannot hold: tags are no plain values."""
        for node in elements:
            constraints = []
            if kind(node) == "column_def":
                constraints = [c.constraint for c in node.column_def.constraints]
            elif kind(node) == "constraint":
                constraints = [node.constraint]
            for constraint in constraints:
                if constraint.contype != _FOREIGN:
                    continue
                key = self.names.locate(constraint.pktable.schemaname, constraint.pktable.relname)
                there = self.names.protected(key)
                for name in strings(constraint.pk_attrs):
                    if name in there:
                        raise refuse("domain", there[name], "a reference from a plain column")
        return False

    def index(self, statement: Node) -> bool:
        """CREATE INDEX: on the tags of a protected column."""
        sealed = self._target(statement.relation)
        if not sealed:
            return False
        if statement.where_clause.ByteSize():
            for name, column in sealed.items():
                if name.encode() in statement.where_clause.SerializeToString():
                    raise refuse("index", column, "a partial index")
        touched = False
        for node in [*statement.index_params, *statement.index_including_params]:
            element = node.index_elem
            found = sealed.get(element.name)
            if found is None:
                if self._transformed(element, sealed):
                    touched = True
                    continue
                for name, column in sealed.items():
                    if (
                        element.expr.ByteSize()
                        and name.encode() in element.expr.SerializeToString()
                    ):
                        raise refuse("index", column, "an expression index")
                continue
            method = statement.access_method
            tokens = indexed_by(found, method, statement.unique)
            if tokens is None:
                raise refuse("no equality", found, "an index")
            if method not in ("btree", "hash", "gin") or (
                strings(element.opclass) and method != "gin"
            ):
                raise refuse("index", found, f"an index of method {method}")
            self._rename_in_brackets(statement.relation.location, found, tokens.element)
            touched = True
        return touched

    def _transformed(self, element: Node, sealed: dict[str, ProtectedColumn]) -> bool:
        """An index on lower(column) stands on the tags of the transformed value."""
        if kind(element.expr) != "func_call":
            return False
        call = element.expr.func_call
        found = transform_operand(call, sealed)
        if found is None:
            return False
        tokens = tokens_of(found, TRANSFORM)
        assert tokens is not None
        at = self.text.at(call.location)
        while self.text.word(at) != "(":
            at += 1
        end = self.text.ends[self.text.matching(at, 1)]
        self.edits.columns.add(found)
        self.edits.replace(call.location, end, tokens.element)
        return True

    def alter_table(self, statement: Node) -> bool:
        """ALTER TABLE: columns are added and dropped with their tags; other changes are refused."""
        sealed = self._target(statement.relation)
        for node in statement.cmds:
            other = getattr(node.alter_table_cmd, "def")
            named = None
            if kind(other) == "range_var":  # INHERIT
                named = other.range_var
            elif kind(other) == "partition_cmd":
                named = other.partition_cmd.name
            if named is not None and (sealed or self._target(named)):
                raise refuse("statement", None, "inheritance of a protected table")
        if not sealed:
            return False
        touched = False
        for node in statement.cmds:
            command = node.alter_table_cmd
            name = command.name
            definition = getattr(command, "def")
            if command.subtype == 1 and kind(definition) == "column_def":  # AT_AddColumn
                column = sealed.get(definition.column_def.colname)
                if column is not None:
                    self.column(definition.column_def, column, added=True)
                    touched = True
                continue
            if kind(definition) == "constraint":
                self._constraint(definition.constraint, sealed)
                touched = touched or self.edits.any
                continue
            column = sealed.get(name)
            if column is None:
                continue
            touched = self._alter_column(command, column) or touched
        return touched

    def _alter_column(self, command: Node, column: ProtectedColumn) -> bool:
        kind_name = (
            command.DESCRIPTOR.fields_by_name["subtype"]
            .enum_type.values_by_number[command.subtype]
            .name
        )
        if kind_name == "AT_DropColumn":
            if index_columns(column):
                self._drop(column)
            return True
        if kind_name in ("AT_DropNotNull", "AT_SetNotNull", "AT_SetStorage", "AT_SetCompression"):
            return False
        raise refuse("alter", column, "this ALTER COLUMN")

    def _drop(self, column: ProtectedColumn) -> None:
        """`DROP COLUMN c` drops the tags first."""
        text = self.text
        low = column.column.lower()
        for index in range(1, len(text.starts)):
            if text.word(index) in (low, f'"{low}"'):
                back = index
                while text.word(back) != "drop" and back > 0:
                    back -= 1
                if index - back <= 4:
                    where = text.starts[back]
                    drops = [
                        b"DROP COLUMN IF EXISTS %s, " % quoted(tokens.name)
                        for tokens in index_columns(column)
                    ]
                    self.edits.replace(where, where, *drops)
                    return
        raise refuse("alter", column, "this DROP COLUMN")
