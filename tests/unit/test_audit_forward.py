"""proxy/audit/forward.py, syslog.py: every line arrives, in order, whatever fails between."""

import asyncio
import contextlib
import json
import socket
from pathlib import Path

import pytest

from proxy import metrics
from proxy.audit import syslog
from proxy.audit.forward import Batch, Forwarder
from proxy.config.audit import AuditSyslog
from tests.parts.audited import Clock, Log


class Somewhere:
    """A place that fails as often as it is told to."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.failures = 0
        self.came = asyncio.Event()

    async def make(self) -> "Somewhere":
        return self

    async def take(self, batch: Batch) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("away")
        self.lines += [line for _, line in batch]
        self.came.set()

    async def close(self) -> None:
        """Nothing is held."""


def written(path: Path) -> list[bytes]:
    return [x for p in sorted(path.glob("*.jsonl")) for x in p.read_bytes().splitlines()]


def _add(folder: Path, text: bytes) -> None:
    (path,) = folder.iterdir()
    with path.open("ab") as file:
        file.write(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("t", "yesterday"),
        ("t", "2026-99-99T00:00:00.000000Z"),
        ("t", "2026-11-24T15:00:00.000000Z \n<0>1 - root"),
        ("w", "\0" * 32),
        ("e", "a\nb"),
        ("e", "\ud800"),
        ("n", 1 << 64),
    ],
)
async def test_an_altered_line_that_no_place_takes_holds_nothing_up(
    tmp_path: Path, field: str, value: object
) -> None:
    log, place = Log(tmp_path, 1, Clock()), Somewhere()
    log.say(1)
    before = written(tmp_path)
    line = json.loads(before[-1])
    _add(tmp_path, json.dumps(line | {field: value}, separators=(",", ":")).encode() + b"\n")
    log.say(2)
    forwarder = Forwarder(tmp_path, "place", place.make)
    while await forwarder.step():
        pass
    assert place.lines == [*before, written(tmp_path)[-1]]
    assert lag() == 0
    await log.stop("done")


def lag() -> float:
    return metrics.audit_sink_lag_bytes.labels("place")._value.get()  # type: ignore[no-any-return]


async def test_all_lines_arrive_once_and_in_order(tmp_path: Path) -> None:
    log, place = Log(tmp_path, 1, Clock(), rotate_bytes=4096), Somewhere()
    for i in range(1200):
        log.say(i)
    forwarder = Forwarder(tmp_path, "place", place.make)
    while await forwarder.step():
        pass
    assert place.lines == written(tmp_path)
    assert lag() == 0
    await log.stop("done")
    while await forwarder.step():
        pass
    assert place.lines == written(tmp_path)


async def test_what_a_place_did_not_take_comes_again(tmp_path: Path) -> None:
    log, place = Log(tmp_path, 1, Clock()), Somewhere()
    log.say(1)
    place.failures = 1
    forwarder = Forwarder(tmp_path, "place", place.make)
    with pytest.raises(OSError, match="away"):
        await forwarder.step()
    assert lag() > 0
    await forwarder.step()
    assert place.lines == written(tmp_path)
    await log.stop("done")


async def test_another_process_goes_on_from_the_cursor(tmp_path: Path) -> None:
    log, place = Log(tmp_path, 1, Clock()), Somewhere()
    log.say(1)
    await _run_until(Forwarder(tmp_path, "place", place.make), lambda: len(place.lines) == 3)
    log.say(2)
    await _run_until(Forwarder(tmp_path, "place", place.make), lambda: len(place.lines) == 4)
    assert place.lines == written(tmp_path)
    await log.stop("done")


async def test_only_one_forwards(tmp_path: Path) -> None:
    log, first, second = Log(tmp_path, 1, Clock()), Somewhere(), Somewhere()
    one = asyncio.create_task(Forwarder(tmp_path, "place", first.make).run())
    await asyncio.wait_for(first.came.wait(), 30)
    other = asyncio.create_task(Forwarder(tmp_path, "place", second.make).run())
    await asyncio.sleep(0.5)  # many of its steps
    assert not second.lines and not other.done()
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)
    one.cancel()
    await asyncio.gather(one, return_exceptions=True)
    await log.stop("done")


async def test_a_line_that_is_not_whole_yet_waits(tmp_path: Path) -> None:
    log, place = Log(tmp_path, 1, Clock()), Somewhere()
    _add(tmp_path, b'{"n":3')
    await Forwarder(tmp_path, "place", place.make).step()
    assert len(place.lines) == 2
    await log.stop("done")


async def _run_until(forwarder: Forwarder, true: "object") -> None:
    assert callable(true)
    task = asyncio.create_task(forwarder.run())
    for _ in range(3000):  # half a minute, for a machine that is busy
        await asyncio.sleep(0.01)
        if true():
            break
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert true()


async def test_syslog_by_datagram_carries_the_line(tmp_path: Path) -> None:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(tmp_path / "log.sock"))
    log = Log(tmp_path / "log", 1, Clock())
    config = AuditSyslog(unix=str(tmp_path / "log.sock"))
    await Forwarder(tmp_path / "log", "place", lambda: syslog.connect(config)).step()
    text = server.recv(65536)
    assert text.startswith(b"<110>1 20")
    assert b" sealgate " in text
    assert b" file.open - " in text
    assert text.partition(b" - ")[2] == written(tmp_path / "log")[0]
    server.close()
    await log.stop("done")


async def test_syslog_by_tcp_counts_octets(tmp_path: Path) -> None:
    heard = asyncio.Queue[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                size = int((await reader.readuntil(b" "))[:-1])
                await heard.put(await reader.readexactly(size))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    log = Log(tmp_path, 1, Clock())
    config = AuditSyslog(host="127.0.0.1", port=port, protocol="tcp", facility=4)
    forwarder = Forwarder(tmp_path, "place", lambda: syslog.connect(config))
    await forwarder.step()
    got = [await asyncio.wait_for(heard.get(), 5) for _ in range(2)]
    assert [json.loads(g.partition(b" - ")[2])["n"] for g in got] == [1, 2]
    assert got[0].startswith(b"<38>1 ")
    await forwarder._drop()
    server.close()
    await log.stop("done")
