"""Column values: the vectors, the oracle, and every way a value or a key can be wrong."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy import native
from proxy.crypto import kdf
from proxy.crypto.column import Canonical, Readers, column_codec
from proxy.crypto.tokens import Buckets, Match, Search
from proxy.errors import KeyUnavailable
from tests.vectors import column_oracle, make_column_values

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/column_values.json").read_text())
RING = bytes.fromhex(VECTORS["ring"])
DOMAIN = VECTORS["domain"]
NONE = Search()
READERS = Readers(
    lambda b: int.from_bytes(b, "big", signed=True) + (1 << (8 * len(b) - 1)), bytes.decode
)
CANONICAL = {"int": Canonical(native.CANON_INT), "identity": Canonical()}


@pytest.fixture(params=native.engines(), autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    native.use_engine(request.param)
    yield request.param
    native.use_engine(native.engines()[0])


def ring() -> native.KeyHandle:
    return native.key_import(bytearray(RING))


def codec(
    *rings: tuple[native.KeyHandle, bool], oid: int = 25, equality: bool = False,
    transform: int = 0, pad_to: int = 0, canonical: Canonical | None = None,
    index: native.KeyHandle | None = None, search: Search = NONE,
) -> native.ColumnCodec:  # fmt: skip
    return column_codec(
        rings or ((ring(), True),), DOMAIN, oid, equality, transform, pad_to,
        canonical or Canonical(), index=index or (rings[0][0] if rings else ring()),
        search=search, readers=READERS,
    )  # fmt: skip


def search_of(v: dict[str, Any]) -> Search:
    how = v.get("search", {})
    return Search(
        how.get("transform", ""),
        Buckets(*how["range"]) if "range" in how else None,
        how.get("order", 0),
        Match(how["match"][0], tuple(how["match"][1:])) if "match" in how else None,
    )


def test_vectors_are_what_their_generator_makes() -> None:
    path = Path(__file__).parents[1] / "vectors/column_values.json"
    assert path.read_text() == make_column_values.build()


@pytest.mark.parametrize("v", VECTORS["good"], ids=lambda v: v["name"])
def test_good_vector_opens_and_its_tag_is_ours(v: dict[str, Any]) -> None:
    made = codec(
        oid=v["oid"], equality=v["equality"], transform=v["transform"], pad_to=v["pad_to"],
        canonical=CANONICAL[v["canonical"]], search=search_of(v),
    )  # fmt: skip
    value, plain = bytes.fromhex(v["value"]), bytes.fromhex(v["plain"])
    assert made.open(value) == plain
    described = search_of(v).descriptor()
    assert column_oracle.column_open(RING, DOMAIN, v["oid"], value, described) == plain
    sealed = made.seal(plain)
    assert len(sealed) == len(value)
    tokens = 2 + int.from_bytes(value[19:21], "big") if value[2] & 4 else 0
    assert sealed[: 27 + tokens] == value[: 27 + tokens]
    assert column_oracle.column_open(RING, DOMAIN, v["oid"], sealed, described) == plain


@pytest.mark.parametrize("v", VECTORS["bad"], ids=lambda v: v["name"])
def test_bad_vector_is_refused_alike(v: dict[str, Any]) -> None:
    made = codec(equality=v["equality"], search=search_of(v))
    with pytest.raises(native.OpenFailed, match="^does not open$"):
        made.open(bytes.fromhex(v["value"]))


def test_every_byte_of_a_value_is_bound() -> None:
    made = codec(equality=True, pad_to=8)
    value = made.seal(b"secret")
    for at in range(len(value)):
        changed = bytearray(value)
        changed[at] ^= 0x10
        with pytest.raises(native.OpenFailed):
            made.open(bytes(changed))


def test_nulls_stay_nulls_in_batches() -> None:
    made = codec()
    values = made.seal_many([b"a", None, b""])
    assert values[1] is None
    assert made.open_many(values) == [b"a", None, b""]


def test_integers_of_any_width_have_one_tag() -> None:
    made = codec(equality=True, canonical=Canonical(native.CANON_INT))
    tags = {made.tag((-5).to_bytes(n, "big", signed=True)) for n in (2, 4, 8)}
    assert len(tags) == 1
    assert made.tag(b"\0\5") not in tags
    with pytest.raises(ValueError, match="integer"):
        made.tag(b"abc")


def test_a_canonical_call_makes_equal_what_it_maps_alike() -> None:
    made = codec(equality=True, canonical=Canonical(native.CANON_CALL, bytes.lower))
    value = made.seal(b"Ada")
    assert value[3:19] == made.tag(b"aDA") == made.seal(b"ada")[3:19]
    assert made.open(value) == b"Ada"


def test_a_canonical_call_that_raises_ends_the_batch() -> None:
    def fail(plain: bytes) -> bytes:
        raise LookupError("no such label")

    with pytest.raises(LookupError):
        codec(equality=True, canonical=Canonical(native.CANON_CALL, fail)).seal(b"x")


def test_rotation_changes_the_key_and_no_tag() -> None:
    old, new = native.key_random(), native.key_random()
    before = codec((old, True), equality=True)
    after = codec((old, False), (new, True), equality=True)
    value = before.seal(b"x")
    assert after.open(value) == b"x"
    assert after.tags(b"x") == [after.tag(b"x")] == [before.tag(b"x")]
    assert after.seal(b"x")[3:19] == value[3:19]
    assert after.seal(b"x")[19:27] != value[19:27]
    with pytest.raises(native.OpenFailed):
        before.open(after.seal(b"x"))


def test_without_the_first_version_values_open_and_none_is_sealed() -> None:
    old, new = native.key_random(), native.key_random()
    search = Search(transform="lower")
    both = codec((old, False), (new, True), equality=True, search=search)
    value = both.seal(b"x")
    left = column_codec(
        [(new, True)], DOMAIN, 25, True, 0, 0, Canonical(), index=None, search=search
    )
    assert left.open(value) == b"x"
    with pytest.raises(native.NativeError, match="no index key"):
        left.tag(b"x")
    with pytest.raises((native.NativeError, KeyUnavailable)):
        left.seal(b"x")


def test_other_search_settings_do_not_open_a_value() -> None:
    one = codec(search=Search(transform="lower"))
    value = one.seal(b"x")
    for other in (Search(), Search(transform="upper"), Search(match=Match())):
        with pytest.raises(native.OpenFailed):
            codec(search=other).open(value)


def test_every_byte_of_a_token_region_is_bound() -> None:
    made = codec(search=Search(transform="lower", match=Match(3, (2,))), pad_to=4)
    value = made.seal(b"secret")
    assert made.open(value) == b"secret"
    for at in range(len(value)):
        changed = bytearray(value)
        changed[at] ^= 0x10
        with pytest.raises(native.OpenFailed):
            made.open(bytes(changed))


def test_wiping_reaches_the_token_keys() -> None:
    made = codec(oid=20, search=Search(order_bits=64))
    value = made.seal(bytes(8))
    used = int(str(native.arena_report()["used"]))
    for handle in made.handles:
        handle.wipe()
    assert not made.alive
    assert used - int(str(native.arena_report()["used"])) == 2, "seal, order"
    for use in (
        lambda: made.open(value),
        lambda: made.seal(bytes(8)),
        lambda: made.tokens.order(1),
    ):
        with pytest.raises(native.KeyGone):
            use()


def test_a_wiped_key_ends_the_codec_and_its_cached_schedules() -> None:
    made = codec(equality=True)
    value = made.seal(b"x")
    assert made.open(value) == b"x"
    cached = native.arena_report()["cached_schedules"]
    used = native.arena_report()["used"]
    assert made.alive
    for handle in made.handles:
        handle.wipe()
    assert not made.alive
    assert int(str(native.arena_report()["cached_schedules"])) < int(str(cached))
    assert int(str(used)) - int(str(native.arena_report()["used"])) == 3, "seal, index, states"
    for use in (made.seal, made.tag, made.tags):
        with pytest.raises(native.KeyGone):
            use(b"x")
    with pytest.raises(native.KeyGone):
        made.open(value)


def test_a_key_wiped_by_a_canonical_call_is_not_used_after() -> None:
    def wipe_all(plain: bytes) -> bytes:
        for handle in made.handles:
            handle.wipe()
        return plain

    made = codec(equality=True, canonical=Canonical(native.CANON_CALL, wipe_all))
    with pytest.raises(native.KeyGone):
        made.seal(b"x")


def test_nonces_share_a_prefix_for_an_epoch_and_never_repeat() -> None:
    values = [v for v in codec().seal_many([b""] * 5000) if v is not None]
    assert len({v[27:39] for v in values}) == 1
    assert len({v[39:51] for v in values}) == 5000
    assert len({codec().seal(b"")[27:39] for _ in range(20)}) == 20


def test_more_prefixes_than_the_cache_holds() -> None:
    handle = ring()
    values = [codec((handle, True)).seal(bytes((i & 0xFF,))) for i in range(700)]
    made = codec((handle, True))
    for _ in range(2):
        assert made.open_many(values) == [bytes((i & 0xFF,)) for i in range(700)]


def test_misuse_of_a_codec_is_refused() -> None:
    key = native.key_random()
    made = native.ColumnCodec(b"d", 25, False)
    with pytest.raises(native.NativeError, match="no active key"):
        made.seal(b"x")
    with pytest.raises(ValueError, match="equality"):
        made.add_key(b"k" * 8, key, key, True)
    made.add_key(b"k" * 8, key, None, True)
    with pytest.raises(ValueError, match="active"):
        made.add_key(b"j" * 8, key, None, True)
    with pytest.raises(ValueError, match="there already"):
        made.add_key(b"k" * 8, key, None, False)
    with pytest.raises(native.NativeError, match="index key"):
        made.tag(b"x")
    with pytest.raises(TypeError):
        made.seal_many([1])  # type: ignore[list-item]


def test_debug_flavour_counts_down_to_zero() -> None:
    before = native.debug_counters()
    made = codec(equality=True)
    made.open_many(made.seal_many([b"x"] * 10))
    assert native.debug_counters()["contexts"] == before["contexts"] == 0
    del made
    assert native.debug_counters() == before


def test_labels_keep_keys_apart() -> None:
    one = ring()
    seal, index = (kdf.column_key(one, DOMAIN, p) for p in ("seal", "equality"))
    assert not seal.same(index)
    assert not seal.same(kdf.column_key(one, DOMAIN + "2", "seal"))
    with pytest.raises(ValueError, match="purpose"):
        kdf.column_key(one, DOMAIN, "other")


def test_more_tokens_than_were_announced_are_never_written():
    class Liar:
        handles: list[native.KeyHandle] = []

        def most_bytes(self, n: int) -> int:
            return 4

        def region(self, plain: bytes) -> bytes:
            return b"t" * 4000

    made = native.ColumnCodec(b"d", 25, False)
    made.add_key(b"k" * 8, native.key_random(), None, True)
    made.set_tokens(Liar(), b"descriptor")
    with pytest.raises(native.NativeError, match="too many tokens"):
        made.seal(b"value")
