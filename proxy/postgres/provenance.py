"""Where does a value come from? The provenance of an expression, without any effect. Pure.

Sealed: it is a sealed value of some protected column's domain. OPEN: only parameters, literals and NULL
feed it, so that it can still take any form. None: anything else. Whether the parts of an expression are
allowed is not asked here: that is `expressions.py`.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.errors import ConfigError
from proxy.postgres.grammar import Node, kind, strings, type_text
from proxy.postgres.names import Broken, Cell, Field, Scope, Sealed, Value, hidden
from proxy.postgres.plan import Refusal, UnknownColumns
from proxy.postgres.predicates import refuse
from proxy.postgres.snapshot import BPCHAR, TEXT, VARCHAR, SealedType
from proxy.postgres.types.registry import resolve

if TYPE_CHECKING:
    from proxy.postgres.query import Query

SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})
# functions that give back one of the values of their first argument
PASSING = frozenset({"any_value", "first_value", "last_value", "nth_value", "lag", "lead"})
_CHARACTER = (TEXT, VARCHAR)


class Open:
    """The provenance of what only parameters, literals and NULL feed."""

    def __repr__(self) -> str:
        return "OPEN"


OPEN = Open()
Origin = Sealed | Open | None


class Provenance:
    """Of one statement."""

    def __init__(self, query: "Query") -> None:
        self._query = query

    def lookup(self, ref: Node, scope: Scope) -> tuple[Field, Scope] | None:
        """The field that a column reference means, if we know it. Refusal: a whole row of a protected
        table, its hidden columns, a name that may mean either of two."""
        parts = strings(ref.fields)
        position = max(ref.location, 0) + 1
        if parts[-1] == "*" or len(parts) == 1:
            found = scope.column(parts[0]) if len(parts) == 1 else None
            if found is not None:
                return self._sound(found)
            name = parts[-2] if len(parts) > 1 else parts[0]
            self._whole_row(name, scope, position)
            if len(parts) == 1:
                _not_there(name, scope, position)
            return None
        at = scope.entry(parts[-2])
        if at is None and parts[-2] in ("old", "new") and scope.any_protected():
            raise refuse("expression", None, "OLD and NEW of a protected table", position)
        if at is None or at[0].fields is None:
            return None
        entry, where = at
        if parts[-1] in entry.hidden:
            raise hidden(parts[-1])
        named = entry.named(parts[-1])
        if named is None:
            if entry.protected and parts[-1] not in SYSTEM_COLUMNS:
                # `t.f` may also mean f(t): a whole row in disguise
                message = f'column "{parts[-2]}.{parts[-1]}" does not exist'
                raise Refusal("42703", message, "", position)
            return None
        return self._sound((named, where))

    def _sound(self, found: tuple[Field, Scope]) -> tuple[Field, Scope]:
        if isinstance(found[0].value, Broken):
            raise found[0].value.refusal
        return found

    def _whole_row(self, name: str, scope: Scope, position: int) -> None:
        at = scope.entry(name)
        if at is None:
            return
        if at[0].protected:
            raise refuse("whole row", None, f'whole row "{name}" of a protected table', position)
        for field in at[0].fields or ():
            if isinstance(field.value, Cell):
                field.value.want_plain(position)

    def of(self, node: Node, scope: Scope) -> Origin:
        """The provenance of an expression."""
        which = kind(node)
        if which == "column_ref":
            found = self.lookup(node.column_ref, scope)
            return origin(found[0].value) if found else None
        if which in ("param_ref", "a_const"):
            return OPEN
        if which == "type_cast":
            return self._cast(node.type_cast, scope)
        if which == "coalesce_expr":
            # the server drops NULLs, and with them what they would do to the length
            args = [a for a in node.coalesce_expr.args if not _null(a)]
            return self._joined(args, scope) if args else OPEN
        if which == "case_expr":
            case = node.case_expr
            results = [w.case_when.result for w in case.args]
            found_ = self._joined([*results, case.defresult], scope)
            if isinstance(found_, Sealed) and not case.defresult.ByteSize():
                return _unmodified(found_)  # ELSE NULL has no length
            return found_
        if which == "a_expr" and node.a_expr.kind == 6:  # NULLIF
            found_ = self.of(node.a_expr.lexpr, scope)
            if isinstance(found_, Sealed) and found_.shown.oid == VARCHAR:
                return Sealed(found_.column, resolve("text"))  # varchar has no = of its own
            return found_
        if which == "sub_link" and node.sub_link.sub_link_type == 5:  # EXPR_SUBLINK
            level = self._query.level(node.sub_link.subselect.select_stmt, scope)
            return level.outputs[0].origin if len(level.outputs) == 1 else None
        extreme = self._query.expressions.ordering.extreme_of(node, scope)
        if extreme is not None:
            return _unmodified(Sealed(extreme.column, extreme.column.type))
        picked = first_of(node)
        if picked is not None:
            found_ = self.of(picked, scope)
            return found_ if isinstance(found_, Sealed) else None
        if which == "func_call" and passes(node.func_call):
            found_ = self.of(node.func_call.args[0], scope)
            return _unmodified(found_) if isinstance(found_, Sealed) else None
        return None

    def type_oid(self, node: Node, scope: Scope) -> int:
        """The type of a plain column; 0 where it is not known."""
        if kind(node) != "column_ref":
            return 0
        found = self.lookup(node.column_ref, scope)
        return found[0].type_oid if found is not None else 0

    def _joined(self, nodes: "list[Node]", scope: Scope) -> Origin:
        present = [n for n in nodes if n.ByteSize()]
        origins = [self.of(n, scope) for n in present]
        first = next((o for o in origins if isinstance(o, Sealed)), None)
        if first is None:
            return joined(origins)
        # what is cast has a type and length of its own
        typed = [
            Sealed(first.column, shown) if isinstance(o, Open) and (shown := _cast_type(n)) else o
            for n, o in zip(present, origins, strict=True)
        ]
        return joined(typed)

    def _cast(self, cast: Node, scope: Scope) -> Origin:
        inside = self.of(cast.arg, scope)
        if not isinstance(inside, Sealed):
            return inside
        name, array = type_text(cast.type_name)
        shown = None if array else harmless_cast(inside.shown, name)
        return Sealed(inside.column, shown or inside.shown)


def _not_there(name: str, scope: Scope, position: int) -> None:
    """UnknownColumns for a bare name that can mean nothing, where a protected table is in reach: what it
    is compared with was meant for one of its columns."""
    if name in SYSTEM_COLUMNS or scope.entry(name) is not None:
        return
    level: Scope | None = scope
    protected = False
    while level is not None:
        if any(e.fields is None for e in level.entries):
            return  # it may be a column of that
        protected = protected or level.any_protected()
        level = level.parent
    if protected:
        raise UnknownColumns("42703", f'column "{name}" does not exist', "", position)


def harmless_cast(shown: SealedType, name: str) -> SealedType | None:
    """The type as which a sealed value is seen behind a cast that changes no value; None: it may."""
    try:
        wanted = resolve(name)
    except ConfigError:
        return None
    if wanted.oid == BPCHAR and shown.oid == BPCHAR and wanted.typmod == shown.typmod:
        return wanted
    if wanted.oid in _CHARACTER and shown.oid in _CHARACTER:
        return wanted if wanted.typmod in (-1, shown.typmod) else None
    return wanted if wanted.oid == shown.oid and wanted.typmod in (-1, shown.typmod) else None


def first_of(node: Node) -> Node | None:
    """x of (array_agg(x))[1], which is how one value of a group is had."""
    if kind(node) != "a_indirection" or kind(node.a_indirection.arg) != "func_call":
        return None
    call = node.a_indirection.arg.func_call
    steps = node.a_indirection.indirection
    single = len(steps) == 1 and kind(steps[0]) == "a_indices" and not steps[0].a_indices.is_slice
    if not single or strings(call.funcname) not in (["array_agg"], ["pg_catalog", "array_agg"]):
        return None
    return call.args[0] if len(call.args) == 1 and not call.agg_distinct else None


def passes(call: Node) -> bool:
    """Whether a function call gives back one of its first argument's values."""
    name = strings(call.funcname)
    return name[-1] in PASSING and name[:-1] in ([], ["pg_catalog"]) and bool(call.args)


def _cast_type(node: Node) -> SealedType | None:
    if kind(node) != "type_cast":
        return None
    name, array = type_text(node.type_cast.type_name)
    try:
        return None if array else resolve(name)
    except ConfigError:
        return None


def _null(node: Node) -> bool:
    while kind(node) == "type_cast":
        node = node.type_cast.arg
    return kind(node) == "a_const" and bool(node.a_const.isnull)


def origin(value: Value) -> Origin:
    """The provenance of a reference to a field with this value. Refusal for a broken one."""
    if isinstance(value, Broken):
        raise value.refusal
    return OPEN if isinstance(value, Cell) else value


def joined(origins: "list[Origin]") -> Origin:
    """The provenance of a value that is one of these. The first sealed one stands for all: whether
    the others can be written as values of its domain is found out when they are."""
    sealed = [o for o in origins if isinstance(o, Sealed)]
    if not sealed:
        return OPEN if origins and all(isinstance(o, Open) for o in origins) else None
    first = sealed[0]
    if any(o.shown.oid == TEXT for o in sealed) and first.shown.oid == VARCHAR:
        return Sealed(first.column, resolve("text"))
    same = all(isinstance(o, Sealed) and o.shown == first.shown for o in origins)
    return first if same else _unmodified(first)


def _unmodified(sealed: Sealed) -> Sealed:
    """Without length or scale, as the result of functions and of mixed operands."""
    return Sealed(sealed.column, replace(sealed.shown, typmod=-1))
