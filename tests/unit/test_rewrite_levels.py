"""Names, views, children of protected tables, and values that take the form that their uses ask for."""

from dataclasses import replace

import pytest

from proxy.postgres.plan import Either, Literal, Plan, Refusal, SessionContext, StatementPlan, Use
from proxy.postgres.rewrite import Planner
from proxy.postgres.snapshot import Column, ProtectedColumn, Relation, Snapshot
from proxy.postgres.types.registry import resolve

MAIL = ProtectedColumn("public", "users", "mail", "mail", resolve("varchar(50)"), "r", True)
BUYER = replace(MAIL, table="orders", column="buyer")
LONG = replace(MAIL, table="orders", column="long", type=resolve("varchar(99)"))
OTHER = replace(MAIL, schema="other", table="mails", column="m", domain="another")


def table(name: str, *columns: str, schema: str = "public", **more: object) -> Relation:
    made = Relation(schema, name, "r", tuple(Column(c, 23 if c == "id" else 25) for c in columns))
    return replace(made, **more)  # type: ignore[arg-type]


RELATIONS = (
    table("users", "id", "mail", "mail__bx"),
    table("orders", "id", "buyer", "buyer__bx", "long", "long__bx"),
    table("users", "id", "mail", schema="other"),
    table("mails", "id", "m", "m__bx", schema="other"),
    table("plain", "id", "mail"),
    table("users_2026", "id", "mail", "mail__bx", parents=(("public", "users"),)),
    table("kids", "id", "mail", "mail__bx", "toy", parents=(("public", "users_2026"),)),
    table("v", "no", "m", "n", "tagged", kind="v", reads=(("public", "users"),),
          definition=" SELECT users.id, users.mail, count(users.mail) OVER () AS n, users.mail__bx\n"
                     "   FROM users;"),
    table("vv", "m", "first", kind="v", definition="SELECT v.m, (array_agg(v.m))[1] FROM v GROUP BY 1"),
    table("odd", "m", kind="v", definition="SELECT md5(users.mail) AS m FROM public.users"),
    table("broken", "m", kind="v", definition="SELECT FROM users WHERE ("),
)  # fmt: skip
SNAP = Snapshot(
    1, "d", {(r.schema, r.name): r for r in RELATIONS},
    {(c.schema, c.table, c.column): c for c in (MAIL, BUYER, LONG, OTHER)},
    frozenset({"public", "other"}),
)  # fmt: skip


def plans(sql: str, path: tuple[str, ...] = ("public",)) -> Plan:
    return Planner().plan(sql.encode(), (), SessionContext("d", "app", path), SNAP)


def plan(sql: str, path: tuple[str, ...] = ("public",)) -> StatementPlan:
    return plans(sql, path).statements[0]


def text(sql: str, path: tuple[str, ...] = ("public",)) -> str:
    out = ""
    for piece in plan(sql, path).segments:
        if isinstance(piece, Either):
            out += piece.one.decode()
        elif isinstance(piece, Literal):
            out += f"<{piece.use.value}:{piece.text.decode()}>"
        else:
            out += piece.decode()
    return out.replace('"', "")


# -- names -----------------------------------------------------------------------------------------


def test_the_first_schema_of_the_path_decides_which_table_is_meant() -> None:
    assert plans("SELECT mail FROM users WHERE mail LIKE 'a%'", ("other", "public")).transparent
    assert plan("SELECT mail FROM users", ("public", "other")).outputs == (MAIL,)
    assert plan("SELECT mail FROM public.users", ("other",)).outputs == (MAIL,)
    assert plan("SELECT m FROM mails", ("other",)).outputs == (OTHER,)


def test_a_table_in_the_users_own_schema_does_not_hide_a_protected_one() -> None:
    mine = table("users", "id", "mail", schema="app")
    planted = Snapshot(
        2, "d", {**SNAP.relations, ("app", "users"): mine}, SNAP.protected, SNAP.schemas
    )
    context = SessionContext("d", "app")
    with pytest.raises(Refusal, match="hides"):
        Planner().plan(b"INSERT INTO users (mail) VALUES ('x')", (), context, planted)
    explicit = SessionContext("d", "app", ("app", "public"))
    assert Planner().plan(b"SELECT mail FROM users", (), explicit, planted).transparent
    assert Planner().plan(b"SELECT mail FROM app.users", (), context, planted).transparent


@pytest.mark.parametrize(
    "sql",
    [
        "WITH users AS (SELECT 'x' AS mail) SELECT lower(mail) FROM users",
        "SELECT lower(p.mail) FROM users u JOIN plain p ON p.id = u.id",
        "SELECT lower(mail) FROM plain WHERE EXISTS (SELECT 1 FROM users u WHERE u.id = plain.id)",
        "SELECT u.id FROM users u, generate_series(1, 3) AS mail_no WHERE mail_no = u.id",
        "SELECT 1 FROM users u WHERE (SELECT p.mail FROM plain p LIMIT 1) = 'x'",
    ],
)
def test_a_name_that_means_a_plain_column_is_left_alone(sql: str) -> None:
    assert text(sql) == sql


def test_an_inner_name_hides_an_outer_one() -> None:
    sql = "SELECT id FROM users u WHERE EXISTS (SELECT 1 FROM plain WHERE mail = 'x' AND u.mail = 'y')"
    want = sql.replace("u.mail = 'y'", "u.mail__bx = <search:y>")
    assert text(sql) == want


def test_a_sub_select_in_from_does_not_see_its_neighbours() -> None:
    sql = "SELECT u.id FROM users u, (SELECT mail FROM plain) p WHERE p.mail = 'x'"
    assert text(sql) == sql


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO users VALUES (1, 'x')", "INSERT INTO users SELECT 1, 'x'",
        "INSERT INTO users (id, mail) VALUES (1, 'x')", "UPDATE users SET mail = 'x'",
        "SELECT id FROM users WHERE mail = 'x'",
    ],
)  # fmt: skip
def test_a_protected_column_that_the_catalogue_does_not_show_is_not_taken_for_a_plain_one(
    sql: str,
) -> None:
    short = {**SNAP.relations, ("public", "users"): table("users", "id")}
    view = Snapshot(3, "d", short, SNAP.protected, SNAP.schemas)
    with pytest.raises(Refusal):
        Planner().plan(sql.encode(), (), SessionContext("d", "app"), view)


# -- children, views -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["users_2026", "kids"])
def test_children_of_a_protected_table_are_protected(name: str) -> None:
    assert text(f"INSERT INTO {name} (mail) VALUES ('x')").endswith("VALUES (<store:x>)")
    assert plan(f"SELECT * FROM {name}").outputs[:2] == (None, MAIL)  # type: ignore[index]


def test_columns_of_a_view_open_as_what_its_body_selects() -> None:
    assert plan("SELECT * FROM v").outputs == (None, MAIL, None, None)
    assert plan("SELECT m, first FROM vv").outputs == (MAIL, MAIL)
    assert text("SELECT no FROM v WHERE m = $1") == (
        "SELECT no FROM v WHERE substring(m from 4 for 16) = $1"
    )


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT m FROM odd", "SELECT * FROM odd", "SELECT 1 FROM broken WHERE m = 'x'",
        "INSERT INTO v (m) VALUES ('x')", "UPDATE v SET m = 'x'", "DELETE FROM v", "SELECT lower(m) FROM v",
        "CREATE VIEW w AS SELECT id FROM users WHERE mail = 'x'", "CREATE VIEW users AS SELECT 1",
        "SELECT v FROM v", "COPY v TO STDOUT",
    ],
)  # fmt: skip
def test_what_a_view_cannot_do_is_refused(sql: str) -> None:
    with pytest.raises(Refusal):
        plan(sql)


# -- values that take a form -----------------------------------------------------------------------


def uses(sql: str) -> list[tuple[int, Use]]:
    return [(p.client_index, p.use) for p in plan(sql).params]


def test_a_value_is_sealed_wherever_it_comes_from() -> None:
    assert uses(
        "WITH a(x) AS (VALUES ($1), ($2)), b AS (SELECT x AS y FROM a) "
        "INSERT INTO users (id, mail) SELECT 1, q.y FROM (SELECT y FROM b) q"
    ) == [(0, Use.STORE), (1, Use.STORE)]
    assert uses("UPDATE users SET mail = v.m FROM unnest($1::int[], $2::varchar[]) v(i, m)") == [
        (0, Use.PASS),
        (1, Use.STORE_ARRAY),
    ]


def test_a_value_that_is_only_compared_becomes_a_tag() -> None:
    assert uses("SELECT u.id FROM users u JOIN (VALUES ($1)) v(m) ON u.mail = v.m") == [
        (0, Use.TAG)
    ]
    assert uses("SELECT u.id FROM users u JOIN unnest($1::text[]) m ON u.mail = m") == [
        (0, Use.TAG_ARRAY)
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO users (id, mail) SELECT length(v.a), v.a FROM (VALUES ($1)) v(a)",
        "INSERT INTO users (mail) SELECT v.a FROM (VALUES ($1)) v(a) ORDER BY v.a",
        "INSERT INTO users (mail) SELECT a FROM (VALUES ($1), ($2)) v(a) ORDER BY 1",
        "SELECT u.mail = v.a, m.m = v.a FROM (VALUES ($1)) v(a), users u, other.mails m",
        "INSERT INTO users (mail) SELECT long FROM orders",
        "INSERT INTO users (mail) SELECT q.c FROM (SELECT COALESCE(mail, 'y') AS c FROM users) q",
        "WITH RECURSIVE r AS (SELECT * FROM users), users AS (SELECT 1) SELECT * FROM r",
        "WITH RECURSIVE r(m) AS (SELECT NULL::text UNION ALL SELECT mail FROM users, r) SELECT m FROM r",
        "SELECT query_to_xml('SELECT * FROM users', true, true, '')",
        "SELECT * FROM dblink('', 'DELETE FROM users WHERE mail = ''x''') AS t(a int)",
        "SELECT (SELECT mail, id FROM users)", "SELECT id FROM users LIMIT (SELECT mail FROM users)",
    ],
)  # fmt: skip
def test_what_fits_no_form_is_refused(sql: str) -> None:
    with pytest.raises(Refusal):
        plan(sql)


def test_a_longer_column_takes_a_shorter_ones_values() -> None:
    assert plan("INSERT INTO orders (long) SELECT mail FROM users").outputs is None
    assert text("UPDATE orders SET long = buyer") == "UPDATE orders SET long = buyer"


def test_positions_of_errors_count_characters() -> None:
    with pytest.raises(Refusal) as caught:
        plan("SELECT 'é', lower(mail) FROM users")
    assert caught.value.position == 13


def test_output_names_and_types_stay() -> None:
    made = plan(
        "SELECT mail::text, COALESCE(mail, 'x'), NULLIF(mail, 'x'), mail FROM users GROUP BY mail"
    )
    assert made.shown is not None
    assert [s and (s.oid, s.typmod) for s in made.shown] == [(25, -1), (1043, -1), (25, -1), None]
    assert text("SELECT NULLIF(mail, 'x') FROM users").endswith("END) AS nullif FROM users")


def test_joins_using_a_protected_column_name_their_columns() -> None:
    sql = (
        "SELECT * FROM users FULL JOIN (SELECT buyer AS mail, id AS no FROM orders) o USING (mail)"
    )
    assert text(sql) == (
        "SELECT COALESCE(users.mail, o.mail) AS mail, users.id, o.no FROM users FULL JOIN "
        "(SELECT buyer AS mail, id AS no FROM orders) o ON (users.mail__bx = substring(o.mail from 4 for 16))"
    )
    assert plan(sql).outputs == (MAIL, None, None)
