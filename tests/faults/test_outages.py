"""The token, the server or the origin away: a clear error, nothing half-written, then recovery."""

import shutil
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from botocore.exceptions import ClientError

from tests.clients.test_s3_clients import client
from tests.parts.softhsm import SoftHsm
from tests.parts.stack import APP_KEY, APP_SECRET, Stack

pytestmark = pytest.mark.system


def opened(folder: Path) -> Path:
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o755)
    return folder


def test_server_and_origin_unreachable_then_back(tmp_path: Path) -> None:
    with Stack(opened(tmp_path)) as stack:
        s3 = client(stack.s3_endpoint, APP_KEY, APP_SECRET)
        s3.create_bucket(Bucket="sealed-outage")
        s3.put_object(Bucket="sealed-outage", Key="k", Body=b"before")
        stack.pg_tap.refuse = stack.s3_tap.refuse = True
        stack.pg_tap.cut()
        stack.s3_tap.cut()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(stack.dsn(), connect_timeout=15)
        with pytest.raises(ClientError) as caught:
            s3.get_object(Bucket="sealed-outage", Key="k")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] in {500, 502, 503}
        stack.pg_tap.refuse = stack.s3_tap.refuse = False
        with psycopg.connect(stack.dsn()) as c:
            assert c.execute("SELECT 1").fetchone() == (1,)
        assert s3.get_object(Bucket="sealed-outage", Key="k")["Body"].read() == b"before"


def test_server_cut_in_a_session_ends_that_session_only(tmp_path: Path) -> None:
    with Stack(opened(tmp_path)) as stack:
        c = psycopg.connect(stack.dsn(), autocommit=True)
        stack.pg_tap.cut()
        with pytest.raises(psycopg.OperationalError):
            c.execute("SELECT 1")
        with psycopg.connect(stack.dsn()) as again:
            assert again.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.skipif(not SoftHsm.available(), reason="no SoftHSM on this machine")
def test_token_gone_fails_closed_after_the_cache(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"max_age_seconds": 1.0, "max_idle_seconds": 1.0}
    with (
        Stack(opened(tmp_path), **limits) as stack,
        psycopg.connect(stack.dsn(), autocommit=True) as c,
    ):
        c.execute("CREATE TABLE people (email text)")
        c.execute("INSERT INTO people (email) VALUES ('here@x.org')")
        tokens = tmp_path / "hsm"
        away = tmp_path / "away"
        shutil.move(tokens, away)
        time.sleep(2.5)
        with pytest.raises(psycopg.Error) as caught:
            c.execute("SELECT email FROM people").fetchall()
        assert caught.value.sqlstate is not None
        assert caught.value.sqlstate.startswith("58")
        assert c.execute("SELECT 1").fetchone() == (1,)
        shutil.move(away, tokens)
        end = time.monotonic() + 30
        while True:
            try:
                found = c.execute("SELECT email FROM people").fetchall()
                break
            except psycopg.Error:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)
        assert found == [("here@x.org",)]


@pytest.mark.skipif(not SoftHsm.available(), reason="no SoftHSM on this machine")
def test_wrong_pin_is_said_and_never_retried(tmp_path: Path) -> None:
    with Stack(opened(tmp_path)) as stack:
        stack.proxy.stop()
        text = stack.proxy.fails_to_start(env=stack.env | {"SG_PIN": "0000-wrong"})
    assert "PIN" in text
    assert "0000-wrong" not in text
