"""A day of mixed load on both planes: its audit log verifies, and each manipulation is located."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from botocore.exceptions import ClientError

from proxy.audit.files import last_line
from tests.parts.front import open_folder
from tests.parts.proxy import COMMAND
from tests.parts.s3_gateway import client
from tests.parts.served import until
from tests.parts.stack import APP_KEY, APP_SECRET, Stack

pytestmark = pytest.mark.system
SECRET_TEXT = "ada-lovelace-of-the-canary"
SECRET_NAME = "canary-object-name"


class Audited(Stack):
    """Small files, keys that are soon forgotten, and one S3 key that may only read."""

    def _document(self) -> dict[str, Any]:
        document = super()._document()
        document["workers"] = 2
        document["audit"] = {
            "path": str(self.folder / "audit"),
            "rotate_bytes": 4096,
            "checkpoint_seconds": 1,
            "sign_seconds": 2,
            "summary_seconds": 2,
        }
        document["s3"]["credentials"].append(
            {"access_key": "READER", "secret": {"env": "SG_APP_SECRET"}, "principal": "reader"}
        )
        document["policy"] = [
            {"principals": ["*"], "resources": ["*"], "actions": ["seal", "open"]},
            {
                "principals": ["s3:reader"], "resources": ["*"], "actions": ["seal"],
                "effect": "deny",
            },
        ]  # fmt: skip
        return document

    @property
    def audit(self) -> Path:
        return self.folder / "audit"

    def verify(self, *words: str, status: int | None = None) -> dict[str, Any]:
        done = subprocess.run(
            [*COMMAND, "audit", "verify", "--json", *words],
            env={**os.environ, **self.env, "SEALGATE_AUDIT_PASSPHRASE": "of the auditor"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        found = dict(json.loads(done.stdout)) if done.stdout else {}
        assert status is None or done.returncode == status, (done.stdout, done.stderr)
        return found


@pytest.fixture(scope="module")
def day() -> Iterator[Audited]:
    with (
        open_folder() as folder,
        Audited(folder, max_age_seconds=0.5, max_idle_seconds=0.5) as stack,
    ):
        _load(stack)
        yield stack


def _load(stack: Audited) -> None:
    """Reads, writes, refusals, wrong secrets, a value that was altered, an operator, a crash."""
    s3 = client(stack.s3_endpoint, APP_KEY, APP_SECRET)
    reader = client(stack.s3_endpoint, "READER", APP_SECRET)
    liar = client(stack.s3_endpoint, APP_KEY, "wrong")
    s3.create_bucket(Bucket="docs")
    with psycopg.connect(stack.dsn(stack.postgres.port), autocommit=True) as direct:
        direct.execute("create table people (id int primary key, name bytea, email bytea)")
    for i in range(6):
        with psycopg.connect(stack.dsn(), autocommit=True) as pg:
            pg.execute("insert into people (id, name) values (%s, %s)", (i, SECRET_TEXT))
            assert pg.execute("select name from people where id = %s", (i,)).fetchone()
        s3.put_object(Bucket="docs", Key=SECRET_NAME, Body=SECRET_TEXT.encode())
        s3.get_object(Bucket="docs", Key=SECRET_NAME)["Body"].read()
        for _ in range(20):
            with pytest.raises(ClientError):
                reader.put_object(Bucket="docs", Key="no", Body=b"no")
        with pytest.raises(ClientError):
            liar.get_object(Bucket="docs", Key=SECRET_NAME)
        time.sleep(0.6)
    with psycopg.connect(stack.dsn(stack.postgres.port), autocommit=True) as direct:
        direct.execute(
            "update people set name = set_byte(name, 40, get_byte(name, 40) # 1) where id = 1"
        )
    with psycopg.connect(stack.dsn(), autocommit=True) as pg, pytest.raises(psycopg.Error):
        pg.execute("select name from people where id = 1").fetchall()
    stack.proxy.run("keys", "create", "second", "--config", str(stack.config))
    stack.proxy.run("keys", "rotate", "app", "--config", str(stack.config))
    time.sleep(3.5)  # what was counted is written: a kill takes the counts since the last summary
    victim = stack.proxy.worker_pids()[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(stack.proxy.worker_pids()) == 2 and victim not in stack.proxy.worker_pids())
    for _ in range(4):
        s3.get_object(Bucket="docs", Key=SECRET_NAME)["Body"].read()
        time.sleep(0.6)


def lines(stack: Audited) -> list[dict[str, Any]]:
    found = []
    for path in sorted(stack.audit.glob("*.jsonl")):
        found += [json.loads(line) for line in path.read_text().splitlines()]
    return found


def test_the_day_is_whole_and_signed(day: Audited) -> None:
    said = day.verify("--config", str(day.config), status=0)
    assert said["whole"]
    assert said["signatures"] > 0
    assert said["files"] >= 5
    assert any("ended by force" in note for note in said["notes"])


def test_what_happened_is_in_it(day: Audited) -> None:
    events = [line["e"] for line in lines(day)]
    for event in ("process.start", "key.fetch", "key.deny", "auth.fail", "open.fail",
                  "admin.begin", "admin.end", "root.create", "ring.create", "ring.rotate",
                  "checkpoint", "checkpoint.signed", "agent.open"):  # fmt: skip
        assert event in events, event


def test_no_value_no_name_of_an_object_and_no_secret_is_in_it(day: Audited) -> None:
    text = "".join(p.read_text() for p in day.audit.iterdir())
    for secret in (SECRET_TEXT, SECRET_NAME, APP_SECRET, day.postgres.password, "insert into"):
        assert secret not in text


def test_denials_that_repeat_are_counted(day: Audited) -> None:
    denied = [line for line in lines(day) if line["e"] == "key.deny"]
    assert len(denied) < 60
    assert sum(line.get("count", 1) for line in denied) == 120


def test_an_auditor_verifies_elsewhere_with_a_key_alone(day: Audited, tmp_path: Path) -> None:
    key = tmp_path / "auditor.key"
    day.proxy.env["SEALGATE_AUDIT_PASSPHRASE"] = "of the auditor"
    day.proxy.run("audit", "export-key", "--config", str(day.config), "--out", str(key))
    shutil.copytree(day.audit, tmp_path / "log")
    words = ("--directory", str(tmp_path / "log"), "--key", str(key))
    seen = tmp_path / "seen.json"
    assert day.verify(*words, "--save", str(seen), status=0)["whole"]
    assert day.verify(*words, "--against", str(seen), status=0)["whole"]
    os.environ["WRONG"] = "another passphrase"
    day.verify(*words, "--passphrase-env", "WRONG", status=5)


def _victim(log: Path) -> Path:
    """A file in the middle of a worker's life."""
    names = {p.name for p in log.iterdir()}
    second = sorted(n for n in names if "-worker-" in n and n.endswith("-000002.jsonl"))
    return log / next(n for n in second if _next(n) in names)


def _next(name: str) -> str:
    return name.removesuffix("2.jsonl") + "3.jsonl"


def _alter(log: Path) -> str:
    path = _victim(log)
    text = path.read_bytes().splitlines(keepends=True)
    text[4] = text[4].replace(b'"e":"', b'"e":"x')
    path.write_bytes(b"".join(text))
    return f"altered {path.name} 5"


def _delete(log: Path) -> str:
    path = _victim(log)
    text = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(text[:4] + text[5:]))
    return f"deleted {path.name} 4"


def _reorder(log: Path) -> str:
    path = _victim(log)
    text = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*text[:3], text[5], text[3], text[4], *text[6:]]))
    return f"reordered {path.name} 4"


def _insert(log: Path) -> str:
    path = _victim(log)
    text = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*text[:6], text[2], *text[6:]]))
    return f"inserted {path.name} 7"


def _truncate(log: Path) -> str:
    path = next(p for p in sorted(log.iterdir()) if "-command-" in p.name and _seen(log, p))
    text = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(text[:-1]))
    return f"truncated {path.name} 0"


def _seen(log: Path, path: Path) -> bool:
    end = json.loads(last_line(path) or b"{}")
    head = json.dumps([path.name, end.get("n"), end.get("mac", "")[:16]], separators=(",", ":"))
    return any(head in p.read_text() for p in log.iterdir())


def _replace(log: Path) -> str:
    path = _victim(log)
    text = path.read_text().replace('"mac":"', '"mac":"0').splitlines()
    path.write_text("".join(line[:-3] + '"}\n' for line in text))
    return f"replaced file {path.name} 0"


def _remove(log: Path) -> str:
    path = _victim(log)
    path.unlink()
    return "missing file * *"


def _swap(log: Path) -> str:
    path = _victim(log)
    other = path.with_name(_next(path.name))
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)
    return f"swapped file {path.name} 0"


@pytest.mark.parametrize(
    "how", [_alter, _delete, _reorder, _insert, _truncate, _replace, _remove, _swap]
)
def test_each_manipulation_is_located(day: Audited, tmp_path: Path, how: Any) -> None:
    log = tmp_path / "log"
    shutil.copytree(day.audit, log)
    *kind, file, line = how(log).split()
    said = day.verify("--config", str(day.config), "--directory", str(log), status=3)
    found = [f for f in said["findings"] if f["kind"] == " ".join(kind)]
    assert found, said["findings"]
    if file != "*":
        assert (file, int(line)) in {(f["file"], f["line"]) for f in found}


def test_tail_and_export_show_it(day: Audited) -> None:
    config = ("--config", str(day.config))
    assert "key.fetch" in day.proxy.run("audit", "tail", "-n", "1000", *config)
    denied = day.proxy.run("audit", "export", "--event", "key.deny", "--format", "csv", *config)
    assert denied.count("s3:reader") >= 1
    assert day.proxy.run("audit", "export", "--format", "cef", *config).startswith("CEF:0|")
    none = day.proxy.run("audit", "export", "--principal", "nobody", *config)
    assert none == ""


def test_a_cached_query_writes_no_line(day: Audited) -> None:
    """Only summaries: ten thousand answers from the cache are a handful of lines."""
    with psycopg.connect(day.dsn(), autocommit=True) as pg:
        pg.execute("select name from people where id = 2", prepare=True)
        before = len(lines(day))
        for _ in range(2000):
            pg.execute("select name from people where id = 2", prepare=True).fetchone()
    assert len(lines(day)) - before < 100
