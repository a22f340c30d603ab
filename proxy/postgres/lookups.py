"""What does the server get for an operand of a search: tags, bounds, tokens. Pure.

One function for all uses of an operand beyond equality: `lookup()`. The operand is the client's, in text
or binary; errors in it are DataError with the server's own SQLSTATE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.crypto.tokens import Tokens
from proxy.errors import KeyUnavailable
from proxy.postgres import like
from proxy.postgres.plan import Use
from proxy.postgres.ranks import operand_bounds
from proxy.postgres.snapshot import ProtectedColumn
from proxy.postgres.types.base import UNSUPPORTED, DataError, TextContext
from proxy.postgres.types.registry import codec_of

if TYPE_CHECKING:
    from proxy.native import ColumnCodec

# a comparison holds for the tokens below, or from, the token of this rank: (use of floor, plus one)
_ORDER: dict[Use, Callable[[tuple[int, int]], int]] = {
    Use.ORDER_LT: lambda bounds: bounds[1],
    Use.ORDER_GE: lambda bounds: bounds[1],
    Use.ORDER_LE: lambda bounds: bounds[0] + 1,
    Use.ORDER_GT: lambda bounds: bounds[0] + 1,
}
ORDERED = frozenset({*_ORDER, Use.ORDER_START, Use.ORDER_END, Use.BUCKETS})
_TEXTS = (Use.TRANSFORM, Use.TRANSFORMED)
_PATTERNS = (Use.LIKE_TAG, Use.ILIKE_TAG)
LOOKUPS = frozenset({*_ORDER, *_TEXTS, *_PATTERNS, Use.ORDER_START, Use.ORDER_END})


def lookup(
    use: Use,
    column: ProtectedColumn,
    raw: bytes,
    fmt: int,
    from_oid: int,
    codec: ColumnCodec,
    ctx: TextContext,
) -> bytes:
    """The server's value, in binary, for an operand `raw` (format 0 text, 1 binary) of `from_oid`
    (0: the column's type)."""
    if use is Use.LIKE_TAG:
        return codec.tag(_unescaped(column, _text(column, raw, fmt, from_oid, ctx)).encode())
    tokens = codec.tokens
    if not isinstance(tokens, Tokens):
        raise KeyUnavailable(
            "the first version of the ring, which makes search tokens, is not usable"
        )
    if use is Use.ILIKE_TAG:
        return tokens.transformed(_unescaped(column, _text(column, raw, fmt, from_oid, ctx)))
    if use in _TEXTS:
        make = tokens.transformed if use is Use.TRANSFORM else tokens.already_transformed
        return make(_text(column, raw, fmt, from_oid, ctx))
    if use is Use.ORDER_START:
        return tokens.order_start()
    if use is Use.ORDER_END:
        return tokens.order_end()
    bounds = operand_bounds(column.type, raw, fmt, from_oid, ctx)
    return tokens.order(_ORDER[use](bounds))


def _text(column: ProtectedColumn, raw: bytes, fmt: int, from_oid: int, ctx: TextContext) -> str:
    kind = codec_of(column.type)
    declared = from_oid or column.type.oid
    plain = kind.parse(raw, ctx, -1) if fmt == 0 else kind.coerce(raw, declared, -1, ctx)
    return plain.decode()


def _unescaped(column: ProtectedColumn, pattern: str) -> str:
    """The one text that a pattern without wildcards matches. DataError."""
    try:
        found = like.pieces(like.parse(pattern, "\\"))
    except like.BadPattern as error:
        raise DataError(like.INVALID_ESCAPE, str(error)) from None
    if len(found) > 1:
        raise DataError(
            UNSUPPORTED,
            f'a pattern with wildcards on protected column "{column.table}.{column.column}" needs '
            "`match`, in a plain SELECT",
        )
    return found[0]
