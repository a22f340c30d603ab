"""Which codec belongs to a type, and what a type's text in the configuration means."""

import re
from functools import cache

from proxy.errors import ConfigError
from proxy.postgres.snapshot import FLOAT4, FLOAT8, INT2, INT4, INT8, SealedType
from proxy.postgres.types.array import Array
from proxy.postgres.types.base import TypeCodec
from proxy.postgres.types.boolean import Boolean
from proxy.postgres.types.bytea import Bytea
from proxy.postgres.types.clock import INTERVAL, TIME_CODEC, TIMETZ_CODEC
from proxy.postgres.types.datetime import DATE_CODEC, TIMESTAMP_CODEC, TIMESTAMPTZ_CODEC
from proxy.postgres.types.enum import Enum
from proxy.postgres.types.floating import Float
from proxy.postgres.types.inet import CIDR_CODEC, INET_CODEC, Inet
from proxy.postgres.types.integer import Integer
from proxy.postgres.types.interval import Interval
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
    TIME_CODEC,
    TIMETZ_CODEC,
    TIMESTAMP_CODEC,
    TIMESTAMPTZ_CODEC,
    Interval(),
    Uuid(),
    Bytea(),
    Json(),
    Jsonb(),
    INET_CODEC,
    CIDR_CODEC,
)
_BY_OID = {codec.oid: codec for codec in _CODECS}
_ARRAYS = {codec.array_oid: Array(codec) for codec in _CODECS}
_ALIASES = {
    "int2": "smallint", "int4": "integer", "int": "integer", "int8": "bigint",
    "float4": "real", "float8": "double precision", "float": "double precision",
    "decimal": "numeric", "bool": "boolean", "varchar": "character varying",
    "char": "character", "timestamptz": "timestamp with time zone", "timetz": "time with time zone",
    "timestamp without time zone": "timestamp", "time without time zone": "time",
    "string": "text",
}  # fmt: skip
_BY_NAME = {codec.name: codec for codec in _CODECS}
_FORM = re.compile(
    r"([a-z][a-z0-9 ]*?)\s*(?:\(\s*(\d+)\s*(?:,\s*(-?\d+)\s*)?\))?(\s+with(?:out)? time zone)?"
)
_ENUM = re.compile(
    r"\s*enum\s+((?:\w+\.)?\w+)\s*\(\s*('(?:[^']|'')*'(?:\s*,\s*'(?:[^']|'')*')*)\s*\)\s*(\[\s*\])?\s*",
    re.IGNORECASE,
)
_FULL_INTERVAL = 0x7FFF
_LABEL_BYTES = 63


def codec_for(oid: int) -> TypeCodec:
    """The codec of a built-in type, or of an array of one. KeyError otherwise."""
    return _BY_OID.get(oid) or _ARRAYS[oid]


def codec_of(declared: SealedType) -> TypeCodec:
    """The codec of a type that `resolve` returned."""
    if declared.labels:
        return _enum(declared.name, declared.labels)
    return codec_for(declared.oid)


@cache
def _enum(name: str, labels: tuple[str, ...]) -> TypeCodec:
    if name.endswith("[]"):
        return Array(Enum(name[:-2], labels))
    return Enum(name, labels)


def resolve(type_text: str) -> SealedType:
    """The type that a configuration or a CREATE TABLE names. ConfigError says which there are."""
    enum = _ENUM.fullmatch(type_text)
    if enum is not None:
        return _resolved_enum(enum, type_text)
    text = " ".join(type_text.lower().split())
    if text.endswith("]"):
        return _resolved_array(text, type_text)
    match = _FORM.fullmatch(text)
    if match is None:
        raise _unknown(type_text)
    name = match[1].removeprefix("pg_catalog.") + (match[4] or "")
    first, second = (int(g) if g is not None else None for g in match.group(2, 3))
    if name == "bpchar" and first is None:  # no length: blanks at the end still do not count
        codec = _BY_NAME["character"]
        return SealedType(codec.oid, codec.typlen, -1, name, codec.array_oid)
    found = _BY_NAME.get("character" if name == "bpchar" else _ALIASES.get(name, name))
    if found is None:
        raise _unknown(type_text)
    typmod, shown = _typmod(found, first, second, type_text)
    return SealedType(found.oid, found.typlen, typmod, shown, found.array_oid)


def _resolved_array(text: str, type_text: str) -> SealedType:
    m = re.fullmatch(r"(.*?)\s*\[\s*\d*\s*\]", text)
    if m is None or m[1].endswith("]"):
        raise ConfigError(f"{type_text!r}: an array has one dimension here: write it as TYPE[]")
    elem = resolve(m[1])
    return SealedType(elem.array_oid, -1, elem.typmod, elem.name + "[]", 0)


def _resolved_enum(m: "re.Match[str]", text: str) -> SealedType:
    labels = tuple(label.replace("''", "'") for label in re.findall(r"'((?:[^']|'')*)'", m[2]))
    if len(set(labels)) != len(labels) or any(
        not label or len(label.encode()) > _LABEL_BYTES for label in labels
    ):
        raise ConfigError(f"{text!r}: labels are distinct and of 1 to {_LABEL_BYTES} bytes")
    oid, array_oid = Enum.oid, Enum.array_oid
    if m[3]:
        return SealedType(array_oid, -1, -1, m[1] + "[]", 0, labels)
    return SealedType(oid, -1, -1, m[1], array_oid, labels)


def same_type(declared: SealedType, name: str, array: bool, exact: bool = False) -> bool:
    """Whether a type's name in SQL (`array`: with brackets behind it) is the declared one. A name
    without length or scale is, too, unless it has to be `exact`."""
    if declared.labels:
        return name + ("[]" if array else "") == declared.name
    try:
        named = resolve(name + ("[]" if array else ""))
    except ConfigError:
        return False
    if named.oid != declared.oid:
        return False
    return named.typmod == declared.typmod or not exact and named.typmod == -1


def longest(declared: SealedType) -> int | None:
    """Bytes of the longest value in binary form; None where there is none."""
    if is_array(declared):
        return None
    if declared.labels:
        return max(len(label.encode()) for label in declared.labels)
    codec = codec_of(declared)
    if declared.typmod >= 4 and isinstance(codec, Varchar):
        return 4 * (declared.typmod - 4)  # of UTF-8
    if declared.typmod >= 4 and isinstance(codec, Numeric):
        precision, scale = (declared.typmod - 4) >> 16 & 0xFFFF, (declared.typmod - 4) & 0x7FF
        scale -= 2048 if scale >= 1024 else 0
        groups = -(-max(precision - scale, 0) // 4) + -(-max(scale, 0) // 4)
        return 8 + 2 * groups
    if isinstance(codec, Inet):
        return 20
    return codec.size or None


def is_array(declared: SealedType) -> bool:
    return declared.array_oid == 0


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
    if codec.oid == INTERVAL:
        if first == _FULL_INTERVAL:  # as the grammar spells interval(p): all fields, p digits
            first, second = second, None
        if first is not None and second is None and first <= 6:
            return (_FULL_INTERVAL << 16) | first, f"interval({first})"
        raise ConfigError(f"{text!r}: an interval is protected with all its fields: write interval")
    if name.partition(" ")[0] in ("time", "timestamp") and second is None and first <= 6:
        base, _, rest = name.partition(" ")
        return first, f"{base}({first}){' ' + rest if rest else ''}"
    raise ConfigError(f"{text!r}: {name} does not take these numbers")


def _unknown(text: str) -> ConfigError:
    known = ", ".join(sorted(_BY_NAME))
    return ConfigError(
        f"{text!r} is not a type that can be protected; there are: {known}, "
        "enum NAME ('label', ...), and one-dimensional arrays of these"
    )
