"""Key handles: no way to the bytes, dead after a wipe, dead after a fork, slots given back."""

import copy
import gc
import os
import pickle
import subprocess
import sys
from typing import Any

import pytest

from proxy import native


def used() -> object:
    gc.collect()
    return native.arena_report()["used"]


def test_memory_is_locked() -> None:
    report = native.arena_report()
    assert report["locked"] is True
    assert report["backend"] in ("memfd_secret", "mlock")


def test_a_wiped_handle_is_gone_everywhere() -> None:
    handle = native.key_random()
    handle.wipe()
    handle.wipe()
    assert not handle.alive
    for use in (
        lambda: native.gcm_seal(handle, bytes(12), b"", b""),
        lambda: native.hkdf_sha256(handle, b"", b""),
        lambda: native.hmac_sha256(handle, b""),
        lambda: handle.same(native.key_random()),
        lambda: native.wrap_key(native.key_random(), handle, bytes(12), b""),
    ):
        with pytest.raises(native.KeyGone):
            use()


def test_a_slot_given_to_another_key_does_not_revive_a_handle() -> None:
    first = native.key_random()
    first.wipe()
    others = [native.key_random() for _ in range(8)]
    assert not first.alive
    assert all(other.alive for other in others)


def test_slots_come_back() -> None:
    before = used()
    handles = [native.key_random() for _ in range(100)]
    handles[0].wipe()
    del handles
    assert used() == before


def test_no_copy_no_pickle_no_bytes() -> None:
    handle = native.key_import(bytearray(b"K" * 32))
    attempts: list[Any] = [pickle.dumps, copy.copy, copy.deepcopy, bytes, memoryview]
    for attempt in attempts:
        with pytest.raises(TypeError):
            attempt(handle)
    assert "KKKK" not in repr(handle)
    with pytest.raises(TypeError):
        native.KeyHandle()


def test_import_wipes_its_source_even_when_it_refuses() -> None:
    for n in (32, 31):
        source = bytearray(b"K" * n)
        if n == 32:
            assert native.key_import(source).alive
        else:
            with pytest.raises(ValueError, match="32"):
                native.key_import(source)
        assert source == bytes(n)
    with pytest.raises((TypeError, BufferError)):
        native.key_import(b"K" * 32)  # type: ignore[arg-type]


def test_same_and_ct_equal() -> None:
    a = native.key_import(bytearray(b"K" * 32))
    assert a.same(native.key_import(bytearray(b"K" * 32)))
    assert not a.same(native.key_random())
    assert native.ct_equal(b"ab", b"ab")
    assert not native.ct_equal(b"ab", b"ac")
    assert not native.ct_equal(b"ab", b"abc")


def test_random_bytes_do_not_repeat() -> None:
    assert len({native.random_bytes(12) for _ in range(5000)}) == 5000
    assert [len(native.random_bytes(n)) for n in (0, 1, 64, 65, 5000)] == [0, 1, 64, 65, 5000]


def test_a_forked_child_has_no_keys_and_draws_its_own_randomness() -> None:
    handle = native.key_random()
    codec = native.ColumnCodec(b"d", 25, False)
    codec.add_key(b"k" * 8, handle, None, True)
    codec.seal(b"x")
    native.random_bytes(8)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = [str(handle.alive), str(codec.alive)]
            try:
                codec.seal(b"x")
            except native.KeyGone:
                said.append("gone")
            said.append(str(native.key_random().alive))
            said.append(native.random_bytes(16).hex())
            os.write(write, " ".join(said).encode())
        finally:
            os._exit(0)
    os.close(write)
    answer = os.read(read, 200).decode().split()
    os.close(read)
    os.waitpid(pid, 0)
    assert answer[:4] == ["False", "False", "gone", "True"]
    assert answer[4] != native.random_bytes(16).hex()
    assert handle.alive


def in_another_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr[-300:]


def test_a_full_arena_says_so() -> None:
    said = in_another_process(
        "from proxy import native as n\n"
        "n.arena_init(slots=4); n.arena_init(slots=9)\n"
        "k = [n.key_random() for _ in range(4)]\n"
        "try: n.key_random()\n"
        "except n.ArenaFull as e: print(e)\n"
    )
    assert "all 4 key slots" in said


def test_hardening_is_confirmed_by_the_kernel() -> None:
    said = in_another_process("from proxy import native as n; print(n.harden_process())")
    assert said.strip() == "{'not_dumpable': True, 'no_core': True}"


def test_memory_that_cannot_be_locked_is_refused_unless_allowed() -> None:
    said = in_another_process(
        "import os, resource\n"
        "from proxy import native as n\n"  # before setuid: the checkout may be root's alone
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 4096))\n"
        "os.getuid() or os.setuid(65534)\n"
        "try: n.key_random()\n"
        "except n.NativeError as e: print('refused', e)\n"
        "n.arena_init(allow_unlocked=True); print(n.arena_report()['backend'])\n"
    )
    assert "refused cannot lock memory" in said, said
    assert said.strip().endswith("unlocked")
