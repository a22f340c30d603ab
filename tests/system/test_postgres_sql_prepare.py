"""PREPARE, EXECUTE and DEALLOCATE of SQL on a protected table against a plain one, direct."""

import pytest

from tests.system.test_postgres_cursors import pair, run, stack  # noqa: F401 - fixtures

pytestmark = pytest.mark.system

SCRIPTS = {
    "write and read": [
        "DELETE FROM @ WHERE id >= 100",
        "PREPARE ins (int, text, int) AS INSERT INTO @ VALUES ($1, $2, $3)",
        "EXECUTE ins (100, 'canary-p1', 7)", "EXECUTE ins(100 + 1, NULL, -8)",
        "EXECUTE ins(102, 'it''s', 9)",
        "PREPARE sel AS SELECT id, email, age FROM @ WHERE email = $1 ORDER BY id",
        "EXECUTE sel('canary-p1')", "EXECUTE sel(E'it\\'s')", "EXECUTE sel(NULL)",
        "PREPARE r (text) AS UPDATE @ SET email = $1 WHERE id = 100 RETURNING email, age",
        "EXECUTE r('new')", "DEALLOCATE sel", "EXECUTE sel('x')", "DEALLOCATE ALL", "EXECUTE ins(1)",
        "DELETE FROM @ WHERE id >= 100",
    ],
    "errors": [
        "PREPARE ins AS INSERT INTO @ VALUES ($1, $2, $3)", "EXECUTE ins(1, 'x', 'y')",
        "EXECUTE ins(1, 'x', 3000000000)", "BEGIN", "EXECUTE ins(1)", "COMMIT",
        "PREPARE ins AS SELECT 1", "DEALLOCATE ins", "PREPARE ins AS SELECT $1::int + 1",
        "EXECUTE ins(4)", "DEALLOCATE ins",
    ],
    "lists": [
        "PREPARE l (text[]) AS SELECT id FROM @ WHERE email = ANY($1) ORDER BY id",
        "EXECUTE l('{u1@x,u3@x,none}')", "DEALLOCATE l",
        "PREPARE i (text, text) AS SELECT id, $1 FROM @ WHERE email IN ($2, 'u2@x') ORDER BY id",
        "EXECUTE i('a' || 'b', 'u5@x')", "DEALLOCATE i",
    ],
    "one text": [
        "PREPARE o (text) AS SELECT age FROM @ WHERE email = $1; EXECUTE o('u4@x'); DEALLOCATE o",
        "EXECUTE o('u4@x')",
    ],
    "in a failed transaction": [
        "BEGIN", "PREPARE t AS SELECT email FROM @ WHERE id = $1", "SELECT 1 / 0", "ROLLBACK",
        "EXECUTE t(3)", "DISCARD ALL", "EXECUTE t(3)",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_prepared_statements_of_sql_give_what_they_give_on_a_plain_table(pair, name):  # noqa: F811
    (sealed, table), (plain, other) = pair
    script = SCRIPTS[name]
    assert run(sealed, table, script, False) == run(plain, other, script, False)


@pytest.mark.parametrize("sql", [
    "EXECUTE ins(1, 'a' || 'b', 2)", "EXECUTE ins(1, 'x'::varchar, 2)", "EXPLAIN EXECUTE ins(1, 'x', 2)",
    "CREATE TABLE made AS EXECUTE ins(1, 'x', 2)", "PREPARE p AS SELECT lower(email) FROM users",
])  # fmt: skip
def test_what_could_reach_the_server_in_clear_is_refused(pair, sql):  # noqa: F811
    (sealed, _), _ = pair
    script = ["PREPARE ins AS INSERT INTO @ VALUES ($1, $2, $3)", sql, "DEALLOCATE ALL"]
    seen = run(sealed, "users", script, False)
    assert seen[1][0] == "0A000" and seen[2] == "DEALLOCATE ALL"
