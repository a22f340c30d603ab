"""The key agent's two sides over a real socket, in one process: who gets what, and what goes wrong."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy import native
from proxy.audit.record import Line
from proxy.audit.sink import MemorySink
from proxy.config.model import Config
from proxy.crypto import kdf
from proxy.errors import AccessDenied, AuditUnavailable, IntegrityError, KeyUnavailable
from proxy.keys.agent import messages
from proxy.keys.agent.client import AgentProvider
from proxy.keys.agent.guard import Guard
from proxy.keys.agent.messages import Kind
from proxy.keys.agent.server import AgentServer, Role
from proxy.keys.build import _new_version
from proxy.keys.providers.base import Asking, DeviceDown
from proxy.keys.record import Record, Subject, ring_context
from proxy.policy.model import Action, Principal, Resource
from proxy.runtime.agent import worker_only
from tests.unit.test_keys_service import FaultyProvider

DOCUMENT: dict[str, Any] = {
    "keys": {
        "provider": {"kind": "software", "file": "x", "passphrase": {"env": "X"}},
        "store": {"kind": "file", "path": "x"},
    },
    "postgres": {
        "listen": "127.0.0.1:0",
        "upstream": "127.0.0.1:1",
        "database": "shop",
        "catalog": {"user": "app"},
        "columns": [
            {"column": "public.users.email", "type": "text", "ring": "shop"},
            {"column": "public.users.card", "type": "text", "ring": "cards"},
        ],
    },
    "s3": {
        "listen": "127.0.0.1:0",
        "credentials": [],
        "origins": [{"name": "o", "endpoint": "http://127.0.0.1:1"}],
        "buckets": [
            {"bucket": "docs-*", "prefix": "in/", "origin": "o", "ring": "docs"},
        ],
    },
    "policy": [
        {"principals": ["postgres:app", "s3:app"], "resources": ["*"], "effect": "allow"},
    ],
}
EMAIL = Resource("column", "shop.public.users.email", "shop")


def asking(who: str = "postgres:app", what: Resource = EMAIL) -> Asking:
    kind, _, name = who.partition(":")
    return Asking(Principal(kind, name), what, Action.OPEN)


class House:
    """An agent on a socket that can die and come back, and who asks it."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "a.sock")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        self.provider = FaultyProvider()
        self.audit = MemorySink()
        self.servers: list[AgentServer] = []
        self.clients: list[AgentProvider] = []

    def serve(self, role: Role | None = "worker", **document: Any) -> AgentServer:
        config = Config.model_validate(DOCUMENT | document)
        server = AgentServer(self.provider, Guard(config), call_seconds=5, audit=self.audit)
        server.opened.set()
        server.start(self.listener.dup(), lambda pid, uid: role)
        self.servers.append(server)
        return server

    def client(self, wait: float = 3.0) -> AgentProvider:
        client = AgentProvider(self.path, "software", wait)
        self.clients.append(client)
        return client

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        for server in self.servers:
            server.close()
        self.listener.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    yield made
    await made.close()


async def record_of(house: House, ring: str = "shop") -> Record:
    record = await _new_version(house.provider, ring, 1)
    house.provider.unwraps = 0
    return record


async def test_a_ring_key_arrives_in_the_arena_and_stays_nowhere_in_the_agent(house: House) -> None:
    house.serve()
    record = await record_of(house)
    house.provider.given.clear()
    key = await house.client().unwrap_ring(record, "shop", asking())
    assert kdf.ring_version_id(key) == record.subject.key_id
    await asyncio.sleep(0)
    assert [h.alive for h in house.provider.given] == [False]
    key.wipe()


async def test_questions_of_one_turn_travel_as_one_message(house: House) -> None:
    server = house.serve()
    record = await record_of(house)
    client = house.client()
    keys = await asyncio.gather(*(client.unwrap_ring(record, "shop", asking()) for _ in range(40)))
    assert all(k.same(keys[0]) for k in keys)
    assert server.counts["requests"] == 3  # 16 to a message
    assert server.counts["opened"] == 40


@pytest.mark.parametrize(
    ("ring", "who"),
    [
        ("shop", asking("postgres:guest")),
        ("cards", asking()),  # the ring of another column
        ("shop", asking(what=Resource("column", "shop.public.users.card", "shop"))),
        ("shop", asking(what=Resource("column", "shop.public.none", "shop"))),
        ("shop", asking(what=Resource("bucket", "docs-a/in/", "shop"))),
        ("shop", asking(what=Resource("secret", "x", "shop"))),
        ("other", None),  # not in the configuration
    ],
)
async def test_the_agent_refuses_by_its_own_policy_before_the_root_is_asked(
    house: House, ring: str, who: Asking | None
) -> None:
    house.serve()
    record = await record_of(house, ring)
    with pytest.raises(AccessDenied):
        await house.client().unwrap_ring(record, ring, who)
    assert house.provider.unwraps == 0
    assert [line.event for line in house.audit.lines] == ["agent.deny"]


@pytest.mark.parametrize(
    ("ring", "who"),
    [
        ("shop", None),
        ("shop", asking()),
        ("docs", asking("s3:app", Resource("bucket", "docs-a/in/", "docs"))),
    ],
)
async def test_the_agent_opens_what_policy_and_configuration_allow(
    house: House, ring: str, who: Asking | None
) -> None:
    house.serve()
    record = await record_of(house, ring)
    key = await house.client().unwrap_ring(record, ring, who)
    assert key.alive
    assert [line.event for line in house.audit.lines] == ["agent.open"]


async def test_one_bad_record_takes_no_other_with_it(house: House) -> None:
    house.serve()
    good, moved = await record_of(house), await record_of(house, "cards")
    client = house.client()
    results = await asyncio.gather(
        client.unwrap_ring(moved, "shop", asking()),
        client.unwrap_ring(good, "shop", asking()),
        return_exceptions=True,
    )
    assert isinstance(results[0], IntegrityError)
    assert isinstance(results[1], native.KeyHandle)


@pytest.mark.parametrize("name", ["n" * 3900, "n" * 5000], ids=["item", "text"])
async def test_who_has_too_long_a_name_takes_no_other_with_it(house: House, name: str) -> None:
    house.serve()
    record = await record_of(house)
    client = house.client()
    asked = [asking(f"postgres:{name}"), *[asking()] * 20, asking(f"postgres:{name}")]
    results = await asyncio.gather(
        *(client.unwrap_ring(record, "shop", who) for who in asked), return_exceptions=True
    )
    assert isinstance(results[0], AccessDenied)
    assert isinstance(results[-1], AccessDenied)
    assert all(isinstance(r, native.KeyHandle) for r in results[1:-1])
    assert (await client.unwrap_ring(record, "shop", asking())).alive


async def test_nothing_is_opened_that_could_not_be_written_down(house: House) -> None:
    class Away(MemorySink):
        def require(self) -> None:
            raise AuditUnavailable("away")

    house.audit = Away()
    house.serve()
    record = await record_of(house)
    with pytest.raises(KeyUnavailable, match="away"):
        await house.client().unwrap_ring(record, "shop", asking())
    assert house.provider.unwraps == 0


async def test_a_key_whose_line_was_lost_is_wiped(house: House) -> None:
    class Full(MemorySink):
        def write(self, line: Line) -> None:
            raise AuditUnavailable("full")

    house.audit = Full()
    house.serve()
    record = await record_of(house)
    house.provider.given.clear()
    with pytest.raises(KeyUnavailable, match="full"):
        await house.client().unwrap_ring(record, "shop", asking())
    assert [h.alive for h in house.provider.given] == [False]


async def test_errors_of_the_root_keep_their_class(house: House) -> None:
    house.serve()
    record = await record_of(house)
    house.provider.fault = DeviceDown("away")
    with pytest.raises(DeviceDown, match="away"):
        await house.client().unwrap_ring(record, "shop", asking())


async def test_a_worker_may_not_wrap_or_unwrap_but_an_operator_may(house: House) -> None:
    worker = house.serve()
    key = native.key_random()
    subject, context = Subject(kdf.ring_version_id(key), 1), ring_context("shop")
    client = house.client()
    with pytest.raises(AccessDenied):
        await client.wrap(key, subject, context)
    await client.close()
    worker.close()
    house.serve("operator")
    client = house.client()
    record = await client.wrap(key, subject, context)
    assert (await client.unwrap(record, context)).same(key)
    assert len(await client.random(32)) == 32
    await client.open()
    assert client.root_id == house.provider.root_id


async def test_a_question_outlives_an_agent(house: House) -> None:
    """It is asked of the first, which dies with it; the next one answers."""
    first = house.serve()
    record = await record_of(house)
    client = house.client()
    house.provider.gate.clear()
    waiting = asyncio.create_task(client.unwrap_ring(record, "shop", asking()))
    await asyncio.sleep(0.1)
    assert house.provider.unwraps == 1
    first.close()
    await asyncio.sleep(0.2)
    assert not waiting.done()
    house.provider.gate.set()
    house.serve()
    assert (await waiting).alive


async def test_no_agent_is_a_device_that_is_down_after_the_time_limit(house: House) -> None:
    record = await record_of(house)
    with pytest.raises(DeviceDown, match="within 0.2 s"):
        await house.client(0.2).unwrap_ring(record, "shop", asking())


async def test_a_stranger_on_the_socket_is_not_trusted(house: House) -> None:
    house.serve()
    client = AgentProvider(house.path, "software", 1.0, frozenset({os.geteuid() + 1}))
    with pytest.raises(DeviceDown, match="listens where the key agent should"):
        await client.random(8)


async def test_a_peer_without_a_role_is_sent_away(house: House) -> None:
    server = house.serve(None)
    with pytest.raises(KeyUnavailable):
        await house.client(0.2).random(8)
    assert server.counts["refused"]
    assert server.connections == 0


def test_a_worker_is_a_child_of_the_supervisor_and_of_its_user() -> None:
    me, parent = os.getpid(), os.getppid()
    assert worker_only(parent, 1000, me, 1000) == "worker"
    assert worker_only(parent, 1000, me, 1001) is None
    assert worker_only(me, 1000, me, 1000) is None
    assert worker_only(parent, 1000, 2**22 + 1, 1000) is None


def frame(
    kind: int, payload: bytes, keys: int = 0, request: int = 1, size: int | None = None
) -> bytes:
    told = len(payload) if size is None else size
    head = b"SGKA" + bytes([kind, 0]) + keys.to_bytes(2, "big") + request.to_bytes(4, "big")
    return head + told.to_bytes(4, "big") + bytes(32 * keys) + payload


BAD = {
    "noise": os.urandom(40),
    "short": b"SGKA",
    "empty": b"",
    "unknown kind": frame(99, b""),
    "a reply": frame(Kind.OPEN | messages.REPLY, b""),
    "length too small": frame(Kind.RANDOM, b"\0\x08", size=1),
    "length too large": frame(Kind.RANDOM, b"\0\x08", size=3),
    "more keys than there may be": frame(Kind.RANDOM, b"\0\x08", keys=65),
    "keys where none belong": frame(Kind.RANDOM, b"\0\x08", keys=3),
    "an empty list": frame(Kind.OPEN, b"\0\0"),
    "a long list": frame(Kind.OPEN, b"\xff\xff" + bytes(1000)),
    "random of nothing": frame(Kind.RANDOM, b"\0\0"),
    "health with more": frame(Kind.HEALTH, b"x"),
    "a broken record": frame(
        Kind.OPEN,
        messages.open_request([messages.open_item(messages.OpenItem("shop", b"junk", None))]),
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_message_ends_its_connection_and_nothing_else(house: House, name: str) -> None:
    server = house.serve()
    record = await record_of(house)
    good = house.client()
    assert (await good.unwrap_ring(record, "shop", asking())).alive
    used = int(str(native.arena_report()["used"]))
    bad = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    bad.setblocking(False)
    bad.connect(house.path)
    bad.send(BAD[name])
    try:  # the end, or a reset where something was left unread
        got = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(bad, 100), 2)
        assert got == b""
    except ConnectionResetError:
        pass
    bad.close()
    assert server.connections == 1
    assert int(str(native.arena_report()["used"])) <= used
    assert (await good.unwrap_ring(record, "shop", asking())).alive


async def test_who_takes_no_answers_is_not_read_from_and_then_dropped(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = house.serve()
    record = await record_of(house)
    item = messages.open_item(messages.OpenItem("shop", record.encode(), None))
    payload = messages.open_request([item] * 16)
    deaf = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    deaf.setblocking(False)
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    deaf.connect(house.path)
    sent = 0
    for _ in range(2000):
        try:
            deaf.send(frame(Kind.OPEN, payload))
            sent += 1
        except BlockingIOError:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.3)
    (connection,) = server._connections
    assert connection.link.waiting <= 64
    assert server.counts["requests"] < sent
    monkeypatch.setattr("proxy.keys.agent.server._STUCK_SECONDS", 0.05)
    server.sweep()
    await asyncio.sleep(0.1)
    server.sweep()
    assert server.connections == 0
    assert (await house.client().random(8)) != b""
    deaf.close()
