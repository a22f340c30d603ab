"""native/shares.pyx against the published vectors of SLIP-0039 and Trezor's implementation.

The product has 256-bit keys only: the vectors of shorter secrets are refused.
Groups, which the product does not make, are combined here from the same two functions.
"""

import itertools
import json
from collections import defaultdict
from pathlib import Path

import pytest
import shamir_mnemonic
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import native
from proxy.keys.ceremony.shares import ShareHeader, word_table
from proxy.native import KeyHandle, ShareError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "slip0039.json").read_text())
LONG = [v for v in VECTORS if len(v[1][0].split()) == 33]
TABLE = word_table()


def key(raw: bytes) -> KeyHandle:
    return native.key_import(bytearray(raw))


def combine(mnemonics: list[str], passphrase: bytes) -> KeyHandle:
    """As SLIP-0039 says it: members of each group, then the groups, then decrypted."""
    groups: dict[int, list[tuple[ShareHeader, KeyHandle]]] = defaultdict(list)
    for text in mnemonics:
        number, share = native.slip39_parse(bytearray(text.encode()), TABLE)
        header = ShareHeader.of(number)
        groups[header.group_index].append((header, share))
    heads = [h for members in groups.values() for h, _ in members]
    first = heads[0]
    same = {(h.identifier, h.extendable, h.exponent, h.group_threshold, h.group_count) for h in heads}
    if len(same) != 1 or len(groups) != first.group_threshold:
        raise ShareError("groups do not fit")
    if first.group_threshold > first.group_count:
        raise ShareError("more groups needed than there are")
    of_groups = []
    for index, members in groups.items():
        if {h.threshold for h, _ in members} != {len(members)}:
            raise ShareError("members do not fit")
        found = native.slip39_combine([(h.index, share) for h, share in members])
        of_groups.append((index, found))
    encrypted = native.slip39_combine(of_groups)
    return native.slip39_encrypt(
        encrypted, bytearray(passphrase), first.salt, first.exponent, decrypt=True
    )


def test_the_vectors_are_there() -> None:
    assert (len(VECTORS), len(LONG)) == (45, 13)


@pytest.mark.parametrize("vector", LONG, ids=[v[0].split(".")[0] for v in LONG])
def test_published_vector(vector: tuple[str, list[str], str, str]) -> None:
    name, mnemonics, secret, _ = vector
    if secret:
        assert combine(mnemonics, b"TREZOR").same(key(bytes.fromhex(secret))), name
    else:
        with pytest.raises(ShareError):
            combine(mnemonics, b"TREZOR")


@pytest.mark.parametrize("vector", [v for v in VECTORS if v not in LONG], ids=lambda v: v[0][:3])
def test_shares_of_shorter_keys_are_refused(vector: tuple[str, list[str], str, str]) -> None:
    with pytest.raises(ShareError):
        native.slip39_parse(bytearray(vector[1][0].encode()), TABLE)


@given(secret=st.binary(min_size=32, max_size=32), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_threshold_of_shares_gives_the_secret_and_fewer_do_not(
    secret: bytes, data: st.DataObject
) -> None:
    count = data.draw(st.integers(2, 8))
    threshold = data.draw(st.integers(2, count))
    whole = key(secret)
    shares = list(enumerate(native.slip39_split(whole, threshold, count)))
    chosen = data.draw(st.permutations(shares))[:threshold]
    assert native.slip39_combine(chosen).same(whole)
    if threshold > 2:
        with pytest.raises(ShareError):
            native.slip39_combine(chosen[:-1])


def test_every_choice_of_3_of_5_opens() -> None:
    secret = native.key_random()
    shares = list(enumerate(native.slip39_split(secret, 3, 5)))
    for chosen in itertools.combinations(shares, 3):
        assert native.slip39_combine(list(chosen)).same(secret)


def test_a_wrong_share_is_noticed() -> None:
    secret = native.key_random()
    shares = list(enumerate(native.slip39_split(secret, 3, 5)))
    with pytest.raises(ShareError):
        native.slip39_combine([shares[0], shares[1], (2, native.key_random())])


def test_trezors_implementation_reads_our_words() -> None:
    raw = bytes(range(32))
    header = ShareHeader(0x1234, True, 1, 0, 1, 1, 0, 2)
    encrypted = native.slip39_encrypt(key(raw), bytearray(), header.salt, 1)
    shares = native.slip39_split(encrypted, 2, 3)
    words = [
        native.slip39_words(share, header.at(index).number, TABLE).decode()
        for index, share in enumerate(shares)
    ]
    assert shamir_mnemonic.combine_mnemonics(words[1:]) == raw


def test_we_read_the_words_of_trezors_implementation() -> None:
    raw = bytes(range(100, 132))
    words = shamir_mnemonic.generate_mnemonics(1, [(3, 5)], raw, b"pass", iteration_exponent=0)[0]
    assert combine(words[2:], b"pass").same(key(raw))


@pytest.mark.parametrize("place", range(33))
def test_a_wrong_word_anywhere_is_refused(place: int) -> None:
    header = ShareHeader(7, True, 0, 0, 1, 1, 0, 2).number
    words = native.slip39_words(native.key_random(), header, TABLE).decode().split()
    words[place] = "acid" if words[place] != "acid" else "acne"
    with pytest.raises(ShareError):
        native.slip39_parse(bytearray(" ".join(words).encode()), TABLE)


def test_words_beyond_the_list_or_the_length_are_refused() -> None:
    for text in (b"", b"acid " * 32, b"acid " * 34, b"zebra " * 33, b"academicx " * 33):
        with pytest.raises(ShareError):
            native.slip39_parse(bytearray(text), TABLE)
