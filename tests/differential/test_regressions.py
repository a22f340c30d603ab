"""Every divergence that the generator ever found, as a statement of its own."""

import random
from collections.abc import Iterator

import pytest

from tests.differential.schema import Column, Pair, Table
from tests.differential.statement import Part, Statement, Value
from tests.differential.twins import Tally, Twins, stand
from tests.differential.wire import Side

pytestmark = pytest.mark.system

A = Table(
    "public", "ra",
    [Column("n", "integer"), Column("v", "varchar(12)"), Column("c", "char(6)"),
     Column("d", "numeric(10,2)"), Column("t", "timestamp(3)"), Column("j", "jsonb"),
     Column("x", "text"), Column("f", "real")],
)  # fmt: skip
B = Table("public", "rb", [Column("n", "integer"), Column("w", "date", equality=False)])
ROWS = [
    "(1, 1, 'q', 42, 'abcdefghijkl', 'ab', 1.005, '2026-11-24 02:15:52.123456', '1.0', 'a', 0)",
    "(2, 2, 'q', 42, 'a', 'abcdef', 1.00, 'infinity', '1', 'ab  ', '-0')",
    "(3, 0, 'q', -1, NULL, '', 0, NULL, '{\"a\": [1, 2.50]}', NULL, 1.5)",
    "(4, 1, 'q', NULL, '', NULL, NULL, '1999-01-08', '{\"a\": [1.0, 2.5]}', '', NULL)",
]


@pytest.fixture(scope="module")
def twins() -> Iterator[Twins]:
    pair = Pair(0, A, B, A.columns[0], A.columns[1])
    with stand([pair]) as (_, plain, sealed):
        made = Twins(Side(plain), Side(sealed), pair, 1, Tally())
        for table in pair.tables:
            made.must(table.ddl()[0])
        for row in ROWS:
            made.must(f"INSERT INTO ra VALUES {row}")
        made.must("INSERT INTO rb VALUES (1, 1, 'q', 42, '2026-11-24'), (2, 1, 'q', -1, NULL)")
        yield made
        made.plain.close()
        made.sealed.close()


def value(kind: str, text: str | None, cast: str = "", array: bool = False) -> Value:
    return Value(kind, text, cast, array)


def where(*parts: Part) -> tuple[Part, ...]:
    return ("SELECT id FROM ra WHERE ", *parts)


FIXED: dict[str, tuple[Part, ...]] = {
    "numbers inside jsonb compare as numeric": where("j = ", value("jsonb", "1.00")),
    "jsonb groups by value": ("SELECT count(*) FROM ra GROUP BY j",),
    "jsonb joins by value": ("SELECT x.id, y.id FROM ra x JOIN ra y ON x.j = y.j",),
    "a cast NULL in a comparison": where("n <> ", value("integer", None, "::integer")),
    "a cast NULL that is written": (
        "INSERT INTO ra (id, x) SELECT 100, ", value("text", None, "::varchar"),
    ),
    "IS NOT DISTINCT FROM a cast NULL": where(
        "d IS NOT DISTINCT FROM ", value("numeric", None, "::numeric")
    ),
    "an array of a cast NULL": where("j = ANY (ARRAY[", value("jsonb", None, "::jsonb"), "])"),
    "a cast to char(n) cuts": where("c = ", value("char(6)", "abcdefg", "::char(6)")),
    "a cast to varchar(n) cuts": where("v = ", value("varchar(12)", "abcdefghijklm", "::varchar(12)")),
    "a cast to numeric(p,s) rounds": where("d = ", value("numeric(10,2)", "1.005", "::numeric(10,2)")),
    "a cast to timestamp(p) rounds": where(
        "t = ", value("timestamp(3)", "2026-11-24 02:15:52.123456", "::timestamp(3)")
    ),
    "a cast that cuts, when it is written": (
        "UPDATE ra SET c = ", value("char(6)", "abcdefg", "::char(6)"), " WHERE id = 1",
    ),
    "char(n) against text keeps blanks": where("c = ANY (ARRAY[", value("char(6)", "ab  "), "])"),
}  # fmt: skip

WRITES = ("INSERT", "UPDATE", "DELETE")


def check(twins: Twins, name: str, parts: tuple[Part, ...], form: str, binary: bool) -> None:
    writes = str(parts[0]).startswith(WRITES)
    verdict = twins.compare(Statement(name, parts, writes), form, binary)
    if writes:
        for side in (twins.plain, twins.sealed):
            side.simple("DELETE FROM ra WHERE id >= 100")
    assert verdict in ("same", "failed_alike", None), verdict


@pytest.mark.parametrize("form", ["literal", "text", "binary"])
@pytest.mark.parametrize("name", FIXED)
def test_found_once(twins: Twins, name: str, form: str) -> None:
    twins.source = random.Random(1)
    check(twins, name, FIXED[name], form, form == "binary")


@pytest.mark.parametrize("test", ["v = $1", "v IN ($1, 'x')", "v = ANY ($1)", "v = $1::varchar"])
def test_a_parameter_beside_a_varchar_column_is_described_as_text(twins: Twins, test: str) -> None:
    sql = f"SELECT id FROM ra WHERE {test}"
    assert twins.sealed.describe(sql, 1) == twins.plain.describe(sql, 1)


def test_a_parameter_in_set_and_where_is_described_by_where(twins: Twins) -> None:
    sql = "UPDATE ra SET v = $1 WHERE v = $1"
    assert twins.sealed.describe(sql, 1) == twins.plain.describe(sql, 1)
