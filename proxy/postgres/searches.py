"""What do the search settings of a column mean for its type? From the configuration to `Search`. Pure."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from proxy.config.model import ColumnConfig, RangeConfig
from proxy.crypto.column import Readers
from proxy.crypto.tokens import Buckets, Match, Search
from proxy.errors import ConfigError
from proxy.postgres.ranks import Ranks, ranks
from proxy.postgres.snapshot import (
    BPCHAR,
    DATE,
    NUMERIC,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    VARCHAR,
    ProtectedColumn,
    SealedType,
)
from proxy.postgres.types.base import DEFAULT, DataError
from proxy.postgres.types.registry import codec_for, resolve

_TIME = 1083
_TEXTS = (TEXT, VARCHAR, BPCHAR)
_MOST_STORED_BUCKETS = 1 << 40


def search_of(config: ColumnConfig) -> Search:
    """The searches of a configured column. ConfigError names what does not fit its type."""
    declared = resolve(config.type)
    try:
        return _search(config, declared)
    except ConfigError as error:
        raise ConfigError(f"postgres.columns: {config.column}: {error}") from None


def _search(config: ColumnConfig, declared: SealedType) -> Search:
    match = None
    if config.transform != "none" and declared.oid not in (TEXT, VARCHAR):
        raise ConfigError(f"transform is for text and varchar, not {declared.name}")
    if config.match is not None:
        if declared.oid not in (TEXT, VARCHAR):
            raise ConfigError(f"match is for text and varchar, not {declared.name}")
        prefixes = tuple(sorted(set(config.match.prefixes)))
        if config.match.ngram == 1 or any(n < 1 or n > 64 for n in prefixes):
            raise ConfigError("match: ngram is 0 or 2 to 8, prefixes are 1 to 64")
        if not config.match.ngram and not prefixes:
            raise ConfigError("match: give ngram or prefixes")
        match = Match(config.match.ngram, prefixes)
    bits = 0
    buckets = None
    if config.order or config.range:
        numbers = ranks(declared)
        bits = numbers.bits if config.order else 0
        if config.range:
            buckets = _buckets(config.range, declared, numbers)
    transform = "" if config.transform == "none" else config.transform
    return Search(transform, buckets, bits, match)


def _buckets(config: RangeConfig, declared: SealedType, numbers: Ranks) -> Buckets:
    codec = codec_for(declared.oid)
    try:
        low, high = (
            numbers.of(codec.parse(text.encode(), DEFAULT, declared.typmod))
            for text in (config.low, config.high)
        )
        width = _width(Decimal(config.width), declared)
    except DataError as error:
        raise ConfigError(f"range: {error.message}") from None
    except InvalidOperation:
        raise ConfigError(f"range: width {config.width!r} is not a number") from None
    if width < 1 or high <= low:
        raise ConfigError("range: width must be positive, and low below high")
    count = (high - low) // width + 1
    if count > _MOST_STORED_BUCKETS:
        raise ConfigError("range: width is too small for this range")
    return Buckets(low, width, count)


def _width(width: Decimal, declared: SealedType) -> int:
    """In ranks."""
    if declared.oid in (_TIME, TIMESTAMP, TIMESTAMPTZ):
        width *= 1_000_000
    elif declared.oid == NUMERIC:
        scale = (declared.typmod - 4) & 0x7FF
        width = width.scaleb(scale - 2048 if scale >= 1024 else scale)
    elif declared.oid == 701:
        raise ConfigError("range is not for double precision: use order")
    if width != int(width):
        unit = "day" if declared.oid == DATE else "unit"
        raise ConfigError(f"range: width is a whole number of the type's smallest {unit}")
    return int(width)


def readers(column: ProtectedColumn) -> Readers:
    """How the tokens of a column read its plaintext."""
    search = column.search
    rank = ranks(column.type).of if search.order_bits or search.buckets else None
    return Readers(rank, bytes.decode if search.transform or search.match else None)
