"""LIKE as PostgreSQL defines it, against a matcher that tries everything; tokens as a superset of it."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import native
from proxy.crypto.folding import TRANSFORMS, fold, lower, upper
from proxy.crypto.tokens import Match, Search, Tokens, TooManyTokens
from proxy.postgres import like

KEY = native.key_random()
texts = st.text("abA%_\\\n", max_size=12)
patterns = st.text("abA%_\\!", max_size=8)


def by_trying(text: str, items: list[like.Item]) -> bool:
    if not items:
        return not text
    if items[0] is like.Wild.RUN:
        return any(by_trying(text[i:], items[1:]) for i in range(len(text) + 1))
    return bool(text) and (items[0] in (like.Wild.ONE, text[0])) and by_trying(text[1:], items[1:])


@settings(max_examples=1500, deadline=None)
@given(texts, patterns, st.sampled_from(["\\", "!", "", "%"]))
def test_a_pattern_matches_what_trying_everything_finds(
    text: str, pattern: str, escape: str
) -> None:
    try:
        items = like.parse(pattern, escape)
    except like.BadPattern:
        assert escape
        assert pattern.endswith(escape)
        return
    assert like.matcher(items)(text) == by_trying(text, items), (text, pattern, escape)


@settings(max_examples=1500, deadline=None)
@given(
    st.text("abAB ſıéÉ", max_size=10), st.text("abAB%_ſıéÉ", max_size=7),
    st.sampled_from([Match(2), Match(3), Match(0, (1, 3)), Match(2, (2,))]),
    st.sampled_from([str, lower, upper]),
)  # fmt: skip
def test_every_text_that_matches_carries_the_tokens(
    text: str, pattern: str, match: Match, case: object
) -> None:
    assert callable(case)
    tokens = Tokens(Search(match=match), KEY, "d", None, bytes.decode)
    items = like.parse(pattern, "\\")
    mapped = like.parse(case(pattern), "\\")
    if not like.matcher(mapped)(case(text)):
        return
    try:
        wanted = tokens.match_search(like.pieces(items))
    except ValueError:
        return
    assert set(wanted) <= set(tokens.match_tokens(text))


def test_a_long_text_with_a_hostile_pattern_takes_linear_time() -> None:
    items = like.parse("%a" * 30 + "%b", "\\")
    assert not like.matcher(items)("a" * 200_000)


def test_fold_is_one_for_all_cases_of_every_character() -> None:
    for code in range(0x20000):
        if not 0xD800 <= code < 0xE000:
            c = chr(code)
            assert fold(c) == fold(lower(c)) == fold(upper(c)), hex(code)
            assert len(fold(c)) == len(lower(c)) == len(upper(c)) == 1


def test_case_of_ascii_is_left_alone_elsewhere() -> None:
    assert TRANSFORMS["ascii-lower"].apply("AÉz") == "aÉz"
    assert TRANSFORMS["ascii-upper"].apply("aéZ") == "AéZ"
    assert TRANSFORMS["trim"].apply("  a\t ") == "a\t"


@pytest.mark.parametrize("pieces", [[""], ["", ""], ["", "ab", ""], ["", "a", "b", ""]])
def test_too_short_a_pattern_has_no_tokens(pieces: list[str]) -> None:
    tokens = Tokens(Search(match=Match(3)), KEY, "d", None, bytes.decode)
    with pytest.raises(ValueError, match="short"):
        tokens.match_search(pieces)


def test_a_region_is_never_longer_than_promised() -> None:
    draw = random.Random(5)
    tokens = Tokens(Search("lower", match=Match(3, (1, 9))), KEY, "d", None, bytes.decode)
    for n in (0, 1, 2, 3, 50, 3000):
        text = "".join(chr(draw.randint(97, 1200)) for _ in range(n))
        assert len(tokens.region(text.encode())) <= tokens.most_bytes(len(text.encode()))
    with pytest.raises(TooManyTokens):
        tokens.region("".join(chr(draw.randint(97, 4000)) for _ in range(9000)).encode())
