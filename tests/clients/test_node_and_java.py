"""node-postgres and pgjdbc on a protected table: what their registries offer, run as a program."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.config.model import (
    Address,
    CatalogAccess,
    ColumnConfig,
    PostgresConfig,
    SecretRef,
    TlsClient,
)
from tests.parts.apart import Apart
from tests.parts.postgres import Postgres
from tests.parts.tap import Tap

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]

COLUMNS = {"email": "text", "born": "date", "salary": "numeric(12,2)", "doc": "jsonb"}
NODE = """
const { Client } = require('pg');
(async () => {
  const c = new Client(); await c.connect(); const out = [];
  await c.query('CREATE TABLE people (id int PRIMARY KEY, email text UNIQUE, born date, '
    + 'salary numeric(12,2), doc jsonb)');
  for (let i = 1; i <= 8; i++)
    await c.query({ name: 'add', text: 'INSERT INTO people VALUES ($1, $2, $3, $4, $5)',
      values: [i, `canary-${i}@x`, '2001-02-03', '12.50', { n: i }] });
  for (let i = 1; i <= 8; i++) {
    const r = await c.query({ name: 'get', text: 'SELECT * FROM people WHERE email = $1',
      values: [`canary-${i}@x`] });
    const p = r.rows[0];
    out.push([p.id, p.email, p.born.getFullYear(), p.salary, p.doc.n]);
  }
  out.push((await c.query({ text: "SELECT email FROM people WHERE email = ANY($1) ORDER BY id",
    values: [['canary-1@x', 'canary-2@x']], rowMode: 'array' })).rows);
  out.push((await c.query("SELECT count(DISTINCT email) AS n FROM people")).rows[0].n);
  try { await c.query('SELECT upper(email) FROM people'); } catch (e) { out.push(e.code); }
  try { await c.query("INSERT INTO people (id, email) VALUES (99, 'canary-1@x')"); }
  catch (e) { out.push(e.code); }
  await c.query('BEGIN'); await c.query("UPDATE people SET email = 'canary-z@x' WHERE id = 1");
  await c.query('ROLLBACK');
  out.push((await c.query('SELECT email FROM people WHERE id = 1')).rows[0].email);
  console.log(JSON.stringify(out)); await c.end();
})().catch(e => { console.error(e); process.exit(1); });
"""
JAVA = """
import java.sql.*;
public class Main {
  public static void main(String[] a) throws Exception {
    try (Connection c = DriverManager.getConnection(a[0], a[1], a[2])) {
      c.createStatement().execute("CREATE TABLE people (id int PRIMARY KEY, email text UNIQUE, "
        + "born date, salary numeric(12,2), doc jsonb)");
      try (PreparedStatement p = c.prepareStatement("INSERT INTO people (id, email, born, salary) "
          + "VALUES (?, ?, ?, ?)")) {
        for (int i = 1; i <= 20; i++) {
          p.setInt(1, i); p.setString(2, "canary-" + i + "@x");
          p.setDate(3, Date.valueOf("2001-02-03")); p.setBigDecimal(4, new java.math.BigDecimal("12.50"));
          p.addBatch();
        }
        p.executeBatch();
      }
      try (PreparedStatement p = c.prepareStatement("SELECT * FROM people WHERE email = ?")) {
        for (int i = 1; i <= 12; i++) {  // server-prepared from the fifth on
          p.setString(1, "canary-" + i + "@x");
          try (ResultSet r = p.executeQuery()) {
            r.next();
            System.out.println(r.getInt("id") + " " + r.getString("email") + " " + r.getDate("born")
              + " " + r.getBigDecimal("salary"));
          }
        }
      }
      c.setAutoCommit(false);
      try (Statement s = c.createStatement()) {
        s.setFetchSize(3); int n = 0;
        try (ResultSet r = s.executeQuery("SELECT email FROM people ORDER BY id")) {
          while (r.next()) { if (!r.getString(1).equals("canary-" + (++n) + "@x")) throw new Exception(); }
        }
        System.out.println(n);
      }
      c.rollback();
      try (Statement s = c.createStatement()) { s.executeQuery("SELECT upper(email) FROM people"); }
      catch (SQLException e) { System.out.println(e.getSQLState()); }
    }
  }
}
"""


@pytest.fixture
def stand() -> Iterator[tuple[Postgres, Apart, Tap, Path]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(folder, 0o755)
        server = Postgres(folder / "pg")
        server.start()
        os.environ["SG_TEST_PG"] = server.password
        with Tap("127.0.0.1", server.port) as tap:
            config = PostgresConfig(
                listen=Address(),
                upstream=Address(port=tap.port),
                upstream_tls=TlsClient(mode="disable"),
                database=server.database,
                catalog=CatalogAccess(user=server.user, password=SecretRef(env="SG_TEST_PG")),
                columns=tuple(
                    ColumnConfig(column=f"public.people.{c}", type=t, ring="app", equality=True)
                    for c, t in COLUMNS.items()
                ),
            )
            with Apart(config, folder) as proxy:
                yield server, proxy, tap, folder
        server.stop()


def needs(*names: str) -> None:
    missing = [n for n in names if shutil.which(n) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


def run(folder: Path, *words: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, **(env or {})}, capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{words[0]}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout


def test_node_postgres(stand: tuple[Postgres, Apart, Tap, Path]) -> None:
    needs("node", "npm")
    server, proxy, tap, folder = stand
    try:
        run(folder, "npm", "install", "--silent", "--no-audit", "--no-fund", "pg@8.23.1")
    except AssertionError as error:
        pytest.skip(f"needs a registry of npm packages: {error}")
    (folder / "main.js").write_text(NODE)
    env = {"PGHOST": "127.0.0.1", "PGPORT": str(proxy.port), "PGUSER": server.user,
           "PGPASSWORD": server.password, "PGDATABASE": server.database}  # fmt: skip
    seen = json.loads(run(folder, "node", "main.js", env=env))
    assert seen == [
        *([i, f"canary-{i}@x", 2001, "12.50", i] for i in range(1, 9)),
        [["canary-1@x"], ["canary-2@x"]], "8", "0A000", "23505", "canary-1@x",
    ]  # fmt: skip
    assert b"canary-" not in tap.to_server


def test_pgjdbc(stand: tuple[Postgres, Apart, Tap, Path]) -> None:
    needs("java", "javac", "mvn")
    server, proxy, tap, folder = stand
    get = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
    try:
        run(folder, "mvn", "-q", "-B", get, "-Dartifact=org.postgresql:postgresql:42.7.4",
            "-DoutputDirectory=.")  # fmt: skip
    except AssertionError as error:
        pytest.skip(f"needs a registry of Java packages: {error}")
    (folder / "Main.java").write_text(JAVA)
    run(folder, "javac", "Main.java")
    url = f"jdbc:postgresql://127.0.0.1:{proxy.port}/{server.database}"
    out = run(folder, "java", "-cp", f".:{next(folder.glob('postgresql-*.jar'))}", "Main", url,
              server.user, server.password)  # fmt: skip
    expected = [f"{i} canary-{i}@x 2001-02-03 12.50" for i in range(1, 13)]
    assert out.splitlines() == [*expected, "20", "0A000"]
    assert b"canary-" not in tap.to_server
