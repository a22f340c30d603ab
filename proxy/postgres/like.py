"""LIKE patterns: what they match, and which pieces of text every match contains. Pure.

PostgreSQL documentation, 9.7.1. `%` is any run of characters, `_` any one, the escape character takes the
next one as it is.
"""

import re
from collections.abc import Callable
from enum import Enum

INVALID_ESCAPE = "22025"


class Wild(Enum):
    """A wildcard in a parsed pattern."""

    ONE = "_"
    RUN = "%"


Item = str | Wild


class BadPattern(ValueError):
    """The pattern ends in its escape character (22025)."""


def parse(pattern: str, escape: str) -> list[Item]:
    """Characters and wildcards. `escape` is one character, or empty for none. BadPattern."""
    items: list[Item] = []
    characters = iter(pattern)
    for character in characters:
        if character == escape:
            following = next(characters, None)
            if following is None:
                raise BadPattern("LIKE pattern must not end with escape character")
            items.append(following)
        elif character in ("_", "%"):
            items.append(Wild(character))
        else:
            items.append(character)
    return items


def pieces(items: list[Item]) -> list[str]:
    """The runs of characters between wildcards; an empty first (last) one where a match may begin
    (end) with anything."""
    found = [""]
    for item in items:
        if isinstance(item, Wild):
            found.append("")
        else:
            found[-1] += item
    return found


def matcher(items: list[Item]) -> Callable[[str], bool]:
    """Whether a whole text matches. Linear in the text for each run of the pattern: segments between
    `%` are taken at their first place, which is right for every later one."""
    segments: list[list[Item]] = [[]]
    for item in items:
        if item is Wild.RUN:
            segments.append([])
        else:
            segments[-1].append(item)
    compiled = [re.compile("".join(map(_regex, s)), re.DOTALL) for s in segments]
    lengths = [len(s) for s in segments]
    if len(segments) == 1:
        return lambda text: compiled[0].fullmatch(text) is not None
    first, *middle, last = compiled

    def matches(text: str) -> bool:
        found = first.match(text)
        if found is None:
            return False
        at = found.end()
        for segment in middle:
            found = segment.search(text, at)
            if found is None:
                return False
            at = found.end()
        tail = len(text) - lengths[-1]
        return tail >= at and last.match(text, tail) is not None

    return matches


def _regex(item: Item) -> str:
    return "." if item is Wild.ONE else re.escape(str(item))
