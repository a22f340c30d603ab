"""Scenarios of test_hsm_cluster.py, each in a process of its own, like pkcs11_child.py.

Usage: python -m tests.system.cluster_child <scenario> <directory>
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from proxy import native
from proxy.config import secrets
from proxy.config.model import KeysConfig
from proxy.crypto import kdf
from proxy.errors import IntegrityError
from proxy.keys.providers.base import CapabilityMissing
from proxy.keys.providers.pkcs11 import Pkcs11Provider
from proxy.keys.record import Record, Subject, ring_context
from tests.parts.faulty_hsm import SOFTOKN, faulty, put_keys, softhsm, softokn, tell

ROOT, WRAP, OTHER = b"r" * 32, b"w" * 32, b"o" * 32
CONTEXT = ring_context("shop")


def provider(*members: dict[str, Any], **changes: Any) -> Pkcs11Provider:
    config = KeysConfig.model_validate(
        {
            "provider": {
                "kind": "pkcs11-cluster",
                "members": [{"name": f"m{i}", **m} for i, m in enumerate(members)],
                "check_seconds": 0.2,
                "failover_after_seconds": 0.15,
                **changes,
            },
            "store": {"kind": "file", "path": "/nonexistent"},
        }
    )
    assert config.provider.kind == "pkcs11-cluster"
    return Pkcs11Provider(config.provider, secrets.resolve_bytes)


def soft(directory: Path, name: str, root: bytes = ROOT, wrap: bytes = WRAP) -> dict[str, Any]:
    return softhsm(directory / name, os.environ["SOFTHSM_MODULE"], root, wrap)


def nss(directory: Path, name: str, root: bytes = ROOT) -> dict[str, Any]:
    return softokn(directory / name, root, WRAP)


class Load:
    """Wraps, unwraps, data keys, seals and opens by several tasks, until it is left."""

    def __init__(self, hsm: Pkcs11Provider) -> None:
        self.hsm = hsm
        self.key = native.key_random()
        self.records: list[Record] = []
        self.sealed: list[tuple[bytes, bytes, bytes]] = []
        self.errors: list[str] = []
        self.slowest = 0.0
        self.done = 0
        self.stop = False

    async def __aenter__(self) -> "Load":
        self.tasks = [asyncio.create_task(self.work(i)) for i in range(6)]
        return self

    async def __aexit__(self, *error: object) -> None:
        self.stop = True
        await asyncio.gather(*self.tasks)

    async def work(self, number: int) -> None:
        subject = Subject(kdf.ring_version_id(self.key), 1)
        while not self.stop:
            began = time.monotonic()
            try:
                record = await self.hsm.wrap(self.key, subject, CONTEXT)
                self.records.append(record)
                again = await self.hsm.unwrap(record, CONTEXT)
                assert again.same(self.key), "another key"
                again.wipe()
                data_key = await self.hsm.generate_data_key()
                value = b"%d of %d" % (self.done, number)
                sealed = await self.hsm.token_seal(data_key, value, b"aad")
                self.sealed.append((data_key, value, sealed))
                assert await self.hsm.token_open(data_key, sealed, b"aad") == value, "wrong value"
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {error}")
            self.slowest = max(self.slowest, (time.monotonic() - began) / 5)
            self.done += 1
            await asyncio.sleep(0.005)

    async def judge(self, *good: dict[str, Any], allowed: int = 0) -> None:
        """Nothing was lost: a fresh cluster of the good members opens everything."""
        fresh = provider(*good)
        await fresh.open()
        for record in self.records[-300:] + self.records[:100]:
            again = await fresh.unwrap(record, CONTEXT)
            assert again.same(self.key)
            again.wipe()
        for data_key, value, sealed in self.sealed[-300:]:
            assert await fresh.token_open(data_key, sealed, b"aad") == value
        await fresh.close()
        assert len(self.errors) <= allowed, self.errors[:5]
        assert self.done > 50, self.done


async def until(what: Any, seconds: float = 15.0) -> float:
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds, "it did not happen in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


def note(**figures: Any) -> None:
    print(json.dumps(figures))


async def two_implementations(directory: Path) -> None:
    """What SoftHSM wraps and seals, NSS opens, and the other way round."""
    hsm = provider(soft(directory, "a"), nss(directory, "b"))
    await hsm.open()
    assert all(m.usable for m in hsm.members), (await hsm.health()).detail
    async with Load(hsm) as load:
        await asyncio.sleep(1.5)
    assert all(m.last_used > 100 for m in hsm.members), "both are used"
    assert not load.errors, load.errors[:3]
    a, b = hsm.members
    for one, two in ((a, b), (b, a)):
        two.quarantine = "not now"
        record = await hsm.wrap(load.key, Subject(b"i" * 16, 1), CONTEXT)
        data_key = await hsm.generate_data_key()
        sealed = await hsm.token_seal(data_key, b"value", b"aad")
        under_root = await hsm.token_seal(None, b"small", b"aad")
        assert len(data_key) == 40
        assert len(sealed) == 12 + 5 + 16
        one.quarantine, two.quarantine = "not now", None
        assert (await hsm.unwrap(record, CONTEXT)).same(load.key)
        assert await hsm.token_open(data_key, sealed, b"aad") == b"value"
        assert await hsm.token_open(None, under_root, b"aad") == b"small"
        for key, data, aad in (
            (data_key, sealed, b"other"),
            (data_key, sealed[:-1] + b"\0", b"aad"),
            (bytes([data_key[0] ^ 1]) + data_key[1:], sealed, b"aad"),
            (None, sealed, b"aad"),
        ):
            try:
                await hsm.token_open(key, data, aad)
                raise AssertionError("it opened")
            except IntegrityError:
                pass
        assert two.usable, two.detail
        one.quarantine = None
    note(rounds=load.done, slowest_ms=round(load.slowest * 1000, 1))
    await hsm.close()


async def killed(directory: Path) -> None:
    a, b = soft(directory, "a"), nss(directory, "b")
    hsm = provider(a, b)
    await hsm.open()
    tokens = directory / "a" / "tokens"
    async with Load(hsm) as load:
        await asyncio.sleep(0.5)
        tokens.rename(directory / "away")
        tokens.mkdir()
        seen = await until(lambda: not hsm.members[0].usable)
        await asyncio.sleep(1.5)
        tokens.rmdir()
        (directory / "away").rename(tokens)
        back = await until(lambda: hsm.members[0].usable)
        await asyncio.sleep(0.5)
    await load.judge(a)
    await load.judge(b)
    note(noticed_s=round(seen, 2), recovered_s=round(back, 2), slowest_s=round(load.slowest, 2))
    await hsm.close()


async def wiped(directory: Path) -> None:
    a, b = soft(directory, "a"), nss(directory, "b")
    hsm = provider(a, b)
    await hsm.open()
    tokens = directory / "a" / "tokens"
    async with Load(hsm) as load:
        await asyncio.sleep(0.5)
        began = time.monotonic()
        shutil.rmtree(tokens)
        tokens.mkdir()
        words = ["softhsm2-util", "--init-token", "--free", "--label", "sealgate", "--pin", "246810",
                 "--so-pin", "12345678"]  # fmt: skip
        environment = {**os.environ, **a["environment"]}
        await asyncio.to_thread(
            subprocess.run, words, env=environment, check=True, stdout=subprocess.DEVNULL
        )
        seen = time.monotonic() - began + await until(lambda: not hsm.members[0].usable)
        await asyncio.sleep(1.0)
        assert "m0" in (await hsm.health()).detail
        began = time.monotonic()
        await asyncio.to_thread(put_keys, a, ROOT, WRAP)
        back = time.monotonic() - began + await until(lambda: hsm.members[0].usable)
        await asyncio.sleep(0.5)
    await load.judge(a)
    await load.judge(b)
    note(noticed_s=round(seen, 2), recovered_s=round(back, 2), slowest_s=round(load.slowest, 2))
    await hsm.close()


async def wrong_key(directory: Path) -> None:
    """The token is exchanged under load for one with another key, same label, same CKA_ID."""
    a, b = soft(directory, "a"), nss(directory, "b")
    soft(directory, "evil", OTHER, OTHER)
    hsm = provider(a, b)
    await hsm.open()
    tokens = directory / "a" / "tokens"
    async with Load(hsm) as load:
        await asyncio.sleep(0.5)
        tokens.rename(directory / "away")
        (directory / "evil" / "tokens").rename(tokens)
        seen = await until(lambda: hsm.members[0].quarantine is not None)
        await asyncio.sleep(1.0)
        assert "another key" in (await hsm.health()).detail
        tokens.rename(directory / "evil" / "tokens")
        (directory / "away").rename(tokens)
        back = await until(lambda: hsm.members[0].usable)
        await asyncio.sleep(0.5)
    await load.judge(b)
    note(noticed_s=round(seen, 2), recovered_s=round(back, 2), slowest_s=round(load.slowest, 2))
    await hsm.close()


async def slowed(directory: Path) -> None:
    """Seconds per call, then a hang: answered by the other; and taken back afterwards."""
    a, b = faulty(directory / "shim", soft(directory, "a")), nss(directory, "b")
    a["call_timeout_seconds"] = 1.0
    for lines in (
        ("C_Decrypt delay 3000",),
        ("* delay 500",),
        ("C_Decrypt hang 0",),
        ("* hang 0",),
    ):
        await slowed_by(lines, a, b)


async def slowed_by(lines: tuple[str, ...], a: dict[str, Any], b: dict[str, Any]) -> None:
    tell(a)
    hsm = provider(a, b)
    await hsm.open()
    member = hsm.members[0]
    async with Load(hsm) as load:
        await asyncio.sleep(0.3)
        tell(a, *lines)
        await asyncio.sleep(2.5)
        fell = member.suspect or not member.usable
        tell(a)
        back = await until(lambda: member.usable and not member.suspect)
        await asyncio.sleep(0.3)
    assert fell
    await load.judge(b)
    assert load.slowest < 1.0, load.slowest
    await until(lambda: member.threads.hung == 0)
    note(fault=lines[0], recovered_s=round(back, 2), slowest_s=round(load.slowest, 2))
    await hsm.close()


async def return_codes(directory: Path) -> None:
    """Each code that a token in trouble gives: the other member answers, and it comes back."""
    a, b = faulty(directory / "shim", soft(directory, "a")), nss(directory, "b")
    hsm = provider(a, b)
    await hsm.open()
    key = native.key_random()
    record = await hsm.wrap(key, Subject(b"i" * 16, 1), CONTEXT)
    for function in ("C_DecryptInit", "C_Decrypt", "C_OpenSession", "*"):
        for code in (0x5, 0x6, 0x30, 0x31, 0x32, 0xB3, 0xE0, 0x101, 0x80000001, 0xB1):
            tell(a, f"{function} code {code:#x}")
            for _ in range(4):
                hsm.members[0].last_used = 0  # it is asked first
                hsm.members[0].latency_seconds = 0.0
                again = await hsm.unwrap(record, CONTEXT)
                assert again.same(key)
            assert hsm.members[0].quarantine is None or "another" not in hsm.members[0].quarantine
            tell(a)
            await until(lambda: hsm.members[0].usable)
    await hsm.close()


async def members_that_differ(directory: Path) -> None:
    a, b = soft(directory, "a"), nss(directory, "b", OTHER)
    hsm = provider(a, b)
    try:
        await hsm.open()
        raise AssertionError("it opened")
    except CapabilityMissing as error:
        assert "m1 hold another root key than m0" in str(error)
    await hsm.close()
    alone = provider(a)
    await alone.open()
    pinned = alone.key_check
    await alone.close()
    hsm = provider(b, a, key_check=pinned)
    await hsm.open()
    assert hsm.members[0].quarantine is not None
    assert hsm.members[1].usable
    async with Load(hsm) as load:
        await asyncio.sleep(0.5)
    assert not load.errors, load.errors[:3]
    health = await hsm.health()
    assert health.up
    assert "m0: quarantined" in health.detail
    await hsm.close()


async def all_away(directory: Path) -> None:
    """No member: an error at once that names each; all is well when one is back."""
    a = faulty(directory / "shim1", soft(directory, "a"))
    b = faulty(directory / "shim2", soft(directory, "b"))
    hsm = provider(a, b)
    await hsm.open()
    key = native.key_random()
    record = await hsm.wrap(key, Subject(b"i" * 16, 1), CONTEXT)
    tell(a, "* code 0x32")
    tell(b, "* code 0xE0")
    for _ in range(8):
        began = time.monotonic()
        try:
            await hsm.unwrap(record, CONTEXT)
            raise AssertionError("it opened")
        except Exception as error:
            assert type(error).__name__ == "DeviceDown", error
            assert "m0: " in str(error), error
            assert "m1: " in str(error), error
        assert time.monotonic() - began < 1
    assert not (await hsm.health()).up
    tell(b)
    await until(lambda: hsm.members[1].usable)
    assert (await hsm.unwrap(record, CONTEXT)).same(key)
    await hsm.close()


async def several_processes(directory: Path) -> None:
    members = [soft(directory, "a")] + ([nss(directory, "b")] if SOFTOKN else [])
    (directory / "members.json").write_text(json.dumps(members))
    words = [sys.executable, "-m", __spec__.name, "one_of_several", str(directory)]
    children = [await asyncio.create_subprocess_exec(*words) for _ in range(3)]
    assert await asyncio.gather(*(child.wait() for child in children)) == [0, 0, 0]


async def one_of_several(directory: Path) -> None:
    members = json.loads((directory / "members.json").read_text())
    hsm = provider(*members)
    await hsm.open()
    async with Load(hsm) as load:
        await asyncio.sleep(2)
    await load.judge(*members)
    await hsm.close()


SCENARIOS = (
    two_implementations,
    killed,
    wiped,
    wrong_key,
    slowed,
    return_codes,
    members_that_differ,
    all_away,
    several_processes,
)

if __name__ == "__main__":
    native.arena_init(4096, True)
    chosen = next(s for s in (*SCENARIOS, one_of_several) if s.__name__ == sys.argv[1])
    asyncio.run(chosen(Path(sys.argv[2])), debug=False)
    print("done")
