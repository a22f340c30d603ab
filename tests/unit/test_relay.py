"""native/relay.pyx: what goes straight to a socket, what by way of the transport, what to Python."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.native import Relay, Traffic, Watch, Wire, WireError, relay_end

READY = b"Z\0\0\0\5I"
QUERY = b"Q\0\0\0\x0dSELECT 1\0"
ROW = b"D\0\0\0\x0b\0\1\0\0\0\x011"
DONE = b"C\0\0\0\x0dSELECT 1\0"


class Transport:
    def __init__(self) -> None:
        self.written = b""
        self.held = 0  # what get_write_buffer_size says

    def write(self, data: bytes) -> None:
        self.written += data
        self.held += len(data)

    def get_write_buffer_size(self) -> int:
        return self.held


class Pair:
    """A relay over two socket pairs, and its owner."""

    def __init__(self, hands_off: bool = True, direct: bool = True) -> None:
        self.wire = Wire(1 << 20, {}, {}, hands_off)
        self.wire.server_feed(b"R\0\0\0\x08\0\0\0\0" + READY)
        while self.wire.server_next() is not None:
            self.wire.forward_server()
        self.wire.to_client()
        self.client, self.server = Transport(), Transport()
        self.to_client, self._client_socket = socket.socketpair()
        self.to_server, self._server_socket = socket.socketpair()
        self.traffic = Traffic()
        self.seen: list[tuple[str, Any]] = []
        fds = [s.fileno() if direct else -1 for s in (self._client_socket, self._server_socket)]
        for s in (self._client_socket, self._server_socket):
            s.setblocking(False)
        self.relay = Relay(self, self.wire, self.traffic, self.client, fds[0], self.server, fds[1])
        self.relay.quick = True

    def from_client(self, event: Any) -> None:
        self.seen.append(("client", event))

    def from_server(self, event: Any) -> None:
        self.seen.append(("server", event))

    def broken(self, error: Exception) -> None:
        self.seen.append(("broken", error))

    def client_timed(self, expected: int) -> None:
        self.seen.append(("client timed", expected))

    def server_timed(self, expected: int) -> None:
        self.seen.append(("server timed", expected))

    def close(self) -> None:
        for s in (self.to_client, self.to_server, self._client_socket, self._server_socket):
            s.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def test_common_event_goes_straight_to_the_other_socket(pair: Pair) -> None:
    pair.relay.client_sent(QUERY)
    assert pair.to_server.recv(100) == QUERY
    pair.relay.server_sent(ROW + DONE + READY)
    assert pair.to_client.recv(100) == ROW + DONE + READY
    assert pair.client.written == pair.server.written == b""
    assert pair.seen == []
    assert pair.relay.asked


def test_message_in_pieces_goes_on_when_it_is_whole(pair: Pair) -> None:
    pair.relay.client_sent(QUERY[:3])
    pair.relay.client_sent(QUERY[3:] + QUERY[:7])
    assert pair.to_server.recv(100) == QUERY
    pair.relay.client_sent(QUERY[7:])
    assert pair.to_server.recv(100) == QUERY


def test_traffic_is_counted_on_every_leg(pair: Pair) -> None:
    pair.relay.client_sent(QUERY)
    pair.relay.server_sent(ROW)
    assert pair.traffic.take() == (len(QUERY), len(ROW), len(ROW), len(QUERY))
    assert pair.traffic.take() == (0, 0, 0, 0)


def test_what_the_kernel_does_not_take_goes_by_the_transport_in_order(pair: Pair) -> None:
    body = bytes(range(256)) * 16_000
    big = b"d" + (len(body) + 4).to_bytes(4, "big") + body
    pair.relay.client_sent(QUERY)
    pair.relay.server_sent(b"H\0\0\0\x07\0\0\0" + big)
    rest = pair.client.written
    assert 0 < len(rest) < len(big)
    pair.relay.server_sent(DONE)
    assert pair.client.written == rest + DONE, "nothing overtakes what the transport holds"
    came = b""
    while len(came) < 8 + len(big) - len(rest):
        came += pair.to_client.recv(1 << 20)
    assert came + rest == b"H\0\0\0\x07\0\0\0" + big
    pair.client.held = 0
    pair.relay.server_sent(READY)
    assert pair.to_client.recv(100) == READY, "straight again once the transport is empty"


def test_where_tls_lies_between_all_goes_by_the_transport() -> None:
    pair = Pair(direct=False)
    pair.relay.client_sent(QUERY)
    assert pair.server.written == QUERY
    pair.close()


def test_after_stop_no_socket_is_written_to(pair: Pair) -> None:
    pair.relay.stop()
    pair.relay.client_sent(QUERY)
    assert pair.seen == [("client", None)]
    pair.wire.client_next()
    pair.relay.flush()
    assert pair.server.written == QUERY


def test_broken_socket_is_left_to_the_transport_to_find_out(pair: Pair) -> None:
    pair.to_server.close()
    pair.relay.client_sent(QUERY)
    assert pair.server.written == QUERY
    assert pair.seen == []


def test_what_needs_a_look_goes_to_the_owner_with_what_came_before_it_unsent() -> None:
    pair = Pair(hands_off=False)
    pair.relay.client_sent(b"S\0\0\0\4" + QUERY)
    assert pair.seen == [("client", (81, b"SELECT 1\0", None))]
    pair.wire.expect(7)
    pair.wire.forward_client()
    pair.relay.flush()
    assert pair.to_server.recv(100) == b"S\0\0\0\4" + QUERY
    pair.close()


def test_nothing_is_framed_while_something_is_waited_for(pair: Pair) -> None:
    pair.relay.quick = False
    pair.relay.server_sent(ROW)
    pair.relay.client_sent(QUERY)
    assert pair.seen == [("server", None), ("client", None)]
    assert pair.client.written == pair.server.written == b""


def test_broken_protocol_is_told_to_the_owner(pair: Pair) -> None:
    pair.relay.client_sent(b"Q\0\0\0\1")
    (what,) = pair.seen
    assert what[0] == "broken"
    assert isinstance(what[1], WireError)


def test_time_outs_are_told_of_both_directions(pair: Pair) -> None:
    pair.relay.timed = True
    pair.relay.client_sent(QUERY)
    pair.relay.server_sent(DONE + READY)
    assert pair.seen == [("client timed", 1), ("server timed", 0)]


def test_expired_watch_lets_no_text_pass() -> None:
    watch = Watch([b"people"])
    assert not watch.hit(b"SELECT 1")
    watch.expire()
    assert watch.hit(b"SELECT 1")


# ---- the read buffer -----------------------------------------------------------------------------
def read(end: Any, data: bytes) -> None:
    """What a transport does with an asyncio.BufferedProtocol."""
    view = memoryview(end.get_buffer(-1))
    for at in range(0, len(data), len(view)):
        piece = data[at : at + len(view)]
        view[: len(piece)] = piece
        end.buffer_updated(len(piece))


def all_of(pair: Pair) -> bytes:
    """What the server got: by its socket, then by its transport."""
    pair.to_server.setblocking(False)
    came = b""
    try:
        while piece := pair.to_server.recv(1 << 20):
            came += piece
    except BlockingIOError:
        pass
    return came + pair.server.written


class Before:
    """The protocol that was there before."""

    def eof_received(self) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


def ends(pair: Pair) -> tuple[Any, Any]:
    before: Any = Before()
    return relay_end(pair.relay, False, before), relay_end(pair.relay, True, before)


@pytest.mark.parametrize("size", [10, 70_000, 200_000])
@pytest.mark.parametrize("cut", [1, 4, 5, 9, 66_000, 69_000, 140_000])
def test_message_in_two_reads_is_whole_while_another_session_reads(size: int, cut: int) -> None:
    pair, other = Pair(), Pair()
    text = bytes(range(1, 128)) * (size // 127 + 1)
    message = b"Q" + (len(text) + 5).to_bytes(4, "big") + text + b"\0"
    (client, _), (stranger, _) = ends(pair), ends(other)
    read(client, QUERY + message[:cut])
    read(stranger, QUERY * 20_000)
    read(client, message[cut:] + QUERY)
    assert all_of(pair) == QUERY + message + QUERY
    assert all_of(other) == QUERY * 20_000
    pair.close()
    other.close()


def test_what_waits_is_kept_when_the_buffer_is_used_by_another() -> None:
    pair, other = Pair(hands_off=False), Pair()
    (client, _), (stranger, _) = ends(pair), ends(other)
    read(client, QUERY)
    read(stranger, b"S\0\0\0\4" * 1000)
    assert pair.seen == [("client", (81, b"SELECT 1\0", None))]
    pair.wire.expect(7)
    pair.wire.forward_client()
    pair.relay.flush()
    assert all_of(pair) == QUERY
    pair.close()
    other.close()


@pytest.mark.parametrize("side", ["client", "server"])
def test_owner_that_fails_is_told_so_and_the_loop_is_not(side: str) -> None:
    class Failing(Pair):
        def from_client(self, event: Any) -> None:
            raise RuntimeError("no")

        from_server = from_client

    pair = Failing()
    pair.relay.quick = False
    read(ends(pair)[side == "server"], QUERY)
    ((what, error),) = pair.seen
    assert (what, str(error)) == ("broken", "no")
    pair.close()


def test_more_than_was_asked_for_is_refused(pair: Pair) -> None:
    client, _ = ends(pair)
    with pytest.raises(ValueError, match="room"):
        client.buffer_updated(1 << 30)


def test_bytes_come_as_they_are_where_tls_lies_between() -> None:
    pair = Pair(direct=False)
    client, server = ends(pair)
    assert not hasattr(client, "get_buffer")
    client.data_received(QUERY)
    server.data_received(DONE + READY)
    assert (pair.server.written, pair.client.written) == (QUERY, DONE + READY)
    pair.close()
