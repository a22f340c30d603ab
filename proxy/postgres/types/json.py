"""json keeps its text; jsonb has one text for each value: keys by length then bytes, last one wins."""

import json
import re
from decimal import Decimal
from typing import Any

from proxy import native
from proxy.postgres.types.base import DEFAULT, SHORT, DataError, TextContext, TypeCodec
from proxy.postgres.types.text import characters

JSON, JSONB = 114, 3802
_MAX_DEPTH = 500
_ESCAPES = re.compile(r"\\u([0-9a-fA-F]{4})|\\.|[^\\]+", re.DOTALL)


class _Number(str):
    """A number's own digits, so that none is lost."""


def _number(digits: str) -> _Number:
    """For jsonb: a number that numeric cannot hold is seen before what is wrong behind it."""
    _bounded(digits)
    return _Number(digits)


def _refuse(word: str) -> Any:
    raise ValueError(word)


def _last_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; what a later key replaces has to be valid, too."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            _shown(found[key], 0).encode()
        found[key] = value
    return found


def _decoded(text: bytes, binary: bool) -> Any:
    """The value, numbers as their digits. `binary`: for jsonb, which knows no NUL in a string."""
    shown = characters(text)
    number = _number if binary else _Number
    try:
        return json.loads(
            shown,
            parse_int=number,
            parse_float=number,
            parse_constant=_refuse,
            object_pairs_hook=_last_wins if binary else None,
        )
    except json.JSONDecodeError as error:
        end = len(shown) if error.msg.startswith("Unterminated") else error.pos
        if error.msg.startswith("Invalid \\u"):  # which is also said of a good one at the very end
            end += 5
        wrong = _wrong_escape(shown[:end]) if binary else None
        raise wrong or DataError("22P02", "invalid input syntax for type json") from None
    except (ValueError, RecursionError):
        raise DataError("22P02", "invalid input syntax for type json") from None


def _wrong_escape(text: str) -> DataError | None:
    """The error of the first escape that is a NUL, or half of a surrogate pair before one."""
    if "\\u0000" not in text:
        return None
    high = False
    for token in _ESCAPES.finditer(text):
        code = int(token[1] or "20", 16)
        if (0xDC00 <= code < 0xE000) != high:
            return DataError("22P02", "invalid input syntax for type json")
        high = 0xD800 <= code < 0xDC00
        if code == 0:
            return _nul()
    return None


def _nul() -> DataError:
    return DataError("22P05", "unsupported Unicode escape sequence")


class Json(TypeCodec):
    oid, array_oid, typlen, name = JSON, 199, -1, "json"

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        _decoded(text, False)
        return text

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        return binary

    def check(self, binary: bytes, typmod: int) -> bytes:
        return self.parse(binary, TextContext(), typmod)

    def coerce(
        self, binary: bytes, from_oid: int, typmod: int, ctx: TextContext = DEFAULT
    ) -> bytes:
        if from_oid == JSONB:
            return Jsonb().check(binary, typmod)[1:]
        return super().coerce(binary, from_oid, typmod, ctx)


class Jsonb(TypeCodec):
    oid, array_oid, typlen, name = JSONB, 3807, -1, "jsonb"
    canonical_kind = native.CANON_CALL

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        try:
            value = _decoded(text, True)
        except DataError as error:
            first = _wrong_escape(text.decode()) if error.sqlstate == "22P05" else None
            raise first or error from None
        wrong = _wrong_escape(text.decode())
        if wrong is not None:
            raise wrong
        try:
            return b"\x01" + _shown(value, 0).encode()
        except (RecursionError, UnicodeEncodeError):
            raise DataError("22P02", "invalid input syntax for type json") from None

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        return binary[1:]

    def check(self, binary: bytes, typmod: int) -> bytes:
        if not binary:
            raise DataError(SHORT, "insufficient data left in message")
        if binary[0] != 1:
            raise DataError("XX000", f"unsupported jsonb version number {binary[0]}")
        return self.parse(binary[1:], TextContext(), typmod)

    def coerce(
        self, binary: bytes, from_oid: int, typmod: int, ctx: TextContext = DEFAULT
    ) -> bytes:
        if from_oid == JSON:
            return self.parse(binary, ctx, typmod)
        return super().coerce(binary, from_oid, typmod, ctx)

    def canonical(self, binary: bytes) -> bytes:
        """Numbers inside compare as numeric does: 1.0 is 1."""
        value = json.loads(binary[1:], parse_int=_Number, parse_float=_plain)
        return b"\x01" + _shown(value, 0).encode()


def _plain(digits: str) -> _Number:
    return _Number(digits.rstrip("0").rstrip("."))


def _bounded(value: str) -> Decimal:
    """The number, if numeric can hold it: checked before an exponent is written out."""
    power = re.split("[eE]", value)[1:]
    if power and len(power[0]) > 9:
        raise DataError("22003", "value overflows numeric format")
    number = Decimal(value)
    exponent = number.as_tuple().exponent
    if number.adjusted() >= 131_072 or not isinstance(exponent, int) or exponent < -16_383:
        raise DataError("22003", "value overflows numeric format")
    return number


def _shown(value: Any, depth: int) -> str:
    if depth > _MAX_DEPTH:
        raise DataError("54001", "stack depth limit exceeded")
    if isinstance(value, _Number):
        shown = f"{_bounded(value):f}"
        return shown[1:] if shown.startswith("-") and not shown.strip("-0.") else shown
    if isinstance(value, str):
        if "\0" in value:
            raise _nul()
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        pairs = sorted(value.items(), key=lambda p: (len(p[0].encode()), p[0].encode()))
        inner = ", ".join(f"{_shown(k, depth)}: {_shown(v, depth + 1)}" for k, v in pairs)
        return "{" + inner + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_shown(v, depth + 1) for v in value) + "]"
    return "null" if value is None else "true" if value else "false"
