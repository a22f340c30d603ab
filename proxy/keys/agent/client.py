"""The key agent as a provider: what a worker, or a command, has instead of the token. IO.

Questions that come up in the same turn of the loop travel as one message. A question that meets a
dead agent is asked again of the next one, until `wait_seconds` are over: all questions may be
repeated without harm. Keys arrive in the arena and nowhere else (native/channel.pyx).
"""

import asyncio
import contextlib
import os
import socket
import struct
from dataclasses import dataclass

from proxy.errors import AccessDenied, KeyUnavailable
from proxy.keys.agent import messages
from proxy.keys.agent.link import Link
from proxy.keys.agent.messages import Health, Kind, OpenItem, Outcome, Status
from proxy.keys.providers.base import Asking, DeviceDown, Overloaded, Provider, ProviderHealth
from proxy.keys.record import Record, Subject, parse
from proxy.native import ChannelError, KeyHandle

_RETRY_SECONDS = 0.05
_MAX_ASKED = 1024
_MAX_BATCH = 16  # items of less than 4 KiB each fit a message


class _AgentGone(Exception):
    """The connection ended before the answer."""


@dataclass(slots=True)
class _Answer:
    kind: int
    keys: tuple[KeyHandle, ...]
    payload: bytes

    def wipe(self) -> None:
        for key in self.keys:
            key.wipe()


class AgentProvider(Provider):
    """`name` is that of the provider inside the agent, for metrics and logs."""

    def __init__(
        self, path: str, name: str, wait_seconds: float, uids: frozenset[int] | None = None
    ) -> None:
        """`uids`: who the agent may be; by default root, or who we are."""
        self.name = name
        self._path = path
        self._wait = wait_seconds
        self._uids = frozenset({0, os.geteuid()}) if uids is None else uids
        self._root_id = b""
        self._link: Link | None = None
        self._connecting = asyncio.Lock()
        self._asked: dict[int, asyncio.Future[_Answer]] = {}
        self._last = 0
        self._batch: list[tuple[bytes, asyncio.Future[KeyHandle]]] = []
        self._batches: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def root_id(self) -> bytes:
        return self._root_id

    async def open(self) -> None:
        health = await self._health()
        self._root_id = health.root_id
        if not health.up:
            raise DeviceDown(health.detail)

    async def wrap(self, key: KeyHandle, subject: Subject, context: bytes) -> Record:
        payload = messages.wrap_request(subject, context)
        return parse((await self._ask(Kind.WRAP, payload, (key,), keys=0)).payload)

    async def unwrap(self, record: Record, context: bytes) -> KeyHandle:
        payload = messages.unwrap_request(record.encode(), context)
        return (await self._ask(Kind.UNWRAP, payload, keys=1)).keys[0]

    async def unwrap_ring(self, record: Record, ring: str, asking: Asking | None) -> KeyHandle:
        if len(self._batch) >= _MAX_ASKED:
            raise Overloaded("too many keys are asked of the key agent")
        try:  # here, so that names that are too long are the asker's trouble, not the batch's
            item = messages.open_item(OpenItem(ring, record.encode(), asking))
        except messages.MessageError as error:
            raise AccessDenied(f"the key agent cannot be asked for this: {error}") from None
        future: asyncio.Future[KeyHandle] = asyncio.get_running_loop().create_future()
        if not self._batch:
            asyncio.get_running_loop().call_soon(self._send_batch)
        self._batch.append((item, future))
        return await future

    async def audit_key(self, record: Record, ring: str) -> tuple[bytes, KeyHandle]:
        payload = messages.audit_key_request(ring, record.encode())
        answer = await self._ask(Kind.AUDIT_KEY, payload, keys=1)
        return answer.payload, answer.keys[0]

    async def audit_sign(self, writer: bytes, n: int, mac: str) -> Record:
        payload = messages.audit_sign_request(writer, n, bytes.fromhex(mac))
        return parse((await self._ask(Kind.AUDIT_SIGN, payload, keys=0)).payload)

    async def random(self, n: int) -> bytes:
        return (await self._ask(Kind.RANDOM, messages.random_request(n), keys=0)).payload

    async def health(self) -> ProviderHealth:
        try:
            health = await self._health()
        except KeyUnavailable as error:
            return ProviderHealth(False, str(error))
        return ProviderHealth(health.up, health.detail)

    async def close(self) -> None:
        self._closed = True
        for task in self._batches:
            task.cancel()
        if self._link is not None:
            self._link.close()

    async def _health(self) -> Health:
        answer = await self._ask(Kind.HEALTH, keys=0)
        return messages.parse_health_reply(answer.payload)

    # -- batches -------------------------------------------------------------------------------

    def _send_batch(self) -> None:
        batch, self._batch = self._batch, []
        for i in range(0, len(batch), _MAX_BATCH):
            task = asyncio.create_task(self._open(batch[i : i + _MAX_BATCH]))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)

    async def _open(self, batch: list[tuple[bytes, asyncio.Future[KeyHandle]]]) -> None:
        try:
            payload = messages.open_request([item for item, _ in batch])
            answer = await self._ask(Kind.OPEN, payload)
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        keys = list(answer.keys)
        try:
            outcomes = messages.parse_open_reply(answer.payload, len(keys))
            if len(outcomes) != len(batch):
                raise messages.MessageError("another number of outcomes")
        except messages.MessageError as error:
            answer.wipe()
            outcomes = [Outcome(Status.UNAVAILABLE, f"key agent: {error}")] * len(batch)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            key = keys.pop(0) if outcome.status is Status.OK else None
            if future.done():  # who asked has gone
                if key is not None:
                    key.wipe()
            elif key is not None:
                future.set_result(key)
            else:
                future.set_exception(outcome.error())

    # -- one question, however many agents it takes --------------------------------------------

    async def _ask(
        self,
        kind: Kind,
        payload: bytes = b"",
        sent: tuple[KeyHandle, ...] = (),
        keys: int | None = None,
    ) -> _Answer:
        """The answer, with `keys` keys. Raises what the agent says, or DeviceDown."""
        why = "no answer"
        try:
            async with asyncio.timeout(self._wait):
                while not self._closed:
                    try:
                        answer = await self._once(kind, payload, sent)
                        break
                    except (_AgentGone, OSError) as error:
                        why = str(error) or type(error).__name__
                        await asyncio.sleep(_RETRY_SECONDS)
                else:
                    raise DeviceDown("the connection to the key agent is closed")
        except TimeoutError:
            raise DeviceDown(
                f"the key agent gave no answer within {self._wait:g} s: {why}"
            ) from None
        if answer.kind == messages.FAILED:
            answer.wipe()
            raise messages.parse_failed(answer.payload).error()
        if answer.kind != kind | messages.REPLY or keys not in (None, len(answer.keys)):
            answer.wipe()
            raise DeviceDown("the key agent answers something else than was asked")
        return answer

    async def _once(self, kind: Kind, payload: bytes, sent: tuple[KeyHandle, ...]) -> _Answer:
        link = await self._connected()
        if len(self._asked) >= _MAX_ASKED:
            raise Overloaded("too many questions to the key agent")
        self._last = request = self._last % 0xFFFFFFFF + 1
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._asked[request] = future
        link.send(kind, request, sent, payload)
        try:
            return await future
        finally:
            self._asked.pop(request, None)
            if future.done() and not future.cancelled() and future.exception() is None:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    future.result().wipe()

    async def _connected(self) -> Link:
        async with self._connecting:
            if self._link is not None and not self._link.closed:
                return self._link
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                sock.setblocking(False)
                sock.connect(self._path)  # of a Unix socket: at once, or not
                uid = peer_of(sock)[1]
                if uid not in self._uids:
                    raise ChannelError(f"uid {uid} listens where the key agent should")
                self._link = Link(sock, self._heard, self._lost)
            except ChannelError as error:
                sock.close()
                raise DeviceDown(str(error)) from None
            except BaseException:
                sock.close()
                raise
            return self._link

    def _heard(self, kind: int, request: int, keys: tuple[KeyHandle, ...], payload: bytes) -> None:
        future = self._asked.get(request)
        answer = _Answer(kind, keys, payload)
        if future is None or future.done():
            answer.wipe()
        else:
            future.set_result(answer)

    def _lost(self, why: str, _bad: bool) -> None:
        self._link = None
        for future in list(self._asked.values()):
            if not future.done():
                future.set_exception(_AgentGone(why))


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the other side, as the kernel noted them (SO_PEERCRED)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", raw)
    return pid, uid


def listens(path: str) -> bool:
    """Whether somebody takes connections at this path."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except OSError:
            return False
        return True
