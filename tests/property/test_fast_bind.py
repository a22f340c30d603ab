"""A Bind done natively means to the server what the same Bind done in Python means."""

import struct

from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy import native
from proxy.crypto.column import Canonical, column_codec
from proxy.native import CANON_INT
from proxy.policy.model import Action
from proxy.postgres.fast import fast_bind
from proxy.postgres.messages import Bind
from proxy.postgres.plan import ClientParam, ParamTarget, StatementPlan, Use
from proxy.postgres.snapshot import ProtectedColumn
from proxy.postgres.statements import Statement
from proxy.postgres.types.base import DataError, TextContext
from proxy.postgres.types.registry import resolve
from proxy.postgres.values import server_parameters
from tests.dialogue import Dialogue, FakeSite, bind, msg, split

CTX = TextContext()
_TYPES = ("text", "int2", "int4", "int8", "uuid", "bytea")
COLUMNS = {n: ProtectedColumn("public", "t", n, f"d.t.{n}", resolve(n), "r", True) for n in _TYPES}
RING = native.key_import(bytearray(range(32)))
CODECS = {
    n: column_codec(
        [(RING, True)], c.domain, c.type.oid, True, 0, 0,
        Canonical(CANON_INT) if n.startswith("int") else Canonical(), index=RING,
    )
    for n, c in COLUMNS.items()
}  # fmt: skip
KEYS = {(c, a): CODECS[n] for n, c in COLUMNS.items() for a in (Action.SEAL, Action.OPEN)}

_values = st.one_of(
    st.none(),
    st.binary(max_size=20),
    st.text(max_size=12).map(str.encode),
    st.integers(-(2**65), 2**65).map(lambda n: str(n).encode()),
    st.integers(-40000, 40000).map(lambda n: str(n).encode()),
    st.sampled_from([b"", b"-", b"-0", b"007", b" 5", b"+5", b"1e3", b"a\0b", b"\xff", b"\\x00"]),
    st.sampled_from([2, 4, 8, 16]).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
)
_targets = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([Use.PASS, Use.STORE, Use.TAG]),
              st.sampled_from(_TYPES)),
    min_size=1, max_size=4,
)  # fmt: skip


def _plain(use: Use, name: str, value: bytes | None) -> bytes | None:
    """What the server's value stands for: sealed values differ each time, tags do not."""
    return CODECS[name].open(value) if use is Use.STORE and value is not None else value


@settings(max_examples=400, deadline=None)
@given(
    _targets,
    st.lists(_values, min_size=3, max_size=3),
    st.sampled_from([(), (0,), (1,), (0, 1, 0), (1, 1, 0)]),
    st.sampled_from([(), (0,), (1,)]),
)
@example(targets=[(1, Use.STORE, "text")], values=[None, b"\xc2\x80\0", None], formats=(), results=())
def test_native_and_python_bind_the_same(
    targets: list[tuple[int, Use, str]],
    values: list[bytes | None],
    formats: tuple[int, ...],
    results: tuple[int, ...],
) -> None:
    params = tuple(
        ParamTarget(i, use, None if use is Use.PASS else COLUMNS[name], 17)
        for i, use, name in targets
    )
    plan = StatementPlan((b"x",), True, params, tuple(ClientParam(0) for _ in range(3)))
    statement = Statement(plan, (), b"x", (0, 0))
    made = fast_bind(statement, KEYS, CTX)
    assert made is not None
    dialogue = Dialogue(FakeSite())
    session = dialogue.session
    session.statements.change(b"s", statement, 0).done()
    session.wire.fast[b"s"] = made
    client = Bind(b"", b"s", formats, tuple(values), results)
    session.wire.client_feed(client.message())
    shown = session.wire.client_next()
    try:
        want = server_parameters(plan, (), formats, values, KEYS, CTX)
    except DataError:
        assert shown is not None, "a value that Python refuses was sent"
        assert made.uses == 0
        return
    if shown is not None:
        assert made.uses == 0
        assert session.data_to_server() == b""
        return
    [(kind, payload)] = split(session.data_to_server())
    assert kind == "B"
    sent = Bind.read(payload)
    assert (sent.portal, sent.statement, sent.result_formats) == (b"", b"s", results)
    assert sent.formats == want[0]
    for (_, use, name), mine, its in zip(targets, sent.values, want[1], strict=True):
        assert _plain(use, name, mine) == _plain(use, name, its)


@given(st.binary(max_size=60), st.integers(0, 80))
def test_a_broken_bind_is_left_to_python(junk: bytes, cut: int) -> None:
    """Neither a crash nor a half-written message."""
    plan = StatementPlan(
        (b"x",), True, (ParamTarget(0, Use.TAG, COLUMNS["text"], 17),), (ClientParam(0),)
    )
    statement = Statement(plan, (), b"x", (0, 0))
    made = fast_bind(statement, KEYS, CTX)
    session = Dialogue(FakeSite()).session
    session.statements.change(b"s", statement, 0).done()
    assert made is not None
    session.wire.fast[b"s"] = made
    whole = bind("", "s", b"value")[5:]
    body = whole[: cut % (len(whole) + 1)] + junk
    session.wire.client_feed(msg("B", b"\0s\0" + body[3:]))
    try:
        shown = session.wire.client_next()
    except native.WireError:
        return
    sent = session.data_to_server()
    assert (shown is None) == bool(sent)
    if sent:
        [(_, payload)] = split(sent)
        assert Bind.read(payload).values[0] == CODECS["text"].tag(Bind.read(body).values[0] or b"")


def test_a_wiped_key_is_left_to_python() -> None:
    ring = native.key_import(bytearray(range(1, 33)))
    codec = column_codec([(ring, True)], "d", 25, True, 0, 0, Canonical(), index=ring)
    column = COLUMNS["text"]
    plan = StatementPlan((b"x",), True, (ParamTarget(0, Use.STORE, column, 17),), (ClientParam(0),))
    statement = Statement(plan, (), b"x", (0, 0))
    made = fast_bind(statement, {(column, Action.SEAL): codec}, CTX)
    assert made is not None
    session = Dialogue(FakeSite()).session
    session.statements.change(b"s", statement, 0).done()
    session.wire.fast[b"s"] = made
    for handle in codec.handles:
        handle.wipe()
    session.wire.client_feed(bind("", "s", b"value"))
    assert session.wire.client_next() is not None
    assert session.data_to_server() == b""


def test_time_and_count_end_it() -> None:
    plan = StatementPlan((b"x",), True, (ParamTarget(0, Use.PASS),), (ClientParam(0),))
    statement = Statement(plan, (), b"x", (0, 0))
    session = Dialogue(FakeSite()).session
    session.statements.change(b"s", statement, 0).done()
    one = [(0, None, False, native.FAST_PASS, 0)]
    for seconds, count, times in ((-1.0, 10, 0), (60.0, 3, 3), (60.0, 0, 0)):
        made = native.FastBind(statement, one, 1, [], None, None, seconds, count)
        session.wire.fast[b"s"] = made
        session.wire.client_feed(bind("", "s", b"v") * 4)
        assert session.wire.client_next() is not None
        assert made.uses == times
        while session.wire.client_next() is not None:
            pass


def test_lengths_are_checked_before_they_are_used() -> None:
    statement = Statement(StatementPlan((b"x",), True), (), b"x", (0, 0))
    session = Dialogue(FakeSite()).session
    session.statements.change(b"s", statement, 0).done()
    one = [(0, None, False, native.FAST_PASS, 0)]
    session.wire.fast[b"s"] = native.FastBind(statement, one, 1, [], None, None, 60.0, 9)
    for size in (-2, 5, 0x7FFFFFFF, -(2**31)):
        body = b"\0s\0" + struct.pack("!HHi", 0, 1, size) + b"abc" + b"\0\0"
        session.wire.client_feed(msg("B", body))
        assert session.wire.client_next() is not None, size
        session.wire.drop_client()
