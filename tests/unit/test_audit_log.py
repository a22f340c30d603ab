"""proxy/audit/log.py: what is written when, and what happens when it cannot be."""

import asyncio
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy import native
from proxy.audit.events import EVENTS, Durability
from proxy.audit.files import Files
from proxy.audit.log import AuditLog, WriterKey
from proxy.audit.record import Happening, KeyDecision
from proxy.config.audit import AuditConfig
from proxy.crypto import kdf
from proxy.errors import AuditUnavailable
from tests.parts.audited import RING, VERSION, Clock, Log, master, verify
from tests.parts.small_verifier import check, master_of

DENY = KeyDecision("key.deny", "postgres:eve", "column:a.b.c.d", "open", "app", "denied", 3)
FETCH = KeyDecision("key.fetch", "postgres:app", "column:a.b.c.d", "open", "app", "allowed")


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    done: list[int] = []
    real = os.fdatasync

    def counted(fd: int) -> None:
        done.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", counted)
    return done


def lines(path: Path, event: str = "") -> list[dict[str, Any]]:
    found = [json.loads(line) for p in sorted(path.iterdir()) for line in p.open()]
    return [f for f in found if not event or f["e"] == event]


def test_another_verifier_agrees(tmp_path: Path) -> None:
    clock = Clock()
    log = Log(tmp_path, 1, clock, rotate_bytes=4096)
    for i in range(30):
        log.say(i)
        clock.now += 7200
    asyncio.run(log.stop("done"))
    assert len(list(tmp_path.iterdir())) >= 3
    assert check(tmp_path, master_of(RING)) == verify(tmp_path).lines == len(lines(tmp_path))


def test_the_first_line_of_a_file_commits_to_the_file_before(tmp_path: Path) -> None:
    clock = Clock()
    log = Log(tmp_path, 1, clock)
    clock.now += 86_400
    log.say(1)
    first, second = sorted(tmp_path.iterdir())
    last = json.loads(first.read_text().splitlines()[-1])
    opening = json.loads(second.read_text().splitlines()[0])
    assert opening["e"] == "file.open"
    assert (opening["file"], opening["previous"]) == (second.name, first.name)
    assert (opening["p"], opening["n"]) == (last["mac"], last["n"] + 1)


async def test_a_denial_is_on_the_disk_before_the_answer(tmp_path: Path, syncs: list[int]) -> None:
    log = Log(tmp_path, 1, Clock())
    syncs.clear()
    log.write(DENY)
    assert len(syncs) == 1
    await log.stop("done")


async def test_key_fetches_share_one_sync(tmp_path: Path, syncs: list[int]) -> None:
    log = Log(tmp_path, 1, Clock(), sync_milliseconds=20)
    syncs.clear()
    for _ in range(50):
        log.write(FETCH)
    assert not syncs
    for _ in range(100):
        await asyncio.sleep(0.01)
        if syncs:
            break
    assert len(syncs) == 1
    await log.stop("done")


def test_repeated_denials_cost_one_line_and_a_count(tmp_path: Path) -> None:
    log = Log(tmp_path, 1, Clock())
    for _ in range(1000):
        log.write(DENY)
    log.summarise()
    log.write(DENY)
    assert [line.get("count") for line in lines(tmp_path, "key.deny")] == [None, 999, None]


def test_many_different_denials_do_not_take_memory(tmp_path: Path) -> None:
    log = Log(tmp_path, 1, Clock())
    for i in range(5000):
        log.write(Happening("auth.fail", {"plane": "s3", "principal": f"s3:{i}"}))
    log.summarise()
    found = lines(tmp_path, "auth.fail")
    assert len(found) == 4096 + 2
    assert found[-1]["count"] == 5000 - 4096 - 1


def test_a_clock_that_jumps_is_written_down(tmp_path: Path) -> None:
    clock = Clock()
    log = Log(tmp_path, 1, clock)
    log._wall = lambda: clock.now - 3600
    log.watch_clock()
    log.watch_clock()
    assert [line["seconds"] for line in lines(tmp_path, "clock.jump")] == [-3600]


class _FullDisk:
    """Writes come to nothing after so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self._write = os.write
        monkeypatch.setattr("proxy.audit.files.os.write", self)

    def __call__(self, fd: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = self._write(fd, data[: self.room])
        self.room -= done
        return done


def test_a_full_disk_leaves_no_half_line_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    log = Log(tmp_path, 1, clock)
    wiped: list[int] = []
    log.on_down = lambda: wiped.append(1)
    disk = _FullDisk(monkeypatch, 100)
    with pytest.raises(AuditUnavailable):
        log.say(1)
    assert wiped
    with pytest.raises(AuditUnavailable):
        log.require()
    disk.room = 1 << 20
    with pytest.raises(AuditUnavailable):  # not tried again at once
        log.say(2)
    clock.now += 2
    log.require()
    log.say(3)
    monkeypatch.undo()
    assert [line["lost"] for line in lines(tmp_path, "audit.gap")] == [2]
    assert [line["version"] for line in lines(tmp_path, "ring.rotate")] == [3]
    assert not verify(tmp_path).findings


def test_with_continue_the_lines_are_lost_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    log = Log(tmp_path, 1, clock, on_failure="continue")
    disk = _FullDisk(monkeypatch, 0)
    for i in range(5):
        log.say(i)
    log.require()
    assert log.health()["up"] is False
    disk.room = 1 << 20
    clock.now += 2
    log.say(6)
    assert [line["lost"] for line in lines(tmp_path, "audit.gap")] == [5]
    assert log.health()["up"] is True
    assert not verify(tmp_path).findings


def test_a_disk_that_is_full_at_the_change_of_files_keeps_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    log = Log(tmp_path, 1, clock, on_failure="continue")
    clock.now += 86_400
    disk = _FullDisk(monkeypatch, 50)
    log.say(1)
    assert len(list(tmp_path.iterdir())) == 1
    disk.room = 1 << 20
    clock.now += 2
    log.say(2)
    assert len(list(tmp_path.iterdir())) == 2
    assert not verify(tmp_path).findings


def test_a_file_that_may_not_grow_refuses(tmp_path: Path) -> None:
    code = f"""
        import resource, sys
        from pathlib import Path
        from proxy.errors import AuditUnavailable
        from tests.parts.audited import Clock, Log
        log = Log(Path({str(tmp_path)!r}), 1, Clock())
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
        try:
            for i in range(100):
                log.say(i)
        except AuditUnavailable:
            sys.exit(7)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == 7
    report = verify(tmp_path)
    assert not report.findings
    assert report.lines > 5
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_what_was_written_before_a_kill_is_whole(tmp_path: Path) -> None:
    code = f"""
        from pathlib import Path
        from tests.parts.audited import Clock, Log
        log = Log(Path({str(tmp_path)!r}), 1, Clock())
        i = 0
        while True:
            log.say(i)
            i += 1
            if i == 20:
                print("going", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    report = verify(tmp_path)
    assert not report.findings
    assert len(report.notes) == 1
    assert report.lines >= 22


async def test_stop_wipes_the_key(tmp_path: Path) -> None:
    log = Log(tmp_path, 1, Clock())
    assert log._chain is not None
    key = log._chain._key
    log.say(1)
    assert not key.alive  # spent with the line
    chain = log._chain
    await log.stop("done")
    assert not chain._key.alive
    await log.stop("again")


def test_what_is_not_in_the_table_is_refused(tmp_path: Path) -> None:
    log = Log(tmp_path, 1, Clock())
    with pytest.raises(KeyError):
        log.write(Happening("some.thing", {}))
    with pytest.raises(ValueError, match="has no field"):
        log.write(Happening("ring.create", {"value": "secret"}))


def test_a_name_of_a_client_cannot_break_a_line(tmp_path: Path) -> None:
    log = Log(tmp_path, 1, Clock())
    name = 'postgres:a"\n{"n":1}' + "x" * 1000
    log.write(Happening("auth.fail", {"plane": "postgres", "principal": name}))
    (line,) = lines(tmp_path, "auth.fail")
    assert line["principal"] == name[:256]
    assert not verify(tmp_path).findings


def test_acts_and_denials_are_synced() -> None:
    for event, kind in EVENTS.items():
        if event.startswith(("admin.", "ring.", "root.", "config.", "ceremony.")) or kind.counted:
            assert kind.durability is Durability.SYNCED, event


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    files = Files(tmp_path / "log", "worker", "ab" * 16)
    files.begin("20261124")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700
    (path,) = (tmp_path / "log").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    files.close()


def test_a_full_arena_loses_a_line_and_not_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    log = Log(tmp_path, 1, clock)
    log.say(1)

    def full(key: native.KeyHandle) -> native.KeyHandle:
        raise native.ArenaFull("no slot")

    with monkeypatch.context() as patch:
        patch.setattr(kdf, "audit_next_key", full)
        for _ in range(2):
            with pytest.raises(AuditUnavailable):
                log.say(2)
    clock.now += 2
    log.say(3)
    assert [line["version"] for line in lines(tmp_path, "ring.rotate")] == [1, 3]
    assert [line["lost"] for line in lines(tmp_path, "audit.gap")] == [2]
    assert not verify(tmp_path).findings


def unstarted(path: Path, **settings: Any) -> AuditLog:
    clock = Clock()
    config = AuditConfig.model_validate({"path": str(path), **settings})
    return AuditLog(config, "worker", wall=clock, boot=clock)


def begin(log: AuditLog) -> None:
    key = master()
    log.start(WriterKey(b"w" * 16, kdf.audit_writer_key(key, b"w" * 16), VERSION), "ring", None)
    key.wipe()


def test_a_start_that_failed_keeps_what_waits_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = unstarted(tmp_path)
    log.write(FETCH)
    disk = _FullDisk(monkeypatch, 0)
    with pytest.raises(AuditUnavailable):
        begin(log)
    with pytest.raises(AuditUnavailable, match="not started"):
        log.require()
    assert list(tmp_path.iterdir()) == []
    disk.room = 1 << 20
    begin(log)
    log.require()
    assert [line["e"] for line in lines(tmp_path)] == ["file.open", "process.start", "key.fetch"]
    assert not verify(tmp_path).findings


def test_with_continue_what_cannot_wait_for_the_start_is_lost_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.audit.log._BEFORE_START", 3)
    log = unstarted(tmp_path, on_failure="continue")
    for _ in range(5):
        log.write(FETCH)
    begin(log)
    assert len(lines(tmp_path, "key.fetch")) == 3
    assert [line["lost"] for line in lines(tmp_path, "audit.gap")] == [2]
    with pytest.raises(AuditUnavailable):
        refusing = unstarted(tmp_path)
        for _ in range(4):
            refusing.write(FETCH)


async def test_a_directory_that_cannot_be_read_stops_no_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.audit.log._TICK_SECONDS", 0.001)
    log = Log(tmp_path, 1, Clock(), checkpoint_seconds=1, on_failure="continue")
    log.run()

    def unreadable(path: Path) -> Iterator[os.DirEntry[str]]:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", unreadable)
        log.checkpoint()
        await asyncio.sleep(0.02)
    assert log._task is not None
    assert not log._task.done()
    await log.stop("done")
    assert not verify(tmp_path).findings


async def test_stop_wipes_the_key_though_the_task_has_died(tmp_path: Path) -> None:
    log = Log(tmp_path, 1, Clock())
    chain = log._chain
    assert chain is not None

    async def die() -> None:
        raise ZeroDivisionError

    log._task = asyncio.create_task(die())
    await asyncio.sleep(0)
    await log.stop("done")
    assert not chain._key.alive
