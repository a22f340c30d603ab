"""Searches through the proxy give what plain columns give directly, on a real server, and use an index."""

import os
import random
import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
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
from tests.parts.keyring import rotated_keys, software_keys
from tests.parts.listening import Listening
from tests.parts.pair import Pair
from tests.parts.postgres import Postgres
from tests.parts.tap import Tap

pytestmark = pytest.mark.system
SEED = 20261124
FOLDER: list[Path] = []  # of the keys
ORDERED = {
    "i2": "int2", "i4": "int4", "i8": "int8", "num": "numeric(9,2)", "f8": "float8", "d": "date",
    "tm": "time", "ts": "timestamp", "tz": "timestamptz",
}  # fmt: skip
WORDS = ["Ada", "ada", "ADA", "Straße", "STRASSE", "straße", "ŁÓDŹ", "łódź", "İstanbul", "", " ", "ǆ", "ǅ",
         "Ǆ", "ΣΑΣ", "σας", "σασ", "k", "K", "ﬁ", "É", "E\u0301", "x y"]  # fmt: skip


def columns() -> tuple[ColumnConfig, ...]:
    made = [
        ColumnConfig(column=f"public.sealed.{name}", type=kind, ring="app", order=True)
        for name, kind in ORDERED.items()
    ]
    made[5] = made[5].model_copy(update={"equality": True})  # d: keys, groups and joins, too
    for table, layout in (("words", "generated"), ("flat", "expression")):
        for transform in ("lower", "upper", "nfc"):
            made.append(
                ColumnConfig(
                    column=f"public.{table}.{transform}",
                    type="text",
                    ring="app",
                    equality=True,
                    transform=transform,
                    layout=layout,
                )  # fmt: skip
            )
    return tuple(made)


def config(server: Postgres, port: int) -> PostgresConfig:
    os.environ["SG_TEST_PG"] = server.password
    return PostgresConfig(
        listen=Address(), upstream=Address(port=port), upstream_tls=TlsClient(mode="disable"),
        database=server.database,
        catalog=CatalogAccess(user=server.user, password=SecretRef(env="SG_TEST_PG")),
        columns=columns(),
    )  # fmt: skip


def value_of(kind: str, draw: random.Random) -> Any:
    near = draw.random() < 0.5
    if kind in ("int2", "int4", "int8"):
        most = 2 ** (8 * int(kind[3]) - 1)
        return (
            draw.randint(-5, 5)
            if near
            else draw.choice([-most, most - 1, draw.randrange(-most, most)])
        )
    if kind.startswith("numeric"):
        if near:
            return Decimal(draw.randint(-300, 300)) / 100
        return draw.choice(
            [Decimal("9999999.99"), Decimal("-9999999.99"), Decimal("NaN"), Decimal(0)]
        )
    if kind == "float8":
        return draw.choice(
            [0.0, -0.0, 1.5, -1.5, 5e-324, 1e300, float("inf"), float("-inf"), float("nan")]
        )
    day = date(2000, 1, 1) + timedelta(
        days=draw.randint(-3, 3) if near else draw.randint(-9000, 9000)
    )
    clock = time(
        draw.randint(0, 23), draw.randint(0, 59), draw.randint(0, 59), draw.choice([0, 1, 999999])
    )
    if kind == "date":
        return day
    if kind == "time":
        return clock
    return datetime.combine(day, clock, UTC if kind == "timestamptz" else None)


@pytest.fixture(scope="module")
def stack() -> Iterator[tuple[Postgres, Pair, Tap]]:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        server = Postgres(Path(folder) / "pg")
        server.start()
        with (
            Tap("127.0.0.1", server.port) as tap,
            Listening(config(server, tap.port), lambda: software_keys(Path(folder))) as proxy,
        ):
            FOLDER[:] = [Path(folder)]
            pair = Pair(server, proxy.port)
            listed = ", ".join(f"{name} {kind}" for name, kind in ORDERED.items())
            pair.direct.execute(f"CREATE TABLE plain (id int PRIMARY KEY, {listed})")
            pair.through.execute(f"CREATE TABLE sealed (id int PRIMARY KEY, {listed})")
            fill(pair)
            yield server, pair, tap
            pair.close()
        server.stop()


def fill(pair: Pair) -> None:
    draw = random.Random(SEED)
    marks = ", ".join(["%s"] * (len(ORDERED) + 1))
    for i in range(120):
        row = [None if draw.random() < 0.1 else value_of(kind, draw) for kind in ORDERED.values()]
        pair.direct.execute(f"INSERT INTO plain VALUES ({marks})", [i, *row])
        pair.through.execute(f"INSERT INTO sealed VALUES ({marks})", [i, *row])


@pytest.fixture
def pair(stack: tuple[Postgres, Pair, Tap]) -> Pair:
    return stack[1]


@pytest.mark.parametrize(("name", "kind"), ORDERED.items())
def test_comparisons_by_order(pair: Pair, name: str, kind: str) -> None:
    draw = random.Random(SEED + 1)
    for _ in range(12):
        v, w = value_of(kind, draw), value_of(kind, draw)
        for sign in ("<", "<=", ">", ">=", "=", "<>"):
            pair.same(
                f"SELECT id, {name} FROM {{t}} WHERE {name} {sign} %s::{kind} ORDER BY id", [v]
            )
        pair.same(f"SELECT id FROM {{t}} WHERE %s::{kind} >= {name} ORDER BY id", [v], binary=True)
        pair.same(
            f"SELECT id FROM {{t}} WHERE {name} BETWEEN %s::{kind} AND %s::{kind} ORDER BY id",
            [v, w],
        )
        pair.same(
            f"SELECT id FROM {{t}} WHERE NOT {name} BETWEEN %s::{kind} AND %s::{kind} ORDER BY id",
            [v, w],
        )
        pair.same(f"SELECT id FROM {{t}} WHERE {name} NOT BETWEEN %s::{kind} AND %s::{kind} OR id < 5 "
                  "ORDER BY id", [v, w], binary=True)  # fmt: skip
    for sign in ("<", ">="):
        pair.same(f"SELECT id FROM {{t}} WHERE {name} {sign} NULL", [])
        pair.same(f"SELECT count(*) FROM {{t}} WHERE NOT {name} {sign} %s::{kind}", [None])


@pytest.mark.parametrize("name", ORDERED)
def test_sorting_and_extremes(pair: Pair, name: str) -> None:
    for way in ("", "ASC NULLS FIRST", "DESC", "DESC NULLS LAST"):
        pair.same(f"SELECT {name}, id FROM {{t}} ORDER BY {name} {way}, id", [])
        pair.same(f"SELECT {name} AS v, id FROM {{t}} ORDER BY v {way}, 2 LIMIT 9", [], binary=True)
    pair.same(f"SELECT min({name}), max({name}) FROM {{t}}", [])
    pair.same(f"SELECT max({name}) FILTER (WHERE id > 9999), count(*) FROM {{t}}", [])
    pair.same(
        f"SELECT mod(id, 3), min({name}) AS low FROM {{t}} GROUP BY mod(id, 3) ORDER BY 1", []
    )
    pair.same(f"SELECT id, rank() OVER (ORDER BY {name}) FROM {{t}} ORDER BY id", [])
    pair.same(
        f"SELECT a.id, b.id FROM {{t}} a JOIN {{t}} b ON a.{name} < b.{name} WHERE b.id < 4 ORDER BY 1, 2",
        [],
    )
    got = pair.through.execute(f"SELECT min({name}) FROM sealed").description
    want = pair.direct.execute(f"SELECT min({name}) FROM plain").description
    assert got is not None
    assert want is not None
    assert (got[0].name, got[0].type_code) == (want[0].name, want[0].type_code)


def test_searches_in_every_kind_of_statement(pair: Pair) -> None:
    """Order tokens are exact, so nothing is refused around them."""
    day = date(2000, 1, 2)
    for sql, values in (
        ("SELECT count(*) FROM {t} WHERE d < %s OR i4 > %s", [day, 0]),
        ("SELECT a.id FROM {t} a WHERE EXISTS (SELECT 1 FROM {t} b WHERE b.d < a.d AND b.i4 >= %s) "
         "ORDER BY 1", [3]),
        ("SELECT id FROM (SELECT id, ts AS moment FROM {t}) s WHERE s.moment >= %s ORDER BY id", [day]),
        ("WITH x AS (SELECT id, num FROM {t}) SELECT id FROM x WHERE num < %s "
         "ORDER BY num DESC, 1 LIMIT 4", [1]),
        ("SELECT m FROM (SELECT max(d) AS m FROM {t}) s WHERE m >= %s", [day]),
        ("SELECT CASE WHEN d < %s THEN 'old' ELSE 'new' END, count(*) FROM {t} GROUP BY 1 ORDER BY 1", [day]),
        ("SELECT count(*) FILTER (WHERE f8 > %s), sum(id) FROM {t} WHERE NOT (d >= %s AND id < 50)",
         [0, day]),
        ("SELECT id FROM {t} a WHERE a.id IN (SELECT id FROM {t} WHERE tm < %s) ORDER BY id", [time(12)]),
        ("UPDATE {t} SET id = id WHERE d BETWEEN %s AND %s RETURNING id, d", [day, day]),
        ("DELETE FROM {t} WHERE i8 < %s AND d IS NULL RETURNING id", [-(2**40)]),
        ("SELECT DISTINCT id FROM {t} WHERE i2 <= %s ORDER BY id LIMIT 5", [7]),
        ("SELECT id FROM {t} WHERE (d, id) = (d, 5) OR d > ANY (SELECT d FROM {t} WHERE id < 0)", []),
    ):  # fmt: skip
        try:
            pair.same(sql, values, forms="RETURNING" not in sql)
        except psycopg.errors.FeatureNotSupported as refused:
            assert "ANY" in sql, (sql, refused)


def test_groups_and_joins_of_an_ordered_column(pair: Pair) -> None:
    for sql in (
        "SELECT d, count(*) FROM {t} GROUP BY d ORDER BY d DESC NULLS LAST",
        "SELECT count(*), max(d) AS last, d AS day FROM {t} WHERE d >= '2000-01-01' GROUP BY d "
        "ORDER BY day LIMIT 3",
        "SELECT a.id, b.id FROM {t} a JOIN {t} b ON a.d = b.d AND a.id < b.id ORDER BY 1, 2",
        "SELECT DISTINCT ON (id) id, d FROM {t} ORDER BY id, d DESC",
        "SELECT d FROM {t} WHERE d = (SELECT max(d) FROM {t}) ORDER BY id",
    ):
        pair.same(sql, [])


def test_operands_that_no_value_of_the_column_can_be(pair: Pair) -> None:
    for sql, value in (
        ("i2 < %s", 70000), ("i2 >= %s", -70000), ("i4 > %s", 2**40), ("i4 <= %s", 2**40),
        ("i4 < %s", Decimal("1.5")), ("i4 >= %s", Decimal("-1.5")), ("i8 > %s", Decimal("1e30")),
        ("num < %s", Decimal("1.005")), ("num >= %s", Decimal("1.005")), ("num > %s", Decimal("1e9")),
        ("num <= %s", Decimal("NaN")), ("num < %s", 3), ("ts < %s", date(2000, 1, 2)),
        ("tz >= %s", date(2000, 1, 2)), ("tz >= %s", datetime(2000, 1, 2, 3)), ("i4 < %s", 1.5),
        ("i2 >= %s", -2.0), ("i4 > %s", 1e300), ("i4 <= %s", float("nan")), ("f8 < %s", Decimal("1.5")),
        ("f8 > %s", 2**62), ("i4 < %s", float("-inf")),
    ):  # fmt: skip
        pair.same(f"SELECT id FROM {{t}} WHERE {sql} ORDER BY id", [value])
        pair.same(
            f"SELECT id FROM {{t}} WHERE {sql} ORDER BY id", [value], binary=True, forms=False
        )


def test_operands_that_the_server_would_compare_otherwise_are_refused(pair: Pair) -> None:
    for sql, value in (
        ("ts < %s", datetime(2000, 1, 2, tzinfo=UTC)), ("d < %s", datetime(2000, 1, 2)), ("num < %s", 1.5),
        ("i8 < %s", 1.5), ("tm < %s", date(2000, 1, 2)),
    ):  # fmt: skip
        literal = [] if isinstance(value, float) else [psycopg.ClientCursor(pair.through)]  # 1.5: numeric
        for cursor in (pair.through.cursor(), *literal):
            with pytest.raises(psycopg.errors.FeatureNotSupported):
                cursor.execute(f"SELECT id FROM sealed WHERE {sql}", [value])


def test_a_wildcard_in_a_parameter_is_refused_when_it_is_bound(pair: Pair) -> None:
    pair.through.execute("CREATE TABLE IF NOT EXISTS words (id int, lower text, upper text, nfc text)")
    for like in ("LIKE", "NOT ILIKE"):
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="wildcards"):
            pair.through.execute(f"SELECT id FROM words WHERE lower {like} %s", ["a%"])


def test_a_bad_operand_has_the_servers_own_error(pair: Pair) -> None:
    for connection, table in ((pair.direct, "plain"), (pair.through, "sealed")):
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            connection.execute(f"SELECT 1 FROM {table} WHERE i4 < 'x'")
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            connection.execute(f"SELECT 1 FROM {table} WHERE i4 < '1.5'")


def test_the_order_is_served_by_an_index(pair: Pair) -> None:
    pair.through.execute("CREATE INDEX by_d ON sealed (d)")
    pair.direct.execute("ANALYZE sealed")
    with pair.through.transaction():
        pair.through.execute("SET LOCAL enable_seqscan = off")
        for sql in ("d BETWEEN '2000-01-01' AND '2000-01-03'", "d < '1999-01-01'", "d >= %s"):
            values = [date(2000, 1, 1)] if "%s" in sql else []
            shown = pair.through.execute(
                f"EXPLAIN SELECT id FROM sealed WHERE {sql}", values
            ).fetchall()
            assert any("by_d" in line for (line,) in shown), shown
        shown = pair.through.execute("EXPLAIN SELECT id FROM sealed ORDER BY d LIMIT 3").fetchall()
        assert any("Index Scan using by_d" in line for (line,) in shown), shown
        assert not any("Sort" in line for (line,) in shown), shown


def test_after_a_rotation_old_and_new_rows_are_in_one_order(
    stack: tuple[Postgres, Pair, Tap],
) -> None:
    """Index keys come from the ring's first version: order, tags and joins hold across versions."""
    server, _, tap = stack
    with Listening(config(server, tap.port), lambda: rotated_keys(FOLDER[0])) as proxy:
        after = Pair(server, proxy.port)
        for table, connection in (("plain", after.direct), ("sealed", after.through)):
            connection.execute(f"INSERT INTO {table} (id, i4, d) VALUES (1000, 2, '2000-01-02')")
        ids = after.direct.execute(
            "SELECT count(DISTINCT substring(i4 from 94 for 8)) FROM sealed WHERE i4 IS NOT NULL"
        ).fetchone()
        assert ids == (2,), "rows under two versions of the key"
        after.same("SELECT id, i4 FROM {t} WHERE i4 < %s ORDER BY i4, id", [3])
        after.same(
            "SELECT id, d FROM {t} WHERE d BETWEEN %s AND %s ORDER BY d DESC, id",
            [date(2000, 1, 1), date(2000, 1, 3)],
        )
        after.same("SELECT min(d), max(i4) FROM {t}", [])
        after.same("SELECT id FROM {t} WHERE d = %s ORDER BY id", [date(2000, 1, 2)])
        after.same("SELECT d, count(*) FROM {t} GROUP BY d ORDER BY d", [])
        after.same("SELECT a.id, b.id FROM {t} a JOIN {t} b ON a.d = b.d WHERE b.id = 1000 ORDER BY 1", [])
        after.same("SELECT count(DISTINCT d) FROM {t}", [])
        for table, connection in (("plain", after.direct), ("sealed", after.through)):
            connection.execute(f"DELETE FROM {table} WHERE id = 1000")
        after.close()


@pytest.mark.parametrize("table", ["words", "flat"])
@pytest.mark.parametrize(("transform", "call"), [
    ("lower", 'lower({c} COLLATE "pg_c_utf8")'), ("upper", 'upper({c} COLLATE "pg_c_utf8")'),
    ("nfc", "normalize({c})"),
])  # fmt: skip
def test_transformed_equality(pair: Pair, table: str, transform: str, call: str) -> None:
    pair.through.execute(
        f"CREATE TABLE IF NOT EXISTS {table} (id int, lower text, upper text, nfc text)"
    )
    pair.through.execute(f"DELETE FROM {table}")
    pair.direct.execute("DROP TABLE IF EXISTS w")
    pair.direct.execute("CREATE TABLE w (id int, c text)")
    for i, word in enumerate(WORDS):
        pair.direct.execute("INSERT INTO w VALUES (%s, %s)", [i, word])
        pair.through.execute(f"INSERT INTO {table} VALUES (%s, %s, %s, %s)", [i, word, word, word])
    name = {"nfc": "normalize"}.get(transform, transform)
    for word in WORDS:
        for operand in (call, "{c}"):
            left, right = call.format(c="c"), operand.format(c="%s::text")
            want = pair.direct.execute(
                f"SELECT id FROM w WHERE {left} = {right} ORDER BY 1", [word]
            ).fetchall()
            form = f"{name}(%s)" if operand is call else "%s"
            sql = f"SELECT id FROM {table} WHERE {name}({transform}) = {form} ORDER BY 1"
            assert pair.through.execute(sql, [word]).fetchall() == want, (sql, word)
            cursor = psycopg.ClientCursor(pair.through)
            assert cursor.execute(sql, [word]).fetchall() == want, (sql, word)
        if transform == "lower":
            pattern = word.replace("\\", "\\\\").replace("_", "\\_")
            for like in ("LIKE", "NOT LIKE", "ILIKE", "NOT ILIKE"):
                want = pair.direct.execute(
                    f'SELECT id FROM w WHERE c COLLATE "pg_c_utf8" {like} %s ORDER BY 1', [pattern]
                ).fetchall()
                sql = f"SELECT id FROM {table} WHERE lower {like} %s ORDER BY 1"
                assert pair.through.execute(sql, [pattern]).fetchall() == want, (sql, word)
        exact = pair.through.execute(
            f"SELECT id FROM {table} WHERE {transform} = %s", [word]
        ).fetchall()
        assert exact == [(i,) for i, w in enumerate(WORDS) if w == word]


def test_simple_case_mapping_is_the_builtin_locales(pair: Pair) -> None:
    from proxy.crypto.folding import lower, upper

    rows = pair.direct.execute(
        'SELECT i, lower(chr(i) COLLATE "pg_c_utf8"), upper(chr(i) COLLATE "pg_c_utf8")'
        " FROM generate_series(1, 131071) i WHERE i NOT BETWEEN 55296 AND 57343"
    ).fetchall()
    assert not [i for i, low, up in rows if (lower(chr(i)), upper(chr(i))) != (low, up)]


def test_a_unique_index_on_the_transformed_value(pair: Pair) -> None:
    for table in ("words", "flat"):
        pair.through.execute(
            f"CREATE TABLE IF NOT EXISTS {table} (id int, lower text, upper text, nfc text)"
        )
        pair.through.execute(f"DELETE FROM {table}")
        pair.through.execute(f"CREATE UNIQUE INDEX ci_{table} ON {table} (lower(lower))")
        pair.through.execute(f"INSERT INTO {table} (id, lower) VALUES (1, 'Ada')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            pair.through.execute(f"INSERT INTO {table} (id, lower) VALUES (2, 'aDA')")
        with pair.through.transaction():
            pair.through.execute("SET LOCAL enable_seqscan = off")
            shown = pair.through.execute(
                f"EXPLAIN SELECT id FROM {table} WHERE lower(lower) = lower('ADA')"
            )
            assert any(f"ci_{table}" in line for (line,) in shown.fetchall())
        pair.through.execute(f"DROP INDEX ci_{table}")


def test_layout_p_keeps_to_the_column_alone(pair: Pair) -> None:
    pair.through.execute(
        "CREATE TABLE IF NOT EXISTS flat (id int, lower text, upper text, nfc text)"
    )
    listed = pair.direct.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'flat'::regclass AND attnum > 0"
    )
    assert [name for (name,) in listed.fetchall()] == ["id", "lower", "upper", "nfc"]
    pair.through.execute("CREATE UNIQUE INDEX exact ON flat (upper)")
    pair.through.execute(
        "INSERT INTO flat (id, upper) VALUES (1, 'a') ON CONFLICT (upper) DO NOTHING"
    )
    pair.through.execute(
        "INSERT INTO flat (id, upper) VALUES (2, 'a') ON CONFLICT (upper) DO UPDATE SET id = 3"
    )
    assert pair.through.execute("SELECT id, upper FROM flat WHERE upper = 'a'").fetchall() == [
        (3, "a")
    ]
    pair.through.execute("DROP INDEX exact")


def test_the_server_never_sees_an_operand(stack: tuple[Postgres, Pair, Tap]) -> None:
    _, pair, tap = stack
    pair.through.execute("SELECT id FROM sealed WHERE d < '2123-04-05' OR i8 > 7131719711")
    assert b"2123-04-05" not in tap.to_server
    assert b"7131719711" not in tap.to_server
