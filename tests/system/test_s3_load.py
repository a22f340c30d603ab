"""Small versions of `./run bench --only s3-load`: memory of many transfers at once, large listings."""

from collections.abc import Iterator

import pytest

from benchmarks.s3_memory import (
    BASE_BYTES,
    MIB,
    PER_TRANSFER_BYTES,
    LoadStand,
    fill,
    list_all,
    transfers,
)

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadStand]:
    made = LoadStand(tmp_path_factory.mktemp("load"))
    yield made
    made.close()


def test_memory_does_not_grow_with_the_size_of_what_passes(stand: LoadStand) -> None:
    count, size = 32, 64 * MIB
    for verb, (before, peak, _) in transfers(stand, count, size).items():
        told = f"{verb}: {before / MIB:.0f} MiB before, {peak / MIB:.0f} at most"
        assert peak < BASE_BYTES + count * PER_TRANSFER_BYTES, told


def test_a_listing_of_many_pages_has_every_key_once_and_exact_sizes(stand: LoadStand) -> None:
    size = fill(stand, "pages", 2500)
    assert list_all(stand.target("pages"), "pages")[1:] == ({size}, 2500)
    assert list_all(stand.direct("pages"), "pages")[1] != {size}
