"""Searches beyond equality: what a statement becomes, and what is refused."""

from dataclasses import replace

import postgast
import pytest

from proxy.crypto.tokens import Buckets, Match, Search
from proxy.native import strip_literals
from proxy.postgres.plan import Either, Literal, Operand, Refusal, SessionContext, Use
from proxy.postgres.rewrite import Planner
from proxy.postgres.snapshot import Column, ProtectedColumn, Relation, Snapshot
from proxy.postgres.templates import Templates
from proxy.postgres.types.registry import resolve


def column(name: str, kind: str, search: Search = Search(), **more: object) -> ProtectedColumn:
    made = ProtectedColumn(
        "public", "t", name, f"d.{name}", resolve(kind), "r", False, search=search
    )
    return replace(made, **more)  # type: ignore[arg-type]


MADE = column("made", "timestamp", Search(order_bits=64))
MAIL = column("mail", "text", Search(transform="lower"), equality=True)
AGE = column("age", "int4", Search(order_bits=32))
BORN = column("born", "date", Search(order_bits=32), equality=True)
PAY = column("pay", "numeric(8,2)", Search(buckets=Buckets(10**8, 10000, 50)))
NAME = column("name", "text", Search(match=Match(3, (2,))))
BARE = column("bare", "text")
FLAT = column("flat", "text", Search(transform="upper"), equality=True, layout="expression")
COLUMNS = (MAIL, MADE, AGE, BORN, PAY, NAME, BARE, FLAT)
STORED = ("id", "made", "made__ox", "mail", "mail__bx", "mail__lx", "age", "age__ox", "born",
          "born__bx", "born__ox", "pay", "pay__rx", "name", "name__mx", "bare", "flat")  # fmt: skip
NEW = tuple(replace(c, table="n") for c in COLUMNS)
SNAP = Snapshot(
    1, "d", {("public", "t"): Relation("public", "t", "r", tuple(Column(c, 25) for c in STORED))},
    {(c.schema, c.table, c.column): c for c in (*COLUMNS, *NEW)}, frozenset({"public"}),
)  # fmt: skip


def plan(sql: str):
    return Planner().plan(sql.encode(), (), SessionContext("d", "app"), SNAP).statements[0]


def shown(sql: str) -> str:
    segments = [s.one if isinstance(s, Either) else s for s in plan(sql).segments]
    postgast.parse("".join("''" if isinstance(s, Literal) else s.decode() for s in segments))
    out = ""
    for piece in segments:
        out += (
            f"<{piece.use.value}:{piece.text.decode()}>"
            if isinstance(piece, Literal)
            else piece.decode()
        )
    return out.replace('"', "")


def body(sql: str) -> str:
    return shown(f"SELECT id FROM t WHERE {sql}").removeprefix("SELECT id FROM t WHERE ")


@pytest.mark.parametrize(("sql", "want"), [
    ("lower(mail) = lower($1)", "mail__lx = $1"),
    ("lower(mail) = $1", "mail__lx = $1"),
    ("lower(mail::text) <> 'a'", "mail__lx <> <transformed:a>"),
    ("lower('A') = lower(mail)", "<transform:A> = mail__lx"),
    ("lower(mail) IN ($1, lower('B'))", "mail__lx IN ($1, <transform:B>)"),
    ("lower(mail) IS DISTINCT FROM $1", "mail__lx IS DISTINCT FROM $1"),
    ("mail = $1 AND lower(mail) = lower($1)", "mail__bx = $1 AND mail__lx = $2"),
    ("upper(flat) = 'A'", "substring(flat from 22 for 16) = <transformed:A>"),
    ("mail LIKE 'a\\_b'", "mail__bx = <like_tag:a\\_b>"),
    ("mail NOT ILIKE $1", "mail__lx <> $1"),
    ("(mail) ILIKE ('x')", "mail__lx = <ilike_tag:x>"),
    ("flat = 'a'", "substring(flat from 4 for 16) = <search:a>"),
])  # fmt: skip
def test_transformed(sql: str, want: str) -> None:
    assert body(sql) == want


@pytest.mark.parametrize(("sql", "want"), [
    ("age < $1", "(age__ox >= $1 AND age__ox < $2)"),
    ("age >= 5", "(age__ox >= <order_ge:5> AND age__ox < <order_end:5>)"),
    ("$1 < age", "(age__ox >= $1 AND age__ox < $2)"),
    ("born BETWEEN $1 AND $2", "(born__ox >= $1 AND born__ox < $2)"),
    ("born NOT BETWEEN '2001-01-01' AND $1",
     "NOT (born__ox >= <order_ge:2001-01-01> AND born__ox < $1)"),
    ("(born) > (date '2001-01-01')",
     "(born__ox >= <order_gt:2001-01-01> AND born__ox < <order_end:2001-01-01>)"),
    ("NOT age < NULL", "NOT (age__ox >= NULL AND age__ox < NULL)"),
    ("t.age <= $1::bigint", "(t.age__ox >= $1 AND t.age__ox < $2)"),
    ("made < '2001-01-01'::date AND age > $1::bigint",
     "(made__ox >= <order_start:2001-01-01> AND made__ox < <order_lt:2001-01-01>) AND "
     "(age__ox >= $1 AND age__ox < $2)"),
    ("age = $1 OR 5 <> age", "(age__ox >= $1 AND age__ox < $2) OR "
     "NOT (age__ox >= <order_ge:5> AND age__ox < <order_le:5>)"),
    ("born = $1 AND born > $1", "born__bx = $1 AND (born__ox >= $2 AND born__ox < $3)"),
])  # fmt: skip
def test_ordered(sql: str, want: str) -> None:
    assert body(sql) == want


@pytest.mark.parametrize(("sql", "want"), [
    ("SELECT id FROM t ORDER BY age DESC NULLS LAST, id",
     "SELECT id FROM t ORDER BY age__ox DESC NULLS LAST, id"),
    ("SELECT age AS a FROM t ORDER BY a", "SELECT age AS a FROM t ORDER BY age__ox"),
    ("SELECT id, age FROM t ORDER BY 2", "SELECT id, age FROM t ORDER BY age__ox"),
    ("SELECT min(age) FROM t",
     "SELECT (pg_catalog.array_agg(age ORDER BY age__ox ASC NULLS LAST))[1] AS min FROM t"),
    ("SELECT max(t.born) FILTER (WHERE id > 1) AS m FROM t",
     "SELECT (pg_catalog.array_agg(t.born ORDER BY t.born__ox DESC NULLS LAST) "
     "FILTER (WHERE id > 1))[1] AS m FROM t"),
    ("SELECT born AS b, count(*) FROM t GROUP BY born ORDER BY b DESC, 2",
     "SELECT (pg_catalog.array_agg(born))[1] AS b, count(*) FROM t GROUP BY born__bx "
     "ORDER BY (pg_catalog.array_agg(born__ox))[1] DESC, 2"),
    ("SELECT row_number() OVER (ORDER BY age) FROM t", "SELECT row_number() OVER (ORDER BY age__ox) FROM t"),
    ("SELECT DISTINCT born FROM t ORDER BY born DESC",
     "SELECT DISTINCT ON (born__ox, born__bx) born FROM t ORDER BY born__ox DESC"),
    ("SELECT born, count(*) FROM t GROUP BY born ORDER BY 1",
     "SELECT (pg_catalog.array_agg(born))[1] AS born, count(*) FROM t GROUP BY born__bx "
     "ORDER BY (pg_catalog.array_agg(born__ox))[1]"),
    ("SELECT id FROM (SELECT id, age FROM t) s ORDER BY s.age",
     "SELECT id FROM (SELECT id, age FROM t) s ORDER BY substring(s.age from 22 for 72)"),
])  # fmt: skip
def test_sorted(sql: str, want: str) -> None:
    assert shown(sql) == want


def test_min_is_an_output_that_opens() -> None:
    assert plan("SELECT max(born) FROM t").outputs == (BORN,)


def test_one_parameter_feeds_both_bounds_and_the_client_sees_one() -> None:
    made = plan("SELECT id FROM t WHERE age < $1")
    assert [(p.client_index, p.use) for p in made.params] == [
        (0, Use.ORDER_START),
        (0, Use.ORDER_LT),
    ]
    assert [c.oid for c in made.client_params] == [23]


@pytest.mark.parametrize("sql", [
    "SELECT id FROM t WHERE lower(bare) = 'a'", "SELECT id FROM t WHERE upper(mail) = 'a'",
    "SELECT lower(mail) FROM t", "SELECT id FROM t WHERE lower(mail) > 'a'",
    "SELECT id FROM t WHERE lower(mail) = lower(flat)", "SELECT id FROM t WHERE lower(mail) = mail",
    "SELECT id FROM t WHERE lower(mail || 'x') = 'a'", "SELECT id FROM t WHERE lower(mail) = upper($1)",
    "SELECT id FROM t WHERE mail LIKE 'a%'", "SELECT id FROM t WHERE flat ILIKE 'a'",
    "SELECT id FROM t WHERE mail < 'a'", "SELECT id FROM t ORDER BY mail", "SELECT min(mail) FROM t",
    "SELECT age FROM t GROUP BY age ORDER BY age", "SELECT DISTINCT ON (born) id, born FROM t ORDER BY born",
    "SELECT id FROM t ORDER BY age USING <", "SELECT age FROM t UNION ALL SELECT age FROM t ORDER BY age",
    "SELECT max(age) OVER () FROM t", "SELECT id FROM t WHERE age < id", "SELECT id FROM t WHERE age < born",
    "SELECT id FROM t WHERE 5 BETWEEN age AND 7", "SELECT id FROM t WHERE age + 1 < 5",
    "SELECT id FROM t WHERE age IN (5)", "SELECT age__ox FROM t", "SELECT mail__lx FROM t",
    "SELECT sum(age) FROM t", "SELECT id FROM t WHERE max(age) > 5",
    "SELECT age AS a, id AS a FROM t ORDER BY a",
    "INSERT INTO t (bare) SELECT mail FROM t", "SELECT id FROM t WHERE age < ANY($1)",
    "SELECT id FROM t WHERE age BETWEEN SYMMETRIC 1 AND 2",
    "SELECT id FROM t WHERE made < $1::date", "SELECT id FROM t WHERE made < '2001-01-01'::timestamptz",
    "SELECT id FROM t WHERE age < $1::numeric",
    "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY age) FROM t",
    "SELECT mode() WITHIN GROUP (ORDER BY born DESC) FROM t",
    "SELECT rank(5) WITHIN GROUP (ORDER BY age) FROM t",
])  # fmt: skip
def test_refused(sql: str) -> None:
    with pytest.raises(Refusal):
        plan(sql)


@pytest.mark.parametrize(("sql", "want"), [
    ("CREATE INDEX ON t (age)", "CREATE INDEX t_age_idx ON t (age__ox)"),
    ("CREATE INDEX ON t (born DESC)", "CREATE INDEX t_born_idx ON t (born__ox DESC)"),
    ("CREATE UNIQUE INDEX ON t (born)", "CREATE UNIQUE INDEX t_born_idx ON t (born__bx)"),
    ("CREATE INDEX ON t USING hash (born)", "CREATE INDEX t_born_idx ON t USING hash (born__bx)"),
    ("CREATE UNIQUE INDEX ON t (lower(mail), id)", "CREATE UNIQUE INDEX t_lower_id_idx ON t (mail__lx, id)"),
    ("CREATE INDEX ON t (pay)", "CREATE INDEX t_pay_idx ON t (pay__rx)"),
    ("CREATE INDEX ON t USING gin (name gin_trgm_ops)", "CREATE INDEX t_name_idx ON t USING gin (name__mx)"),
    ("CREATE UNIQUE INDEX ON t (flat)",
     "CREATE UNIQUE INDEX t_flat_idx ON t ((substring(flat from 4 for 16)))"),
    ("CREATE INDEX ON t (upper(flat))", "CREATE INDEX t_upper_idx ON t ((substring(flat from 22 for 16)))"),
])  # fmt: skip
def test_indexes(sql: str, want: str) -> None:
    assert shown(sql) == want


def test_a_new_table_gets_a_generated_column_for_each_kind_of_token() -> None:
    made = shown("CREATE TABLE n (id int, mail text UNIQUE, age int4, name text, flat text)")
    for wanted in (
        "mail__bx bytea GENERATED ALWAYS AS (substring(mail from 4 for 16)) STORED",
        "mail__lx bytea GENERATED ALWAYS AS (substring(mail from 22 for 16)) STORED",
        "age__ox bytea GENERATED ALWAYS AS (substring(age from 22 for 72)) STORED",
        "name__mx text[] GENERATED ALWAYS AS (string_to_array(encode(substring(name from 22 for "
        "(get_byte(name, 19) * 256 + get_byte(name, 20) - 0)), 'escape'), ' ')) STORED",
        "STORED CONSTRAINT n_mail_key UNIQUE",
    ):
        assert wanted in made
    assert "flat__" not in made.replace("flat__sealed", "")


def test_a_dropped_column_takes_its_generated_columns_along() -> None:
    assert shown("ALTER TABLE t DROP COLUMN mail") == (
        "ALTER TABLE t DROP COLUMN IF EXISTS mail__bx, DROP COLUMN IF EXISTS mail__lx, DROP COLUMN mail"
    )


def test_layout_p_has_no_keys() -> None:
    with pytest.raises(Refusal, match="key"):
        plan("CREATE TABLE n (id int, flat text UNIQUE)")


# -- searches that opened rows are tested for ------------------------------------------------------


def recheck(sql: str) -> str:
    found = shown(sql)
    return found.replace("sealgate recheck ", "#")


@pytest.mark.parametrize(("sql", "want"), [
    ("SELECT id FROM t WHERE name LIKE $1", "SELECT id, name AS #0 FROM t WHERE (name__mx @> $1)"),
    ("SELECT id FROM t WHERE id > 1 AND (t.name) ILIKE 'ab%' ORDER BY id",
     "SELECT id, t.name AS #0 FROM t WHERE id > 1 AND (t.name__mx @> <match:>) ORDER BY id"),
    ("SELECT id FROM t WHERE name::text LIKE '%' || $1 || '%'",
     "SELECT id, name AS #0 FROM t WHERE (name__mx @> $1)"),
    ("SELECT id FROM t WHERE UPPER(name::text) LIKE UPPER('%x%') OR name LIKE 'abc' ESCAPE '!'",
     "SELECT id, name AS #0 FROM t WHERE (name__mx @> <match:>) OR (name__mx @> <match:>)"),
    ("SELECT * FROM t a WHERE a.pay BETWEEN $1 AND 500",
     "SELECT a.id, a.made, a.mail, a.age, a.born, a.pay, a.name, a.bare, a.flat, a.pay AS #0 FROM t a "
     "WHERE (a.pay__rx = ANY ($1))"),
    ("SELECT id FROM t WHERE pay >= $1 AND pay < $2 AND id = $3",
     "SELECT id, pay AS #0 FROM t WHERE (pay__rx = ANY ($1)) AND true AND id = $2"),
    ("SELECT id FROM t WHERE ($1::text IS NULL OR name LIKE '%' || $1 || '%') AND $2 IS NULL",
     "SELECT id, name AS #0 FROM t WHERE ($1 IS NULL OR (name__mx @> $1)) AND $2 IS NULL"),
    ("SELECT id FROM t WHERE 5 > pay", "SELECT id, pay AS #0 FROM t WHERE (pay__rx = ANY (<buckets:>))"),
    ("SELECT lower(bare_id) FROM (SELECT 'x' AS bare_id) s, t WHERE pay = 5", None),
    ("SELECT id FROM t WHERE (pay > 5 OR name LIKE '%abc%') AND id IS DISTINCT FROM 3",
     "SELECT id, pay AS #0, name AS #1 FROM t WHERE ((pay__rx = ANY (<buckets:>)) OR "
     "(name__mx @> <match:>)) AND id IS DISTINCT FROM 3"),
])  # fmt: skip
def test_rechecked(sql: str, want: str | None) -> None:
    if want is None:
        with pytest.raises(Refusal, match="FROM"):
            plan(sql)
        return
    assert recheck(sql) == want


def test_a_rechecked_plan_hides_its_columns_and_keeps_the_clients_parameters() -> None:
    made = plan("SELECT id, pay FROM t WHERE pay >= $2 AND pay < $1 AND id = $3 AND name LIKE $4")
    assert made.outputs == (None, PAY, PAY, NAME)
    assert made.visible == (None, PAY)
    assert [c.oid for c in made.client_params] == [1700, 1700, 0, 25]
    assert [(p.client_index, p.use, p.server_oid) for p in made.params] == [
        (1, Use.BUCKETS, 1001), (2, Use.PASS, 0), (3, Use.MATCH, 1009)]  # fmt: skip
    assert made.check is not None
    assert made.check.columns == (PAY, NAME)


@pytest.mark.parametrize("sql", [
    "SELECT count(*) FROM t WHERE name LIKE 'abc%'", "SELECT id FROM t WHERE name LIKE 'abc%' LIMIT id",
    "SELECT id FROM t WHERE pay > 5 ORDER BY id FETCH FIRST 3 ROWS WITH TIES",
    "SELECT id FROM t WHERE pay > 5 OFFSET 3 ROWS",
    "SELECT DISTINCT id FROM t WHERE pay > 5", "SELECT id FROM t WHERE pay > 5 OR id = 3",
    "SELECT id FROM t WHERE NOT name LIKE 'abc%'", "SELECT id FROM t WHERE name NOT LIKE 'abc%'",
    "DELETE FROM t WHERE pay > 5", "UPDATE t SET id = 1 WHERE name LIKE 'abc%'",
    "SELECT id FROM (SELECT id FROM t WHERE pay > 5) s", "INSERT INTO t (id) SELECT id FROM t WHERE pay > 5",
    "SELECT id FROM t WHERE pay > 5 UNION ALL SELECT 1", "SELECT max(id) FROM t WHERE pay > 5",
    "SELECT id FROM t WHERE pay > 5 FOR UPDATE",
    "WITH s AS (SELECT id FROM t WHERE pay > 5) SELECT id FROM s",
    "SELECT id FROM t WHERE id IN (SELECT id FROM t WHERE name LIKE 'abc%')",
    "SELECT id FROM t GROUP BY id HAVING min(id) > 3 AND pay > 5", "SELECT id FROM t WHERE bare LIKE 'abc%'",
    "SELECT id FROM t JOIN t u ON u.pay > 5", "SELECT id FROM t WHERE pay NOT BETWEEN 1 AND 2",
    "SELECT generate_series(1, 3) FROM t WHERE pay > 5", "SELECT id, rank() OVER () FROM t WHERE pay > 5",
    "SELECT id FROM t WHERE name LIKE ANY (ARRAY['a'])", "SELECT id FROM t WHERE name SIMILAR TO 'a'",
    "SELECT id FROM t WHERE name ~ 'a'", "SELECT id FROM t WHERE pay < bare", "SELECT id FROM t ORDER BY pay",
    "SELECT id FROM t WHERE name LIKE mail", "COPY (SELECT id FROM t WHERE pay > 5) TO STDOUT",
    "DECLARE c CURSOR FOR SELECT id FROM t WHERE pay > 5",
    "SELECT id FROM t WHERE pay > 5 FETCH FIRST ROW ONLY",
    "CREATE TABLE x AS SELECT id FROM t WHERE pay > 5", "SELECT 'x' FROM t WHERE (pay > 5) IS TRUE",
    "SELECT FROM t WHERE pay > 5", "SELECT id FROM t WHERE pay <> 5", "SELECT id FROM t WHERE pay IN (5)",
])  # fmt: skip
def test_refused_where_the_superset_would_show(sql: str) -> None:
    with pytest.raises(Refusal):
        plan(sql)


def test_limit_and_offset_are_counted_here() -> None:
    sql = "SELECT id FROM t WHERE pay > $1 ORDER BY id LIMIT $3 OFFSET 20"
    assert recheck(sql) == "SELECT id, pay AS #0 FROM t WHERE (pay__rx = ANY ($1)) ORDER BY id  "
    made = plan(sql + ";")
    assert made.check is not None
    assert (made.check.limit, made.check.offset) == (Operand(parameter=2), Operand(b"20"))
    assert [c.oid for c in made.client_params] == [1700, 0, 20]
    assert [p.client_index for p in made.params] == [0, 1]
    assert recheck("SELECT id FROM t WHERE pay > 5 OFFSET 1 LIMIT ALL").endswith("(<buckets:>))  ")


def test_explain_of_a_rechecked_search_shows_the_servers_plan() -> None:
    made = plan("EXPLAIN SELECT id FROM t WHERE pay > 5")
    assert made.check is None
    assert made.outputs is None


# -- one plan for many literals --------------------------------------------------------------------


def by_template(first: str, second: str):
    """The second text's plan as learned from the first, or None."""
    templates = Templates(1 << 20)
    one, other = strip_literals(first.encode()), strip_literals(second.encode())
    assert one is not None
    assert other is not None
    whole = Planner().plan(first.encode(), (), SessionContext("d", "app"), SNAP)
    if not templates.learn(first.encode(), *one, None, whole):
        return None
    found = templates.look(second.encode(), *other, None)
    return found.statements[0] if found is not None else None


@pytest.mark.parametrize("shape", [
    "SELECT id FROM t WHERE age < {}", "SELECT id FROM t WHERE t.age >= -{}", "DELETE FROM t WHERE {} > age",
    "SELECT id FROM t WHERE age <> - {} AND id = 3", "SELECT id FROM t WHERE lower(mail) = lower('{}')",
    "SELECT id FROM t WHERE lower(mail) IN ('{}', lower('B'))", "SELECT id FROM t WHERE born > '20{}-01-01'",
])  # fmt: skip
@pytest.mark.parametrize("value", ["0", "7", "99999999999"])
def test_a_template_serves_other_literals_of_a_search(shape: str, value: str) -> None:
    found = by_template(shape.format("0"), shape.format(value))
    assert found is not None
    assert found.segments == plan(shape.format(value)).segments


@pytest.mark.parametrize("shape", [
    "SELECT id FROM t WHERE age > - /* c */ {}", "SELECT id FROM t WHERE age /* - */ < {}",
    "SELECT id FROM t WHERE name LIKE 'abc{}%'", "SELECT id FROM t WHERE pay > {}",
    "SELECT id FROM t WHERE age BETWEEN {} AND 7", "SELECT id FROM t WHERE pay > $1 LIMIT {}",
])  # fmt: skip
def test_where_a_template_could_err_the_grammar_is_asked(shape: str) -> None:
    assert by_template(shape.format("0"), shape.format("5")) is None


# -- one parameter in two roles --------------------------------------------------------------------


@pytest.mark.parametrize(("sql", "want"), [
    ("SELECT id FROM t WHERE mail = $1 OR $1 IS NULL", "SELECT id FROM t WHERE mail__bx = $1 OR $2 IS NULL"),
    ("SELECT id FROM t WHERE age < $1 OR $1::int IS NULL",
     "SELECT id FROM t WHERE (age__ox >= $1 AND age__ox < $2) OR $1 IS NULL"),
    ("SELECT id FROM t WHERE id = $1 OR $1::int IS NULL",
     "SELECT id FROM t WHERE id = $1 OR $1::int IS NULL"),
    ("SELECT id FROM t WHERE mail = 'a' OR 'a'::text IS NULL OR NULL IS NULL OR -5 IS NOT NULL",
     "SELECT id FROM t WHERE mail__bx = <search:a> OR 0 IS NULL OR NULL IS NULL OR 0 IS NOT NULL"),
    ("SELECT id FROM t WHERE 'a' IS NULL", "SELECT id FROM t WHERE 'a' IS NULL"),
])  # fmt: skip
def test_whether_a_searched_parameter_is_null_shows_nothing_of_it(sql: str, want: str) -> None:
    assert shown(sql) == want
    if "mail = $1" in sql:
        assert [p.use for p in plan(sql).params] == [Use.SEARCH, Use.TAG]


@pytest.mark.parametrize("sql", [
    "SELECT id, $1::text FROM t WHERE mail = $1", "SELECT id FROM t WHERE lower(mail) = $1 AND $1 <> ''",
    "INSERT INTO t (id, mail) VALUES (length($1), $1)", "SELECT id FROM t WHERE age < $1 AND id = $1",
    "SELECT id FROM t WHERE pay > $1 AND pay < $2 AND id = $2",
])  # fmt: skip
def test_a_protected_columns_value_never_goes_in_clear_beside(sql: str) -> None:
    with pytest.raises(Refusal, match="elsewhere, a plain one"):
        plan(sql)
