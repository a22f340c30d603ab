"""The text of a date, time or interval, cut into fields as PostgreSQL cuts it (ParseDateTime).

Knows what a field looks like, not what it means. `Wrong` says how a text fails; the codec that was
asked turns that into the server's message.
"""

import re
from collections.abc import Sequence
from enum import Enum

MAX_FIELDS, MAX_BYTES = 25, 153
INT32, INT64 = 2**31 - 1, 2**63 - 1
_NUMBER = re.compile(r"[ \t\n\r\f\v]*([+-]?\d+)")


class Fault(Enum):
    FORMAT = "format"
    RANGE = "range"
    DISPLACEMENT = "displacement"
    ZONE = "zone"


class Wrong(Exception):
    """A text that is no date, time or interval. `zone` is the unknown zone of Fault.ZONE."""

    def __init__(self, fault: Fault, zone: str = "") -> None:
        super().__init__(fault.value)
        self.fault = fault
        self.zone = zone


class Kind(Enum):
    NUMBER = "number"
    STRING = "string"
    DATE = "date"
    TIME = "time"
    ZONE = "zone"
    SPECIAL = "special"


Field = tuple[Kind, str]

_TOKENS = re.compile(
    r"""[\ \t\n\r\f\v]*(?:
    (?P<time>\d+:[\d:.]*)
  | (?P<date>\d+(?:(?P<mark>[-/.])(?:\d+(?:(?P=mark)(?:\d|(?P=mark))*)?|(?:[a-z0-9]|(?P=mark))*)))
  | (?P<number>\d+|\.\d*)
  | (?P<word>[a-z]+)(?P<tail>[-+/_.:a-z0-9]*)
  | (?P<sign>[-+])[\ \t\n\r\f\v]*(?:(?P<zone>\d[\d:.-]*)|(?P<special>[a-z]+))
  | (?P<noise>[!-*,/:-@\[-`{-~]))""",
    re.VERBOSE,
)


def fields(text: str, words: Sequence[str] | frozenset[str]) -> list[Field]:
    """The fields of a text. `words`: the names that may be followed by a digit or a plus."""
    found: list[Field] = []
    at, lower, size = 0, text.lower(), 0
    end = len(lower.rstrip(" \t\n\r\f\v"))
    while at < end:
        m = _TOKENS.match(lower, at, end)
        if m is None:
            raise Wrong(Fault.FORMAT)
        kind, value, at = _field(m, words)
        if kind is not None:
            found.append((kind, value))
            size += len(value) + 1
            if len(found) > MAX_FIELDS or size > MAX_BYTES:
                raise Wrong(Fault.FORMAT)
    return found


def _field(
    m: "re.Match[str]", words: Sequence[str] | frozenset[str]
) -> tuple[Kind | None, str, int]:
    at = m.end()
    if m["time"] is not None:
        return Kind.TIME, m["time"], at
    if m["date"] is not None:
        digits_behind = m["date"].split(m["mark"], 1)[1]
        plain = m["mark"] == "." and digits_behind.isdigit()
        return (Kind.NUMBER if plain else Kind.DATE), m["date"], at
    if m["number"] is not None:
        return Kind.NUMBER, m["number"], at
    if m["word"] is not None:
        tail = m["tail"]
        dated = tail[:1] in ("-", "/", ".") or (
            (tail[:1] == "+" or tail[:1].isdigit()) and m["word"] not in words
        )
        if tail and dated:
            return Kind.DATE, m["word"] + tail, at
        return Kind.STRING, m["word"], m.end("word")
    if m["zone"] is not None:
        return Kind.ZONE, m["sign"] + m["zone"], at
    if m["special"] is not None:
        return Kind.SPECIAL, m["sign"] + m["special"], at
    return None, "", at


def number(text: str, limit: int = INT32, fault: Fault = Fault.RANGE) -> tuple[int, str]:
    """strtol: (value, rest); no digits are 0 with the whole text as rest."""
    m = _NUMBER.match(text)
    if m is None:
        return 0, text
    value = int(m[1]) if len(m[1]) < 40 else limit + 2
    if not -limit - 1 <= value <= limit:
        raise Wrong(fault)
    return value, text[m.end() :]


def fraction(text: str) -> float:
    """The fraction that starts with a point."""
    digits = text[1:]
    if digits and not digits.isdigit():
        raise Wrong(Fault.FORMAT)
    return float("0" + text) if digits else 0.0


def micros(text: str) -> int:
    """A fraction of a second in microseconds."""
    return round(fraction(text) * 1_000_000)
