"""Parameters and literals, with their casts: how they become sealed values and tags. Pure.

A cast that says nothing new is dropped; length and scale are the proxy's to check, when the value comes.
"""

from dataclasses import dataclass, replace

from proxy.errors import ConfigError
from proxy.postgres.edits import Edits, ParamRole, Piece
from proxy.postgres.grammar import Node, Text, kind, strings, type_text
from proxy.postgres.lookups import LOOKUPS, ORDERED
from proxy.postgres.plan import Cast, Either, Literal, Use
from proxy.postgres.predicates import refuse
from proxy.postgres.ranks import COMPARABLE
from proxy.postgres.snapshot import BOOL, BPCHAR, TEXT, VARCHAR, ProtectedColumn
from proxy.postgres.types.operands import NUMBER
from proxy.postgres.types.registry import codec_for, is_array, resolve, same_type

_FAMILIES = (
    frozenset({25, 1043}),
    frozenset({20, 21, 23}),
    frozenset({700, 701}),
)
_WHOLE = (21, 23, 20)  # int2, int4, int8
_FRACTIONS = frozenset({700, 701, 1700, 25, 1043, 1042})
_TO_ARRAY = {
    Use.STORE: Use.STORE_ARRAY,
    Use.SHOW: Use.STORE_ARRAY,
    Use.TAG: Use.TAG_ARRAY,
    Use.SEARCH: Use.SEARCH_ARRAY,
}
_ARRAYS = tuple(_TO_ARRAY.values())
_ELEMENTS = (Use.TAG, Use.SEARCH)  # of an array that is compared with a column
_CUT = (*_TO_ARRAY, *_ARRAYS)  # uses of a value that a cast may cut before


@dataclass(frozen=True)
class Leaf:
    """A parameter or constant: the bytes that it takes with its casts, outermost first."""

    start: int
    end: int
    bare: Node
    casts: tuple[Node, ...]

    @property
    def says_text(self) -> bool:
        """Whether it is cast to text last."""
        return bool(self.casts) and type_text(self.casts[0].type_name)[0] == "text"


class Operands:
    """Of one statement."""

    def __init__(self, text: Text, edits: Edits) -> None:
        self.text = text
        self.edits = edits

    def leaf(self, node: Node) -> Leaf | None:
        """The parameter or constant that the expression is, if it is one."""
        which = kind(node)
        if which == "param_ref":
            start = node.param_ref.location
            return Leaf(start, self.text.ends[self.text.at(start)], node, ())
        if which == "a_const":
            start = node.a_const.location
            index = self.text.at(start)
            if self.text.word(index) in ("-", "+"):
                index += 1
            return Leaf(start, self.text.ends[index], node, ())
        if which == "a_expr" and not node.a_expr.lexpr.ByteSize():
            return self._negative(node.a_expr)
        if which != "type_cast":
            return None
        inside = self.leaf(node.type_cast.arg)
        if inside is None:
            return None
        start, end = self.cast_span(node.type_cast, inside.start, inside.end)
        return Leaf(start, end, inside.bare, (node.type_cast, *inside.casts))

    def _negative(self, expr: Node) -> Leaf | None:
        """-2::int2 is minus (2::int2), as drivers write a number that is below zero."""
        inside = self.leaf(expr.rexpr)
        if inside is None or strings(expr.name) != ["-"] or kind(inside.bare) != "a_const":
            return None
        turned = type(inside.bare)()
        turned.CopyFrom(inside.bare)
        which = turned.a_const.WhichOneof("val")
        if which == "ival":
            turned.a_const.ival.ival = -turned.a_const.ival.ival
        elif which == "fval":
            text = turned.a_const.fval.fval
            turned.a_const.fval.fval = text[1:] if text.startswith("-") else "-" + text
        else:
            return None
        return Leaf(expr.location, inside.end, turned, inside.casts)

    def cast_span(self, cast: Node, start: int, end: int) -> tuple[int, int]:
        """The bytes of a cast whose argument takes start..end."""
        text = self.text
        if cast.location >= 0 and text.word(text.at(cast.location)) == "::":
            at = text.at(cast.location)
            if text.word(at - 1) == ")":
                start = min(start, text.starts[text.matching(at - 1, -1)])
            return start, text.ends[text.type_end(at + 1)]
        if cast.location >= 0 and text.word(text.at(cast.location)) == "cast":
            at = text.at(cast.location)
            return cast.location, text.ends[text.matching(at + 1, 1)]
        if cast.type_name.location >= 0 and cast.type_name.location < start:
            return cast.type_name.location, end  # date '2001-01-01'
        return start, end  # true and false are casts in the tree

    def piece(self, leaf: Leaf, column: ProtectedColumn, use: Use, listed: bool = False) -> Piece:
        """What the leaf becomes; `listed`: it is one of several in IN. Refusal: its casts say something
        else than the column's type."""
        how = self._cut(leaf, column, use)
        for cast in leaf.casts:
            literal = kind(leaf.bare) == "a_const"  # a parameter is read as the column's type
            if not (literal and use in ORDERED and _orders(cast, column)):
                self.check_cast(cast, column, use in _ARRAYS, any_length=how is not None)
        if use in _ARRAYS and is_array(column.type):
            raise refuse("cast", column, "a list of arrays", leaf.start + 1)
        self.edits.columns.add(column)
        if kind(leaf.bare) == "param_ref":
            number = leaf.bare.param_ref.number
            found = self._found_type(leaf, column, use, listed)
            return ParamRole(number, (use, column), how, found)
        constant = leaf.bare.a_const
        position = constant.location + 1
        if constant.isnull:
            if use is Use.SEARCH:
                return Either(column, b"NULL::bytea", b"ARRAY[NULL]::bytea[]")
            if use in LOOKUPS:
                return b"NULL"
            return b"NULL::bytea[]" if use in _ARRAYS else b"NULL::bytea"
        which = constant.WhichOneof("val")
        if which == "bsval":
            raise refuse("cast", column, "bit string", position)
        type_oid = 0
        if which == "sval":
            text = constant.sval.sval.encode()
        elif which == "fval":
            text, type_oid = constant.fval.fval.encode(), NUMBER
        elif which == "boolval":
            text, type_oid = b"t" if constant.boolval.boolval else b"f", BOOL
        else:
            text, type_oid = str(constant.ival.ival).encode(), NUMBER
        if use in _ARRAYS and which != "sval":
            raise refuse("write", column, "this array", position)
        oid = self._cast_type(leaf, column, type_oid)
        if use in _ARRAYS:  # the literal is the array
            oid = codec_for(oid).array_oid if oid > 0 and not column.type.labels else 0
        return Literal(column, use, text, oid, how)

    def _cut(self, leaf: Leaf, column: ProtectedColumn, use: Use) -> Cast | None:
        """A cast to a type with a length or scale, as the last one of all; or of a parameter to the
        array that the column is: the client may declare another, which is cast element by element."""
        if use not in _CUT or column.type.labels:
            return None
        if is_array(column.type):
            cast = bool(leaf.casts) and kind(leaf.bare) == "param_ref"
            return Cast(replace(column.type, typmod=-1)) if cast else None
        try:
            casts = [resolve(type_text(cast.type_name)[0]) for cast in leaf.casts]
        except ConfigError:
            return None
        if not casts or casts[0].typmod == -1 or any(c.typmod != -1 for c in casts[1:]):
            return None
        return Cast(casts[0])

    def _found_type(self, leaf: Leaf, column: ProtectedColumn, use: Use, listed: bool) -> int:
        """varchar is compared as text, and so the server finds text for a parameter beside one, but in
        a list, which has one type; where a cast says what it is, it is that."""
        if column.type.oid not in (TEXT, VARCHAR):
            return 0
        many = use in _ARRAYS
        if leaf.casts:
            found = resolve(type_text(leaf.casts[-1].type_name)[0])
        elif listed or use in (Use.STORE, Use.SHOW, Use.STORE_ARRAY):
            found = column.type
        else:
            found = resolve("text")
        return found.array_oid if many else found.oid

    def _cast_type(self, leaf: Leaf, column: ProtectedColumn, type_oid: int) -> int:
        """The type that the casts around a constant of this type give it."""
        if column.type.labels or is_array(column.type):
            return type_oid
        chain = [resolve(type_text(cast.type_name)[0]).oid for cast in reversed(leaf.casts)]
        wanted = set(chain[:1] if _widening(chain) else chain)
        constant = leaf.bare.a_const
        fraction = kind(leaf.bare) == "a_const" and constant.WhichOneof("val") == "fval"
        fraction = fraction and not constant.fval.fval.lstrip("+-").isdigit()
        cut = type_oid == NUMBER and fraction and wanted and not wanted & _FRACTIONS
        if len(wanted) > 1 or cut:
            raise refuse("cast", column, "these casts", leaf.start + 1)
        return wanted.pop() if wanted else type_oid

    def put(self, leaf: Leaf, column: ProtectedColumn, use: Use) -> None:
        """The leaf becomes a sealed value or tag where it stands."""
        self.edits.replace(leaf.start, leaf.end, self.piece(leaf, column, use))

    def array(self, node: Node, column: ProtectedColumn, use: Use, typed: bool = False) -> bool:
        """An array of constants and parameters becomes one of sealed values, tags, or (with SEARCH)
        of all tags of its elements. False: it is none of these. `typed`: a cast around it gives its
        elements their type; else strings are text, as for the server."""
        leaf = self.leaf(node)
        if leaf is not None:
            self.put(leaf, column, _TO_ARRAY[use])
            return True
        if kind(node) == "type_cast" and kind(node.type_cast.arg) in ("a_array_expr", "type_cast"):
            if not self.array(node.type_cast.arg, column, use, True):
                return False
            self._array_cast(node.type_cast, column)
            return True
        if kind(node) != "a_array_expr":
            return False
        return self._elements(node.a_array_expr, column, use, typed)

    def _elements(self, array: Node, column: ProtectedColumn, use: Use, typed: bool) -> bool:
        leaves = [self.leaf(item) for item in array.elements]
        if any(item is None for item in leaves):
            return False
        bare = {_bare_kind(leaf.bare) for leaf in leaves if leaf is not None and not leaf.casts}
        if {"number", "string"} <= bare:  # the server reads the strings as numbers, of any type
            raise refuse("cast", column, "an array of strings and numbers", array.location + 1)
        cast = [leaf for leaf in leaves if leaf is not None and leaf.casts]
        listed = bool(cast) and not any(leaf.says_text for leaf in cast)
        typed = typed or bool(cast)
        at = self.text.at(array.location)
        several = use is Use.SEARCH and bool(leaves)
        bracket = self.text.at(array.location) + 1
        close = self.text.matching(bracket, 1)
        if several:
            self._both(at, bracket, b"ARRAY[", b"(", column)
        for leaf in leaves:
            assert leaf is not None
            piece = self.piece(leaf, column, use, listed)
            if not typed and not leaf.casts and not column.type.labels:
                piece = _as_text(piece)
            self.edits.replace(leaf.start, leaf.end, piece)
            after = self.text.at(leaf.end)
            if several and self.text.word(after) == ",":
                self._both(after, after, b",", b"||", column)
        end = b")::bytea[]" if several else b"]"
        if several:
            self._both(close, close, b"]::bytea[]", end, column)
        else:
            where = self.text.ends[close]
            self.edits.replace(where, where, b"::bytea[]")
        return True

    def _both(
        self, first: int, last: int, one: bytes, several: bytes, column: ProtectedColumn
    ) -> None:
        self.edits.replace(
            self.text.starts[first], self.text.ends[last], Either(column, one, several)
        )

    def _array_cast(self, cast: Node, column: ProtectedColumn) -> None:
        """Drops the cast of an array that has its own type already."""
        self.check_cast(cast, column, True)
        self.drop_cast(cast, column)

    def drop_cast(self, cast: Node, column: ProtectedColumn) -> None:
        """Only the argument of a cast is left."""
        text = self.text
        at = text.at(max(cast.location, 0))
        if cast.location >= 0 and text.word(at) == "::":
            self.edits.replace(cast.location, text.ends[text.type_end(at + 1)])
            return
        if cast.location >= 0 and text.word(at) == "cast":
            word = text.at(cast.type_name.location) - 1
            if text.word(word) == "as":
                self.edits.replace(cast.location, text.ends[at])
                self.edits.replace(text.starts[word], text.starts[text.matching(at + 1, 1)])
                return
        raise refuse("cast", column, "this cast", max(cast.location, 0) + 1)

    def check_cast(
        self, cast: Node, column: ProtectedColumn, array: bool, any_length: bool = False
    ) -> None:
        """Refusal unless the cast is to the column's type; with `any_length` to one of its length."""
        name, many = type_text(cast.type_name)
        position = max(cast.location, 0) + 1
        if column.type.labels or is_array(column.type):
            # an array of the column's type, or the type itself
            if not same_type(column.type, name, many and not array):
                raise refuse("cast", column, f"a cast to {name}", position)
            return
        if many != array:
            raise refuse("cast", column, f"a cast to {name}{'[]' * many}", position)
        try:
            wanted = resolve(name)
        except ConfigError:
            raise refuse("cast", column, f"a cast to {name}", position) from None
        declared = column.type
        same = wanted.oid == declared.oid or any(
            wanted.oid in f and declared.oid in f for f in _FAMILIES
        )
        if not same or (BPCHAR in (wanted.oid, declared.oid) and wanted.oid != declared.oid):
            raise refuse("cast", column, f"a cast to {name}", position)
        same_length = (wanted.oid, wanted.typmod) == (declared.oid, declared.typmod)
        if wanted.typmod != -1 and not any_length and not same_length:
            raise refuse("truncating cast", column, f"a cast to {name}", position)


def _orders(cast: Node, column: ProtectedColumn) -> bool:
    """Whether a value of the type that is cast to can be ordered against the column's."""
    name, many = type_text(cast.type_name)
    try:
        wanted = resolve(name)
    except ConfigError:
        return False
    return not many and wanted.typmod == -1 and wanted.oid in COMPARABLE.get(column.type.oid, ())


def _widening(chain: list[int]) -> bool:
    """Whether casts, innermost first, change no value that the first lets through."""
    if all(oid in _FAMILIES[0] for oid in chain):
        return True
    whole = [_WHOLE.index(oid) for oid in chain if oid in _WHOLE]
    return len(whole) == len(chain) and whole == sorted(whole)


def _as_text(piece: Piece) -> Piece:
    """A string or parameter that has no other type."""
    if isinstance(piece, Literal) and piece.oid == 0 and piece.use in _ELEMENTS:
        return replace(piece, oid=TEXT)
    if isinstance(piece, ParamRole) and piece.role[0] in _ELEMENTS:
        return ParamRole(piece.number, piece.role[:2], piece.role[2], TEXT)
    return piece


def _bare_kind(node: Node) -> str:
    if kind(node) != "a_const" or node.a_const.isnull:
        return ""
    return "string" if node.a_const.WhichOneof("val") == "sval" else "number"


def comparable_types(one: int, other: int) -> bool:
    """Whether equal values of the two types have equal tags."""
    return one == other or any(one in f and other in f for f in _FAMILIES[:2])
