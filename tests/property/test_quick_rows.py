"""native/rows.pyx: the pass for common rows does what the way of every row does, damaged rows too."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy import native
from proxy.native import ROW_COPY, ColumnCodec, RowPlan, Wire

CODEC = ColumnCodec(b"d", 25, False)
KEY = native.key_random()
CODEC.add_key(b"k" * 8, KEY, None, True)


class Through:
    """The same codec, which the common pass does not know."""

    def open(self, value: bytes) -> bytes:
        return CODEC.open(value)


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[bool], list[bytes]]:
    """Which columns are sealed, and DataRow bodies, now and then damaged."""
    sealed = draw(st.lists(st.booleans(), min_size=1, max_size=4))
    bodies = []
    for _ in range(draw(st.integers(1, 4))):
        body = len(sealed).to_bytes(2, "big")
        for is_sealed in sealed:
            value = draw(st.none() | st.binary(max_size=40))
            if value is not None and is_sealed:
                value = CODEC.seal(value)
            body += b"\xff" * 4 if value is None else len(value).to_bytes(4, "big") + value
        damage = draw(st.sampled_from(["no", "no", "no", "cut", "flip", "more"]))
        if damage == "cut":
            body = body[: draw(st.integers(0, len(body)))]
        elif damage == "flip":
            at = draw(st.integers(0, len(body) - 1))
            body = body[:at] + bytes([body[at] ^ draw(st.integers(1, 255))]) + body[at + 1 :]
        elif damage == "more":
            body += draw(st.binary(min_size=1, max_size=5))
        bodies.append(body)
    return sealed, bodies


def opened(sealed: list[bool], bodies: list[bytes], codec: Any) -> tuple[bytes, object, int]:
    """What the client gets, why it ends, and the column at which it does."""
    plan = RowPlan([(codec, ROW_COPY, None, None) if s else None for s in sealed])
    wire = Wire(1 << 20, {}, {})
    wire.server_feed(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\5I")
    while wire.server_next() is not None:
        wire.forward_server()
    wire.to_client()
    wire.expect(4, 0, None, plan)
    wire.server_feed(b"".join(b"D" + (len(b) + 4).to_bytes(4, "big") + b for b in bodies))
    event = wire.server_next()
    why = None if event is None else (event[0], type(event[1]))
    return wire.to_client(), why, plan.failed


@given(rows())
def test_common_pass_equals_the_way_of_every_row(case: tuple[list[bool], list[bytes]]) -> None:
    sealed, bodies = case
    assert opened(sealed, bodies, CODEC) == opened(sealed, bodies, Through())
