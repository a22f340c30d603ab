"""The process that test_key_residue.py looks into. Speaks one word a line on stdout.

Usage: python -m tests.memory.residue_child plant|hold <directory> <pkcs11|software>
`plant` reads a ring key in hexadecimal from stdin and wraps it under the root. `hold` never sees it
but through the root: it reads a control secret from stdin, keeps that in an ordinary object, fetches
the ring, uses it, and says "live"; after a line on stdin it waits for the expiry and says "expired".
"""

import asyncio
import contextlib
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from proxy import native
from proxy.config.model import KeysConfig
from proxy.crypto import kdf
from proxy.errors import IntegrityError
from proxy.keys import build
from proxy.keys import ring as rings
from proxy.keys.record import Subject, ring_context
from proxy.keys.service import KeyService
from proxy.policy.model import Action, Principal, Resource

DOMAIN = "shop.public.people.email"
PURPOSES = ("seal", "equality", "transform", "range", "order", "match")


def config(directory: Path, kind: str) -> KeysConfig:
    software = {
        "kind": "software",
        "file": f"{directory}/root.json",
        "passphrase": {"env": "TOKEN_PIN"},
    }
    pkcs11 = {
        "kind": "pkcs11",
        "module": os.environ["SOFTHSM_MODULE"],
        "token_label": "sealgate",
        "pin": {"env": "TOKEN_PIN"},
    }
    return KeysConfig.model_validate(
        {
            "provider": software if kind == "software" else pkcs11,
            "store": {"kind": "file", "path": f"{directory}/rings"},
            "cache": {"max_age_seconds": 60, "max_idle_seconds": 2},
        }
    )


async def plant(keys: KeysConfig) -> None:
    await build.init_root(keys)
    async with build._opened(keys) as provider:
        key = native.key_import(bytearray.fromhex(sys.stdin.readline().strip()))
        record = await provider.wrap(key, Subject(kdf.ring_version_id(key), 1), ring_context("app"))
    await build.store_of(keys).put(rings.create("app", record, int(time.time())), 0)


async def hold(keys: KeysConfig) -> None:
    control = bytes.fromhex(sys.stdin.readline().strip())
    native.harden_process()
    service = await build.open_keys(keys, ())
    ask = (Principal("postgres", "app"), Resource("column", DOMAIN, "app"), Action.OPEN)
    held = await service.ring_keys(*ask)
    ring = held.active.handle
    for purpose in PURPOSES:
        key = held.adopt(kdf.column_key(ring, DOMAIN, purpose))
        sealed = native.xaes_seal(key, b"n" * 24, b"hello", b"")
        assert native.xaes_open(key, b"n" * 24, sealed, b"") == b"hello"
        with contextlib.suppress(native.OpenFailed):
            native.xaes_open(key, b"n" * 24, sealed, b"other")
        native.hmac_sha256(key, b"value")
        native.hmac_tags(key, [b"abc", b"bcd"], 6)
        native.order_digits(key, b"\x12\x34\x56\x78", 32)
    # A record that does not open must not leave anything behind either.
    version = (await build.show_ring(keys, "app")).versions[0]
    assert version.wrapped is not None
    bad = replace(version.wrapped, sealed=version.wrapped.sealed[:-1] + b"\0")
    with contextlib.suppress(IntegrityError):
        await service._provider.unwrap(bad, ring_context("app"))
    alive = asyncio.create_task(_stay_used(service, ask))
    print("live", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    alive.cancel()
    while held.alive:  # noqa: ASYNC110 - the reaper is what is tested
        await asyncio.sleep(0.05)
    print("expired", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    assert len(control) == 32
    await service.close()


async def _stay_used(service: KeyService, ask: tuple[Principal, Resource, Action]) -> None:
    while True:
        service.ring_keys_now(*ask)
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    what, where, kind = sys.argv[1:]
    asyncio.run((plant if what == "plant" else hold)(config(Path(where), kind)))
