"""A known ring key goes through a running proxy: where is it while it lives, and after it expired?

The column keys are derived here a second time, by the text of docs/reference/format.md alone.
"""

import hashlib
import hmac
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import psycopg
import pytest
from botocore.config import Config

from proxy import native
from proxy.config.load import load
from proxy.crypto import kdf
from proxy.keys import build
from proxy.keys import ring as rings
from proxy.keys.record import Subject, ring_context
from tests.memory.scanner import Findings, forms, scan
from tests.parts.stack import APP_KEY, APP_SECRET, Stack

pytestmark = [
    pytest.mark.memory,
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="reading another process's memory needs root"),
]


def hkdf(key: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, 32 bytes, the product's salt."""
    prk = hmac.digest(b"sealgate/v1", key, hashlib.sha256)
    return hmac.digest(prk, info + b"\x01", hashlib.sha256)


def lp(text: str) -> bytes:
    return len(text.encode()).to_bytes(2, "big") + text.encode()


async def plant(config: Path, ring: str, secret: bytearray) -> None:
    """Makes a ring whose first version is this very key."""
    keys = load(config).keys
    async with build._opened(keys) as provider:
        key = native.key_import(secret)
        record = await provider.wrap(key, Subject(kdf.ring_version_id(key), 1), ring_context(ring))
        key.wipe()
    await build.store_of(keys).put(rings.create(ring, record, int(time.time())), 0)


@pytest.fixture(params=[False, True], ids=["pkcs11", "software"])
def planted(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Stack, dict[str, bytes]]]:
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o755)
    secret = os.urandom(32)
    stack = Stack(tmp_path, software_root=request.param, max_age_seconds=6.0, max_idle_seconds=3.0)
    stack.before_serve = lambda: subprocess.run(
        [sys.executable, "-c", PLANT, str(stack.config), secret.hex()],
        env={**os.environ, **stack.env},
        check=True,
    )
    stack.create_ring = False
    with stack:
        domain = f"{stack.postgres.database}.public.people.email"
        needles = forms("ring", secret)
        for purpose in ("seal", "equality"):
            info = lp("column") + lp(purpose) + lp(domain)
            needles |= forms(purpose, hkdf(secret, info))
        yield stack, needles


PLANT = """
import asyncio, pathlib, sys
from tests.memory.test_proxy_memory import plant
asyncio.run(plant(pathlib.Path(sys.argv[1]), "app", bytearray.fromhex(sys.argv[2])))
"""


def look(stack: Stack, needles: dict[str, bytes]) -> Findings:
    total = Findings()
    for pid in [*stack.proxy.worker_pids(), stack.proxy.status()["agent"]["pid"]]:
        found = scan(pid, needles)
        total.hits += found.hits
        total.unreadable += found.unreadable
        total.scanned_bytes += found.scanned_bytes
    assert total.scanned_bytes > 10 << 20
    return total


def use(stack: Stack) -> None:
    with psycopg.connect(stack.dsn(), autocommit=True) as c:
        c.execute("DROP TABLE IF EXISTS people")
        c.execute("CREATE TABLE people (email text)")
        for i in range(20):
            c.execute("INSERT INTO people (email) VALUES (%s)", [f"m{i}@x.org"])
        assert c.execute("SELECT count(*) FROM people WHERE email = 'm3@x.org'").fetchone() == (1,)
        assert len(c.execute("SELECT email FROM people").fetchall()) == 20
        with psycopg.connect(stack.dsn(stack.postgres.port), autocommit=True) as raw:
            raw.execute("UPDATE people SET email = set_byte(email, 60, get_byte(email, 60) # 1)")
        with pytest.raises(psycopg.errors.DataCorrupted):
            c.execute("SELECT email FROM people").fetchall()
    s3 = boto3.client(
        "s3",
        endpoint_url=stack.s3_endpoint,
        aws_access_key_id=APP_KEY,
        aws_secret_access_key=APP_SECRET,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    s3.create_bucket(Bucket="sealed-memory")
    s3.put_object(Bucket="sealed-memory", Key="k", Body=os.urandom(300_000))
    assert len(s3.get_object(Bucket="sealed-memory", Key="k")["Body"].read()) == 300_000


def test_a_live_key_is_only_in_the_arena_and_an_expired_one_nowhere(
    planted: tuple[Stack, dict[str, bytes]],
) -> None:
    stack, needles = planted
    use(stack)
    live = look(stack, needles)
    outside = [h for h in live.hits if "secretmem" not in h[1] and "sealgate" not in h[1]]
    assert outside == []
    time.sleep(8)
    expired = look(stack, needles)
    assert expired.hits == []


def test_the_scanner_finds_what_is_planted() -> None:
    secret = os.urandom(32)
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; s = bytes.fromhex(sys.stdin.readline()); print('ready', flush=True); "
            "sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(secret.hex() + "\n")
        child.stdin.flush()
        assert child.stdout.readline() == "ready\n"
        names = {name for name, _ in scan(child.pid, forms("planted", secret)).hits}
        assert "planted/whole" in names
    finally:
        child.stdin.close()
        child.wait(10)


def test_memory_and_core_are_shut_to_other_users(stack_pid: int) -> None:
    """An unprivileged user cannot open the worker's memory, and no core may be written."""
    probe = subprocess.run(
        ["/bin/sh", "-c", f"exec 3</proc/{stack_pid}/mem"],
        user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "ermission denied" in probe.stderr
    with open(f"/proc/{stack_pid}/limits") as f:
        core = next(line for line in f if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]


@pytest.fixture(params=["worker", "agent"])
def stack_pid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o755)
    with Stack(tmp_path, software_root=True) as stack:
        agent = request.param == "agent"
        yield stack.proxy.status()["agent"]["pid"] if agent else stack.proxy.worker_pids()[0]
