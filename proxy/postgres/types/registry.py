"""Which codec belongs to a type, and what a type's text in the configuration means."""

import re

from proxy.errors import ConfigError
from proxy.postgres.snapshot import FLOAT4, FLOAT8, INT2, INT4, INT8, SealedType
from proxy.postgres.types.base import TypeCodec
from proxy.postgres.types.boolean import Boolean
from proxy.postgres.types.bytea import Bytea
from proxy.postgres.types.datetime import DATE_CODEC, TIMESTAMP_CODEC, TIMESTAMPTZ_CODEC, Time
from proxy.postgres.types.floating import Float
from proxy.postgres.types.integer import Integer
from proxy.postgres.types.json import Json, Jsonb
from proxy.postgres.types.numeric import Numeric
from proxy.postgres.types.text import Bpchar, Text, Varchar
from proxy.postgres.types.uuid import Uuid

_CODECS: tuple[TypeCodec, ...] = (
    Text(),
    Varchar(),
    Bpchar(),
    Integer(INT2, 1005, 2, "smallint"),
    Integer(INT4, 1007, 4, "integer"),
    Integer(INT8, 1016, 8, "bigint"),
    Float(FLOAT4, 1021, 4, "real"),
    Float(FLOAT8, 1022, 8, "double precision"),
    Numeric(),
    Boolean(),
    DATE_CODEC,
    Time(),
    TIMESTAMP_CODEC,
    TIMESTAMPTZ_CODEC,
    Uuid(),
    Bytea(),
    Json(),
    Jsonb(),
)
_BY_OID = {codec.oid: codec for codec in _CODECS}
_ALIASES = {
    "int2": "smallint", "int4": "integer", "int": "integer", "int8": "bigint",
    "float4": "real", "float8": "double precision", "float": "double precision",
    "decimal": "numeric", "bool": "boolean", "varchar": "character varying",
    "char": "character", "bpchar": "character", "timestamptz": "timestamp with time zone",
    "timestamp without time zone": "timestamp", "time without time zone": "time",
    "string": "text",
}  # fmt: skip
_BY_NAME = {codec.name: codec for codec in _CODECS}
_FORM = re.compile(
    r"([a-z][a-z0-9 ]*?)\s*(?:\(\s*(\d+)\s*(?:,\s*(-?\d+)\s*)?\))?(\s+with(?:out)? time zone)?"
)


def codec_for(oid: int) -> TypeCodec:
    """The codec of a type that `resolve` knows. KeyError otherwise."""
    return _BY_OID[oid]


def resolve(type_text: str) -> SealedType:
    """The type that a configuration or a CREATE TABLE names. ConfigError says which there are."""
    match = _FORM.fullmatch(" ".join(type_text.lower().split()))
    if match is None:
        raise _unknown(type_text)
    name = match[1].removeprefix("pg_catalog.") + (match[4] or "")
    codec = _BY_NAME.get(_ALIASES.get(name, name))
    if codec is None:
        raise _unknown(type_text)
    first, second = (int(g) if g is not None else None for g in match.group(2, 3))
    typmod, shown = _typmod(codec, first, second, type_text)
    return SealedType(codec.oid, codec.typlen, typmod, shown, codec.array_oid)


def _typmod(codec: TypeCodec, first: int | None, second: int | None, text: str) -> tuple[int, str]:
    name = codec.name
    if name == "character" and first is None:
        first = 1
    if first is None:
        return -1, name
    if name in ("character", "character varying") and second is None and 1 <= first <= 10485760:
        return first + 4, f"{name}({first})"
    if name == "numeric" and 1 <= first <= 1000 and -1000 <= (second or 0) <= 1000:
        scale = second or 0
        return ((first << 16) | (scale & 0x7FF)) + 4, f"numeric({first},{scale})"
    if name in ("time", "timestamp", "timestamp with time zone") and second is None and first <= 6:
        base, _, rest = name.partition(" ")
        return first, f"{base}({first}){' ' + rest if rest else ''}"
    raise ConfigError(f"{text!r}: {name} does not take these numbers")


def _unknown(text: str) -> ConfigError:
    known = ", ".join(sorted(_BY_NAME))
    return ConfigError(f"{text!r} is not a type that can be protected; there are: {known}")
