"""The key agent of a running proxy: killed, stopped and restarted under load on both planes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from botocore.config import Config

from tests.parts.front import open_folder
from tests.parts.proxy import COMMAND, Proxy
from tests.parts.served import until
from tests.parts.stack import APP_KEY, APP_SECRET, Stack

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Keys live for a fraction of a second, so that load asks the agent all the time."""
    with open_folder() as folder, Stack(folder, max_age_seconds=0.3, max_idle_seconds=0.2) as made:
        yield made


def agent(stack: Stack) -> dict[str, Any]:
    return dict(stack.proxy.status()["agent"])


class Load:
    """Readers and writers of both planes until the end; `done` counts, `failed` keeps the errors."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._stop = threading.Event()
        self.done = {"postgres": 0, "s3": 0}
        self.failed: list[str] = []
        with psycopg.connect(stack.dsn(), autocommit=True) as c:
            c.execute("DROP TABLE IF EXISTS people")
            c.execute("CREATE TABLE people (email text)")
        self.s3 = boto3.client(
            "s3",
            endpoint_url=stack.s3_endpoint,
            aws_access_key_id=APP_KEY,
            aws_secret_access_key=APP_SECRET,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )
        if "agent-load" not in [b["Name"] for b in self.s3.list_buckets()["Buckets"]]:
            self.s3.create_bucket(Bucket="agent-load")
        self._threads = [threading.Thread(target=w) for w in (self._postgres, self._objects)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def more(self, count: int = 3) -> None:
        """Both planes got that much further."""
        before = dict(self.done)
        until(lambda: self.failed or all(self.done[k] >= before[k] + count for k in before), 40)
        assert not self.failed, self.failed[:3]

    def _postgres(self) -> None:
        try:
            with psycopg.connect(self._stack.dsn(), autocommit=True) as c:
                while not self._stop.is_set():
                    n = self.done["postgres"]
                    c.execute("INSERT INTO people (email) VALUES (%s)", [f"m{n}@x.org"])
                    found = c.execute("SELECT email FROM people WHERE email = %s", [f"m{n}@x.org"])
                    assert found.fetchone() == (f"m{n}@x.org",)
                    self.done["postgres"] += 1
                    time.sleep(0.25)  # longer than a key may be idle
        except Exception as error:
            self.failed.append(f"postgres: {error!r}")

    def _objects(self) -> None:
        try:
            while not self._stop.is_set():
                body = os.urandom(2000)
                self.s3.put_object(Bucket="agent-load", Key="k", Body=body)
                got = self.s3.get_object(Bucket="agent-load", Key="k")["Body"].read()
                assert got == body
                self.done["s3"] += 1
                time.sleep(0.25)
        except Exception as error:
            self.failed.append(f"s3: {error!r}")


def test_an_agent_that_is_killed_comes_back_without_a_failed_request(stack: Stack) -> None:
    opened = agent(stack)["restarts"]
    with Load(stack) as load:
        load.more()
        for _ in range(3):
            pid = agent(stack)["pid"]
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: agent(stack)["pid"] != pid and agent(stack)["ready"])  # type: ignore[misc]
            load.more()
    assert load.failed == []
    assert agent(stack)["restarts"] == opened + 3


def test_a_worker_that_is_killed_finds_the_same_agent(stack: Stack) -> None:
    before = agent(stack)["pid"]
    (worker,) = stack.proxy.worker_pids()
    os.kill(worker, signal.SIGKILL)
    until(lambda: stack.proxy.status()["workers"] and stack.proxy.worker_pids() != [worker])
    until(lambda: stack.proxy.status()["workers"][0].get("ready"))
    with Load(stack) as load:
        load.more(1)
    assert agent(stack)["pid"] == before


def test_the_token_is_loaded_by_the_agent_alone_and_workers_do_not_know_the_pin(
    stack: Stack,
) -> None:
    (worker,) = stack.proxy.worker_pids()
    with open(f"/proc/{worker}/maps") as maps, open(f"/proc/{worker}/environ", "rb") as environ:
        assert "softhsm" not in maps.read()
        assert b"SG_PIN" not in environ.read()
    if not stack.software_root:
        with open(f"/proc/{agent(stack)['pid']}/maps") as maps:
            assert "softhsm" in maps.read()


def test_the_admin_address_shows_the_agent(stack: Stack) -> None:
    with urllib.request.urlopen(f"{stack.admin}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if "sealgate_agent" in line)
    assert values["sealgate_agent_up"] == "1.0"
    until(lambda: agent(stack)["counts"].get("opened", 0) > 0)


def test_a_stranger_on_the_private_socket_is_sent_away(stack: Stack) -> None:
    """Even root: who is no child of the supervisor gets no answer."""
    with open("/proc/net/unix") as table:
        paths = [line.split()[-1] for line in table if "sealgate-agent-" in line]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(5)
        sock.connect(paths[-1])
        sock.setblocking(True)
        assert sock.recv(100) == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="another user needs root")
def test_the_agent_has_its_own_user_and_commands_ask_it() -> None:
    with open_folder() as folder:
        stack = Stack(folder, max_age_seconds=0.3, max_idle_seconds=0.2)
        document = stack._document

        def with_user() -> dict[str, Any]:
            found = document()
            found["keys"]["agent"] = {"user": "nobody", "socket": str(folder / "agent.sock")}
            found["audit"] = {"path": str(folder / "audit"), "checkpoint_seconds": 0.5}
            return found

        stack._document = with_user  # type: ignore[method-assign]
        roots = (folder / "hsm", folder / "root.sealed")
        stack.before_serve = lambda: [
            subprocess.run(["chown", "-R", "nobody", str(path)], check=True)
            for path in roots
            if path.exists()
        ]
        with stack:
            with open(f"/proc/{agent(stack)['pid']}/status") as status:
                uids = next(line for line in status if line.startswith("Uid:")).split()[1:]
            assert set(uids) == {"65534"}
            with Load(stack) as load:
                load.more(1)
            time.sleep(1.5)  # until it has said what it did so far
            asked = agent(stack)["counts"]["requests"]
            env = {**os.environ, **stack.proxy.env}
            for secret in ("SG_PIN", "SG_PASSPHRASE"):
                stack.proxy.env.pop(secret, None)
            stack.proxy.run("keys", "rotate", "--config", str(stack.config), "app")  # without the PIN
            until(lambda: agent(stack)["counts"]["requests"] > asked)
            there = (folder / "audit").stat()
            assert (there.st_uid, oct(there.st_mode & 0o7777)) == (0, "0o1770")
        # with the PIN again, since nobody else answers now
        words = ("audit", "verify", "--strict", "--json", "--config", str(stack.config))
        said = subprocess.run(
            [*COMMAND, *words], env=env, capture_output=True, text=True, check=False
        )
        assert json.loads(said.stdout)["whole"] and said.returncode == 0, said
        (file,) = (folder / "audit").glob("*-agent-*.jsonl")
        assert (file.stat().st_uid, oct(file.stat().st_mode & 0o777)) == (65534, "0o600")
        events = {json.loads(line)["e"] for line in file.open()}
        assert {"agent.open", "checkpoint.signed", "process.stop"} <= events
        others = [f.read_text() for f in (folder / "audit").glob("*-worker-*.jsonl")]
        assert any(file.name in text for text in others), "no worker has seen the agent's lines"


@pytest.mark.skipif(os.geteuid() != 0, reason="another user needs root")
def test_an_audit_directory_out_of_the_agents_reach_ends_the_start_with_its_name(
    tmp_path: Path,
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    config = tmp_path / "sealgate.yaml"
    config.write_text(
        f"""
keys:
  provider: {{kind: software, file: {tmp_path}/root, passphrase: {{env: SG_PASSPHRASE}}}}
  store: {{kind: file, path: {tmp_path}/rings}}
  agent: {{user: nobody}}
audit: {{path: {closed}/audit}}
admin: {{listen: {{port: 0}}}}
postgres:
  listen: {{port: 0}}
  upstream: {{host: 127.0.0.1, port: 5432}}
  database: shop
  catalog: {{user: app}}
"""
    )
    env = {"SG_PASSPHRASE": "a passphrase of the tests"}
    Proxy(config, env=env).init_keys("app")
    served = subprocess.run(
        [*COMMAND, "serve", "--config", str(config)],
        env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert served.returncode == 4, served
    assert f"audit.path: {closed}/audit cannot be reached by nobody" in served.stdout + served.stderr


def test_commands_work_without_an_agent(tmp_path: Path) -> None:
    config = tmp_path / "sealgate.yaml"
    config.write_text(
        f"""
keys:
  provider: {{kind: software, file: {tmp_path}/root, passphrase: {{env: SG_PASSPHRASE}}}}
  store: {{kind: file, path: {tmp_path}/rings}}
  agent: {{socket: {tmp_path}/no.sock}}
postgres:
  listen: {{port: 0}}
  upstream: {{host: 127.0.0.1, port: 5432}}
  database: shop
  catalog: {{user: app}}
"""
    )
    proxy = Proxy(config, env={"SG_PASSPHRASE": "a passphrase of the tests"})
    proxy.init_keys("app")
    proxy.run("keys", "rotate", "--config", str(config), "app")
