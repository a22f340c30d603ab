"""proxy/keys/stores/file.py: what every store promises, on a directory."""

import asyncio
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from proxy.keys import ring as rings
from proxy.keys.ring import State
from proxy.keys.stores.base import StoreConflict, StoreUnavailable
from proxy.keys.stores.file import FileRingStore, write_atomically
from tests.unit.test_keys_ring import wrapped


async def test_a_ring_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = FileRingStore(tmp_path / "rings")
    first = rings.create("shop", wrapped(1), 100)
    await store.put(first, 0)
    assert await store.get("shop") == first
    second = rings.rotate(first, wrapped(2), 200)
    await store.put(second, 1)
    assert await store.get("shop") == second
    assert await store.names() == ["shop"]


async def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    store = FileRingStore(tmp_path / "rings")
    await store.put(rings.create("shop", wrapped(1), 100), 0)
    assert stat.S_IMODE(os.stat(tmp_path / "rings").st_mode) == 0o700
    for name in os.listdir(tmp_path / "rings"):
        assert stat.S_IMODE(os.stat(tmp_path / "rings" / name).st_mode) == 0o600, name


async def test_an_update_of_an_older_generation_is_refused(tmp_path: Path) -> None:
    store = FileRingStore(tmp_path)
    first = rings.create("shop", wrapped(1), 100)
    await store.put(first, 0)
    with pytest.raises(StoreConflict):
        await store.put(first, 0)
    await store.put(rings.rotate(first, wrapped(2), 200), 1)
    with pytest.raises(StoreConflict):
        await store.put(rings.change_state(first, 1, State.DISABLED, 300), 1)


async def test_an_absent_ring_is_none_but_an_absent_store_is_an_error(tmp_path: Path) -> None:
    assert await FileRingStore(tmp_path).get("shop") is None
    with pytest.raises(StoreUnavailable):
        await FileRingStore(tmp_path / "not-mounted").get("shop")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"format":"x"}', b"[" * 100_000])
async def test_a_damaged_document_is_an_error_never_absent(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "shop.ring.json").write_bytes(body)
    with pytest.raises(StoreUnavailable):
        await FileRingStore(tmp_path).get("shop")


async def test_a_document_under_another_name_is_refused(tmp_path: Path) -> None:
    store = FileRingStore(tmp_path)
    await store.put(one_version(), 0)
    os.rename(tmp_path / "shop.ring.json", tmp_path / "docs.ring.json")
    with pytest.raises(StoreUnavailable):
        await store.get("docs")


def one_version() -> rings.Ring:
    return rings.create("shop", wrapped(1), 100)


def _rotate_many(path: str, times: int) -> None:
    async def work() -> None:
        store = FileRingStore(path)
        done = 0
        while done < times:
            ring = await store.get("shop")
            assert ring is not None
            try:
                await store.put(rings.rotate(ring, wrapped(ring.next_number()), 1), ring.generation)
            except StoreConflict:
                continue
            done += 1

    asyncio.run(work())


async def test_processes_that_write_at_once_lose_no_update(tmp_path: Path) -> None:
    store = FileRingStore(tmp_path)
    await store.put(rings.create("shop", wrapped(1), 100), 0)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_rotate_many, args=(str(tmp_path), 10)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        await asyncio.to_thread(writer.join)
        assert writer.exitcode == 0
    ring = await store.get("shop")
    assert ring is not None
    assert ring.generation == 31
    assert [e.generation for e in ring.history] == list(range(1, 32))
    assert len(ring.versions) == 31


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "root"
    write_atomically(target, b"old")
    with pytest.raises(FileExistsError):
        write_atomically(target, b"new", replace=False)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["root"]
