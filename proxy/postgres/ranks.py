"""Which number stands for a value in its type's order? Ranks: 0 up to 2^bits - 1. Pure.

rank(a) < rank(b) exactly where PostgreSQL says a < b, and equal exactly where it says a = b; so order
tokens and buckets over ranks answer as the server would. An operand need not be a value of the column's
type (1.005 against numeric(12,2), 5000000000 against integer): it lies between two ranks, or beyond all.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal

from proxy.errors import ConfigError
from proxy.postgres.snapshot import (
    DATE,
    FLOAT4,
    FLOAT8,
    INT2,
    INT4,
    INT8,
    NUMERIC,
    TIMESTAMP,
    TIMESTAMPTZ,
    UNKNOWN,
    SealedType,
)
from proxy.postgres.types.base import UNSUPPORTED, DataError, TextContext
from proxy.postgres.types.integer import SIZES
from proxy.postgres.types.numeric import decimal_of
from proxy.postgres.types.registry import codec_for

_TIME = 1083
_DAY_MICROS = 86_400_000_000
_SIGNED_BITS = {INT2: 16, INT4: 32, INT8: 64, DATE: 32, TIMESTAMP: 64, TIMESTAMPTZ: 64}
_MOST_BITS = 128
_EXACT = (*SIZES, NUMERIC)
# operands of another type that the server compares without changing the column's side; so not a
# timestamptz against timestamp (the column would be read in the session's zone, which is not monotone)
COMPARABLE: dict[int, tuple[int, ...]] = {
    INT2: (*_EXACT, FLOAT4, FLOAT8), INT4: (*_EXACT, FLOAT4, FLOAT8), INT8: _EXACT,
    NUMERIC: tuple(SIZES), FLOAT8: (*_EXACT, FLOAT4), TIMESTAMP: (DATE,),
    TIMESTAMPTZ: (DATE, TIMESTAMP),
}  # fmt: skip
_WIDE = Context(prec=150_000, Emax=999_999, Emin=-999_999)
Bounds = tuple[int, int]


@dataclass(frozen=True)
class Ranks:
    """Of one type. `of` takes the binary send form of a value of the column."""

    bits: int
    of: Callable[[bytes], int]


def ranks(declared: SealedType) -> Ranks:
    """ConfigError for a type without an order that can be searched."""
    oid = declared.oid
    if oid in _SIGNED_BITS:
        bits = _SIGNED_BITS[oid]
        return Ranks(bits, lambda b: int.from_bytes(b, "big", signed=True) + (1 << (bits - 1)))
    if oid == _TIME:
        return Ranks(_DAY_MICROS.bit_length(), lambda b: int.from_bytes(b, "big"))
    if oid == FLOAT8:
        return Ranks(64, lambda b: _float_rank(struct.unpack("!d", b)[0]))
    if oid == NUMERIC and declared.typmod >= 4:
        precision, scale = _precision(declared)
        bits = (2 * 10**precision - 1).bit_length()
        if bits <= _MOST_BITS:
            return Ranks(bits, lambda b: _numeric_bounds(_number(b), precision, scale)[0])
    raise ConfigError(
        f"{declared.name} has no order that can be searched; there are smallint, integer, bigint, "
        "numeric(p,s) with p up to 38, double precision, date, time, timestamp, "
        "timestamp with time zone"
    )


def _precision(declared: SealedType) -> tuple[int, int]:
    packed = declared.typmod - 4
    scale = packed & 0x7FF
    return packed >> 16 & 0xFFFF, scale - 2048 if scale >= 1024 else scale


def _float_rank(value: float) -> int:
    if math.isnan(value):
        return (1 << 64) - 1  # NaN is equal to NaN, and above all
    (bits,) = struct.unpack("!Q", struct.pack("!d", value + 0.0 if value else 0.0))
    return int(bits ^ ((1 << 64) - 1) if bits >> 63 else bits | 1 << 63)


def _number(binary: bytes) -> Decimal:
    return decimal_of(binary)


def _numeric_bounds(value: Decimal, precision: int, scale: int) -> Bounds:
    nan = 2 * 10**precision - 1
    if value.is_nan():
        return nan, nan
    if value.is_infinite():
        return (nan - 1, nan) if value > 0 else (-1, 0)
    if value and value.adjusted() >= precision - scale:
        return (nan - 1, nan) if value > 0 else (-1, 0)
    scaled = value.scaleb(scale, _WIDE)
    zero = 10**precision - 1
    low, high = math.floor(scaled) + zero, math.ceil(scaled) + zero
    # beyond all finite values, and still below NaN
    return min(max(low, -1), nan - 1), min(max(high, 0), nan)


def operand_bounds(
    declared: SealedType, raw: bytes, fmt: int, from_oid: int, ctx: TextContext
) -> Bounds:
    """(highest rank not above the operand, lowest rank not below it); equal where the operand is a
    value of the column. -1 and 2^bits stand for beyond all. DataError."""
    source = declared.oid if from_oid in (0, UNKNOWN) else from_oid
    if source != declared.oid and source not in COMPARABLE.get(declared.oid, ()):
        raise _no_operator(declared, source)
    binary = raw
    if fmt == 0:
        binary, fmt = codec_for(source).parse(raw, ctx, -1), 1
    if declared.oid == NUMERIC:
        number = codec_for(NUMERIC).coerce(binary, source, -1, ctx)
        return _numeric_bounds(_number(number), *_precision(declared))
    if declared.oid in SIZES and source != declared.oid:
        checked = codec_for(source).check(binary, -1)
        if source == NUMERIC:
            value = _number(checked)
        elif source in SIZES:
            value = Decimal(int.from_bytes(checked, "big", signed=True))
        else:
            value = Decimal(struct.unpack("!f" if source == FLOAT4 else "!d", checked)[0])
        return _integer_bounds(value, _SIGNED_BITS[declared.oid])
    rank = ranks(declared).of(codec_for(declared.oid).coerce(binary, source, -1, ctx))
    return rank, rank


def _no_operator(declared: SealedType, source: int) -> DataError:
    try:
        name = codec_for(source).name
    except KeyError:
        name = f"type {source}"
    message = f"a protected column of type {declared.name} cannot be ordered against {name}"
    return DataError(UNSUPPORTED, f"{message}: cast the value to {declared.name}")


def _integer_bounds(value: Decimal, bits: int) -> Bounds:
    """An integer column against a wider integer or a numeric."""
    end = 1 << bits
    if value.is_nan():
        return end - 1, end
    if value.is_infinite() or value.adjusted() > 40:
        return (end - 1, end) if value > 0 else (-1, 0)
    low = math.floor(value) + (end >> 1)
    high = math.ceil(value) + (end >> 1)
    return min(max(low, -1), end - 1), min(max(high, 0), end)
