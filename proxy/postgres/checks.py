"""Does an opened row fulfil what its tokens only promised? The re-check of range and pattern searches. Pure.

The server answers with a superset: rows of the right buckets, rows with the right n-grams. The exact
predicates stand in the plan (`plan.Check`), over columns that the plan asks for behind the client's own;
here they become one test of their plaintexts, for one execution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.crypto.folding import TRANSFORMS
from proxy.postgres import like
from proxy.postgres.messages import format_of
from proxy.postgres.plan import Check, Junction, Leaf, Operand, Test
from proxy.postgres.ranks import Bounds, operand_bounds, ranks
from proxy.postgres.snapshot import INT8, ProtectedColumn
from proxy.postgres.types.base import DataError, TextContext
from proxy.postgres.types.operands import NUMBER, type_of_number
from proxy.postgres.types.registry import codec_for

Row = Sequence[bytes | None]
RowTest = Callable[[Row], bool]

_SIGNS: dict[str, Callable[[int, Bounds], bool]] = {
    "<": lambda rank, bounds: rank < bounds[1],
    "<=": lambda rank, bounds: rank <= bounds[0],
    ">": lambda rank, bounds: rank > bounds[0],
    ">=": lambda rank, bounds: rank >= bounds[1],
}


class Operands:
    """The operands of one execution: the client's parameters, or none for literals alone."""

    def __init__(
        self,
        oids: Sequence[int],
        formats: Sequence[int],
        values: Sequence[bytes | None],
        ctx: TextContext,
    ) -> None:
        self.oids = oids
        self.formats = formats
        self.values = values
        self.ctx = ctx

    def raw(self, operand: Operand) -> tuple[bytes | None, int, int]:
        """(value, format, type OID or 0)."""
        i = operand.parameter
        if i < 0:
            bare = operand.oid == NUMBER and operand.text is not None
            return operand.text, 0, type_of_number(operand.text or b"") if bare else operand.oid
        declared = self.oids[i] if i < len(self.oids) else 0
        return self.values[i], format_of(self.formats, i), declared

    def text(self, operand: Operand, column: ProtectedColumn) -> str | None:
        """As text; None for NULL. DataError."""
        if operand.parts:
            parts = [self.text(part, column) for part in operand.parts]
            return None if None in parts else "".join(p for p in parts if p is not None)
        raw, fmt, oid = self.raw(operand)
        if raw is None:
            return None
        kind = codec_for(column.type.oid)
        declared = oid or column.type.oid
        plain = (
            kind.parse(raw, self.ctx, -1) if fmt == 0 else kind.coerce(raw, declared, -1, self.ctx)
        )
        return plain.decode()

    def count(self, operand: Operand | None, word: str, negative: str) -> int | None:
        """As the number of rows behind LIMIT or OFFSET; None for NULL or nothing. DataError."""
        raw, fmt, oid = self.raw(operand) if operand is not None else (None, 0, 0)
        if raw is None:
            return None
        kind = codec_for(INT8)
        plain = kind.parse(raw, self.ctx, -1) if fmt == 0 else kind.coerce(raw, oid or INT8, -1)
        number = int.from_bytes(plain, "big", signed=True)
        if number < 0:
            raise DataError(negative, f"{word} must not be negative")
        return number

    def bounds(self, operand: Operand, column: ProtectedColumn) -> Bounds | None:
        """As ranks; None for NULL. DataError."""
        raw, fmt, oid = self.raw(operand)
        if raw is None:
            return None
        return operand_bounds(column.type, raw, fmt, oid, self.ctx)


def row_test(check: Check, operands: Operands) -> RowTest:
    """Whether a row stays, by the plaintexts of the check's columns; asked once for each row, in their
    order, since it also counts LIMIT and OFFSET. DataError for a bad operand."""
    test = _test(check.test, check.columns, operands)
    skip = operands.count(check.offset, "OFFSET", "2201X") or 0
    limit = operands.count(check.limit, "LIMIT", "2201W")
    return test if not skip and limit is None else _counted(test, skip, limit)


def _counted(test: RowTest, skip: int, limit: int | None) -> RowTest:
    seen = 0

    def counted(row: Row) -> bool:
        nonlocal seen
        if limit is not None and seen >= skip + limit or not test(row):
            return False
        seen += 1
        return seen > skip

    return counted


def _test(test: Test, columns: Sequence[ProtectedColumn], operands: Operands) -> RowTest:
    if isinstance(test, Junction):
        parts = [_test(part, columns, operands) for part in test.parts]
        if test.every:
            return lambda row: all(part(row) for part in parts)
        return lambda row: any(part(row) for part in parts)
    if test.sign in ("null", "not null"):
        holds = (operands.raw(test.operand)[0] is None) == (test.sign == "null")
        return lambda row: holds
    if test.sign in _SIGNS:
        return _by_rank(test, columns[test.value], operands)
    return _by_pattern(test, columns[test.value], operands)


def _by_rank(leaf: Leaf, column: ProtectedColumn, operands: Operands) -> RowTest:
    bounds = operands.bounds(leaf.operand, column)
    if bounds is None:
        return _never
    of, holds, at = ranks(column.type).of, _SIGNS[leaf.sign], leaf.value

    def test(row: Row) -> bool:
        plain = row[at]
        return plain is not None and holds(of(plain), bounds)

    return test


def _never(row: Row) -> bool:
    return False


def case_of(column: ProtectedColumn, name: str) -> Callable[[str], str]:
    """lower or upper as the column's configuration says that the server does it."""
    return TRANSFORMS[f"ascii-{name}" if column.ascii_case else name].apply


def _by_pattern(leaf: Leaf, column: ProtectedColumn, operands: Operands) -> RowTest:
    pattern = operands.text(leaf.operand, column)
    if pattern is None:
        return _never
    mapped = case_of(column, leaf.case) if leaf.case else None
    if leaf.pattern_case:
        pattern = case_of(column, leaf.pattern_case)(pattern)
    try:
        matches = like.matcher(like.parse(pattern, leaf.escape))
    except like.BadPattern as error:
        raise DataError(like.INVALID_ESCAPE, str(error)) from None
    at = leaf.value

    def test(row: Row) -> bool:
        plain = row[at]
        if plain is None:
            return False
        text = plain.decode()
        return matches(text if mapped is None else mapped(text))

    return test
