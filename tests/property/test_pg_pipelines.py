"""A model of the server answers late and in any batches; nothing in clear may reach a protected
statement, and no sealed value the client, however the client pipelines, fails and renames."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.postgres.messages import Bind, Parse, kind_and_name
from tests.dialogue import Dialogue, bind, error, execute, fields, msg, parse, row
from tests.unit.test_session import INSERT, LITERAL, REFUSED, SELECT, hexed, sealed, site

PLAIN, OPENED = b"canary-7f3a", b"opened value"


class ModelServer:
    """Statements, portals, skip-to-Sync and answers as postgres.c has them; autocommit."""

    def __init__(self) -> None:
        self.statements: dict[bytes, bytes] = {}
        self.portals: dict[bytes, bytes] = {}
        self.skipping = False

    def take(self, kind: str, payload: bytes) -> bytes:
        assert PLAIN not in payload, f"{kind} carries a protected value in clear"
        if kind == "S":
            self.skipping = False
            self.portals.clear()
            return msg("Z", b"I")
        if self.skipping or kind == "H":
            return b""
        if kind == "Q":
            return self.query(payload[:-1])
        answer = getattr(self, {"P": "parse", "B": "bind", "D": "describe", "E": "execute",
                                "C": "close"}[kind])(payload)  # fmt: skip
        if answer is None:
            self.skipping = True
            return error("26000")
        return answer

    def parse(self, payload: bytes) -> bytes | None:
        p = Parse.read(payload)
        if p.name in self.statements and p.name:
            return None
        self.statements.pop(p.name, None)
        if p.sql == b"bad":
            return None
        self.statements[p.name] = p.sql
        return msg("1")

    def bind(self, payload: bytes) -> bytes | None:
        b = Bind.read(payload)
        if b.statement not in self.statements or (b.portal and b.portal in self.portals):
            return None
        if self.statements[b.statement] == INSERT:
            assert b.values[1] is None or b.values[1].startswith(b"\xc5"), "stored in clear"
        self.portals[b.portal] = self.statements[b.statement]
        return msg("2")

    def describe(self, payload: bytes) -> bytes | None:
        kind, name = kind_and_name(payload)
        known = self.statements if kind == ord("S") else self.portals
        if name not in known:
            return None
        head = msg("t", b"\0\0") if kind == ord("S") else b""
        if known[name] == SELECT:
            return head + fields(("id", 23), ("email", 17))
        return head + msg("n")

    def execute(self, payload: bytes) -> bytes | None:
        sql = self.portals.get(payload.split(b"\0")[0])
        if sql is None:
            return None
        if sql == SELECT:
            return row(b"1", sealed(OPENED)) + msg("C", b"SELECT 1\0")
        if b"current_setting" in sql:
            return row(b"app\n1\nhex\nDefault\n[]\npublic") + msg("C", b"SELECT 1\0")
        return msg("C", b"OK\0")

    def close(self, payload: bytes) -> bytes | None:
        kind, name = kind_and_name(payload)
        (self.statements if kind == ord("S") else self.portals).pop(name, None)
        return msg("3")

    def query(self, sql: bytes) -> bytes:
        self.statements.pop(b"", None)
        self.portals.clear()
        if sql == SELECT:
            rows = fields(("id", 23), ("email", 17)) + row(b"1", hexed(sealed(OPENED)))
            return rows + msg("C", b"SELECT 1\0") + msg("Z", b"I")
        if sql == b"DEALLOCATE ALL":
            self.statements.clear()
            return msg("C", b"DEALLOCATE ALL\0") + msg("Z", b"I")
        return msg("C", b"OK\0") + msg("Z", b"I")


NAMES = st.sampled_from(["", "s", "t"])
SQL = st.sampled_from([INSERT.decode(), SELECT.decode(), "SELECT 1", "bad", REFUSED.decode(),
                       "SET search_path TO x"])  # fmt: skip
QUERIES = st.sampled_from([SELECT, LITERAL.replace(b"a@b", PLAIN), b"DEALLOCATE ALL", b"SELECT 1",
                           b"SET search_path TO x", REFUSED])  # fmt: skip
MESSAGES = st.one_of(
    st.tuples(NAMES, SQL).map(lambda a: parse(*a)),
    # Clients that bind a value to a statement believe that it is the INSERT.
    st.tuples(NAMES, NAMES).map(lambda a: ("insert", a)),
    st.tuples(NAMES, NAMES).map(lambda a: bind(*a)),
    NAMES.map(execute),
    NAMES.map(lambda n: msg("D", b"S" + n.encode() + b"\0")),
    NAMES.map(lambda n: msg("D", b"P" + n.encode() + b"\0")),
    NAMES.map(lambda n: msg("C", b"S" + n.encode() + b"\0")),
    NAMES.map(lambda n: msg("C", b"P" + n.encode() + b"\0")),
    QUERIES.map(lambda q: msg("Q", q + b"\0")),
    st.just(msg("S")),
    st.just(msg("S")),
)


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(MESSAGES, st.integers(0, 6)), max_size=40))
def test_pipelines_never_mix_up_what_is_protected(script):
    s = site()
    from proxy.postgres.plan import Literal, StatementPlan, Use
    from tests.dialogue import EMAIL

    s.plans[LITERAL.replace(b"a@b", PLAIN)] = StatementPlan(
        (b"INSERT INTO users VALUES (1, ", Literal(EMAIL, Use.STORE, PLAIN), b")"), True
    )
    d = Dialogue(s)
    server = ModelServer()
    waiting: list[tuple[str, bytes]] = []
    received: list[tuple[str, bytes]] = []
    syncs = 0

    def answer(count: int) -> None:
        for _ in range(count):
            waiting.extend(d.sent())
            if not waiting:
                return
            received.extend(d.server(server.take(*waiting.pop(0))))

    for message, count in script:
        if isinstance(message, tuple):
            portal, name = message[1]
            # what the server will hold under this name when the Bind comes, if all goes well
            message = bind(portal, name, b"7", b"value") if name else bind(portal, name)
        if message[:1] in (b"S", b"Q"):
            syncs += 1
        d.session.receive_client(message)
        answer(count)
    d.session.receive_client(msg("S"))
    answer(10_000)
    waiting.extend(d.sent())
    assert not waiting and not d.session.wire.expected, "everything was answered"
    assert d.session.pending() is None and not d.session.waiting
    for kind, payload in received:
        assert b"\xc5\x01" not in payload and hexed(b"\xc5\x01") not in payload, kind
    opened = sum(1 for kind, _ in received if kind == "D")
    assert opened == sum(1 for k, p in received if k == "D" and OPENED in p)
    d.session.receive_client(msg("Q", SELECT + b"\0"))
    received.clear()
    answer(100)
    assert any(OPENED in p for k, p in received if k == "D"), "the session still works"
