"""Lists of tokens for the server: the buckets of a range, the n-grams of a pattern. Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy.crypto.tokens import Tokens
from proxy.errors import KeyUnavailable
from proxy.postgres import like
from proxy.postgres.checks import Operands
from proxy.postgres.plan import Bound, How, Pattern, Use
from proxy.postgres.ranks import ranks
from proxy.postgres.snapshot import BYTEA, TEXT, ProtectedColumn
from proxy.postgres.types.base import UNSUPPORTED, DataError

if TYPE_CHECKING:
    from proxy.native import ColumnCodec

LISTS = frozenset({Use.BUCKETS, Use.MATCH})


def token_list(
    use: Use, column: ProtectedColumn, how: How, codec: ColumnCodec, operands: Operands
) -> list[bytes] | None:
    """The tokens to search for; None when an operand is NULL. DataError: too many, or none."""
    tokens = codec.tokens
    if not isinstance(tokens, Tokens):
        raise KeyUnavailable(
            "the first version of the ring, which makes search tokens, is not usable"
        )
    if use is Use.MATCH:
        assert isinstance(how, Pattern)
        return _pattern(column, how, tokens, operands)
    assert isinstance(how, tuple)
    return _range(column, how, tokens, operands)


def _pattern(
    column: ProtectedColumn, how: Pattern, tokens: Tokens, operands: Operands
) -> list[bytes] | None:
    pattern = operands.text(how.operand, column)
    if pattern is None:
        return None
    try:
        return tokens.match_search(like.pieces(like.parse(pattern, how.escape)))
    except like.BadPattern as error:
        raise DataError(like.INVALID_ESCAPE, str(error)) from None
    except ValueError:
        raise DataError(
            UNSUPPORTED,
            f'the pattern is too short to search protected column "{column.table}.{column.column}"',
        ) from None


def _range(
    column: ProtectedColumn, bounds: tuple[Bound, ...], tokens: Tokens, operands: Operands
) -> list[bytes] | None:
    buckets = column.search.buckets
    assert buckets is not None
    low, high = 0, (1 << ranks(column.type).bits) - 1  # both inclusive
    for bound in bounds:
        found = operands.bounds(bound.operand, column)
        if found is None:
            return None
        floor, ceil = found
        if bound.sign == "<":
            high = min(high, ceil - 1)
        elif bound.sign == "<=":
            high = min(high, floor)
        elif bound.sign == ">":
            low = max(low, floor + 1)
        else:
            low = max(low, ceil)
    if low > high:
        return []
    first, last = buckets.number(low), buckets.number(high)
    if last - first + 1 > column.max_buckets:
        raise DataError(
            UNSUPPORTED,
            f'a range over {last - first + 1} buckets of protected column "{column.table}.'
            f'{column.column}" is more than {column.max_buckets}: give both ends, closer together',
        )
    return [tokens.bucket(number) for number in range(first, last + 1)]


def list_literal(use: Use, items: Sequence[bytes] | None) -> bytes:
    """As SQL text, free of any quoting rule."""
    if use is Use.MATCH:
        if items is None:
            return b"NULL::text[]"
        return b"ARRAY[" + b",".join(b"'" + item + b"'" for item in items) + b"]::text[]"
    if items is None:
        return b"NULL::bytea[]"
    decoded = [b"decode('" + item.hex().encode() + b"','hex')" for item in items]
    return b"ARRAY[" + b",".join(decoded) + b"]::bytea[]"


def list_binary(use: Use, items: Sequence[bytes] | None) -> bytes | None:
    """As an array in binary: one dimension, lower bound 1."""
    if items is None:
        return None
    oid = TEXT if use is Use.MATCH else BYTEA
    if not items:
        return struct.pack("!iiI", 0, 0, oid)
    parts = [struct.pack("!iiIii", 1, 0, oid, len(items), 1)]
    for item in items:
        parts += [struct.pack("!i", len(item)), item]
    return b"".join(parts)
