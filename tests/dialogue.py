"""Plays both ends of a session without sockets: bytes in, bytes out, as messages.

`Dialogue` starts an authenticated session on a `FakeSite`, whose plans are given by text and whose
codecs reverse bytes behind a magic, so that a test sees at once what was sealed and where.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from proxy.config.model import Address, CatalogAccess, PostgresConfig
from proxy.native import OpenFailed, Watch
from proxy.policy.model import Action, Principal
from proxy.postgres.messages import frame
from proxy.postgres.needs import Need
from proxy.postgres.plan import Plan, Refusal, SessionContext, StatementPlan
from proxy.postgres.session import Session
from proxy.postgres.snapshot import ProtectedColumn, SealedType, Snapshot
from proxy.postgres.startup import StartupReader

TEXT = SealedType(25, -1, -1, "text", 1009)
EMAIL = ProtectedColumn("public", "users", "email", "shop.public.users.email", TEXT, "r", True)
MAGIC = b"\xc5\x01"


class FakeCodec:
    def seal(self, plain: bytes) -> bytes:
        return MAGIC + plain[::-1]

    def tag(self, plain: bytes) -> bytes:
        return b"tag:" + plain

    def open(self, value: bytes) -> bytes:
        if not value.startswith(MAGIC):
            raise OpenFailed("no")
        return value[2:][::-1]


@dataclass
class FakeSite:
    plans: dict[bytes, StatementPlan | Refusal] = field(default_factory=dict)
    keys_in_memory: bool = True
    denied: bool = False
    protected_database: str = "shop"
    catalog_query: bytes = b"SELECT catalogue"
    fast: bool = True
    fast_unnamed: bool = True
    watch: Watch | None = None
    noted: list[tuple[object, int]] = field(default_factory=list)
    snapshot_read: bool = True
    codec: FakeCodec = field(default_factory=FakeCodec)
    asked: list[tuple[bytes, SessionContext]] = field(default_factory=list)

    config = PostgresConfig(
        listen=Address(),
        upstream=Address(),
        database="shop",
        catalog=CatalogAccess(user="postgres"),
    )
    motion = None
    snapshot = Snapshot(1, "shop", {}, {})

    def protects(self, database: str) -> bool:
        return database == self.protected_database

    def schema_changed(self) -> None:
        """Nobody else is there to know."""

    def plan(
        self, sql: bytes, oids: tuple[int, ...], context: SessionContext, snapshot: Snapshot
    ) -> Plan:
        self.asked.append((sql, context))
        found = self.plans.get(sql, StatementPlan((sql,), False))
        if isinstance(found, Refusal):
            raise found.with_traceback(None)
        return Plan((found,), snapshot.version)

    def codec_now(
        self, principal: Principal, column: ProtectedColumn, action: Action
    ) -> FakeCodec | None:
        from proxy.errors import AccessDenied

        if self.denied:
            raise AccessDenied("no")
        return self.codec if self.keys_in_memory else None

    def shown(self, principal: Principal | None, plan: Plan) -> Plan:
        return plan

    def note_uses(self, principal: Principal | None, uses: object, count: int) -> None:
        self.noted.append((uses, count))

    def local_snapshot(self, answer: bytes) -> Snapshot:
        return Snapshot(2, "shop", {}, {})


def split(data: bytes) -> list[tuple[str, bytes]]:
    """Messages as (type letter, payload)."""
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at + 1 : at + 5], "big")
        found.append((chr(data[at]), data[at + 5 : at + 1 + size]))
        at += 1 + size
    assert at == len(data), "the output ends inside a message"
    return found


def kinds(messages: list[tuple[str, bytes]]) -> str:
    return "".join(kind for kind, _ in messages)


def msg(kind: str, payload: bytes = b"") -> bytes:
    return frame(ord(kind), payload)


def startup_packet(**parameters: str) -> bytes:
    body = b"".join(k.encode() + b"\0" + v.encode() + b"\0" for k, v in parameters.items())
    return struct.pack("!II", len(body) + 9, 196608) + body + b"\0"


def row(*values: bytes | None) -> bytes:
    parts = [struct.pack("!H", len(values))]
    for v in values:
        parts.append(b"\xff\xff\xff\xff" if v is None else struct.pack("!i", len(v)) + v)
    return msg("D", b"".join(parts))


def fields(*columns: tuple[str, int]) -> bytes:
    parts = [struct.pack("!H", len(columns))]
    for name, oid in columns:
        parts.append(name.encode() + b"\0" + struct.pack("!IhIhih", 0, 0, oid, -1, -1, 0))
    return msg("T", b"".join(parts))


def parse(name: str, sql: str, *oids: int) -> bytes:
    return msg(
        "P",
        name.encode()
        + b"\0"
        + sql.encode()
        + b"\0"
        + struct.pack(f"!H{len(oids)}I", len(oids), *oids),
    )


def bind(portal: str, name: str, *values: bytes | None, result: tuple[int, ...] = ()) -> bytes:
    body = portal.encode() + b"\0" + name.encode() + b"\0" + b"\0\0" + row(*values)[5:]
    return msg("B", body + struct.pack(f"!H{len(result)}h", len(result), *result))


def execute(portal: str = "") -> bytes:
    return msg("E", portal.encode() + b"\0\0\0\0\0")


def error(sqlstate: str = "22012", severity: str = "ERROR") -> bytes:
    return msg("E", f"S{severity}\0V{severity}\0C{sqlstate}\0Mbad\0\0".encode())


def settings_answer(path: str = '"$user", public') -> bytes:
    """The server's answer to the session's own question, up to ReadyForQuery."""
    text = f"app\n1\nhex\nDefault\n[]\n{path}".encode()
    return msg("1") + msg("2") + row(text) + msg("C", b"SELECT 1\0") + msg("3") + msg("3")


SYNC = msg("S")
READY = msg("Z", b"I")


class Dialogue:
    def __init__(self, site: FakeSite | None = None, database: str = "shop") -> None:
        self.site = site or FakeSite()
        reader = StartupReader(10_000)
        reader.feed(startup_packet(user="app", database=database))
        self.session = Session(
            self.site,  # type: ignore[arg-type]
            reader.next(),  # type: ignore[arg-type]
        )
        self.session.data_to_server()
        self.server(
            msg("R", b"\0\0\0\0")
            + msg("S", b"client_encoding\0UTF8\0")
            + msg("S", b"standard_conforming_strings\0on\0")
            + READY
        )
        if self.session.protected:
            assert kinds(self.sent()) == "PBECCS", "settings are asked for at once"
            self.settings()

    def settings(self, path: str = '"$user", public', ready: bytes = READY) -> str:
        """Answers the session's own question; returns what the client got of it."""
        return kinds(self.server(settings_answer(path) + ready))

    def client(self, data: bytes) -> list[tuple[str, bytes]]:
        """The client sends; returns what the server gets."""
        self.session.receive_client(data)
        return self.sent()

    def sent(self) -> list[tuple[str, bytes]]:
        return split(self.session.data_to_server())

    def server(self, data: bytes) -> list[tuple[str, bytes]]:
        """The server sends; returns what the client gets."""
        self.session.receive_server(data)
        return split(self.session.data_to_client())

    def pending(self) -> Need | None:
        return self.session.pending()
