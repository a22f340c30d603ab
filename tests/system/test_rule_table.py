"""Every row of the rule table on a real server: through the proxy as on a plain twin, in three forms.

The same text runs on `twin.*` directly and on `public.*`, whose columns are protected, through the
proxy: as literals (simple protocol), as text and as binary parameters. Rows hold NULLs and duplicates.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import pq
from psycopg.abc import Buffer
from psycopg.adapt import Loader

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

pytestmark = pytest.mark.system


class Bytes(Loader):
    """A value as it came: dates may be such that Python has none."""

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


class BinaryBytes(Bytes):
    format = pq.Format.BINARY


TABLES = """
CREATE TABLE people (id int PRIMARY KEY, mail text, nick varchar(12), age int, born date,
                     pay numeric(10,2), note text);
CREATE TABLE orders (id int PRIMARY KEY, buyer text, age bigint, qty int);
CREATE UNIQUE INDEX people_nick ON people (nick);
"""
ROWS = """
INSERT INTO people VALUES
 (1, 'ann@x', 'ann', 30, '1990-01-02', 1.50, 'a'), (2, 'bob@x', 'bob', 40, '1980-03-04', 1.5, 'b'),
 (3, 'ann@x', NULL, NULL, NULL, NULL, NULL), (4, NULL, 'dora', 30, '1990-01-02', -2, 'a'),
 (5, '', 'é😀', 0, '0044-03-15 BC', 0, ''), (6, 'Ann@x', 'six', -1, 'infinity', 99999999.99, 'q''q');
INSERT INTO orders VALUES (1, 'ann@x', 30, 1), (2, 'ann@x', 40, 2), (3, NULL, 0, 3), (4, 'zoe@x', NULL, 4),
 (5, 'bob@x', 99, 5);
"""
COLUMNS = (
    ("people.mail", "text", "mail"), ("people.nick", "varchar(12)", None), ("people.age", "int4", "age"),
    ("people.born", "date", None), ("people.pay", "numeric(10,2)", None), ("orders.buyer", "text", "mail"),
    ("orders.age", "int8", "age"),
)  # fmt: skip
VIEWS = """
CREATE VIEW adults AS SELECT id AS no, mail, nick, age IS NULL AS ageless FROM people;
CREATE VIEW mails (m, n) AS SELECT mail, count(*) FROM people GROUP BY mail;
CREATE MATERIALIZED VIEW buyers AS SELECT DISTINCT buyer FROM orders;
"""


@dataclass
class Stand:
    direct: Any
    proxied: Any


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        server = Postgres(Path(folder) / "pg")
        server.start()
        os.environ["SG_TEST_RULES"] = server.password
        config = PostgresConfig(
            listen=Address(),
            upstream=Address(port=server.port),
            upstream_tls=TlsClient(mode="disable"),
            database=server.database,
            catalog=CatalogAccess(user=server.user, password=SecretRef(env="SG_TEST_RULES")),
            columns=tuple(
                ColumnConfig(column=f"public.{name}", type=kind, ring="app", equality=True,
                             domain=domain, order=name.endswith("born"))
                for name, kind, domain in COLUMNS
            ),
        )  # fmt: skip
        try:
            with Listening(config, lambda: software_keys(Path(folder))) as proxy:
                direct = psycopg.connect(server.dsn(), autocommit=True)
                dsn = server.dsn().replace(f"port={server.port}", f"port={proxy.port}")
                proxied = psycopg.connect(dsn, autocommit=True)
                direct.execute("CREATE SCHEMA twin; SET search_path = twin, pg_catalog")
                for c in (direct, proxied):
                    for loader in (Bytes, BinaryBytes):
                        c.adapters.register_loader("date", loader)
                    for text in (TABLES, ROWS, VIEWS):
                        for one in text.split(";\n"):
                            if one.strip():
                                c.execute(one)
                yield Stand(direct, proxied)
                direct.close()
                proxied.close()
        finally:
            server.stop()


@dataclass(frozen=True)
class Row:
    """A statement with `%s` for its values. `ordered`: row order counts."""

    sql: str
    values: tuple[Any, ...] = ()
    ordered: bool = False


def row(sql: str, *values: Any, ordered: bool = False) -> Row:
    return Row(sql, values, ordered)


ANN, BORN = "ann@x", date(1990, 1, 2)
PEOPLE = "SELECT id FROM people WHERE "
READS = [
    # comparison with a value
    row(PEOPLE + "mail = %s", ANN),
    row(PEOPLE + "%s = mail", ANN),
    row(PEOPLE + "mail = %s", None),
    row(PEOPLE + "mail <> %s", ANN),
    row(PEOPLE + "mail != %s OR mail IS NULL", ""),
    row(PEOPLE + "NOT (nick = %s)", "é😀"),
    row(PEOPLE + "age = %s", 30),
    row(PEOPLE + "age = %s", -1),
    row(PEOPLE + "born = %s", BORN),
    row(PEOPLE + "pay = %s", Decimal("1.5")),
    row(PEOPLE + "pay = %s", Decimal("1.505")),
    row(PEOPLE + "mail = %s AND note = %s", ANN, "a"),
    row(PEOPLE + "mail::text = %s::varchar", ANN),
    row(PEOPLE + "CAST(mail AS text) = CAST(%s AS text)", ANN),
    row("SELECT mail = %s, mail IS NULL, mail <> %s FROM people", ANN, None),
    # lists and arrays
    row(PEOPLE + "mail IN (%s, %s, %s)", ANN, None, "bob@x"),
    row(PEOPLE + "mail NOT IN (%s, %s)", ANN, ""),
    row(PEOPLE + "mail NOT IN (%s, %s)", ANN, None),
    row(PEOPLE + "age IN (%s)", 0),
    row(PEOPLE + "mail = ANY(%s::text[])", [ANN, None, ""]),
    row(PEOPLE + "mail <> ALL(%s::text[])", [ANN]),
    row(PEOPLE + "mail = ANY(%s::text[])", []),
    row(PEOPLE + "mail <> ALL(%s::text[])", [None, "x"]),
    row(PEOPLE + "mail = ANY(ARRAY[%s, %s]::text[])", ANN, "bob@x"),
    row(PEOPLE + "age = ANY(%s::int[])", [30, 0]),
    # IS [NOT] DISTINCT FROM, NULL
    row(PEOPLE + "mail IS DISTINCT FROM %s::text", ANN),
    row(PEOPLE + "mail IS NOT DISTINCT FROM %s::text", None),
    row(PEOPLE + "mail IS NOT DISTINCT FROM mail::varchar"),
    row(PEOPLE + "mail IS NULL"),
    row(PEOPLE + "(mail, nick) IS NOT NULL"),
    row(PEOPLE + "mail = ''"),
    # rows
    row(PEOPLE + "(id, mail) = (%s, %s)", 1, ANN),
    row(PEOPLE + "(mail, age) IN ((%s, %s), (%s, 40))", ANN, 30, "bob@x"),
    row(PEOPLE + "(mail, age) <> (%s, %s)", ANN, 30),
    row(PEOPLE + "(id, mail) = (SELECT 2, %s::text)", "bob@x"),
    # columns with columns, joins
    row("SELECT p.id, o.id FROM people p JOIN orders o ON p.mail = o.buyer"),
    row("SELECT p.id, o.id FROM people p, orders o WHERE o.age = p.age AND p.mail <> o.buyer"),
    row(
        "SELECT p.id, b, o.id FROM people p LEFT JOIN (SELECT buyer AS b, id FROM orders) o ON b = mail"
    ),
    row("SELECT * FROM people JOIN (SELECT buyer AS mail, qty FROM orders) o USING (mail)"),
    row(
        "SELECT mail, people.mail, o.mail FROM people FULL JOIN (SELECT buyer AS mail FROM orders) "
        "o USING (mail)"
    ),
    row(
        "SELECT mail, qty FROM people RIGHT JOIN (SELECT buyer AS mail, qty FROM orders) o USING "
        "(mail) WHERE mail = %s",
        ANN,
    ),
    row(
        "SELECT * FROM (SELECT mail, nick FROM people) p NATURAL JOIN (SELECT buyer AS mail, qty "
        "FROM orders) o"
    ),
    row("SELECT * FROM people JOIN orders USING (id)"),
    row(
        "SELECT * FROM (SELECT id, mail FROM people) p NATURAL JOIN (SELECT id, buyer AS mail FROM orders) o"
    ),
    row("SELECT a.id, b.id FROM people a JOIN people b ON a.mail = b.mail AND a.id < b.id"),
    row("SELECT a, c FROM people AS p(a, b, c) WHERE b = %s", ANN),
    # sub-selects
    row(PEOPLE + "mail = (SELECT buyer FROM orders WHERE id = %s)", 1),
    row(PEOPLE + "mail IN (SELECT buyer FROM orders)"),
    row(PEOPLE + "mail NOT IN (SELECT buyer FROM orders WHERE buyer IS NOT NULL)"),
    row(PEOPLE + "mail IN (SELECT buyer FROM orders UNION SELECT %s)", ""),
    row(PEOPLE + "%s IN (SELECT buyer FROM orders o WHERE o.id = people.id)", ANN),
    row(PEOPLE + "mail = ANY (SELECT b FROM (SELECT buyer AS b FROM orders) x)"),
    row(PEOPLE + "mail = ANY (ARRAY(SELECT buyer FROM orders))"),
    row(
        "SELECT id FROM people p WHERE EXISTS (SELECT * FROM orders o WHERE o.buyer = p.mail AND "
        "o.buyer <> %s)",
        "x",
    ),
    row("SELECT id, (SELECT buyer FROM orders o WHERE o.id = p.id) FROM people p"),
    row("SELECT (SELECT count(*) FROM orders o WHERE o.buyer = p.mail), nick FROM people p"),
    row(
        "SELECT x.mail, count(*) FROM (SELECT mail FROM people WHERE id > 0) x WHERE x.mail = %s "
        "GROUP BY x.mail",
        ANN,
    ),
    row(
        "SELECT p.id, x.buyer FROM people p, LATERAL (SELECT buyer FROM orders o WHERE o.buyer = "
        "p.mail LIMIT 1) x"
    ),
    # CASE, COALESCE, NULLIF, casts in outputs
    row("SELECT CASE mail WHEN %s THEN 1 WHEN %s THEN 2 ELSE 3 END FROM people", ANN, ""),
    row("SELECT id, CASE WHEN id = 1 THEN %s WHEN id < 4 THEN mail END FROM people", "new"),
    row("SELECT COALESCE(mail, %s) FROM people", "none"),
    row("SELECT COALESCE(mail, mail::text, 'x') IS NULL, id FROM people"),
    row(PEOPLE + "COALESCE(mail, %s) = %s", "", ""),
    row("SELECT id, NULLIF(mail, %s) FROM people", ""),
    row("SELECT id, NULLIF(age, %s) FROM people", 30),
    row("SELECT nick::text, mail::varchar FROM people"),
    # grouping
    row("SELECT mail, count(*) FROM people GROUP BY mail"),
    row("SELECT mail AS m, count(*) FROM people GROUP BY m"),
    row("SELECT count(*), mail FROM people GROUP BY 2 HAVING mail <> %s OR count(*) > 1", "x"),
    row("SELECT mail, age, count(nick) FROM people GROUP BY mail, age HAVING count(*) > 0"),
    row("SELECT mail IS NULL, max(id) FROM people GROUP BY mail"),
    row("SELECT id, mail, nick FROM people GROUP BY id"),
    row("SELECT count(*) FROM people GROUP BY age"),
    row("SELECT DISTINCT mail FROM people"),
    row("SELECT DISTINCT mail, id % 2 AS odd FROM people ORDER BY odd"),
    row("SELECT DISTINCT ON (mail) mail FROM people"),
    row("SELECT DISTINCT p.mail, o.buyer FROM people p, orders o"),
    row("SELECT count(DISTINCT mail), count(mail), count(*) FROM people"),
    row("SELECT count(DISTINCT (mail, age)) FROM people"),
    row(
        "SELECT id, row_number() OVER (PARTITION BY mail ORDER BY id), count(*) OVER w FROM people "
        "WINDOW w AS (PARTITION BY age)"
    ),
    row(
        "SELECT id, lag(mail) OVER (ORDER BY id), first_value(nick) OVER (ORDER BY id DESC) FROM people"
    ),
    row("SELECT bool_or(mail = %s), count(*) FILTER (WHERE mail <> %s) FROM people", ANN, ANN),
    row("SELECT id FROM people ORDER BY mail IS NULL, id DESC", ordered=True),
    row("SELECT DISTINCT born, id % 2 AS odd FROM people ORDER BY born DESC, odd", ordered=True),
    row("SELECT born, count(*) FROM people GROUP BY born ORDER BY born NULLS FIRST", ordered=True),
    row("SELECT *, born AS b FROM people ORDER BY b, id DESC LIMIT 4", ordered=True),
    row("SELECT min(born), max(born), count(*) FROM people WHERE born >= %s", BORN),
    row("SELECT mail AS id2, id FROM people ORDER BY id LIMIT 3 OFFSET 1", ordered=True),
    # set operations
    row("SELECT mail FROM people UNION SELECT buyer FROM orders"),
    row("SELECT mail, 1 FROM people UNION ALL SELECT buyer, 2 FROM orders"),
    row("SELECT mail, id FROM people UNION SELECT %s, 7 ORDER BY id", "new", ordered=True),
    row("SELECT mail FROM people INTERSECT SELECT buyer FROM orders"),
    row("SELECT mail FROM people EXCEPT SELECT buyer FROM orders"),
    row("SELECT mail FROM people EXCEPT ALL SELECT buyer FROM orders"),
    row("SELECT mail FROM people INTERSECT ALL SELECT buyer FROM orders"),
    row(
        "(SELECT mail FROM people WHERE id = 1) UNION ((SELECT buyer FROM orders) EXCEPT SELECT %s)",
        ANN,
    ),
    row(
        "SELECT x.mail FROM (SELECT mail FROM people UNION SELECT buyer FROM orders) x WHERE x.mail = %s",
        ANN,
    ),
    row("SELECT 'q' UNION ALL SELECT mail FROM people"),
    # stars, whole FROM, WITH
    row("SELECT * FROM people"),
    row("SELECT p.*, o.* FROM orders o, people p"),
    row("SELECT *, 1 FROM people p WHERE p.mail = %s", ANN),
    row(
        "WITH p AS (SELECT * FROM people), o(b) AS (SELECT buyer FROM orders) SELECT p.*, b FROM p "
        "JOIN o ON b = p.mail"
    ),
    row(
        "WITH v(a, b) AS (VALUES (1, %s), (2, NULL)) SELECT p.id, v.a FROM people p JOIN v ON v.b = p.mail",
        ANN,
    ),
    row("SELECT p.id FROM people p JOIN (VALUES (%s), (%s)) v(m) ON p.mail = v.m", ANN, None),
    row(
        "SELECT p.id FROM people p JOIN unnest(%s::text[]) AS m ON p.mail = m", [ANN, "bob@x", None]
    ),
    row(
        "WITH RECURSIVE r(n, m) AS (SELECT 1, mail FROM people WHERE id = 1 UNION ALL SELECT n + 1, "
        "m FROM r WHERE n < 3) "
        "SELECT n, m FROM r WHERE m = %s",
        ANN,
    ),
    # views
    row("SELECT * FROM adults"),
    row("SELECT no FROM adults WHERE mail = %s AND NOT ageless", ANN),
    row("SELECT * FROM mails WHERE m = %s", ANN),
    row("SELECT * FROM buyers"),
    row("SELECT p.id FROM people p JOIN buyers b ON b.buyer = p.mail"),
    row("SELECT mail FROM adults UNION SELECT buyer FROM buyers"),
    row(
        "SELECT id, mail FROM people WHERE id < %s ORDER BY id FOR UPDATE OF people",
        3,
        ordered=True,
    ),
]

WRITES = [
    row("INSERT INTO people (id, mail, nick, age) VALUES (10, %s, %s, %s)", "new@x", None, 5),
    row("INSERT INTO people VALUES (10, %s), (11, %s)", "new@x", None),
    row(
        "INSERT INTO people (mail, id) VALUES (%s, 10), (DEFAULT, 11) RETURNING *, mail = %s AS same",
        "n",
        "n",
    ),
    row("INSERT INTO people (id, mail) SELECT id + 20, buyer FROM orders RETURNING id, mail"),
    row(
        "INSERT INTO people (id, mail, born) SELECT id + 20, %s, %s FROM orders WHERE buyer = %s",
        "same",
        BORN,
        ANN,
    ),
    row("INSERT INTO people (id, mail) SELECT id + 20, COALESCE(buyer, %s) FROM orders", "none"),
    row(
        "INSERT INTO people (id, mail) SELECT * FROM unnest(%s::int[], %s::text[])",
        [10, 11],
        ["u@x", None],
    ),
    row(
        "INSERT INTO people (mail, id) SELECT p0::VARCHAR, p1::INTEGER FROM (VALUES (%s, 10, 0), "
        "(%s, 11, 1)) "
        "AS imp_sen(p0, p1, sen_counter) ORDER BY sen_counter RETURNING people.id, people.id AS id__1",
        "s@x",
        None,
    ),
    row(
        "INSERT INTO people (id, mail, age) SELECT v.a, v.b, v.c FROM (VALUES (10, %s, 7)) v(a, b, c)",
        "v@x",
    ),
    row(
        "INSERT INTO people (id, mail) SELECT 10, %s UNION ALL SELECT 11, buyer FROM orders WHERE id = 1",
        "u@x",
    ),
    row(
        "INSERT INTO people (id, mail) SELECT DISTINCT 30, buyer FROM orders WHERE buyer = %s", ANN
    ),
    row("INSERT INTO people (id, nick) VALUES (10, %s) ON CONFLICT (nick) DO NOTHING", "bob"),
    row(
        "INSERT INTO people (id, nick, mail) VALUES (10, %s, %s) ON CONFLICT (nick) DO UPDATE SET "
        "mail = EXCLUDED.mail, "
        "note = 'up' WHERE people.mail <> EXCLUDED.mail RETURNING id, mail",
        "bob",
        "up@x",
    ),
    row(
        "INSERT INTO people AS t (id, mail) VALUES (1, %s) ON CONFLICT ON CONSTRAINT people_pkey DO "
        "UPDATE SET "
        "mail = COALESCE(EXCLUDED.mail, t.mail), nick = NULL",
        "c@x",
    ),
    row("UPDATE people SET mail = %s WHERE mail = %s", "up@x", ANN),
    row("UPDATE people SET mail = %s WHERE mail = %s RETURNING id", ANN, ANN),
    row("UPDATE people SET mail = NULL, age = DEFAULT WHERE id = 1"),
    row("UPDATE people SET mail = NULLIF(mail, %s)", ""),
    row("UPDATE people SET (mail, age) = (%s, %s) WHERE id = 2", "r@x", 9),
    row(
        "UPDATE people SET (mail, note) = (SELECT buyer, 'n' FROM orders o WHERE o.id = people.id)"
    ),
    row(
        "UPDATE people SET mail = CASE WHEN id = 1 THEN %s WHEN id = 2 THEN %s ELSE NULL END::text "
        "WHERE id IN (1, 2, 3)",
        "c1",
        "c2",
    ),
    row(
        "UPDATE people p SET mail = o.buyer FROM orders o WHERE o.id = p.id AND p.mail IS DISTINCT "
        "FROM o.buyer"
    ),
    row(
        "UPDATE people SET mail = v.m FROM (VALUES (1, %s), (2, NULL)) v(i, m) WHERE v.i = people.id",
        "v@x",
    ),
    row("UPDATE people SET mail = (SELECT buyer FROM orders WHERE id = 2) WHERE nick = %s", "ann"),
    row("DELETE FROM people WHERE mail = %s RETURNING *", ANN),
    row("DELETE FROM people WHERE mail NOT IN (%s)", ANN),
    row(
        "DELETE FROM people p USING orders o WHERE p.mail = o.buyer AND o.qty > %s RETURNING p.id",
        1,
    ),
    row(
        "WITH d AS (DELETE FROM people WHERE mail = %s RETURNING mail, id) INSERT INTO people (id, "
        "mail) SELECT id + 50, mail FROM d",
        ANN,
    ),
    row(
        "WITH n(i, m) AS (VALUES (10, %s)), i AS (INSERT INTO people (id, mail) SELECT i, m FROM n "
        "RETURNING *) "
        "SELECT id, mail FROM i",
        "w@x",
    ),
    row(
        "MERGE INTO people p USING (VALUES (1, %s), (12, %s)) v(i, m) ON p.id = v.i WHEN MATCHED "
        "AND p.mail <> v.m THEN "
        "UPDATE SET mail = v.m WHEN NOT MATCHED THEN INSERT (id, mail) VALUES (v.i, v.m)",
        "m1",
        "m2",
    ),
    row(
        "MERGE INTO people p USING orders o ON p.mail = o.buyer AND o.id = 5 WHEN MATCHED THEN DELETE"
    ),
]

REFUSED = [
    "SELECT mail || 'x' FROM people", "SELECT lower(mail) FROM people", "SELECT max(mail) FROM people",
    "SELECT string_agg(mail, ',') FROM people", "SELECT array_agg(mail) FROM people", "SELECT p "
    "FROM people p",
    "SELECT row_to_json(p) FROM people p", "SELECT p::text FROM people p", "SELECT mail::bytea FROM people",
    "SELECT id FROM people ORDER BY mail", "SELECT id FROM people WHERE mail > 'a'", "SELECT id "
    "FROM people WHERE age BETWEEN 1 AND 2",
    "SELECT id FROM people WHERE mail LIKE 'a%'", "SELECT id FROM people WHERE mail ~ 'a'", "SELECT "
    "sum(age) FROM people",
    "SELECT mail FROM people GROUP BY ROLLUP (mail)", "SELECT id FROM people WHERE mail = lower('A')",
    "SELECT id FROM people WHERE mail = note", "SELECT mail FROM people UNION SELECT note FROM people",
    "SELECT id FROM people JOIN (SELECT note AS mail FROM people) x USING (mail)", "SELECT mail__bx "
    "FROM people",
    "SELECT id FROM people WHERE age = mail", "UPDATE people SET mail = mail || 'x'", "UPDATE "
    "people SET mail = note",
    "UPDATE people SET note = mail", "UPDATE people SET mail = upper('x')", "INSERT INTO people "
    "(id, mail) SELECT 9, note FROM people",
    "INSERT INTO people (id, note) SELECT 9, mail FROM people", "INSERT INTO people (id, mail__bx) "
    "VALUES (9, '')",
    "CREATE TABLE copied AS SELECT mail FROM people", "SELECT mail INTO TEMP copied FROM people",
    "CREATE VIEW v AS SELECT id FROM people WHERE mail = 'x'", "INSERT INTO adults (no, mail) "
    "VALUES (9, 'x')",
    "INSERT INTO people (id, mail, note) SELECT 9, v.a, v.a FROM (VALUES ('x')) v(a)",
    "SELECT id FROM people WHERE mail = ANY(ARRAY[note])", "SELECT GREATEST(mail, 'x') FROM people",
    "SELECT id FROM people WHERE (id, mail) < (1, 'x')", "SELECT id FROM people WHERE mail < ALL "
    "(SELECT buyer FROM orders)",
    "COMMENT ON COLUMN people.mail IS 'x'; DO $$ BEGIN DELETE FROM people; END $$",
]  # fmt: skip


def run(connection: Any, row: Row, form: str) -> list[tuple[Any, ...]]:
    """The rows, each value with its type; the error's SQLSTATE instead."""
    sql = row.sql.replace("%", "%%").replace(
        "%%s", {"literal": "%s", "text": "%t", "binary": "%b"}[form]
    )
    cursor = (
        psycopg.ClientCursor(connection)
        if form == "literal"
        else connection.cursor(binary=form == "binary")
    )
    cursor.execute(sql, row.values)
    if cursor.description is None:
        return [(cursor.statusmessage,)]
    names = tuple((c.name, c.type_code, c.internal_size, c.precision) for c in cursor.description)
    return [names, *cursor.fetchall()]


def alike(row: Row, ours: list[Any], theirs: list[Any]) -> bool:
    if row.ordered:
        return ours == theirs
    return ours[0] == theirs[0] and Counter(map(repr, ours)) == Counter(map(repr, theirs))


@pytest.mark.parametrize("form", ["literal", "text", "binary"])
@pytest.mark.parametrize("row", READS, ids=lambda r: r.sql)
def test_reads(stand: Stand, row: Row, form: str) -> None:
    theirs, ours = run(stand.direct, row, form), run(stand.proxied, row, form)
    assert alike(row, ours, theirs), f"directly {theirs}\nproxied  {ours}"


@pytest.mark.parametrize("form", ["literal", "text", "binary"])
@pytest.mark.parametrize("row", WRITES, ids=lambda r: r.sql)
def test_writes(stand: Stand, row: Row, form: str) -> None:
    found = []
    contents = Row("SELECT * FROM people ORDER BY id", (), True)
    for connection in (stand.direct, stand.proxied):
        with connection.transaction(force_rollback=True):
            found.append((run(connection, row, form), run(connection, contents, "text")))
    (theirs, there), (ours, here) = found
    assert alike(row, ours, theirs), f"directly {theirs}\nproxied  {ours}"
    assert alike(contents, here, there), f"directly {there}\nproxied  {here}"


def test_the_server_holds_sealed_values_only(stand: Stand) -> None:
    found = stand.direct.execute("SELECT mail, nick, age FROM public.people").fetchall()
    assert all(v is None or bytes(v)[:2] == b"\xc5\x01" for one in found for v in one), found


@pytest.mark.parametrize("sql", REFUSED)
def test_refused_with_a_hint(stand: Stand, sql: str) -> None:
    with pytest.raises(psycopg.errors.FeatureNotSupported) as caught:
        stand.proxied.execute(sql)
    assert caught.value.diag.message_hint


def test_explain_of_everything(stand: Stand) -> None:
    for one in [*READS, *WRITES]:
        text = Row("EXPLAIN " + one.sql, one.values)
        assert run(stand.proxied, text, "literal")[1:]
