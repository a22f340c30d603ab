"""Two connections: to the server with plain tables, and through the proxy with sealed ones."""

from typing import Any

import psycopg

from tests.parts.postgres import Postgres


class Pair:
    """The same statements on plain tables, directly, and on sealed ones, through the proxy."""

    def __init__(self, server: Postgres, port: int) -> None:
        options = {"autocommit": True, "options": "-c timezone=UTC"}
        self.direct = psycopg.connect(server.dsn(), **options)  # type: ignore[arg-type]
        through = server.dsn().replace(f"port={server.port}", f"port={port}")
        self.through = psycopg.connect(through, **options)  # type: ignore[arg-type]

    def same(
        self, sql: str, values: Any = (), *, binary: bool = False, forms: bool = True
    ) -> list[Any]:
        """{t} is the table. With every form of the operands: parameters, and literals."""
        wanted = self.direct.execute(sql.format(t="plain"), values).fetchall()
        got = self.through.execute(sql.format(t="sealed"), values, binary=binary).fetchall()
        assert repr(got) == repr(wanted), f"{sql} {values}"  # NaN is not equal to itself in Python
        if forms:
            cursor = psycopg.ClientCursor(self.through)
            cursor.execute(sql.format(t="sealed"), values)
            assert repr(cursor.fetchall()) == repr(wanted), f"literal: {sql} {values}"
        return wanted

    def close(self) -> None:
        self.direct.close()
        self.through.close()
