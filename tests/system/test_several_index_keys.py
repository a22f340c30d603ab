"""While a column has two index keys, a search finds values under both, and nothing compares stored tags.

The product's own rotation keeps the index key; here each version of the ring brings its own.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.config.model import (
    Address,
    CatalogAccess,
    ColumnConfig,
    PostgresConfig,
    SecretRef,
    TlsClient,
)
from proxy.crypto import kdf
from proxy.native import ColumnCodec
from proxy.postgres import site
from tests.parts.keyring import rotated_keys, software_keys
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres

pytestmark = pytest.mark.system
BEFORE = [(1, "a"), (2, "b"), (3, None)]
AFTER = [(4, "a"), (5, "c")]


def codec_with_an_index_key_for_each_version(
    versions: Any, domain: str, oid: int, equality: bool, transform: int, pad: int, canonical: Any,
    **_: Any,
) -> ColumnCodec:  # fmt: skip
    codec = ColumnCodec(
        domain.encode(), oid, equality, transform, pad, canonical.kind, canonical.call
    )
    for ring, active in versions:
        seal = kdf.column_key(ring, domain, "seal")
        codec.add_key(
            kdf.column_key_id(seal), seal, kdf.column_key(ring, domain, "equality"), active
        )
    return codec


@pytest.fixture(scope="module")
def stand() -> Iterator[tuple[Any, Any]]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(site, "column_codec", codec_with_an_index_key_for_each_version)
        os.chmod(folder, 0o755)
        server = Postgres(Path(folder) / "pg")
        server.start()
        patch.setenv("SG_TEST_TWO", server.password)
        config = PostgresConfig(
            listen=Address(),
            upstream=Address(port=server.port),
            upstream_tls=TlsClient(mode="disable"),
            database=server.database,
            catalog=CatalogAccess(user=server.user, password=SecretRef(env="SG_TEST_TWO")),
            columns=(ColumnConfig(column="public.t.c", type="text", ring="app", equality=True),),
        )
        keys = Path(folder)
        try:
            with (
                Listening(config, lambda: software_keys(keys)) as proxy,
                psycopg.connect(_dsn(server, proxy), autocommit=True) as c,
            ):
                c.execute("CREATE TABLE t (id int, c text UNIQUE)")
                c.cursor().executemany("INSERT INTO t VALUES (%s, %s)", BEFORE)
            with (
                Listening(config, lambda: rotated_keys(keys)) as proxy,
                psycopg.connect(_dsn(server, proxy), autocommit=True) as c,
                psycopg.connect(server.dsn(), autocommit=True) as direct,
            ):
                c.cursor().executemany("INSERT INTO t VALUES (%s, %s)", AFTER)
                direct.execute("CREATE SCHEMA twin; SET search_path = twin")
                direct.execute("CREATE TABLE t (id int, c text)")
                direct.cursor().executemany("INSERT INTO t VALUES (%s, %s)", BEFORE + AFTER)
                yield c, direct
        finally:
            server.stop()


def _dsn(server: Postgres, proxy: Listening) -> str:
    return server.dsn().replace(f"port={server.port}", f"port={proxy.port}")


def found(c: Any, sql: str, values: tuple[Any, ...], form: str) -> list[Any]:
    sql = sql.replace("%s", {"literal": "%s", "text": "%t", "binary": "%b"}[form])
    cursor = psycopg.ClientCursor(c) if form == "literal" else c.cursor()
    return sorted(map(repr, cursor.execute(sql, values).fetchall()))


@pytest.mark.parametrize("form", ["literal", "text", "binary"])
@pytest.mark.parametrize(
    ("sql", "values"),
    [
        ("SELECT id FROM t WHERE c = %s", ("a",)),
        ("SELECT id FROM t WHERE %s = c", ("a",)),
        ("SELECT id, c = %s FROM t", (None,)),
        ("SELECT id, c <> %s FROM t", ("a",)),
        ("SELECT id, c IN (%s, %s) FROM t", ("a", "c")),
        ("SELECT id, c IN (%s, %s) FROM t", ("a", None)),
        ("SELECT id, c NOT IN (%s, %s) FROM t", ("a", None)),
        ("SELECT id, c NOT IN (%s) FROM t", ("b",)),
        ("SELECT id, c = ANY(%s::text[]) FROM t", (["a", None],)),
        ("SELECT id, c <> ALL(%s::text[]) FROM t", (["a", "c"],)),
        ("SELECT id, c = ANY(ARRAY[%s, %s]::text[]) FROM t", ("a", None)),
        ("SELECT id FROM t WHERE c IS DISTINCT FROM %s::text", ("a",)),
        ("SELECT id FROM t WHERE c IS NOT DISTINCT FROM %s::text AND id > 0", ("a",)),
        ("SELECT id FROM t WHERE c IS NOT DISTINCT FROM %s::text", (None,)),
        ("SELECT id, CASE c WHEN %s THEN 1 WHEN %s THEN 2 ELSE 3 END FROM t", ("a", "b")),
        ("SELECT id, NULLIF(c, %s) FROM t", ("a",)),
        ("SELECT id FROM t WHERE COALESCE(c, %s) = %s", ("a", "a")),
        (
            "SELECT id FROM t WHERE EXISTS (SELECT 1 FROM t x WHERE x.c = %s AND x.id > t.id)",
            ("a",),
        ),
    ],
)
def test_a_search_finds_values_under_both_keys(
    stand: tuple[Any, Any], sql: str, values: tuple[Any, ...], form: str
) -> None:
    proxied, direct = stand
    assert found(proxied, sql, values, form) == found(direct, sql, values, form)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a.id FROM t a JOIN t b ON a.c = b.c",
        "SELECT c, count(*) FROM t GROUP BY c",
        "SELECT DISTINCT c FROM t",
        "SELECT count(DISTINCT c) FROM t",
        "SELECT id FROM t WHERE c IN (SELECT c FROM t)",
        "SELECT id FROM t WHERE (id, c) = (1, 'a')",
        "SELECT c FROM t UNION SELECT c FROM t",
        "INSERT INTO t VALUES (9, 'a') ON CONFLICT (c) DO NOTHING",
    ],
)
def test_what_compares_stored_tags_is_refused_meanwhile(stand: tuple[Any, Any], sql: str) -> None:
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="older index key"):
        stand[0].execute(sql)
