"""Real clients write, search and read a protected table; the server only ever has it sealed."""

import os
import subprocess

import asyncpg
import psycopg
import pytest
from sqlalchemy import Integer, Text, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from proxy.config.model import (
    ColumnConfig,
)
from tests.parts.database import tapped_database
from tests.parts.keyring import software_keys
from tests.parts.listening import Listening

pytestmark = pytest.mark.system
CANARY = "canary-7f3a@example.org"


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    email: Mapped[str] = mapped_column(Text)


@pytest.fixture(scope="module")
def stack():
    column = ColumnConfig(column="public.users.email", type="text", ring="app", equality=True)
    with (
        tapped_database((column,)) as (made, tap),
        Listening(made.config, lambda: software_keys(made.folder)) as proxy,
    ):
        yield made.server, proxy, tap


@pytest.fixture(scope="module")
def table(stack):
    """The table is made by an ORM, through the proxy."""
    server, proxy, _ = stack
    url = f"postgresql+psycopg://{server.user}:{server.password}@127.0.0.1:{proxy.port}/shop"
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    with Session(engine) as s:
        s.add_all([Person(id=i, email=f"orm{i}@x") for i in range(1, 20)])
        s.commit()
    yield engine
    engine.dispose()


def dsn(stack) -> str:
    server, proxy, _ = stack
    return server.dsn().replace(f"port={server.port}", f"port={proxy.port}")


def test_an_orm_creates_fills_searches_and_reads(table):
    with Session(table) as s:
        found = s.scalars(select(Person).where(Person.email == "orm7@x")).one()
        assert found.id == 7
        assert len(s.scalars(select(Person)).all()) >= 19


def test_psycopg_in_text_and_binary(stack, table):
    with psycopg.connect(dsn(stack), autocommit=True) as c:
        c.execute("INSERT INTO users (id, email) VALUES (%s, %s)", [100, CANARY])
        for binary in (False, True):
            for _ in range(8):
                row = c.execute(
                    "SELECT id, email FROM users WHERE email = %s", [CANARY], binary=binary
                ).fetchone()
                assert row == (100, CANARY)
        cursor = psycopg.ClientCursor(c)
        cursor.execute("SELECT email FROM users WHERE email = %s", [CANARY])
        assert cursor.fetchone() == (CANARY,)


async def test_asyncpg(stack, table):
    server, proxy, _ = stack
    c = await asyncpg.connect(
        host="127.0.0.1", port=proxy.port, user=server.user, password=server.password,
        database="shop",
    )  # fmt: skip
    try:
        await c.execute("INSERT INTO users (id, email) VALUES ($1, $2)", 200, "async@x")
        assert await c.fetchval("SELECT id FROM users WHERE email = $1", "async@x") == 200
    finally:
        await c.close()


def test_psql(stack, table):
    server, proxy, _ = stack
    out = subprocess.run(
        ["psql", "-At", "-h", "127.0.0.1", "-p", str(proxy.port), "-U", server.user, "shop",
         "-c", "SELECT id, email FROM users WHERE email = 'orm3@x'"],
        env={**os.environ, "PGPASSWORD": server.password},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert out.stdout == "3|orm3@x\n"


def test_the_server_leg_never_carries_a_value_in_clear(stack, table):
    _, _, tap = stack
    assert b"canary-7f3a" not in tap.to_server and b"orm7@x" not in tap.to_server


def test_a_forged_value_is_one_error_and_the_session_goes_on(stack, table):
    server, _, _ = stack
    with psycopg.connect(server.dsn(), autocommit=True) as direct:
        direct.execute(
            "UPDATE users SET email = (SELECT set_byte(email, 60, 255 - get_byte(email, 60))"
            " FROM users WHERE id = 1) WHERE id = 1"
        )
    with psycopg.connect(dsn(stack), autocommit=True) as c:
        with pytest.raises(psycopg.errors.DataCorrupted, match='column "email"'):
            c.execute("SELECT email FROM users WHERE id = 1").fetchone()
        assert c.execute("SELECT email FROM users WHERE id = 2").fetchone() == ("orm2@x",)
