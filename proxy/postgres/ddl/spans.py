"""Where do the parts of a DDL statement stand in its tokens? By position, never by spelling. Pure.

The grammar gives no locations for names in key lists and for most ALTER TABLE commands; lists in brackets
and commands between commas are found by counting, so that a quoted or escaped name cannot be mistaken.
"""

from proxy.postgres.grammar import Text

Span = tuple[int, int]  # first and last token, both inclusive


def elements(text: Text, opening: int) -> list[Span]:
    """The elements of the bracket that opens at token `opening`; empty for `()`."""
    closing = text.matching(opening, 1)
    return [] if closing == opening + 1 else parts(text, opening + 1, closing - 1)


def parts(text: Text, first: int, last: int) -> list[Span]:
    """The spans between the commas of tokens first..last, commas inside brackets aside."""
    found: list[Span] = []
    start = index = first
    while index <= last:
        if text.word(index) in ("(", "["):
            index = text.matching(index, 1)
        elif text.word(index) == ",":
            found.append((start, index - 1))
            start = index + 1
        index += 1
    found.append((start, last))
    return found


def bracket_from(text: Text, index: int) -> int:
    """The first opening bracket at or behind token `index`."""
    while text.word(index) != "(":
        index += 1
        if index >= len(text.starts):
            raise IndexError("no bracket")
    return index


def statement_end(text: Text, index: int) -> int:
    """The last token of the statement that token `index` is part of."""
    while text.word(index + 1) not in (";", ""):
        index += 1
        if text.word(index) in ("(", "["):
            index = text.matching(index, 1)
    return index


def name_last(text: Text, offset: int) -> int:
    """The last token of the dotted name that starts at this offset."""
    index = text.at(offset)
    while text.word(index + 1) == ".":
        index += 2
    return index
