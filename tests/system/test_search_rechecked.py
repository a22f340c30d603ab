"""LIKE and ranges by buckets: what comes out is exact, although the server only knows a superset."""

import os
import random
import tempfile
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from proxy.config.model import (
    Address,
    CatalogAccess,
    ColumnConfig,
    MatchConfig,
    PostgresConfig,
    RangeConfig,
    SecretRef,
    TlsClient,
)
from tests.parts.keyring import software_keys
from tests.parts.listening import Listening
from tests.parts.pair import Pair
from tests.parts.postgres import Postgres
from tests.parts.tap import Tap

pytestmark = pytest.mark.system
SEED = 20261125
FIELDS = {
    "gram": "text", "pre": "varchar(60)", "duo": "text", "pay": "numeric(9,2)", "day": "date",
    "moment": "timestamp", "num": "int4",
}  # fmt: skip
WORDS = ["banana", "Bandana", "ban", "an", "", "a%b", "a_b", "a\\b", "naïve", "NAÏVE", "Straße", "STRASSE",
         "ananas", "x" * 40, "line\nbreak", "100%", "ıI", "Kelvin", "kelvin"]  # fmt: skip


def columns(table: str, layout: str) -> list[ColumnConfig]:
    search = {
        "gram": {"match": MatchConfig(ngram=3)}, "pre": {"match": MatchConfig(ngram=0, prefixes=(1, 3, 5))},
        "duo": {"match": MatchConfig(ngram=2, prefixes=(4,))},
        "pay": {"range": RangeConfig(low="0", high="1000", width="25")},
        "day": {"range": RangeConfig(low="2000-01-01", high="2001-01-01", width="7"), "equality": True},
        "moment": {"range": RangeConfig(low="2000-01-01", high="2000-03-01", width="86400")},
        "num": {"range": RangeConfig(low="-50", high="50", width="10", max_buckets=8)},
    }  # fmt: skip
    return [
        ColumnConfig(column=f"public.{table}.{n}", type=FIELDS[n], ring="app", layout=layout, **how)
        for n, how in search.items()
    ]


@pytest.fixture(scope="module")
def stack() -> Iterator[tuple[Postgres, Pair, Tap]]:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        server = Postgres(Path(folder) / "pg")
        server.start()
        os.environ["SG_TEST_PG"] = server.password
        with Tap("127.0.0.1", server.port) as tap:
            config = PostgresConfig(
                listen=Address(), upstream=Address(port=tap.port), database=server.database,
                upstream_tls=TlsClient(mode="disable"),
                catalog=CatalogAccess(user=server.user, password=SecretRef(env="SG_TEST_PG")),
                columns=(*columns("sealed", "generated"), *columns("flat", "expression")),
            )  # fmt: skip
            with Listening(config, lambda: software_keys(Path(folder))) as proxy:
                pair = Pair(server, proxy.port)
                fill(pair)
                yield server, pair, tap
                pair.close()
        server.stop()


def fill(pair: Pair) -> None:
    draw = random.Random(SEED)
    collated = {"text": 'text COLLATE "pg_c_utf8"'}
    listed = ", ".join(f"{n} {collated.get(k, k)}" for n, k in FIELDS.items())
    pair.direct.execute(f"CREATE TABLE plain (id int, {listed})")
    for table in ("sealed", "flat"):
        made = ", ".join(f"{n} {k}" for n, k in FIELDS.items())
        pair.through.execute(f"CREATE TABLE {table} (id int, {made})")
    for i in range(150):
        words = [
            draw.choice(WORDS) + draw.choice(["", " ", "ana", draw.choice(WORDS)]) for _ in range(3)
        ]
        day = date(2000, 1, 1) + timedelta(days=draw.randint(-20, 400))
        row = [
            i,
            *words,
            Decimal(draw.randint(-5000, 110000)) / 100,
            day,
            day,
            draw.randint(-70, 70),
        ]
        row = [v if j == 0 or draw.random() > 0.07 else None for j, v in enumerate(row)]
        marks = ", ".join(["%s"] * len(row))
        pair.direct.execute(f"INSERT INTO plain VALUES ({marks})", row)
        for table in ("sealed", "flat"):
            pair.through.execute(f"INSERT INTO {table} VALUES ({marks})", row)


@pytest.fixture
def pair(stack: tuple[Postgres, Pair, Tap]) -> Pair:
    return stack[1]


GRAMS = ["%ana%", "ban%", "%nana", "banana", "%a\\%b%", "a\\_b%", "%an_na%", "b_nana%", "%ï%ve%", "ana%ana",
         "%line%break%", "%xxx%xxx%", "%aße%", "NAÏ%", "kel%", "%100\\%%", "_anana%"]  # fmt: skip


@pytest.mark.parametrize("column", ["gram", "duo"])
@pytest.mark.parametrize("like", ["LIKE", "ILIKE"])
def test_patterns(pair: Pair, column: str, like: str) -> None:
    hits = 0
    for pattern in GRAMS:
        if column == "gram" and pattern in ("%ï%ve%", "%an_na%"):
            continue  # too short for n-grams of three
        for binary in (False, True):
            found = pair.same(
                f"SELECT id, {column}, pay FROM {{t}} WHERE {column} {like} %s AND id >= 0 ORDER BY id",
                [pattern], binary=binary,
            )  # fmt: skip
        hits += len(found)
    assert hits > 100, "the patterns find something"


def test_prefixes(pair: Pair) -> None:
    for pattern in ("b%", "ban%", "banana%", "Ban%a%", "an", "N%", "x%", "ba_a%"):
        for like in ("LIKE", "ILIKE"):
            pair.same(f"SELECT id, pre FROM {{t}} WHERE pre {like} %s ORDER BY id", [pattern])


def test_patterns_in_functions_and_together(pair: Pair) -> None:
    for sql, values in (
        ("lower(gram) LIKE lower(%s)", ["%BAN%"]), ("upper(gram::text) LIKE upper(%s)", ["%aße%"]),
        ("lower(gram) LIKE %s", ["%BAN%"]), ("lower(gram) LIKE %s", ["%ban%"]),
        ("gram LIKE '%%' || %s || '%%'", ["nan"]), ("gram LIKE %s ESCAPE '!'", ["%a!_b%"]),
        ("gram LIKE %s ESCAPE ''", ["%a\\b%"]), ("(gram LIKE %s OR duo ILIKE %s)", ["%nan%", "straß%"]),
        ("gram LIKE %s AND duo LIKE %s", ["%ana%", "%an%"]), ("gram LIKE %s", [None]),
        ("(gram) LIKE ('%%nan%%')", []), ("gram ~~ '%%nan%%' AND NOT id = 3", []),
        ("(gram ILIKE %s OR pay > %s)", ["%nan%", 500]),
    ):  # fmt: skip
        pair.same(f"SELECT id, gram, duo FROM {{t}} WHERE {sql} ORDER BY 1", values)


def test_a_pattern_that_tokens_cannot_serve_is_refused(pair: Pair) -> None:
    for sql, values in (
        ("gram LIKE 'a%%'", []), ("gram LIKE %s", ["%an%"]), ("gram LIKE '%%'", []), ("gram LIKE %s", [""]),
        ("pre LIKE %s", ["%banana%"]),
    ):  # fmt: skip
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="too short"):
            pair.through.execute(f"SELECT id FROM sealed WHERE {sql}", values)
    with pytest.raises(psycopg.errors.InvalidEscapeSequence):
        pair.through.execute("SELECT id FROM sealed WHERE gram LIKE %s", ["banana\\"])
    assert pair.through.execute("SELECT 1").fetchone() == (1,)


def test_ranges(pair: Pair) -> None:
    draw = random.Random(SEED + 1)
    for _ in range(20):
        low = date(2000, 1, 1) + timedelta(days=draw.randint(-30, 420))
        high = low + timedelta(days=draw.randint(-2, 90))
        moment = datetime.combine(low, time(23, 59, 59, 999999))
        pay = Decimal(draw.randint(-6000, 120000)) / 1000
        for binary in (False, True):
            for sql, values in (
                ("day BETWEEN %s AND %s", [low, high]), ("day >= %s AND day < %s", [low, high]),
                ("moment > %s AND %s >= moment", [moment, datetime.combine(high, time(1))]),
                ("pay < %s", [pay]), ("%s <= pay AND pay > 3.005", [pay]), ("pay = %s", [pay]),
                ("day > %s AND id < 90", [low]), ("day = %s", [low]),
            ):  # fmt: skip
                pair.same(
                    f"SELECT id, day, pay FROM {{t}} WHERE {sql} ORDER BY id", values, binary=binary
                )
    pair.same("SELECT id FROM {t} WHERE day BETWEEN %s AND NULL", [date(2000, 1, 1)])
    pair.same("SELECT id FROM {t} WHERE num > %s AND num < %s ORDER BY id", [2**40, 2**41])


def test_a_range_over_too_many_buckets_is_refused(pair: Pair) -> None:
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="more than 8"):
        pair.through.execute("SELECT id FROM sealed WHERE num > -45")
    pair.same("SELECT id FROM {t} WHERE num > 10 ORDER BY id", [])
    pair.same("SELECT id FROM {t} WHERE num < -20 AND num >= %s ORDER BY id", [-1000])


def test_the_completion_counts_the_rows_that_stay(pair: Pair) -> None:
    for binary in (False, True):
        cursor = pair.through.execute(
            "SELECT id FROM sealed WHERE gram LIKE %s", ["%ana_%"], binary=binary
        )
        assert cursor.rowcount == len(cursor.fetchall())
        assert cursor.statusmessage == f"SELECT {cursor.rowcount}"
    simple = psycopg.ClientCursor(pair.through)
    simple.execute("SELECT id FROM sealed WHERE gram LIKE %s", ["%ana_%"])
    assert simple.rowcount == len(simple.fetchall()) == cursor.rowcount
    assert simple.description is not None
    assert [d.name for d in simple.description] == ["id"], "the hidden column is not described"


def test_copied_rows_are_found_and_a_copy_of_a_search_is_refused(pair: Pair) -> None:
    rows = [(5000 + i, f"copied banana {i}", date(2000, 5, i + 1)) for i in range(5)]
    for connection, table in ((pair.direct, "plain"), (pair.through, "sealed")):
        with connection.cursor() as cursor, cursor.copy(f"COPY {table} (id, gram, day) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    found = pair.same("SELECT id, gram FROM {t} WHERE gram LIKE %s AND day > %s ORDER BY id",
                      ["%copied%", date(2000, 5, 2)])  # fmt: skip
    assert len(found) == 3
    for statement in (
        "COPY (SELECT id FROM sealed WHERE gram LIKE '%copied%') TO STDOUT",
        "DECLARE c CURSOR WITH HOLD FOR SELECT id FROM sealed WHERE gram LIKE '%copied%'",
        "PREPARE p AS SELECT id FROM sealed WHERE gram LIKE '%copied%'",
        "CREATE TABLE x AS SELECT id FROM sealed WHERE gram LIKE '%copied%'",
    ):
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            pair.through.execute(statement)
    with psycopg.ClientCursor(pair.through) as cursor, cursor.copy("COPY sealed (id, gram) TO STDOUT") as out:
        assert b"copied banana 3" in b"".join(bytes(part) for part in out)
    pair.direct.execute("DELETE FROM plain WHERE id >= 5000")
    pair.through.execute("DELETE FROM sealed WHERE id >= 5000")


def test_a_hidden_value_that_does_not_open_is_an_error_and_no_missing_row(
    stack: tuple[Postgres, Pair, Tap], pair: Pair
) -> None:
    pair.through.execute("INSERT INTO sealed (id, gram) VALUES (6000, 'zzzz banana')")
    pair.direct.execute(
        "UPDATE sealed SET gram = set_byte(gram, octet_length(gram) - 1,"
        " 255 - get_byte(gram, octet_length(gram) - 1)) WHERE id = 6000"
    )
    with pytest.raises(psycopg.errors.DataCorrupted, match="gram"):
        pair.through.execute("SELECT id FROM sealed WHERE gram LIKE '%zzzz%'")
    pair.through.execute("DELETE FROM sealed WHERE id = 6000")


def test_random_conditions(pair: Pair) -> None:
    """Ranges and patterns joined at random, by AND with anything and by OR with each other."""
    draw = random.Random(SEED + 2)

    def term() -> str:
        low = Decimal(draw.randint(0, 90000)) / 100
        day = date(2000, 1, 1) + timedelta(days=draw.randint(0, 360))
        sign = draw.choice(["<", "<=", ">", ">=", "="])
        return draw.choice([
            f"pay BETWEEN {low} AND {low + draw.randint(0, 300)}", f"pay {sign} {low}",
            f"day {draw.choice(['<', '>='])} '{day}'", f"num {sign} {draw.randint(-15, 15)}.0",
            f"gram {draw.choice(['LIKE', 'ILIKE'])} '%{draw.choice(['ana', 'BAN', 'xxx', 'line'])}%'",
            f"duo ILIKE '{draw.choice(['ba', 'na', 'x'])}%{draw.choice(['an', 'na'])}%'",
        ])  # fmt: skip

    def condition(depth: int) -> str:
        if depth == 0 or draw.random() < 0.4:
            return term()
        joint = draw.choice([" AND ", " OR "])
        return "(" + joint.join(condition(depth - 1) for _ in range(draw.randint(2, 3))) + ")"

    hits = 0
    for _ in range(60):
        where = condition(2)
        if draw.random() < 0.5:
            where += f" AND (id {draw.choice(['<', '>'])} {draw.randint(0, 150)} OR id IS NULL)"
        tail = draw.choice(["", " LIMIT 5", " LIMIT 10 OFFSET 3"])
        try:
            sql = f"SELECT id, day FROM {{t}} WHERE {where.replace('%', '%%')} ORDER BY id{tail}"
            hits += len(pair.same(sql))
        except psycopg.errors.FeatureNotSupported as refused:
            assert "more than 8" in str(refused), (where, refused)
    assert hits > 100


def test_a_filter_that_the_client_switches_off_with_null(pair: Pair) -> None:
    for pattern in ("%ana%", None):
        for day in (date(2000, 3, 1), None):
            for binary in (False, True):
                pair.same(
                    "SELECT id FROM {t} WHERE (%(p)s::text IS NULL OR gram LIKE %(p)s)"
                    " AND (day >= %(d)s OR %(d)s::date IS NULL) AND id < 100 ORDER BY id",
                    {"p": pattern, "d": day}, binary=binary,
                )  # fmt: skip


def test_limit_and_offset_count_the_rows_that_stay(pair: Pair) -> None:
    for tail in ("LIMIT 3", "LIMIT 3 OFFSET 2", "OFFSET 4", "LIMIT 0", "LIMIT ALL", "OFFSET 1 LIMIT 2"):
        for binary in (False, True):
            sql = f"SELECT id, gram FROM {{t}} WHERE gram LIKE %s ORDER BY id {tail}"
            pair.same(sql, ["%ana%"], binary=binary)
    for limit, offset in ((5, 0), (None, 3), (1, 1000), (7, 7)):
        pair.same("SELECT id FROM {t} WHERE day < %s ORDER BY id DESC LIMIT %s OFFSET %s",
                  [date(2000, 6, 1), limit, offset])  # fmt: skip
    for connection, table in ((pair.direct, "plain"), (pair.through, "sealed")):
        with pytest.raises(psycopg.errors.InvalidRowCountInLimitClause):
            connection.execute(f"SELECT id FROM {table} WHERE gram LIKE %s LIMIT %s", ["%ana%", -1])


async def test_a_driver_that_describes_and_reads_in_batches(
    stack: tuple[Postgres, Pair, Tap], pair: Pair
) -> None:
    import asyncpg

    info = pair.through.info
    c = await asyncpg.connect(
        host="127.0.0.1",
        port=info.port,
        user=info.user,
        password=stack[0].password,
        database=info.dbname,
    )
    try:
        wanted = pair.direct.execute(
            "SELECT id, gram FROM plain WHERE gram LIKE '%ana%' ORDER BY id"
        ).fetchall()
        sql = "SELECT id, gram FROM sealed WHERE gram LIKE $1 ORDER BY id"
        assert [tuple(r) for r in await c.fetch(sql, "%ana%")] == wanted
        async with c.transaction():
            assert [tuple(r) async for r in c.cursor(sql, "%ana%", prefetch=3)] == wanted
        with pytest.raises(asyncpg.FeatureNotSupportedError):
            await c.fetch(sql, "%n%")
        assert await c.fetchval("SELECT 1") == 1
    finally:
        await c.close()


@pytest.mark.parametrize("table", ["sealed", "flat"])
def test_an_index_serves_the_search(pair: Pair, table: str) -> None:
    pair.through.execute(f"CREATE INDEX gram_{table} ON {table} USING gin (gram gin_trgm_ops)")
    pair.through.execute(f"CREATE INDEX pay_{table} ON {table} (pay)")
    pair.direct.execute(f"ANALYZE {table}")
    with pair.through.transaction():
        pair.through.execute("SET LOCAL enable_seqscan = off")
        for name, sql in (("gram", "gram LIKE '%banana%'"), ("pay", "pay BETWEEN 10 AND 20")):
            shown = pair.through.execute(f"EXPLAIN SELECT id FROM {table} WHERE {sql}").fetchall()
            assert any(f"{name}_{table}" in line for (line,) in shown), shown
    sql = "WHERE gram LIKE '%banana%' ORDER BY id"
    assert (
        pair.through.execute(f"SELECT id FROM {table} {sql}").fetchall()
        == pair.direct.execute(f"SELECT id FROM plain {sql}").fetchall()
    )


def test_a_text_with_too_many_pieces_is_refused_whole(pair: Pair) -> None:
    draw = random.Random(SEED)
    text = "".join(chr(draw.randint(97, 122)) for _ in range(40000))
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        pair.through.execute("INSERT INTO sealed (id, gram) VALUES (9999, %s)", [text])
    assert pair.through.execute("SELECT count(*) FROM sealed WHERE id = 9999").fetchone() == (0,)


def test_the_server_never_sees_a_pattern(stack: tuple[Postgres, Pair, Tap]) -> None:
    _, pair, tap = stack
    pair.through.execute(
        "SELECT id FROM sealed WHERE gram LIKE '%zebrafish%' AND pay < 917.25"
    ).fetchall()
    pair.through.execute("SELECT id FROM sealed WHERE gram LIKE %s", ["%xylophone%"]).fetchall()
    for secret in (b"zebrafish", b"917.25", b"xylophone"):
        assert secret not in tap.to_server
