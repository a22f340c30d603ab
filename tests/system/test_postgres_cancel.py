"""Cancel requests that fall into the proxy's own questions to the server, again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.parts.front import open_folder
from tests.parts.postgres import Postgres
from tests.parts.served import Served

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with open_folder() as folder:
        server = Postgres(folder / "pg")
        server.start()
        try:
            with Served(folder / "proxy", server) as running:
                yield running
        finally:
            server.stop()


def hammer(c: psycopg.Connection, stop: threading.Event) -> None:
    """Cancel requests without a pause."""
    while not stop.is_set():
        c.cancel_safe(timeout=10)


@pytest.mark.parametrize("transaction", [False, True], ids=["autocommit", "transaction"])
def test_a_cancel_is_the_statements_own_error_or_nothing(served, transaction):
    """SET makes the proxy ask for the settings before the next plan; cancels hit that question."""
    seen = {"ok": 0, "canceled": 0}
    with served.connect() as c:
        c.execute("DROP TABLE IF EXISTS people")
        c.execute("CREATE TABLE people (email text)")
        stop = threading.Event()
        thread = threading.Thread(target=hammer, args=(c, stop))
        thread.start()
        try:
            end = time.monotonic() + 4
            while time.monotonic() < end:
                try:
                    if transaction:
                        c.execute("BEGIN")
                    c.execute("SET search_path TO public")
                    c.execute("SELECT email FROM people WHERE email IS NULL")
                    if transaction:
                        c.execute("COMMIT")
                    seen["ok"] += 1
                except psycopg.errors.QueryCanceled:
                    seen["canceled"] += 1
                    while transaction:
                        try:
                            c.execute("ROLLBACK")
                            break
                        except psycopg.errors.QueryCanceled:
                            pass
        finally:
            stop.set()
            thread.join()
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:  # what was still under way has arrived
            try:
                c.execute("SELECT pg_sleep(0.2)")
                break
            except psycopg.errors.QueryCanceled:
                pass
        assert c.execute("SELECT count(*) FROM people").fetchone() == (0,)
    assert seen["ok"] > 5 and seen["canceled"] > 5, seen
