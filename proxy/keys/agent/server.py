"""The key agent's side of the channel: who may ask, and what is answered. IO.

A connection is a worker's or an operator's, by the kernel's word (SO_PEERCRED). What it sends is not
trusted: a message that does not parse ends the connection, no connection has more than `_IN_FLIGHT`
questions under way (then nothing more is read from it), and the answers to one that does not take
them are dropped with it. Keys are in the arena from the provider's call until they are sent, and
wiped then; there is no cache here.
"""

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

import structlog

from proxy.audit.record import KeyDecision, Result
from proxy.audit.sink import LogSink, Sink
from proxy.errors import AccessDenied, AuditUnavailable, SealgateError
from proxy.keys.agent import messages
from proxy.keys.agent.client import peer_of
from proxy.keys.agent.guard import Guard
from proxy.keys.agent.link import Link
from proxy.keys.agent.messages import FAILED, REPLY, Health, Kind, MessageError, OpenItem, Outcome
from proxy.keys.providers.base import DeviceDown, Provider
from proxy.keys.record import Record, RecordError, parse
from proxy.native import KeyHandle

T = TypeVar("T")
Role = Literal["worker", "operator"]
RoleOf = Callable[[int, int], Role | None]
_IN_FLIGHT = 64  # questions of one connection
_CONNECTIONS = 256
_STUCK_SECONDS = 10.0  # answers that wait for so long are never taken
_THROTTLE_SECONDS = 0.01
_HEALTH_SECONDS = 1.0  # so old may be what is said of the token
_FOR_OPERATORS = frozenset({Kind.WRAP, Kind.UNWRAP})

log = structlog.get_logger("agent")


class AgentServer:
    """Single thread: the loop's. `counts` is for metrics."""

    def __init__(
        self,
        provider: Provider,
        guard: Guard,
        *,
        call_seconds: float,
        audit: Sink | None = None,
    ) -> None:
        """Questions wait until `opened` is set: the provider has been opened, or tried."""
        self.guard = guard
        self.counts: Counter[str] = Counter()
        self._provider = provider
        self._call_seconds = call_seconds
        self._audit = audit if audit is not None else LogSink()
        self._connections: set[_Connection] = set()
        self._listeners: list[socket.socket] = []
        self.opened = asyncio.Event()
        self._health: tuple[float, Health] | None = None
        self._probing = asyncio.Lock()

    @property
    def connections(self) -> int:
        return len(self._connections)

    def start(self, listener: socket.socket, role_of: RoleOf) -> None:
        """Takes connections from a bound Unix socket. `role_of(pid, uid)` says what a peer is; None:
        it is sent away. Listens anew, so that the kernel notes who we are for those who connect."""
        listener.setblocking(False)
        listener.listen(_CONNECTIONS)
        self._listeners.append(listener)
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener, role_of)

    def close(self) -> None:
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener.fileno())
        for connection in list(self._connections):
            connection.link.close()

    def _accept(self, listener: socket.socket, role_of: RoleOf) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            sock, _ = listener.accept()
            pid, uid = peer_of(sock)
            self.take(sock, pid, role_of(pid, uid))

    def take(self, sock: socket.socket, pid: int, role: Role | None) -> None:
        """A connection, if its peer may have one."""
        if role is None or len(self._connections) >= _CONNECTIONS:
            self.counts["refused"] += 1
            log.warning("connection refused", pid=pid)
            sock.close()
            return
        self._connections.add(_Connection(self, sock, role, pid))

    def lost(self, connection: "_Connection", why: str, bad: bool) -> None:
        self._connections.discard(connection)
        if bad:
            self.counts["dropped"] += 1
            log.error("connection dropped", pid=connection.pid, reason=why)

    # -- the questions -------------------------------------------------------------------------

    async def answer(
        self, role: Role, kind: Kind, keys: tuple[KeyHandle, ...], payload: bytes
    ) -> tuple[tuple[KeyHandle, ...], bytes]:
        """Keys (the caller's to wipe) and payload of the reply. Raises SealgateError, or
        MessageError for what must end the connection."""
        self.counts["requests"] += 1
        await self.opened.wait()
        if kind in _FOR_OPERATORS and role != "operator":
            raise AccessDenied(f"{kind.name.lower()} is for operators")
        if len(keys) != (kind is Kind.WRAP):
            raise MessageError("keys where none belong")
        if kind is Kind.OPEN:
            return await self._open(messages.parse_open_request(payload))
        if kind is Kind.WRAP:
            subject, context = messages.parse_wrap_request(payload)
            record = await self._timed(self._provider.wrap(keys[0], subject, context))
            return (), record.encode()
        if kind is Kind.UNWRAP:
            raw, context = messages.parse_unwrap_request(payload)
            return (await self._timed(self._provider.unwrap(_record(raw), context)),), b""
        if kind is Kind.RANDOM:
            n = messages.parse_random_request(payload)
            return (), await self._timed(self._provider.random(n))
        if kind is Kind.AUDIT_KEY:
            ring, raw = messages.parse_audit_key_request(payload)
            self.guard.check_audit(ring)
            writer, key = await self._timed(self._provider.audit_key(_record(raw), ring))
            return (key,), writer
        if kind is Kind.AUDIT_SIGN:
            writer, n, mac = messages.parse_audit_sign_request(payload)
            signed = await self._timed(self._provider.audit_sign(writer, n, mac.hex()))
            return (), signed.encode()
        if payload:
            raise MessageError("a question for health has no payload")
        return (), messages.health_reply(await self.health())

    async def _open(self, items: list[OpenItem]) -> tuple[tuple[KeyHandle, ...], bytes]:
        records = [_record(item.record) for item in items]  # all of it is well formed, or none
        found = await asyncio.gather(
            *(self._open_one(i, r) for i, r in zip(items, records, strict=True)),
            return_exceptions=True,
        )
        keys = tuple(f for f in found if isinstance(f, KeyHandle))
        outcomes: list[Outcome] = []
        for item in found:
            if isinstance(item, KeyHandle):
                outcomes.append(messages.OK)
            elif isinstance(item, SealgateError):
                outcomes.append(messages.outcome_of(item))
            else:
                for key in keys:
                    key.wipe()
                raise item
        return keys, messages.open_reply(outcomes)

    async def _open_one(self, item: OpenItem, record: Record) -> KeyHandle:
        try:
            decision = self.guard.check(item.ring, item.asking)
        except AccessDenied as error:
            self.counts["denied"] += 1
            self._note("agent.deny", item, "denied", None, str(error))
            raise
        self._audit.require()  # nothing is opened that could not be written down
        key = await self._timed(self._provider.unwrap_ring(record, item.ring, item.asking))
        try:
            self._note("agent.open", item, "allowed", decision.rule if decision else None, "")
        except AuditUnavailable:
            key.wipe()
            raise
        self.counts["opened"] += 1
        return key

    async def health(self) -> Health:
        """At most one look at the token a second, however many ask."""
        async with self._probing:
            if self._health is None or time.monotonic() - self._health[0] > _HEALTH_SECONDS:
                said = await self._provider.health()
                try:
                    root_id = self._provider.root_id
                except SealgateError:
                    root_id = b""
                health = Health(said.up, self._provider.name, root_id, said.detail)
                self._health = (time.monotonic(), health)
            return self._health[1]

    def shown(self) -> dict[str, object]:
        """What is known of the token, without asking it."""
        if self._health is None:
            return {"up": False, "provider": self._provider.name, "detail": "not yet known"}
        health = self._health[1]
        return {"up": health.up, "provider": health.provider, "detail": health.detail}

    def sweep(self) -> None:
        """Drops who does not take its answers; the agent calls it each second."""
        for connection in list(self._connections):
            connection.sweep(time.monotonic())

    async def _timed(self, call: Awaitable[T]) -> T:
        try:
            return await asyncio.wait_for(call, self._call_seconds)
        except TimeoutError:
            raise DeviceDown(f"no answer within {self._call_seconds:g} s") from None

    def _note(
        self, event: str, item: OpenItem, result: Result, rule: int | None, detail: str
    ) -> None:
        who, what, action = "proxy", "ring", "prepare"
        if item.asking is not None:
            principal, resource = item.asking.principal, item.asking.resource
            who = f"{principal.kind}:{principal.name}"
            what = f"{resource.kind}:{resource.name}"
            action = item.asking.action.value
        self._audit.write(KeyDecision(event, who, what, action, item.ring, result, rule, detail))


class _Connection:
    """One peer: its link, and what it has under way."""

    def __init__(self, server: AgentServer, sock: socket.socket, role: Role, pid: int) -> None:
        self.pid = pid
        self._server = server
        self._role: Role = role
        self._tasks: set[asyncio.Task[None]] = set()
        self._bad = False
        self._taken = (0, time.monotonic())  # answers sent, and when that was seen
        self.link = Link(sock, self._heard, self._ended)

    def drop(self, why: str) -> None:
        self._bad = True
        self.link.close(why)

    def sweep(self, now: float) -> None:
        if not self.link.waiting or self.link.sent != self._taken[0]:
            self._taken = (self.link.sent, now)
        elif now - self._taken[1] > _STUCK_SECONDS:
            self.drop("it does not take its answers")

    def _heard(self, kind: int, request: int, keys: tuple[KeyHandle, ...], payload: bytes) -> None:
        try:
            known = Kind(kind)
        except ValueError:
            _wipe(keys)
            self.drop(f"no such kind of message: {kind}")
            return
        task = asyncio.create_task(self._serve(known, request, keys, payload))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._throttle()

    def _throttle(self) -> None:
        """Reads on only while there is room: what a peer has asked and not taken is bounded."""
        if len(self._tasks) + self.link.waiting >= _IN_FLIGHT:
            self.link.pause()
            asyncio.get_running_loop().call_later(_THROTTLE_SECONDS, self._throttle)
        else:
            self.link.resume()

    async def _serve(
        self, kind: Kind, request: int, keys: tuple[KeyHandle, ...], payload: bytes
    ) -> None:
        try:
            given, reply = await self._server.answer(self._role, kind, keys, payload)
            self.link.send(kind | REPLY, request, given, reply, wipe=True)
        except MessageError as error:
            self.drop(f"{kind.name.lower()}: {error}")
        except SealgateError as error:
            self._refuse(request, messages.outcome_of(error))
        except Exception as error:
            log.error("question failed", kind=kind.name, error=type(error).__name__)
            self._refuse(request, Outcome(messages.Status.UNAVAILABLE, "the key agent failed"))
        finally:
            _wipe(keys)

    def _refuse(self, request: int, outcome: Outcome) -> None:
        self.link.send(FAILED, request, (), messages.failed(outcome))

    def _ended(self, why: str, bad: bool) -> None:
        for task in self._tasks:
            task.cancel()
        self._server.lost(self, why, self._bad or bad)


def _record(raw: bytes) -> Record:
    try:
        return parse(raw)
    except RecordError as error:
        raise MessageError(f"record: {error}") from None


def _wipe(keys: tuple[KeyHandle, ...]) -> None:
    for key in keys:
        key.wipe()
