"""Runs a suite directly and through the proxy, each on a fresh cluster, and says what differs."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.config.model import (
    Address,
    CatalogAccess,
    ColumnConfig,
    PostgresConfig,
    SecretRef,
    TlsClient,
)
from tests.parts.keyring import software_keys
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres
from tests.transparency.outcome import difference
from tests.transparency.suites import Suite, Target, prepare

DATABASE = "outside"
MODES = ("direct", "proxied", "watched")


@dataclass
class Result:
    """`different`: what differs in every repetition; `unsteady`: what differed only at first."""

    outcomes: dict[str, dict[str, str]]
    different: dict[str, tuple[str, str]]
    unsteady: list[str]


@contextlib.contextmanager
def target(suite: Suite, mode: str) -> Iterator[Target]:
    """A fresh cluster. direct: itself; proxied: a proxy that protects another database before it;
    watched: a proxy that protects a column of another table of the suite's database."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to the server's uid
        os.chmod(folder, 0o755)
        server = Postgres(Path(folder) / "pg")
        server.user = "postgres"
        server.settings = {"max_connections": "200", **suite.settings}
        server.start()
        try:
            real = Target(server.port, server.user, server.password, DATABASE)
            prepare(suite, real)
            if mode == "direct":
                yield real
                return
            os.environ["SG_TEST_PG"] = server.password
            with Listening(
                _config(server, mode == "watched"), lambda: software_keys(Path(folder))
            ) as proxy:
                yield Target(proxy.port, real.user, real.password, real.database)
        finally:
            server.stop()


def _config(server: Postgres, watched: bool) -> PostgresConfig:
    return PostgresConfig(
        listen=Address(),
        upstream=Address(port=server.port),
        upstream_tls=TlsClient(mode="disable"),
        database=DATABASE if watched else server.database,
        catalog=CatalogAccess(user=server.user, password=SecretRef(env="SG_TEST_PG")),
        fast_path_calls=True,  # psql's \\lo_ commands
        columns=(
            ColumnConfig(
                column="sealgate_elsewhere.people.email", type="text", ring="app", equality=True
            ),
        ),
    )


def compare(
    suite: Suite, folder: Path, select: Sequence[str], mode: str = "proxied", again: int = 2
) -> Result:
    """Runs directly and in `mode`. What differs is run up to `again` more times on both sides, so
    that a test which is unsteady by itself, or whose outcome the suite calls a matter of time, is not
    taken for a difference."""
    outcomes: dict[str, dict[str, str]] = {}
    for each in ("direct", mode):
        with target(suite, each) as where:
            outcomes[each] = suite.run(folder, where, select)
    first = difference(outcomes["direct"], outcomes[mode])
    different = {n: d for n, d in first.items() if not n.endswith(tuple(suite.timed))}
    seen = {name: ({a}, {b}) for name, (a, b) in first.items()}
    for _ in range(again):
        if not different:
            break
        for side, each in enumerate(("direct", mode)):
            with target(suite, each) as where:
                found = suite.run(folder, where, select)
            for name in seen:
                seen[name][side].add(found.get(name, "absent"))
        different = {n: d for n, d in different.items() if not (seen[n][0] & seen[n][1])}
    return Result(outcomes, different, sorted(set(first) - set(different)))
