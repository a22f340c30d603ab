"""What lower(), upper(), normalize() and btrim() make of a text, for tags that must agree with SQL.

Case is mapped character by character with Unicode's simple mappings (UnicodeData.txt), as PostgreSQL
does under the builtin locale C.UTF-8 and under the C library's UTF-8 locales but the Turkic ones; the
`ascii-` forms map A to Z only, as under the collation C. Full mappings (one character to several, the
final sigma) are ICU's alone.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass


def _simple_lower(character: str) -> str:
    low = character.lower()
    return low if len(low) == 1 else "i"  # U+0130, the only one with a longer full mapping


def _simple_upper(character: str) -> str:
    for mapped in (character.upper(), character.title()):
        if len(mapped) == 1:
            return mapped
    return character


def lower(text: str) -> str:
    """Simple lower case."""
    return "".join(map(_simple_lower, text)) if not text.isascii() else text.lower()


def upper(text: str) -> str:
    """Simple upper case."""
    return "".join(map(_simple_upper, text)) if not text.isascii() else text.upper()


def fold(text: str) -> str:
    """One text for all that are equal behind lower or upper: fold(lower(x)) = fold(upper(x)) = fold(x).
    Tokens are taken of it, so that they are a superset for every comparison by case."""
    return lower(upper(lower(text)))


_LOWER_ASCII = {i: i + 32 for i in range(65, 91)}
_UPPER_ASCII = {i: i - 32 for i in range(97, 123)}


@dataclass(frozen=True, slots=True)
class Transform:
    """`function` is the SQL function whose result is tagged."""

    function: str
    apply: Callable[[str], str]


TRANSFORMS = {
    "lower": Transform("lower", lower),
    "upper": Transform("upper", upper),
    "ascii-lower": Transform("lower", lambda text: text.translate(_LOWER_ASCII)),
    "ascii-upper": Transform("upper", lambda text: text.translate(_UPPER_ASCII)),
    "nfc": Transform("normalize", lambda text: unicodedata.normalize("NFC", text)),
    "trim": Transform("btrim", lambda text: text.strip(" ")),
}
