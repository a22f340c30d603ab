"""What DDL on protected tables becomes, statement by statement."""

import pytest

from proxy.postgres.ddl.names import object_name
from proxy.postgres.plan import Refusal, SessionContext, UnknownColumns
from proxy.postgres.rewrite import Planner
from proxy.postgres.snapshot import BYTEA, Column, ProtectedColumn, Relation, SealedType, Snapshot
from tests.unit.test_rewrite import shown

TEXT = SealedType(25, -1, -1, "text", 1009)
V20 = SealedType(1043, -1, 24, "character varying(20)", 1015)
POLICY = {}


def protect(
    table: str,
    column: str,
    kind: SealedType = TEXT,
    equality: bool = True,
    domain: str = "",
    equal_defaults: bool = False,
) -> None:
    POLICY["public", table, column] = ProtectedColumn(
        "public", table, column, domain or f"d.{table}.{column}", kind, "r", equality,
        equal_defaults=equal_defaults,
    )  # fmt: skip


protect("users", "email", V20)
protect("users", "mail", V20, domain="d.users.email")
protect("users", "note", equality=False)
protect("users", "nick", equality=False, equal_defaults=True)
protect("orders", "buyer", V20, domain="d.users.email")
protect("persons", "email", V20)
protect("people", "email", V20, domain="d.persons.email")
protect("fresh", "Email", V20)
protect("fresh", "ssn")
protect("parts", "email", V20)


def rel(name: str, *columns: str, **more: tuple[str, ...]) -> Relation:
    return Relation("public", name, "r", tuple(Column(c, BYTEA) for c in columns), **more)  # type: ignore[arg-type]


SNAP = Snapshot(
    1, "d",
    {("public", r.name): r for r in (
        rel("users", "id", "email", "email__bx", "note", primary_key=("id",),
            indexes=("users_pkey", "users_id_email_idx")),
        rel("persons", "email", "email__bx", primary_key=("email__bx",)),
        rel("plain", "id", "email"), rel("orders", "id", "buyer", "buyer__bx"),
    )},
    POLICY, frozenset({"public"}),
)  # fmt: skip


def plan(sql: str) -> str:
    text = shown(Planner().plan(sql.encode(), (), SessionContext("d", "app"), SNAP))
    for name in ("Email", "ssn", "email", "mail", "nick", "buyer"):
        check = (
            f'CONSTRAINT "{name}__sealed" CHECK (octet_length("{name}") >= 67 AND'
            f' get_byte("{name}", 0) = 197 AND get_byte("{name}", 1) = 1)'
        )
        tags = (
            f'"{name}__bx" bytea GENERATED ALWAYS AS (substring("{name}" from 4 for 16)) STORED'
        )
        text = text.replace(check, f"<{name} sealed>").replace(tags, f"<{name} tags>")
    return text


@pytest.mark.parametrize(("sql", "want"), [
    ('CREATE TABLE IF NOT EXISTS fresh (id int PRIMARY KEY, "Email" varchar(20) COLLATE "C" NOT NULL'
     " CONSTRAINT uq UNIQUE NULLS NOT DISTINCT DEFERRABLE INITIALLY DEFERRED, -- theirs\n ssn text)",
     'CREATE TABLE IF NOT EXISTS fresh (id int PRIMARY KEY, "Email" bytea NOT NULL <Email sealed>,'
     " <Email tags> CONSTRAINT uq UNIQUE NULLS NOT DISTINCT DEFERRABLE INITIALLY DEFERRED, -- theirs\n"
     ' "ssn" bytea <ssn sealed>, <ssn tags>)'),
    ('CREATE TABLE fresh (ssn text UNIQUE /* c */, "Email" varchar(20), UNIQUE ("Email", ssn),'
     ' CONSTRAINT k PRIMARY KEY (ssn), FOREIGN KEY ("Email") REFERENCES fresh ("Email") DEFERRABLE)',
     'CREATE TABLE fresh ("ssn" bytea <ssn sealed>, <ssn tags> CONSTRAINT "fresh_ssn_key" UNIQUE'
     ' /* c */, "Email" bytea <Email sealed>, <Email tags>, CONSTRAINT "fresh_Email_ssn_key" UNIQUE'
     ' ("Email__bx", "ssn__bx"), CONSTRAINT k PRIMARY KEY ("ssn__bx"), CONSTRAINT "fresh_Email_fkey"'
     ' FOREIGN KEY ("Email__bx") REFERENCES fresh ("Email__bx") DEFERRABLE)'),
    ("CREATE TABLE fresh (ssn text DEFAULT 'x'::text CHECK (ssn IS NOT NULL))",
     "CREATE TABLE fresh (\"ssn\" bytea DEFAULT '<store:x>'::bytea CHECK (ssn IS NOT NULL)"
     " <ssn sealed>, <ssn tags>)"),
    ("CREATE TABLE orders (buyer varchar(20) REFERENCES users (email) ON DELETE CASCADE)",
     'CREATE TABLE orders ("buyer" bytea <buyer sealed>, <buyer tags> CONSTRAINT "orders_buyer_fkey"'
     ' REFERENCES users ("email__bx") ON DELETE CASCADE)'),
    ("CREATE TABLE people (email varchar(20) REFERENCES persons ON DELETE RESTRICT)",
     'CREATE TABLE people ("email" bytea <email sealed>, <email tags> CONSTRAINT "people_email_fkey"'
     ' REFERENCES persons ("email__bx") ON DELETE RESTRICT)'),
    ("CREATE TABLE orders (a int, buyer varchar(20), CONSTRAINT f FOREIGN KEY (a, buyer)"
     " REFERENCES users (id, email))",
     'CREATE TABLE orders (a int, "buyer" bytea <buyer sealed>, <buyer tags>, CONSTRAINT f FOREIGN KEY'
     ' (a, "buyer__bx") REFERENCES users ("id", "email__bx"))'),
    ("CREATE TABLE p1 PARTITION OF users (UNIQUE (email)) FOR VALUES FROM (1) TO (2)",
     'CREATE TABLE p1 PARTITION OF users (CONSTRAINT "p1_email_key" UNIQUE ("email__bx"))'
     " FOR VALUES FROM (1) TO (2)"),
    ("CREATE TABLE people (LIKE persons INCLUDING DEFAULTS)",
     "CREATE TABLE people (LIKE persons INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS)"),
    ("CREATE TABLE people () INHERITS (persons)", "CREATE TABLE people () INHERITS (persons)"),
    ("CREATE TABLE parts (c date, email varchar(20), PRIMARY KEY (email, c)) PARTITION BY RANGE (c)",
     'CREATE TABLE parts (c date, "email" bytea <email sealed>, <email tags>, CONSTRAINT "parts_pkey"'
     ' PRIMARY KEY ("email__bx", c)) PARTITION BY RANGE (c)'),
    ("ALTER TABLE users ADD COLUMN IF NOT EXISTS mail varchar(20) NOT NULL UNIQUE, ADD b int, DROP c",
     'ALTER TABLE users ADD COLUMN IF NOT EXISTS "mail" bytea NOT NULL <mail sealed>, ADD COLUMN'
     ' IF NOT EXISTS <mail tags> CONSTRAINT "users_mail_key" UNIQUE, ADD b int, DROP c'),
    ("ALTER TABLE users ADD nick text DEFAULT '' NOT NULL",
     "ALTER TABLE users ADD \"nick\" bytea DEFAULT '<store:>'::bytea NOT NULL <nick sealed>"),
    ("ALTER TABLE users ALTER nick DROP DEFAULT, ALTER note DROP NOT NULL, ALTER email SET DEFAULT 'x'",
     "ALTER TABLE users ALTER nick DROP DEFAULT, ALTER note DROP NOT NULL, ALTER COLUMN \"email\" SET"
     " DEFAULT '<store:x>'::bytea"),
    ('ALTER TABLE users ALTER COLUMN email TYPE varchar(20) USING "email"::varchar(20)',
     "ALTER TABLE users SET WITHOUT OIDS"),
    ("ALTER TABLE users DROP COLUMN IF EXISTS email CASCADE, DROP note",
     'ALTER TABLE users DROP COLUMN IF EXISTS "email__bx" CASCADE, DROP COLUMN IF EXISTS email CASCADE,'
     " DROP note"),
    ("ALTER TABLE users DROP CONSTRAINT q, ADD CONSTRAINT r UNIQUE (email), ADD UNIQUE (email, id)",
     'ALTER TABLE users DROP CONSTRAINT q, ADD CONSTRAINT r UNIQUE ("email__bx"), ADD CONSTRAINT'
     ' "users_email_id_key" UNIQUE ("email__bx", id)'),
    ('CREATE INDEX "a_like" ON "users" ("email" varchar_pattern_ops)',
     'CREATE INDEX "a_like" ON "users" ("email__bx")'),
    ('CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON ONLY users USING btree (email COLLATE "C"'
     " text_pattern_ops DESC NULLS LAST, id) INCLUDE (note) WHERE email IS NOT NULL AND id > 3",
     'CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON ONLY users USING btree ("email__bx" DESC'
     " NULLS LAST, id) INCLUDE (note) WHERE email IS NOT NULL AND id > 3"),
    ("CREATE INDEX ON users (id, email)", 'CREATE INDEX "users_id_email_idx1" ON users (id, "email__bx")'),
    ('GRANT SELECT (id, "email"), UPDATE (email) ON users TO r',
     'GRANT SELECT (id, "email", "email__bx"), UPDATE (email) ON users TO r'),
    ("REVOKE ALL (email) ON public.users FROM r", 'REVOKE ALL (email, "email__bx") ON public.users FROM r'),
    ("CREATE TABLE fresh (ssn text); CREATE INDEX ON fresh (ssn); COMMENT ON COLUMN fresh.ssn IS 'y'",
     'CREATE TABLE fresh ("ssn" bytea <ssn sealed>, <ssn tags>); CREATE INDEX "fresh_ssn_idx" ON fresh'
     " (\"ssn__bx\"); COMMENT ON COLUMN fresh.ssn IS 'y'"),
    ("ALTER TABLE persons RENAME TO people", "ALTER TABLE persons RENAME TO people"),
    ("ALTER TABLE users RENAME CONSTRAINT a TO b", "ALTER TABLE users RENAME CONSTRAINT a TO b"),
    ("CREATE POLICY p ON users USING (id = 3)", "CREATE POLICY p ON users USING (id = 3)"),
])  # fmt: skip
def test_definition_becomes(sql: str, want: str) -> None:
    assert plan(sql) == want


def test_a_renamed_column_takes_its_tags_and_check_along_in_one_statement() -> None:
    text = plan("ALTER TABLE users RENAME email TO mail")
    assert text.startswith('DO $sealgate$ BEGIN ALTER TABLE "public"."users" RENAME COLUMN "email" TO')
    assert 'RENAME COLUMN "email__bx" TO "mail__bx"' in text
    assert 'RENAME CONSTRAINT "email__sealed" TO "mail__sealed"' in text


@pytest.mark.parametrize(("sql", "sqlstate", "words"), [
    ("CREATE TABLE fresh (ssn text CHECK (ssn <> ''))", "0A000", "this CHECK"),
    ("CREATE TABLE fresh (ssn text, CHECK (length(ssn) > 3))", "0A000", "this CHECK"),
    ("CREATE TABLE fresh (ssn text, EXCLUDE (ssn WITH =))", "0A000", "EXCLUDE"),
    ("CREATE TABLE fresh (ssn text) PARTITION BY LIST (ssn)", "0A000", "PARTITION BY"),
    ("CREATE TABLE fresh (ssn text) PARTITION BY LIST (lower(ssn))", "0A000", "PARTITION BY"),
    ("CREATE TABLE fresh (ssn varchar)", "42804", "configured as text"),
    ("CREATE TABLE fresh (ssn text[])", "42804", "configured as text"),
    ("CREATE TABLE fresh (ssn text DEFAULT now()::text)", "0A000", "a DEFAULT that the server computes"),
    ("CREATE TABLE fresh (ssn text GENERATED ALWAYS AS ('x') STORED)", "0A000", "this constraint"),
    ('CREATE TABLE fresh (ssn text COLLATE "und-x-icu")', "0A000", "COLLATE"),
    ("CREATE TEMP TABLE fresh (ssn text)", "0A000", "temporary"),
    ("CREATE TABLE users (note text UNIQUE)", "0A000", "a key"),
    ("CREATE TABLE x (m text REFERENCES users (email))", "0A000", "a reference from a plain column"),
    ("CREATE TABLE x (m bytea REFERENCES persons)", "0A000", "a reference from a plain column"),
    ("CREATE TABLE orders (buyer varchar(20) REFERENCES plain (email))", "0A000", "this reference"),
    ("CREATE TABLE orders (buyer varchar(20) REFERENCES persons (email))", "0A000", "this reference"),
    ("CREATE TABLE orders (buyer varchar(20) REFERENCES users (email) ON DELETE SET NULL)", "0A000",
     "referential action"),
    ("CREATE TABLE copy (LIKE users)", "0A000", "LIKE"),
    ("CREATE TABLE people (LIKE plain)", "0A000", "LIKE"),
    ("CREATE TABLE kid () INHERITS (users)", "0A000", "inheriting"),
    ("ALTER TABLE users ADD note text DEFAULT ''", "0A000", "a DEFAULT"),
    ("ALTER TABLE users ALTER email TYPE varchar(30)", "42804", "configured as character varying(20)"),
    ("ALTER TABLE users ALTER email TYPE varchar(20) USING lower(email)", "0A000", "USING"),
    ("ALTER TABLE users ALTER id TYPE text USING email", "0A000", "USING"),
    ("ALTER TABLE users ALTER email ADD GENERATED ALWAYS AS IDENTITY", "0A000", "this ALTER COLUMN"),
    ("ALTER TABLE users DROP CONSTRAINT email__sealed", "0A000", "email__sealed"),
    ("ALTER TABLE users DROP COLUMN email__bx", "0A000", "email__bx"),
    ("ALTER TABLE users RENAME email__bx TO x", "0A000", "email__bx"),
    ("ALTER TABLE users RENAME email TO other", "0A000", "not protected alike"),
    ("ALTER TABLE users RENAME id TO mail", "0A000", "not protected alike"),
    ("ALTER TABLE users RENAME TO people", "0A000", "not protected alike"),
    ("ALTER TABLE plain RENAME TO people", "0A000", "not protected alike"),
    ("ALTER TABLE nowhere RENAME TO people", "0A000", "not known"),
    ("ALTER INDEX users RENAME TO other", "0A000", "not protected alike"),
    ("ALTER TABLE users SET SCHEMA other", "0A000", "not protected alike"),
    ("ALTER TABLE users ATTACH PARTITION plain DEFAULT", "0A000", "not protected alike"),
    ("CREATE INDEX ON users (lower(email))", "0A000", "an expression index"),
    ("CREATE INDEX ON users (email) WHERE email <> ''", "0A000", "this partial index"),
    ("CREATE INDEX ON users USING gist (email)", "0A000", "method gist"),
    ("CREATE INDEX ON users USING gin (email)", "0A000", "an index"),
    ("CREATE INDEX ON users (note)", "0A000", "an index"),
    ("CREATE POLICY p ON users USING (email = current_user)", "0A000", "this POLICY"),
    ("SET search_path = x; CREATE TABLE fresh (ssn text)", "0A000", "change of settings"),
])  # fmt: skip
def test_definition_is_refused(sql: str, sqlstate: str, words: str) -> None:
    with pytest.raises(Refusal) as caught:
        plan(sql)
    assert caught.value.sqlstate == sqlstate and words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("sql", [
    "INSERT INTO users (id, mail) VALUES (1, 'x')", "UPDATE users SET mail = 'x'",
    "SELECT id FROM users WHERE mail = 'x'", "SELECT u.id FROM users u WHERE u.mail = 'x'",
])  # fmt: skip
def test_a_protected_column_that_our_view_lacks_is_never_taken_for_a_plain_one(sql: str) -> None:
    with pytest.raises(UnknownColumns):
        plan(sql)


def test_a_table_that_holds_a_protected_column_in_clear_is_not_served() -> None:
    clear = Relation(
        "public", "persons", "r", (Column("email", 25),), in_clear=("email",)
    )
    snapshot = Snapshot(1, "d", {("public", "persons"): clear}, POLICY)
    for sql in ("SELECT email FROM persons", "INSERT INTO persons VALUES ('x')"):
        with pytest.raises(Refusal) as caught:
            Planner().plan(sql.encode(), (), SessionContext("d", "app"), snapshot)
        assert "migrate.md" in caught.value.hint


def test_generated_names_are_clipped_as_the_server_clips_them() -> None:
    assert object_name("users", "email", "key") == "users_email_key"
    assert object_name("t" * 60, "c" * 40, "idx") == "t" * 29 + "_" + "c" * 29 + "_idx"
    assert object_name("t" * 80, "", "pkey") == "t" * 58 + "_pkey"
