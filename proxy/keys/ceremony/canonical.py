"""Which bytes are signed? JSON in the one form that RFC 8785 (JCS) gives it.

The documents of a ceremony hold objects, lists, strings, whole numbers below 2^53 and booleans
only; for these, with ASCII names, JCS is sorted names, no blanks, and the escapes that RFC 8785
3.2.2.2 lists, which is what `json.dumps` writes. A reader takes other spellings (blanks, order)
and works on their canonical form; it refuses what could mean two things: a name twice, a number
with a fraction, a name beyond ASCII, a lone surrogate. Pure.
"""

import json

Json = bool | int | str | list["Json"] | dict[str, "Json"]

MAX_BYTES = 256 * 1024
_MAX_DEPTH = 8
_MAX_INT = 2**53 - 1


class NotCanonical(ValueError):
    """The value or text has no unambiguous canonical form."""


def encode(value: object) -> bytes:
    """The JCS form of `value`; NotCanonical for what the documents of a ceremony never hold."""
    _check(value, _MAX_DEPTH)
    try:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise NotCanonical("a lone surrogate") from None


def decode(raw: bytes) -> Json:
    """The value in `raw`, unambiguous; NotCanonical otherwise."""
    if len(raw) > MAX_BYTES:
        raise NotCanonical(f"larger than {MAX_BYTES} bytes")
    try:
        value: Json = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_once,
            parse_float=_refuse,
            parse_constant=_refuse,
            parse_int=_int,
        )
    except NotCanonical:
        raise
    except (ValueError, RecursionError):
        raise NotCanonical("not JSON") from None
    _check(value, _MAX_DEPTH)
    encode(value)
    return value


def _once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotCanonical("a name occurs twice")
    return found


def _refuse(text: str) -> Json:
    raise NotCanonical(f"{text[:20]}: only whole numbers")


def _int(text: str) -> int:
    if len(text) > 17 or text == "-0":
        raise NotCanonical("a number out of range")
    return int(text)


def _check(value: object, depth: int) -> None:
    if depth == 0:
        raise NotCanonical("nested too deeply")
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str) or not name.isascii():
                raise NotCanonical("names are ASCII")
            _check(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth - 1)
    elif isinstance(value, int):
        if not -_MAX_INT <= value <= _MAX_INT:
            raise NotCanonical("a number out of range")
    elif not isinstance(value, str):
        raise NotCanonical(f"no {type(value).__name__} in a document")
