"""Collects what is to change in a text, and turns it into segments and server parameters. Pure.

Edits replace byte spans and never overlap; all other bytes stay as they are. A client parameter that is
needed in several roles keeps its number for the first and gets a new one, at the end, for each other.
"""

from collections.abc import Sequence

from proxy.postgres.plan import (
    Check,
    ClientParam,
    Either,
    How,
    Junction,
    Literal,
    Operand,
    ParamTarget,
    Segment,
    Test,
    Use,
)
from proxy.postgres.predicates import refuse
from proxy.postgres.snapshot import BYTEA, BYTEA_ARRAY, TEXT_ARRAY, ProtectedColumn

Role = tuple[Use, ProtectedColumn | None]
_FullRole = tuple[Use, ProtectedColumn | None, How]
_PASS: _FullRole = (Use.PASS, None, None)
_ARRAYS = (Use.TAG_ARRAY, Use.SEARCH_ARRAY, Use.STORE_ARRAY)
_LISTS = (*_ARRAYS, Use.BUCKETS)


class ParamRole:
    """An occurrence of client parameter `number` (1-based) in a role; becomes `$n`."""

    def __init__(self, number: int, role: Role, how: How = None, type_oid: int = 0) -> None:
        """`type_oid`: the type that the server would find for it, where not the column's."""
        self.number = number
        self.type_oid = type_oid
        self.role = (*role, how)


Piece = bytes | Literal | Either | ParamRole


class Edits:
    """The changes of one statement."""

    def __init__(self) -> None:
        self.columns: set[ProtectedColumn] = set()
        self.compared: set[ProtectedColumn] = set()  # see StatementPlan
        self._spans: list[tuple[int, int, tuple[Piece, ...]]] = []
        self._passed: dict[int, tuple[int, int]] = {}  # start of a bare $n -> (number, end)
        self._absorbed: dict[int, int] = {}
        self._secret: set[int] = set()  # absorbed ones that are read for a protected column
        self._constants: list[tuple[int, int]] = []  # operands of IS NULL that are not NULL
        self._nulls: dict[int, tuple[int, int]] = {}  # start of $n IS NULL's operand -> (n, end)
        # that the server finds first for a parameter, where not its column's
        self._types: dict[int, int] = {}
        self.limits: tuple[Operand | None, Operand | None] = (None, None)  # LIMIT, OFFSET
        self.checks: list[Test] = []  # of rows, all of which must hold
        self.check_columns: list[ProtectedColumn] = []
        self.final: tuple[tuple[int, int, tuple[Segment, ...]], ...] = ()  # known after `result`

    @property
    def count(self) -> int:
        return len(self._spans)

    @property
    def constants(self) -> bool:
        """Whether a constant becomes a sealed value or tag."""
        return any(isinstance(p, Literal) for _, _, pieces in self._spans for p in pieces)

    @property
    def any(self) -> bool:
        return bool(self._spans)

    def replace(self, start: int, end: int, *pieces: Piece) -> None:
        """The bytes start..end become these pieces. An insertion has start == end. What is analysed
        first by the server is to be replaced first: it gives a parameter its type."""
        for piece in pieces:
            if isinstance(piece, ParamRole):
                self._types.setdefault(piece.number, piece.type_oid)
        self._spans.append((start, end, pieces))

    def check(self) -> Check | None:
        """What opened rows must fulfil; None: nothing."""
        if not self.checks:
            return None
        test = Junction(True, tuple(self.checks))
        return Check(tuple(self.check_columns), test, *self.limits)

    def absorb(self, number: int, oid: int, secret: bool = False) -> None:
        """$number is read here, as a value of this type, and need not be one of the server's.
        `secret`: as a value of a protected column."""
        self._absorbed[number] = oid
        if secret:
            self._secret.add(number)

    def not_null(self, start: int, end: int) -> None:
        """A constant of which it only matters that it is not NULL: it is not shown to the server."""
        self._constants.append((start, end))

    def nullness(self, start: int, end: int, number: int) -> None:
        """Of $number, which takes start..end with its casts, it only matters whether it is NULL."""
        self._nulls[start] = (number, end)

    def param(self, start: int, end: int, number: int) -> None:
        """An occurrence of $number that goes through as it is."""
        self._passed[start] = (number, end)

    def result(
        self, sql: bytes, start: int, end: int, oids: Sequence[int]
    ) -> tuple[tuple[Segment, ...], tuple[ParamTarget, ...], tuple[ClientParam, ...]]:
        """Segments of sql[start:end], the server's parameters, and what the client sees of its own."""
        spans = list(self._spans)
        if spans:  # else the text stays as it is
            spans += [(a, b, (b"0",)) for a, b in self._constants]
        protected = self._protected()
        for where, (number, stop) in self._nulls.items():
            column_role = protected.get(number)
            if column_role is not None:
                spans.append((where, stop, (ParamRole(number, *_null_role(column_role)),)))
        for where, (number, stop) in self._passed.items():
            if not any(a <= where < b for a, b, _ in spans):
                if number in protected or number in self._secret:
                    raise refuse("two roles", None, _TWO_ROLES % number, where + 1)
                spans.append((where, stop, (ParamRole(number, (Use.PASS, None)),)))
        spans.sort(key=lambda s: (s[0], s[1]))
        pieces: list[Piece] = []
        at = start
        for a, b, replacement in spans:
            if a < at or b < a or b > end:
                raise AssertionError(f"edits overlap at {a}")
            pieces += [sql[at:a], *replacement]
            at = b
        pieces.append(sql[at:end])
        numbers, targets, clients = _numbered(pieces, oids, self._absorbed, self._types)
        self.final = tuple((a, b, tuple(_placed(p, numbers) for p in ps)) for a, b, ps in spans)
        return _joined(pieces, numbers), targets, clients

    def _protected(self) -> dict[int, _FullRole]:
        """The first role of each parameter that becomes something of a protected column."""
        found: dict[int, _FullRole] = {}
        for _, _, pieces in self._spans:
            for piece in pieces:
                if isinstance(piece, ParamRole) and piece.role[1] is not None:
                    found.setdefault(piece.number, piece.role)
        return found


def _null_role(role: _FullRole) -> tuple[Role, How]:
    """A role in which NULL stays NULL, and a value goes as nothing but what goes anyway."""
    use, column, how = role
    return (Use.TAG if use is Use.SEARCH else use, column), how


_TWO_ROLES = "parameter $%d is a value of a protected column and, elsewhere, a plain one"
_Numbers = dict[tuple[int, _FullRole], int]  # (client's number, role) -> the server's number


def _numbered(
    pieces: list[Piece], oids: Sequence[int], absorbed: dict[int, int], types: dict[int, int]
) -> tuple[_Numbers, tuple[ParamTarget, ...], tuple[ClientParam, ...]]:
    roles: dict[int, list[_FullRole]] = {}
    for piece in pieces:
        if isinstance(piece, ParamRole):
            known = roles.setdefault(piece.number, [])
            if piece.role not in known:
                known.append(piece.role)
    count = max([*roles, *absorbed, len(oids), 0])
    numbers: _Numbers = {}
    targets: list[ParamTarget] = []
    clients: list[ClientParam] = []
    for number in range(1, count + 1):
        if number in absorbed and number not in roles:
            continue
        wanted = roles.get(number, [_PASS])
        targets.append(_target(number, wanted, wanted[0], oids))
        numbers[number, wanted[0]] = len(targets)
    for number in range(1, count + 1):
        for role in roles.get(number, [_PASS])[1:]:
            targets.append(_target(number, roles[number], role, oids))
            numbers[number, role] = len(targets)
    for number in range(1, count + 1):
        wanted = roles.get(number, [_PASS])
        passed = numbers.get((number, _PASS), 0) - 1
        oid = _declared(number, oids) or types.get(number, 0) or _client_oid(number, wanted, oids)
        clients.append(ClientParam(oid or (0 if passed >= 0 else absorbed.get(number, 0)), passed))
    return numbers, tuple(targets), tuple(clients)


def _placed(piece: Piece, numbers: _Numbers) -> Segment:
    return b"$%d" % numbers[piece.number, piece.role] if isinstance(piece, ParamRole) else piece


def _joined(pieces: list[Piece], numbers: _Numbers) -> tuple[Segment, ...]:
    """Neighbouring bytes in one segment."""
    out: list[Segment] = []
    for unplaced in pieces:
        piece = _placed(unplaced, numbers)
        if isinstance(piece, bytes) and out and isinstance(out[-1], bytes):
            out[-1] += piece
        elif piece != b"":
            out.append(piece)
    return tuple(out)


def _declared(number: int, oids: Sequence[int]) -> int:
    return oids[number - 1] if number <= len(oids) else 0


def _client_oid(number: int, roles: Sequence[_FullRole], oids: Sequence[int]) -> int:
    if declared := _declared(number, oids):
        return declared
    for use, column, _ in roles:
        if column is not None:
            return column.type.array_oid if use in _ARRAYS else column.type.oid
    return 0


def _target(
    number: int, roles: Sequence[_FullRole], role: _FullRole, oids: Sequence[int]
) -> ParamTarget:
    use, column, how = role
    if use is Use.PASS:
        # beside a protected role the type is known: the server must read the value as the client does
        return ParamTarget(number - 1, use, None, _client_oid(number, roles, oids))
    if use is Use.SEARCH:
        # its type is decided when it is prepared
        return ParamTarget(number - 1, use, column, how=how)
    oid = TEXT_ARRAY if use is Use.MATCH else BYTEA_ARRAY if use in _LISTS else BYTEA
    return ParamTarget(number - 1, use, column, oid, how)
