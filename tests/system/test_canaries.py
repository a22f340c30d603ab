"""Every way to write or search a protected value, each with a random canary that the server never sees.

Looked through afterwards: the recorded server leg, the server's log (log_statement = all, with
parameters), pg_stat_statements, pg_stats after ANALYZE, and every file of the cluster, WAL included.
"""

import os
import secrets
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import pq

from proxy.config.model import (
    Address,
    CatalogAccess,
    ColumnConfig,
    PostgresConfig,
    SecretRef,
    TlsClient,
)
from tests.differential.wire import Side, state_of
from tests.parts.apart import Apart
from tests.parts.canary_statements import BEFORE, RARE
from tests.parts.postgres import Postgres
from tests.parts.tap import Tap

pytestmark = pytest.mark.system

COLUMNS = {"email": "text", "name": "varchar(60)", "born": "date", "num": "bigint", "doc": "jsonb",
           "blob": "bytea"}  # fmt: skip
CREATE = ("CREATE TABLE people (id serial PRIMARY KEY, email text UNIQUE, name varchar(60), born date, "
          "num bigint, doc jsonb, blob bytea, plain text)")  # fmt: skip

# {c} is the canary; what is between --- is sent as one text by the simple protocol
SIMPLE = {
    "a literal": "INSERT INTO people (email) VALUES ('{c}')",
    "an escape string": "INSERT INTO people (email) VALUES (E'{c}\\n')",
    "a dollar-quoted string": "INSERT INTO people (email) VALUES ($x${c}$x$)",
    "a Unicode string": "INSERT INTO people (email) VALUES (U&'{c}\\0041')",
    "strings that are put together": "INSERT INTO people (email) VALUES ('{c}'\n'more')",
    "a cast": "INSERT INTO people (email, name) VALUES ('{c}'::text, CAST('{c}' AS varchar))",
    "several rows": "INSERT INTO people (email, name) VALUES ('{c}1', NULL), (NULL, '{c}2')",
    "by position": "INSERT INTO people VALUES (DEFAULT, '{c}')",
    "jsonb": "INSERT INTO people (doc) VALUES ('{{\"k\": \"{c}\"}}')",
    "bytea as text": "INSERT INTO people (blob) VALUES ('{c}')",
    "bytea as hex": "INSERT INTO people (blob) VALUES ('\\x{h}')",
    "RETURNING": "INSERT INTO people (email) VALUES ('{c}') RETURNING email, *",
    "INSERT … SELECT": "INSERT INTO people (email) SELECT '{c}'",
    "INSERT … SELECT … UNION": "INSERT INTO people (email) SELECT '{c}' UNION ALL SELECT '{c}x'",
    "INSERT … SELECT unnest": "INSERT INTO people (email) SELECT unnest('{{{c},{c}x}}'::text[])",
    "INSERT … SELECT from unnest": "INSERT INTO people (email) SELECT * FROM unnest(ARRAY['{c}'])",
    "INSERT … SELECT from VALUES": "INSERT INTO people (email) SELECT a FROM (VALUES ('{c}')) v(a)",
    "INSERT … a CASE": "INSERT INTO people (email) VALUES (CASE WHEN true THEN '{c}' ELSE 'x' END)",
    "INSERT … a concatenation": "INSERT INTO people (email) VALUES ('{c}' || 'x')",
    "INSERT … a function": "INSERT INTO people (email) VALUES (lower('{c}'))",
    "INSERT … COALESCE": "INSERT INTO people (email) VALUES (COALESCE('{c}', 'x'))",
    "INSERT … a sub-select": "INSERT INTO people (email) VALUES ((SELECT '{c}'))",
    "ON CONFLICT DO NOTHING": "INSERT INTO people (email) VALUES ('{c}') ON CONFLICT (email) DO NOTHING",
    "ON CONFLICT DO UPDATE": "INSERT INTO people (id, email) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE "
    "SET email = '{c}'",
    "ON CONFLICT DO UPDATE WHERE": "INSERT INTO people (email) VALUES ('y') ON CONFLICT (email) DO UPDATE "
    "SET name = '{c}' WHERE people.email <> '{c}'",
    "UPDATE": "UPDATE people SET email = '{c}' WHERE id = 1",
    "UPDATE of several": "UPDATE people SET (email, name) = ('{c}', '{c}') WHERE id = 1",
    "UPDATE from a row": "UPDATE people SET (email, name) = (SELECT '{c}', '{c}') WHERE id = 1",
    "UPDATE … FROM": "UPDATE people SET email = v.a FROM (VALUES (1, '{c}')) v(i, a) WHERE id = v.i",
    "UPDATE by value": "UPDATE people SET plain = 'x' WHERE email = '{c}'",
    "DELETE by value": "DELETE FROM people WHERE email = '{c}'",
    "WITH that inserts": "WITH w AS (INSERT INTO people (email) VALUES ('{c}') RETURNING email) "
    "SELECT * FROM w",
    "WITH of values": "WITH w AS (SELECT '{c}' AS e) INSERT INTO people (email) SELECT e FROM w",
    "WITH of VALUES": "WITH w (e) AS (VALUES ('{c}')) INSERT INTO people (email) SELECT e FROM w",
    "MERGE": "MERGE INTO people USING (SELECT 1 AS i) s ON id = s.i WHEN MATCHED THEN UPDATE SET "
    "email = '{c}' WHEN NOT MATCHED THEN INSERT (email) VALUES ('{c}')",
    "MERGE from values": "MERGE INTO people p USING (VALUES ('{c}')) s(e) ON p.email = s.e "
    "WHEN NOT MATCHED THEN INSERT (email) VALUES (s.e)",
    "several statements": "SELECT 1; INSERT INTO people (email) VALUES ('{c}'); SELECT 2",
    "PREPARE with a literal": "PREPARE p1 AS INSERT INTO people (email) VALUES ('{c}'); EXECUTE p1; "
    "DEALLOCATE p1",
    "PREPARE and EXECUTE": "PREPARE p2 AS INSERT INTO people (email) VALUES ($1); EXECUTE p2('{c}'); "
    "DEALLOCATE p2",
    "PREPARE with types": "PREPARE p3 (text) AS INSERT INTO people (email) VALUES ($1); "
    "EXECUTE p3('{c}'); DEALLOCATE p3",
    "EXPLAIN": "EXPLAIN ANALYZE INSERT INTO people (email) VALUES ('{c}')",
    "DO": "DO $$ BEGIN INSERT INTO people (email) VALUES ('{c}'); END $$",
    "CREATE FUNCTION": "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS "
    "$$ INSERT INTO people (email) VALUES ('{c}') $$",
    "a function with an atomic body": "CREATE FUNCTION g() RETURNS void BEGIN ATOMIC "
    "INSERT INTO people (email) VALUES ('{c}'); END",
    "CREATE TABLE AS": "CREATE TEMP TABLE t1 AS SELECT * FROM people WHERE email = '{c}'",
    "SELECT INTO": "SELECT email INTO TEMP t2 FROM people WHERE email = '{c}'",
    "a column DEFAULT": "ALTER TABLE people ALTER COLUMN email SET DEFAULT '{c}'",
    "a CHECK": "ALTER TABLE people ADD CHECK (email <> '{c}')",
    "a partial index": "CREATE INDEX ON people (id) WHERE email = '{c}'",
    "a view": "CREATE VIEW vv AS SELECT id FROM people WHERE email = '{c}'",
    "a policy": "CREATE POLICY pp ON people USING (email = '{c}')",
    "a trigger": "CREATE TRIGGER tt BEFORE UPDATE ON people FOR EACH ROW WHEN (NEW.email = '{c}') "
    "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "a rule": "CREATE RULE rr AS ON DELETE TO people DO ALSO INSERT INTO people (email) VALUES ('{c}')",
    "a cursor": "BEGIN; DECLARE cu CURSOR FOR SELECT * FROM people WHERE email = '{c}'; FETCH cu; COMMIT",
    "equality": "SELECT * FROM people WHERE email = '{c}'",
    "equality from the left": "SELECT * FROM people WHERE '{c}' = email",
    "a cast of the operand": "SELECT * FROM people WHERE email = '{c}'::varchar",
    "IN": "SELECT * FROM people WHERE email IN ('{c}', 'x', '{c}y')",
    "ANY": "SELECT * FROM people WHERE email = ANY('{{{c}}}')",
    "ANY of ARRAY": "SELECT * FROM people WHERE email = ANY(ARRAY['{c}', 'x'])",
    "a row": "SELECT * FROM people WHERE (id, email) = (1, '{c}')",
    "rows": "SELECT * FROM people WHERE (id, email) IN ((1, '{c}'), (2, '{c}'))",
    "IS DISTINCT FROM": "SELECT * FROM people WHERE email IS DISTINCT FROM '{c}'",
    "LIKE": "SELECT * FROM people WHERE email LIKE '%{c}%'",
    "ILIKE": "SELECT * FROM people WHERE email ILIKE '{c}%'",
    "SIMILAR TO": "SELECT * FROM people WHERE email SIMILAR TO '{c}'",
    "a regular expression": "SELECT * FROM people WHERE email ~ '{c}'",
    "a range": "SELECT * FROM people WHERE email > '{c}'",
    "BETWEEN": "SELECT * FROM people WHERE email BETWEEN '{c}' AND '{c}z'",
    "a function of the column": "SELECT * FROM people WHERE lower(email) = lower('{c}')",
    "CASE": "SELECT CASE email WHEN '{c}' THEN 1 END FROM people",
    "CASE with a condition": "SELECT CASE WHEN email = '{c}' THEN 1 END FROM people",
    "COALESCE": "SELECT COALESCE(email, '{c}') FROM people",
    "NULLIF": "SELECT NULLIF(email, '{c}') FROM people",
    "HAVING": "SELECT email, count(*) FROM people GROUP BY email HAVING email = '{c}'",
    "a FILTER": "SELECT count(*) FILTER (WHERE email = '{c}') FROM people",
    "a join condition": "SELECT * FROM people a JOIN people b ON a.email = b.email AND a.email = '{c}'",
    "EXISTS": "SELECT 1 WHERE EXISTS (SELECT 1 FROM people WHERE email = '{c}')",
    "a sub-select": "SELECT id FROM (SELECT id, email FROM people) s WHERE s.email = '{c}'",
    "UNION with a literal": "SELECT email FROM people UNION ALL SELECT '{c}'",
    "a column that is not there": "INSERT INTO people (emial) VALUES ('{c}')",
    "an update of a column that is not there": "UPDATE people SET emial = '{c}'",
    "a comparison with a column that is not there": "SELECT * FROM people WHERE emial = '{c}'",
    "a comparison with one in a sub-select": "SELECT 1 "
    "FROM people WHERE EXISTS (SELECT 1 WHERE emial = '{c}')",
    "a deletion by a column that is not there": "DELETE FROM people WHERE emial = '{c}'",
    "a name of other case": "UPDATE \"PEOPLE\" SET email = '{c}'",
    "a schema that is not there": "INSERT INTO publik.people (email) VALUES ('{c}')",
    "EXECUTE of what is not there": "EXECUTE nowhere('{c}')",
    "EXPLAIN EXECUTE of what is not there": "EXPLAIN EXECUTE nowhere('{c}')",
    "CREATE TABLE AS EXECUTE of what is not there": "CREATE TEMP TABLE t3 AS EXECUTE nowhere('{c}')",
    "a syntax error": "INSERT INTO people (email) VALUS ('{c}')",
    "too many values": "INSERT INTO people (email) VALUES ('{c}', '{c}')",
    "not a date": "INSERT INTO people (born) VALUES ('{c}')",
    "not a number": "SELECT * FROM people WHERE num = '{c}'",
    "too long": "INSERT INTO people (name) VALUES ('{c}{c}{c}{c}{c}')",
    "a duplicate": "INSERT INTO people (email) VALUES ('{c}'), ('{c}')",
}  # fmt: skip
EXTENDED = {
    "INSERT": "INSERT INTO people (email, name) VALUES ($1, $1)",
    "INSERT with casts": "INSERT INTO people (email) VALUES ($1::varchar)",
    "INSERT … SELECT": "INSERT INTO people (email) SELECT $1::text",
    "UPDATE in two roles": "UPDATE people SET email = $1 WHERE email = $1",
    "equality": "SELECT * FROM people WHERE email = $1",
    "IS NOT DISTINCT FROM": "SELECT * FROM people WHERE email IS NOT DISTINCT FROM $1",
    "LIKE": "SELECT * FROM people WHERE email LIKE $1",
    "a concatenated LIKE": "SELECT * FROM people WHERE email LIKE '%' || $1 || '%'",
    "a function": "SELECT * FROM people WHERE lower(email) = lower($1)",
    "COALESCE": "UPDATE people SET email = COALESCE($1, email)",
    "CASE": "UPDATE people SET email = CASE WHEN id = 1 THEN $1 ELSE email END",
    "ON CONFLICT": "INSERT INTO people (id, email) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET "
    "email = excluded.email, name = $1",
    "a date": "INSERT INTO people (born) VALUES ($1)",
    "an unknown column": "INSERT INTO people (emial) VALUES ($1)",
}  # fmt: skip
COPIES = {
    "text": "COPY people (email, name) FROM STDIN",
    "csv": "COPY people (email, name) FROM STDIN WITH (FORMAT csv)",
    "csv with a header": "COPY people (email, name) FROM STDIN WITH (FORMAT csv, HEADER)",
    "binary": "COPY people (email, name) FROM STDIN WITH (FORMAT binary)",
    "filtered": "COPY people (email, name) FROM STDIN WHERE email <> '{c}'",
}


class Stand:
    def __init__(self, server: Postgres, proxy: Apart, tap: Tap) -> None:
        self.server = server
        self.tap = tap
        self.log = proxy.log
        self.side = Side(server.dsn().replace(f"port={server.port}", f"port={proxy.port}"))
        self.canaries: dict[str, str] = {}
        self.done: list[str] = []

    def canary(self, what: str) -> str:
        self.canaries[what] = "canary" + secrets.token_hex(9)
        return self.canaries[what]

    def note(self, what: str, sqlstate: str) -> None:
        if not sqlstate:
            self.done.append(what)
        assert sqlstate not in ("08006", "XX000", "57P02"), f"{what}: {sqlstate}"
        self.side.simple("ROLLBACK")


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        server = Postgres(Path(folder) / "pg")
        server.settings = {
            "log_statement": "all", "log_min_duration_statement": "0", "log_min_messages": "debug1",
            "log_error_verbosity": "verbose", "log_parameter_max_length_on_error": "-1",
            "shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "all",
            "wal_level": "logical",
        }  # fmt: skip
        server.start()
        os.environ["SG_TEST_PG"] = server.password
        with psycopg.connect(server.dsn(), autocommit=True) as c:
            c.execute("CREATE EXTENSION pg_stat_statements")
        with Tap("127.0.0.1", server.port) as tap:
            config = PostgresConfig(
                listen=Address(),
                upstream=Address(port=tap.port),
                upstream_tls=TlsClient(mode="disable"),
                database=server.database,
                catalog=CatalogAccess(user=server.user, password=SecretRef(env="SG_TEST_PG")),
                columns=tuple(
                    ColumnConfig(column=f"public.people.{n}", type=t, ring="app", equality=True)
                    for n, t in COLUMNS.items()
                ),
            )
            with Apart(config, Path(folder)) as proxy:
                made = Stand(server, proxy, tap)
                assert made.side.simple(CREATE).error is None
                assert made.side.simple(BEFORE).error is None
                made.side.simple("SELECT setval('people_id_seq', 1000)")  # 1 is written by number
                yield made
                made.side.close()
        server.stop()


@pytest.mark.parametrize("what", SIMPLE)
def test_simple(stand: Stand, what: str) -> None:
    c = stand.canary(f"simple, {what}")
    error = stand.side.simple(SIMPLE[what].format(c=c, h=c.encode().hex())).error
    stand.note(f"simple, {what}", error.sqlstate if error else "")


@pytest.mark.parametrize("sql", RARE)
def test_rare(stand: Stand, sql: str) -> None:
    c = stand.canary(f"rare, {sql}")
    error = stand.side.simple(sql.format(c=c)).error
    stand.note(f"rare, {sql}", error.sqlstate if error else "")


@pytest.mark.parametrize("form", [0, 1], ids=["text", "binary"])
@pytest.mark.parametrize("what", EXTENDED)
def test_extended(stand: Stand, what: str, form: int) -> None:
    name = f"extended {form}, {what}"
    c = stand.canary(name).encode()
    stand.side.conn.send_query_params(EXTENDED[what].encode(), [c], None, [form])
    stand.note(name, state_of(stand.side.last()))


@pytest.mark.parametrize("what", COPIES)
def test_copy_in(stand: Stand, what: str) -> None:
    name = f"COPY, {what}"
    c = stand.canary(name)
    data = {
        "text": f"{c}\t{c}\n",
        "csv": f'"{c}",{c}\n',
        "csv with a header": f"email,name\n{c},{c}\n",
    }
    field = struct.pack("!i", len(c)) + c.encode()
    binary = b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\0\2" + field * 2 + b"\xff\xff"
    sent = binary if what == "binary" else data.get(what, data["text"]).encode()
    for step in (len(sent), 7):
        stand.side.simple("DELETE FROM people")
        state = stand.side.copy_in(COPIES[what].format(c=c), sent, step)
        stand.note(name, state)


def test_a_value_for_a_statement_that_is_not_there(stand: Stand) -> None:
    c = stand.canary("Bind of an unknown statement").encode()
    stand.side.conn.send_query_prepared(b"nowhere", [c])
    assert state_of(stand.side.last()) == "26000"


def test_a_value_for_a_statement_that_was_closed(stand: Stand) -> None:
    c = stand.canary("Bind of a closed statement").encode()
    stand.side.conn.send_prepare(b"was", b"INSERT INTO people (email) VALUES ($1)")
    stand.side.last()
    stand.side.simple("DEALLOCATE ALL")
    stand.side.conn.send_query_prepared(b"was", [c])
    assert state_of(stand.side.last()) == "26000"


@pytest.mark.parametrize("end", ["DEALLOCATE ALL", "DEALLOCATE plain", "DISCARD ALL", "Close"])
def test_a_value_for_a_name_that_was_a_plain_statements(stand: Stand, end: str) -> None:
    conn = stand.side.conn
    conn.send_prepare(b"plain", b"SELECT $1::text")
    stand.side.last()
    if end != "DISCARD ALL":  # where it is forbidden
        for sql in ("BEGIN", "SELECT 1/0", "DEALLOCATE ALL", "ROLLBACK"):  # nothing of this happens
            stand.side.simple(sql)
        conn.send_query_prepared(b"plain", [b"harmless"])
        assert state_of(stand.side.last()) == ""
    if end == "Close":
        conn.send_close_prepared(b"plain")
        stand.side.last()
    else:
        assert stand.side.simple(end).error is None
    c = stand.canary(f"Bind of a plain statement that is gone by {end}").encode()
    conn.send_query_prepared(b"plain", [c])
    assert state_of(stand.side.last()) == "26000"


def test_too_many_parameters(stand: Stand) -> None:
    c = stand.canary("Bind with too many parameters").encode()
    stand.side.conn.send_prepare(b"one", b"INSERT INTO people (email) VALUES ($1)")
    stand.side.last()
    stand.side.conn.send_query_prepared(b"one", [c, c])
    assert state_of(stand.side.last()) == "08P01"


def test_numbers_and_dates(stand: Stand) -> None:
    """Values without a text of their own: looked for as numbers in text and binary below."""
    number = 2**62 + secrets.randbits(61)
    stand.canaries["a bigint"] = str(number)
    raw = struct.pack("!q", number)
    stand.canaries["a bigint in binary"] = raw.hex()
    assert (
        stand.side.simple(f"INSERT INTO people (num, email) VALUES ({number}, NULL)").error is None
    )
    stand.side.conn.send_query_params(
        b"INSERT INTO people (num, email) VALUES ($1, NULL)", [raw], None, [1]
    )
    assert state_of(stand.side.last()) == ""
    stand.side.conn.send_query_params(
        b"SELECT num FROM people WHERE num = $1", [raw], None, [1], pq.Format.BINARY
    )
    result = stand.side.last()
    assert result.ntuples == 2 and result.get_value(0, 0) == raw


def test_none_of_them_was_seen(stand: Stand) -> None:
    """Runs after the others: looks for every canary everywhere."""
    assert len(stand.canaries) > 100
    assert not _look(stand)
    print(f"{len(stand.done)} of {len(stand.canaries)} were executed, the others refused")


def _look(stand: Stand) -> list[str]:
    """`what: in place` for every canary that is anywhere."""
    with psycopg.connect(stand.server.dsn(), autocommit=True) as c:
        c.execute("ANALYZE people")
        c.execute("CHECKPOINT")
        views = ["SELECT query FROM pg_stat_statements", "SELECT s::text FROM pg_stats s",
                 "SELECT p::text FROM pg_prepared_statements p", "SELECT a::text FROM pg_stat_activity a",
                 "SELECT prosrc FROM pg_proc"]  # fmt: skip
        shown = "\n".join(str(row[0]) for view in views for row in c.execute(view).fetchall())
    places = {
        "the server leg": bytes(stand.tap.to_server),
        "the server's views": shown.encode(),
        "the server's log": (stand.server.folder / "server.log").read_bytes(),
        "the proxy's log": stand.log.read_bytes(),
    }
    data = stand.server.folder / "data"
    for folder in ("pg_wal", "base", "pg_stat", "global", "pg_logical"):
        for file in (data / folder).rglob("*"):
            if file.is_file():
                places[f"the cluster's {file.relative_to(data)}"] = file.read_bytes()
    seen = []
    for what, canary in stand.canaries.items():
        needles = [canary.encode(), canary.encode().hex().encode()]
        if what.endswith("in binary"):
            needles = [bytes.fromhex(canary)]
        seen += [
            f"{what}: in {place}"
            for place, content in places.items()
            if any(needle in content for needle in needles)
        ]
    return seen
