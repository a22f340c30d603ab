"""A generated statement: text with values in it, in three forms, and smaller versions of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Value:
    """A literal or parameter. `cast` is put behind it; values with one `key` share one parameter."""

    type: str
    text: str | None
    cast: str = ""
    array: bool = False
    bare: bool = False  # a number without quotes, when it is a literal
    key: str = ""


@dataclass(frozen=True)
class Optional:
    """What can be left out when a failure is made smaller."""

    parts: tuple[Part, ...]


Part = str | Value | Optional


@dataclass(frozen=True)
class Statement:
    rule: str
    parts: tuple[Part, ...]
    writes: bool = False
    ordered: bool = False  # SQL fixes the order of its rows
    rows: bool = True  # its rows are to be compared (not of EXPLAIN)
    literal_only: bool = False  # takes no parameters
    representative: bool = False  # SQL leaves open which of equal values is shown

    def smaller(self) -> Iterator[Statement]:
        """The statement without one of its optional parts each, the largest first."""
        for parts in _without(self.parts):
            yield replace(self, parts=parts)


def _without(parts: tuple[Part, ...]) -> Iterator[tuple[Part, ...]]:
    for i, part in enumerate(parts):
        if isinstance(part, Optional):
            yield parts[:i] + parts[i + 1 :]
            for inside in _without(part.parts):
                yield (*parts[:i], Optional(inside), *parts[i + 1 :])


@dataclass(frozen=True)
class Rendered:
    """What goes to a server. `values` is None for the simple protocol."""

    sql: str
    values: tuple[Value, ...] | None
    binary: bool = False
    binary_result: bool = False


def values_in(parts: Sequence[Part]) -> list[Value]:
    """All values of a statement."""
    found: list[Value] = []
    for part in parts:
        if isinstance(part, Value):
            found.append(part)
        elif isinstance(part, Optional):
            found += values_in(part.parts)
    return found


def render(statement: Statement, form: str, binary_result: bool = False) -> Rendered:
    """`form` is literal, text or binary."""
    literal = form == "literal"
    out: list[str] = []
    values: list[Value] = []
    numbers: dict[str, int] = {}

    def write(parts: Sequence[Part]) -> None:
        for part in parts:
            if isinstance(part, Optional):
                write(part.parts)
            elif isinstance(part, str):
                out.append(part)
            elif literal:
                out.append(_literal(part))
            else:
                number = numbers.get(part.key) if part.key else None
                if number is None:
                    values.append(part)
                    number = len(values)
                    if part.key:
                        numbers[part.key] = number
                out.append(f"${number}{part.cast}")

    write(statement.parts)
    sql = "".join(out)
    if literal:
        return Rendered(sql, None)
    return Rendered(sql, tuple(values), form == "binary", binary_result)


def _literal(value: Value) -> str:
    if value.text is None:
        return f"NULL{value.cast}"
    if value.bare:
        bare = value.text.strip()
        return (
            f"({bare}){value.cast}"
            if bare.startswith(("-", "+")) and value.cast
            else bare + value.cast
        )
    text = value.text.replace("'", "''")
    if "\\" in text and len(text) % 2:  # both spellings of the same string
        return "E'" + text.replace("\\", "\\\\") + "'" + value.cast
    return f"'{text}'{value.cast}"
