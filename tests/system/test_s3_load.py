"""Small versions of `./run bench --only s3-load`: memory of many transfers at once, large listings."""

from collections.abc import Iterator

import pytest

from benchmarks.s3_memory import (
    MIB,
    PER_TRANSFER_BYTES,
    LoadStand,
    fill,
    list_all,
    transfers,
)

pytestmark = pytest.mark.system
COUNT, BYTES = 32, 16 * MIB
PAUSE_SECONDS = 2.0


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadStand]:
    made = LoadStand(tmp_path_factory.mktemp("load"))
    yield made
    made.close()


def test_memory_does_not_grow_with_the_size_of_what_passes(stand: LoadStand) -> None:
    """The slower side does not take a byte for a while: without back-pressure all 512 MiB would be held.
    What the processes have before is not looked at, it depends on the machine and its libraries."""
    for verb, (before, peak, _) in transfers(stand, COUNT, BYTES, PAUSE_SECONDS).items():
        told = f"{verb}: {before / MIB:.0f} MiB before, {peak / MIB:.0f} at most"
        assert peak - before < COUNT * PER_TRANSFER_BYTES, told


def test_a_listing_of_many_pages_has_every_key_once_and_exact_sizes(stand: LoadStand) -> None:
    count = 1100  # a page is of a thousand
    size = fill(stand, "pages", count)
    assert list_all(stand.target("pages"), "pages")[1:] == ({size}, count)
    assert list_all(stand.direct("pages"), "pages")[1] != {size}
