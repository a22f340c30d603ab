"""Scenarios of test_pkcs11.py. Each runs in a process of its own: a module is initialised once per
process, with one configuration, and a crash must fail one test only.

Usage: python -m tests.system.pkcs11_child <scenario> <directory>
"""

import asyncio
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from proxy.config.base import SecretRef
from proxy.config.model import KeysConfig
from proxy.errors import IntegrityError, KeyUnavailable
from proxy.keys import build
from proxy.keys.providers.base import CapabilityMissing, CredentialRefused, DeviceDown
from proxy.keys.providers.pkcs11 import Pkcs11Provider
from proxy.keys.providers.token import Session
from proxy.keys.record import Record, ring_context
from proxy.native import KeyHandle, Pkcs11Error, Pkcs11Module
from proxy.policy.model import Action, Principal, Resource

CONTEXT = ring_context("shop")
WHO = (Principal("postgres", "app"), Resource("column", "d.s.t.c", "shop"), Action.OPEN)


def config(directory: Path, **changes: Any) -> KeysConfig:
    return KeysConfig.model_validate(
        {
            "provider": {
                "kind": "pkcs11",
                "module": os.environ["SOFTHSM_MODULE"],
                "token_label": "sealgate",
                "pin": {"env": "TOKEN_PIN"},
                **changes,
            },
            "store": {"kind": "file", "path": str(directory / "rings")},
            "allow_unlocked_memory": True,
        }
    )


def new_token(label: str = "sealgate") -> None:
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", label,
         "--so-pin", "12345678", "--pin", "1234"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def provider(directory: Path, **changes: Any) -> Pkcs11Provider:
    made = build.provider_of(config(directory, **changes))
    assert isinstance(made, Pkcs11Provider)
    return made


async def ready(directory: Path, **changes: Any) -> tuple[Pkcs11Provider, Record]:
    """A token with a root and one wrapped ring key, and an open provider."""
    new_token()
    await build.init_root(config(directory, **changes))
    ring = await build.create_ring(config(directory, **changes), "shop")
    opened = provider(directory, **changes)
    await opened.open()
    assert ring.active is not None
    assert ring.active.wrapped is not None
    return opened, ring.active.wrapped


def damaged(record: Record) -> Record:
    return replace(record, sealed=bytes([record.sealed[0] ^ 1]) + record.sealed[1:])


async def must_raise(kind: type[Exception], call: Any) -> str:
    try:
        await call
    except kind as error:
        return str(error)
    raise AssertionError(f"{kind.__name__} was expected")


async def round_trip(directory: Path) -> None:
    token, record = await ready(directory)
    first, second = await token.unwrap(record, CONTEXT), await token.unwrap(record, CONTEXT)
    assert first.same(second)
    await must_raise(IntegrityError, token.unwrap(record, ring_context("docs")))
    await must_raise(IntegrityError, token.unwrap(damaged(record), CONTEXT))
    assert len(await token.random(32)) == 32
    info = await build.init_root(config(directory))
    assert (info.created, info.root_id) == (False, token.root_id)
    await build.rotate_ring(config(directory), "shop")
    service = await build.open_keys(config(directory), ())
    keys = await service.ring_keys(*WHO)
    assert [v.number for v in keys.versions] == [2, 1]
    assert keys.versions[1].handle.same(first)
    assert (await token.health()).up
    await service.close()
    await token.close()


async def root_attributes(directory: Path) -> None:
    """CKA_* of the root as PKCS #11 v2.40 names them."""
    token, _ = await ready(directory)
    expected = {
        0x001: b"\1", 0x002: b"\1", 0x103: b"\1", 0x162: b"\0", 0x104: b"\1", 0x105: b"\1",
        0x106: b"\0", 0x107: b"\0", 0x108: b"\0", 0x10A: b"\0", 0x10C: b"\0",
        0x163: b"\1", 0x164: b"\1", 0x165: b"\1",
    }  # fmt: skip

    def read(module: Pkcs11Module, session: Session) -> dict[int, bytes]:
        try:
            module.attribute(session.handle, session.key, 0x11)
        except Pkcs11Error as error:
            assert error.code == 0x11, hex(error.code)  # CKR_ATTRIBUTE_SENSITIVE
        else:
            raise AssertionError("the root's value could be read")
        return {a: module.attribute(session.handle, session.key, a) for a in expected}

    found = await token.members[0].call(read)
    assert found == expected, found
    await token.close()


async def wrong_pin(directory: Path) -> None:
    good, record = await ready(directory)
    await good.close()
    asked: list[bytearray] = []

    def pin(where: SecretRef) -> bytearray:
        asked.append(bytearray(b"4321"))
        return asked[-1]

    made = config(directory).provider
    assert made.kind == "pkcs11"
    token = Pkcs11Provider(made, pin)
    for _ in range(5):
        text = await must_raise(CredentialRefused, token.open())
        assert "4321" not in text
    assert len(asked) == 1, "a refused PIN is tried once"
    assert asked[0] == bytearray(4), "the PIN is wiped"
    await must_raise(CredentialRefused, token.unwrap(record, CONTEXT))
    assert len(asked) == 1
    os.environ["TOKEN_PIN"] = "4321"
    await must_raise(CredentialRefused, build.open_keys(config(directory), ()))


async def missing_token(directory: Path) -> None:
    token = provider(directory)
    text = await must_raise(DeviceDown, token.open())
    assert "'sealgate'" in text
    await token.close()
    (directory / "rings").mkdir()
    service = await build.open_keys(config(directory), ())  # away is not fatal
    assert service.health()["up"] is False
    await must_raise(KeyUnavailable, service.ring_keys(*WHO))
    # As an operator would, elsewhere.
    words = [sys.executable, "-m", __spec__.name, "prepare", str(directory)]
    await asyncio.to_thread(subprocess.run, words, check=True)
    deadline = time.monotonic() + 20
    while True:  # the absent ring is remembered for a while
        try:
            assert (await service.ring_keys(*WHO)).alive
            break
        except KeyUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
    await service.close()


async def prepare(directory: Path) -> None:
    new_token()
    await build.init_root(config(directory))
    await build.create_ring(config(directory), "shop")


async def missing_root(directory: Path) -> None:
    """A token without the key is for an operator to mend: the start fails and says how."""
    new_token()
    new_token("other")
    text = await must_raise(CapabilityMissing, build.open_keys(config(directory), ()))
    assert "sealgate keys init" in text
    await build.init_root(config(directory))
    await (await build.open_keys(config(directory), ())).close()


async def missing_module(directory: Path) -> None:
    for path in ("/nonexistent/libp11.so", "libsofthsm2.so", "/lib/x86_64-linux-gnu/libc.so.6"):
        token = provider(directory, module=path)
        await must_raise(CapabilityMissing, token.open())
        await token.close()


async def forged_records_do_not_trip_the_breaker(directory: Path) -> None:
    token, record = await ready(directory)
    for _ in range(50):
        await must_raise(IntegrityError, token.unwrap(damaged(record), CONTEXT))
        assert (await token.unwrap(record, CONTEXT)).alive
    await token.close()


async def tls_after_a_corrupt_key(directory: Path) -> None:
    """A failed C_Decrypt leaves errors in OpenSSL's queue of its thread; the next TLS read on that
    thread must not see them."""
    token, record = await ready(directory, sessions=1)
    server, client = tls_contexts(directory)

    def work(module: Pkcs11Module, session: Session) -> int:
        codes = set()
        aad = record.aad(CONTEXT)
        for _ in range(20):
            tunnel = Tunnel(server, client)
            tunnel.handshake()
            try:
                module.gcm_unwrap(
                    session.handle, session.key, record.iv, damaged(record).sealed, aad
                )
            except Pkcs11Error as error:
                codes.add(error.code)
            tunnel.exchange()
            try:
                module.gcm_decrypt(session.handle, session.key, record.iv, b"x" * 40, aad)
            except Pkcs11Error as error:
                codes.add(error.code)
            tunnel.exchange()
        return len(codes)

    assert await token.members[0].call(work) >= 1
    await token.close()


async def threads(directory: Path) -> None:
    """Eight threads on eight sessions for three seconds: no crash, no wrong answer."""
    token, record = await ready(directory, sessions=8, call_timeout_seconds=60)
    reference = await token.unwrap(record, CONTEXT)
    stop = time.monotonic() + 3.0
    names: set[str] = set()

    def work() -> int:
        done = 0
        aad = record.aad(CONTEXT)

        def once(module: Pkcs11Module, session: Session) -> None:
            names.add(threading.current_thread().name)
            key = module.gcm_unwrap(session.handle, session.key, record.iv, record.sealed, aad)
            try:
                assert key.same(reference)
                wrapped = module.gcm_wrap(session.handle, session.key, b"i" * 12, key, b"a")
            finally:
                key.wipe()
            again = module.gcm_unwrap(session.handle, session.key, b"i" * 12, wrapped, b"a")
            assert again.same(reference)
            again.wipe()

        while time.monotonic() < stop:
            token.members[0].token.call(once)
            done += 1
        return done

    counts = await asyncio.gather(*(token.members[0].run(work) for _ in range(8)))
    assert all(counts), counts
    assert len(names) == 8, names
    print(json.dumps({"rounds": sum(counts), "calls_per_second": round(sum(counts) * 3 / 3.0)}))
    await token.close()


async def lost_sessions(directory: Path) -> None:
    """Sessions closed behind the pool's back, the login with them: one retry mends it."""
    token, record = await ready(directory, sessions=2)
    (await token.unwrap(record, CONTEXT)).wipe()
    for also_anchor in (False, True, True):

        def close_all(also_anchor: bool = also_anchor) -> None:
            inner = token.members[0].token
            with inner._module().use() as module:
                for session in list(inner._idle):
                    module.close_session(session.handle)
                if also_anchor:
                    assert inner._anchor is not None
                    module.close_session(inner._anchor)

        await token.members[0].run(close_all)
        assert (await token.unwrap(record, CONTEXT)).alive
    await token.close()


async def vanished_token(directory: Path) -> None:
    """The token's files go away under a running proxy: unavailable, never "altered data"; when
    they are back, so are the keys."""
    token, record = await ready(directory)
    os.rename(directory / "tokens", directory / "away")
    (directory / "tokens").mkdir()
    for _ in range(3):
        await must_raise(KeyUnavailable, token.unwrap(record, CONTEXT))
    assert not (await token.health()).up
    (directory / "tokens").rmdir()
    os.rename(directory / "away", directory / "tokens")
    assert (await token.unwrap(record, CONTEXT)).alive
    assert (await token.health()).up
    await token.close()


async def hanging_token(directory: Path) -> None:
    """A call that does not return: its caller gets an error in time, a late key is wiped."""
    token, record = await ready(directory, sessions=1, call_timeout_seconds=0.2)
    inner = token.members[0].token
    real, release, late = inner.call, threading.Event(), list[KeyHandle]()

    def slow(action: Callable[[Pkcs11Module, Session], Any]) -> Any:
        release.wait(20)
        result = real(action)
        late.append(result)
        return result

    inner.call = slow  # type: ignore[method-assign]
    began = time.monotonic()
    await must_raise(DeviceDown, token.unwrap(record, CONTEXT))
    assert time.monotonic() - began < 5
    release.set()
    deadline = time.monotonic() + 5
    while not late or late[0].alive:
        assert time.monotonic() < deadline, "the late key is still alive"
        await asyncio.sleep(0.02)
    assert token.members[0].threads.hung == 0
    await token.close()


async def loop_thread(directory: Path) -> None:
    """No PKCS #11 call on the loop's thread, and the loop stays awake meanwhile."""
    seen: set[str] = set()

    def watch(frame: Any, event: str, arg: Any) -> None:
        code = frame.f_code.co_filename
        if code.endswith(("providers/token.py",)) and frame.f_code.co_name not in (
            "__init__", "<module>", "Session", "Token", "<lambda>",
        ):  # fmt: skip
            seen.add(threading.current_thread().name)

    sys.setprofile(watch)
    threading.setprofile(watch)
    token, record = await ready(directory)
    service = await build.open_keys(config(directory), ())
    await service.ring_keys(*WHO)
    await token.unwrap(record, CONTEXT)
    await token.health()
    await service.close()
    await token.close()
    sys.setprofile(None)
    assert seen, "nothing was watched"
    assert all(name.startswith("pkcs11") for name in seen), seen


class Tunnel:
    """A TLS client and server in memory, on the calling thread."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(down, up, server_hostname="localhost")
        self.server = server.wrap_bio(up, down, server_side=True)

    def handshake(self) -> None:
        sides = [self.client, self.server]
        for _ in range(10):
            for side in list(sides):
                try:
                    side.do_handshake()
                    sides.remove(side)
                except ssl.SSLWantReadError:
                    pass
            if not sides:
                return
        raise AssertionError("no handshake")

    def exchange(self) -> None:
        for here, there in ((self.client, self.server), (self.server, self.client)):
            try:
                there.read(1)
                raise AssertionError("nothing was sent yet")
            except ssl.SSLWantReadError:
                pass
            here.write(b"hello")
            assert there.read(5) == b"hello"


def tls_contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    import trustme

    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.num_tickets = 0
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client


SCENARIOS = (
    round_trip,
    root_attributes,
    wrong_pin,
    missing_token,
    missing_root,
    missing_module,
    forged_records_do_not_trip_the_breaker,
    tls_after_a_corrupt_key,
    threads,
    lost_sessions,
    vanished_token,
    hanging_token,
    loop_thread,
)


if __name__ == "__main__":
    chosen = next(s for s in (*SCENARIOS, prepare) if s.__name__ == sys.argv[1])
    asyncio.run(chosen(Path(sys.argv[2])), debug=False)
    print("done")
