"""What one statement costs inside the proxy, without sockets: the levels of the plan cache, and whole
messages through a session. Microseconds, median of rounds; no server is asked.
"""

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from proxy.config.model import Address, CatalogAccess, ColumnConfig, PostgresConfig
from proxy.postgres.plan import SessionContext
from proxy.postgres.session import Session
from proxy.postgres.site import Site
from proxy.postgres.snapshot import Column, Relation, Snapshot
from proxy.postgres.startup import StartupReader
from tests.dialogue import (
    READY,
    SYNC,
    bind,
    execute,
    fields,
    msg,
    parse,
    row,
    settings_answer,
    startup_packet,
)
from tests.parts.keyring import software_keys

CONFIG = PostgresConfig(
    listen=Address(),
    upstream=Address(),
    database="shop",
    catalog=CatalogAccess(user="app"),
    columns=(
        ColumnConfig(
            column="public.points.code", type="int4", ring="app", equality=True,
            acknowledge=("equality-low-cardinality",),
        ),
        ColumnConfig(column="public.points.name", type="text", ring="app"),
    ),
)  # fmt: skip
COLUMNS = (Column("id", 23), Column("code", 17), Column("code__bx", 17), Column("name", 17))
SEARCH = b"SELECT id FROM points WHERE code = "
OTHER = b"SELECT abalance FROM pgbench_accounts WHERE aid = "
ANSWER = fields(("id", 23)) + row(b"1") + msg("C", b"SELECT 1\0") + READY


def timed(work: Callable[[int], object], times: int, rounds: int = 7) -> float:
    """Median microseconds of one call."""
    took = []
    for _ in range(rounds):
        start = time.perf_counter()
        for i in range(times):
            work(i)
        took.append((time.perf_counter() - start) / times * 1e6)
    return statistics.median(took)


async def _measure(folder: Path) -> dict[str, float]:
    keys = await software_keys(folder)
    site = Site(CONFIG, keys, None)  # type: ignore[arg-type]
    protected = site.snapshot.protected
    relation = Relation("public", "points", "r", COLUMNS)
    snapshot = Snapshot(
        1, "shop", {("public", "points"): relation}, protected, frozenset({"public"})
    )
    site._catalog.snapshot = snapshot
    site._catalog.fresh = True
    context = SessionContext("shop", "app")
    fresh = itertools.count()
    found = {
        "plan, L0 (the same text again)": timed(
            lambda i: site.plan(SEARCH + b"$1", (), context, snapshot), 20_000
        ),
        "plan, L1 (other literals)": timed(
            lambda i: site.plan(SEARCH + b"%d" % i, (), context, snapshot), 10_000
        ),
        "plan, L2 (a new text)": timed(
            lambda i: site.plan(b"%b$1 AND id > 0 -- %d" % (SEARCH, next(fresh)), (), context,
                                snapshot), 200
        ),
    }  # fmt: skip
    session = await _session(site)

    def ask(data: bytes, answer: bytes) -> None:
        session.receive_client(data)
        assert session.data_to_server()
        session.receive_server(answer)
        session.data_to_client()

    async def warm(data: bytes, answer: bytes) -> None:
        session.receive_client(data)
        while (need := session.pending()) is not None:
            session.resolve(need, await site.fulfil(need))
        session.data_to_server()
        session.receive_server(answer)
        session.data_to_client()

    body = msg("D", b"P\0") + execute() + SYNC
    extended = parse("", (SEARCH + b"$1").decode()) + bind("", "", b"5") + body
    named = bind("", "s", b"5") + body
    await warm(msg("Q", SEARCH + b"7\0"), ANSWER)
    await warm(parse("s", (SEARCH + b"$1").decode()) + SYNC, msg("1") + READY)
    await warm(named, msg("2") + ANSWER)
    found["search, prepared: Bind, Describe, Execute, Sync"] = timed(
        lambda i: ask(named, msg("2") + ANSWER), 3000
    )
    found["search, unnamed: Parse, Bind, Describe, Execute, Sync"] = timed(
        lambda i: ask(extended, msg("1") + msg("2") + ANSWER), 1000
    )
    found["search, simple Query with a literal"] = timed(
        lambda i: ask(msg("Q", SEARCH + b"%d\0" % i), ANSWER), 1000
    )
    found["unprotected, simple Query with a literal"] = timed(
        lambda i: ask(msg("Q", OTHER + b"%d\0" % i), ANSWER), 3000
    )
    plain = parse("", (OTHER + b"$1").decode()) + bind("", "", b"5") + body
    found["unprotected, unnamed"] = timed(lambda i: ask(plain, msg("1") + msg("2") + ANSWER), 3000)
    await keys.close()
    return found


async def _session(site: Site) -> Session:
    reader = StartupReader(10_000)
    reader.feed(startup_packet(user="app", database="shop"))
    session = Session(site, reader.next())  # type: ignore[arg-type]
    session.data_to_server()
    for data in (
        msg("R", b"\0\0\0\0") + msg("S", b"client_encoding\0UTF8\0")
        + msg("S", b"standard_conforming_strings\0on\0") + READY,
        settings_answer() + READY,
    ):  # fmt: skip
        session.receive_server(data)
        session.data_to_client()
        session.data_to_server()
    return session


def run() -> tuple[str, dict[str, float]]:
    """The table as text, and the figures (microseconds)."""
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_measure(Path(folder)))
    lines = ["inside the proxy, no sockets", f"{'':56} {'us':>8}"]
    lines += [f"{name:56} {value:8.2f}" for name, value in found.items()]
    return "\n".join(lines), found
