"""Which queries of the catalogue are masked, and that the others are forwarded byte for byte."""

from dataclasses import replace

import postgast
import pytest

from proxy.postgres.plan import SessionContext
from proxy.postgres.rewrite import Planner
from tests.unit.test_rewrite import SNAP

SYSTEM = {
    "pg_attribute": ("attrelid", "attname", "atttypid", "attlen", "attnum", "atttypmod",
                     "attnotnull", "atthasdef"),
    "pg_constraint": ("oid", "conname", "contype", "conrelid", "confrelid", "conkey", "confkey"),
    "pg_index": ("indexrelid", "indrelid", "indkey"),
    "columns": ("table_schema", "table_name", "column_name", "data_type"),
}  # fmt: skip
MASKED = replace(SNAP, system=SYSTEM, masked_for=frozenset({"app"}))


def sent(sql: str, user: str = "app") -> str:
    plan = Planner().plan(sql.encode(), (), SessionContext("d", user), MASKED).statements[0]
    text = b"".join(s for s in plan.segments if isinstance(s, bytes)).decode()
    postgast.parse(text)
    return text


@pytest.mark.parametrize("sql", [
    "SELECT attname FROM pg_attribute WHERE attnum > $1",
    "SELECT pg_catalog.pg_attribute.attname FROM pg_catalog.pg_attribute",
    "SELECT a.attname FROM pg_catalog.pg_attribute a JOIN pg_class c ON c.oid = a.attrelid",
    "SELECT * FROM pg_constraint", "SELECT indkey FROM pg_index i",
    "SELECT data_type FROM information_schema.columns",
    "SELECT pg_get_indexdef(oid) FROM pg_class",
    "SELECT x FROM (SELECT attname AS x FROM pg_attribute) y",
])  # fmt: skip
def test_masked(sql: str) -> None:
    text = sent(sql)
    assert text != sql and ("email__bx" in text or "email|buyer)__(bx)" in text)


def test_a_qualified_reference_follows_its_relation() -> None:
    text = sent("SELECT pg_catalog.pg_attribute.attname FROM pg_catalog.pg_attribute")
    assert text.startswith("SELECT pg_attribute.attname FROM (SELECT ")
    assert text.endswith(') AS "pg_attribute"')


@pytest.mark.parametrize("sql", [
    "SELECT ctid, attname FROM pg_attribute", "SELECT attname FROM ONLY pg_attribute",
    "SELECT a FROM pg_attribute AS p (a)", "SELECT relname FROM pg_class",
    "SELECT attname FROM other.pg_attribute", "SELECT attname FROM pg_attribute FOR UPDATE",
    "WITH pg_attribute AS (SELECT 1 AS attname) SELECT attname FROM pg_attribute",
    "SELECT 'pg_attribute'", "SELECT columns FROM columns",
])  # fmt: skip
def test_forwarded_as_it_is(sql: str) -> None:
    assert sent(sql) == sql


def test_only_the_roles_of_the_policy_see_the_mask() -> None:
    sql = "SELECT attname FROM pg_attribute"
    assert sent(sql, "dba") == sql


def test_no_mask_where_the_servers_columns_are_not_known() -> None:
    bare = replace(SNAP, masked_for=frozenset({"*"}))
    sql = b"SELECT attname FROM pg_attribute"
    plan = Planner().plan(sql, (), SessionContext("d", "app"), bare)
    assert plan.transparent


def test_parameters_keep_their_numbers_and_types() -> None:
    sql = b"SELECT $2::text, attname FROM pg_attribute WHERE attrelid = $1"
    plan = Planner().plan(sql, (26,), SessionContext("d", "app"), MASKED).statements[0]
    assert [p.client_index for p in plan.params] == [0, 1]
    assert [p.server_oid for p in plan.params] == [26, 0]
