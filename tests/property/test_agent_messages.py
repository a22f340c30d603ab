"""The key agent's payloads: what is written is read, and nothing else is."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.keys.agent import messages
from proxy.keys.agent.messages import (
    FAILED,
    Health,
    Kind,
    MessageError,
    OpenItem,
    Outcome,
    Status,
)
from proxy.keys.providers.base import Asking
from proxy.keys.record import Subject
from proxy.policy.model import Action, Circumstances, Principal, Resource

text = st.text(max_size=40)
askings = st.builds(
    Asking,
    st.builds(Principal, text, text),
    st.builds(Resource, text, text, text),
    st.sampled_from(Action),
)
items = st.lists(
    st.builds(OpenItem, text, st.binary(max_size=200), st.none() | askings),
    min_size=1,
    max_size=messages.MAX_ITEMS,
)
outcomes = st.lists(st.builds(Outcome, st.sampled_from(Status), text), max_size=messages.MAX_ITEMS)


def _written(asked: list[OpenItem]) -> bytes:
    return messages.open_request([messages.open_item(item) for item in asked])


@given(items)
def test_an_open_request_is_read_as_it_was_written(asked: list[OpenItem]) -> None:
    assert messages.parse_open_request(_written(asked)) == asked


@given(outcomes)
def test_an_open_reply_is_read_as_it_was_written(said: list[Outcome]) -> None:
    keys = sum(o.status is Status.OK for o in said)
    assert messages.parse_open_reply(messages.open_reply(said), keys) == said
    try:
        messages.parse_open_reply(messages.open_reply(said), keys + 1)
    except MessageError:
        pass
    else:
        raise AssertionError("a key too many was taken")


@given(st.booleans(), text, st.sampled_from([b"", b"r" * 16]), text)
def test_health_is_read_as_it_was_written(up: bool, name: str, root: bytes, detail: str) -> None:
    health = Health(up, name, root, detail)
    assert messages.parse_health_reply(messages.health_reply(health)) == health


sixteen, thirty_two = (st.binary(min_size=n, max_size=n) for n in (16, 32))


@given(sixteen, st.integers(0, 2**32 - 1), thirty_two)
def test_a_wrap_request_is_read_as_it_was_written(key: bytes, n: int, context: bytes) -> None:
    subject = Subject(key, n)
    written = messages.wrap_request(subject, context)
    assert messages.parse_wrap_request(written) == (subject, context)


_READERS: list[tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = [
    (messages.parse_open_request, _written),
    (messages.parse_failed, messages.failed),
    (messages.parse_health_reply, messages.health_reply),
    (messages.parse_wrap_request, lambda found: messages.wrap_request(*found)),
    (messages.parse_unwrap_request, lambda found: messages.unwrap_request(*found)),
    (messages.parse_random_request, messages.random_request),
]


def only_canonical(data: bytes) -> None:
    """Each reader refuses `data`, or its writer writes the same again (texts may be cut)."""
    for read, write in _READERS:
        try:
            found = read(data)
        except MessageError:
            continue
        again = write(found)
        assert again == data or len(data) > messages.MAX_DETAIL


@given(st.binary(max_size=120))
def test_random_bytes_are_refused_or_canonical(data: bytes) -> None:
    only_canonical(data)


@given(items, st.data())
def test_a_changed_request_is_refused_or_canonical(
    asked: list[OpenItem], data: st.DataObject
) -> None:
    written = bytearray(_written(asked))
    at = data.draw(st.integers(0, len(written) - 1))
    written[at] ^= data.draw(st.integers(1, 255))
    only_canonical(bytes(written))
    only_canonical(bytes(written[:at]))


def test_kinds_of_replies_are_not_kinds_of_questions() -> None:
    replies = {kind | messages.REPLY for kind in Kind} | {FAILED}
    assert not replies & set(Kind)


def test_an_item_is_what_the_manual_says() -> None:
    """docs/reference/keys.md, "Agent protocol", written here a second time."""

    def t(*texts: str) -> bytes:
        return b"".join(len(x.encode()).to_bytes(2, "big") + x.encode() for x in texts)

    who = Principal("postgres", "app", Circumstances("10.0.0.1", "CN=a", "case-1"))
    what = Resource("column", "shop.public.a.b", "shop")
    head = t("shop") + b"\x00\x03rec"
    assert messages.open_item(OpenItem("shop", b"rec", None)) == head + b"\x00"
    assert messages.open_item(OpenItem("shop", b"rec", Asking(who, what, Action.MASK))) == (
        head + b"\x01" + t("postgres", "app", "10.0.0.1", "CN=a", "case-1")
        + t("column", "shop.public.a.b", "shop", "mask")
    )  # fmt: skip
    assert messages.open_request([head + b"\x00"]) == b"\x00\x01" + head + b"\x00"


def test_the_manual_has_every_kind_and_every_status() -> None:
    manual = Path(__file__).parents[2].joinpath("docs/reference/keys.md").read_text()
    (protocol,) = re.findall(r"## Agent protocol\n(.*?)\n## ", manual, re.DOTALL)
    for kind in Kind:
        assert f"| {kind} {kind.name.lower().replace('_', ' ')} |" in protocol
    for status in Status:
        if status is not Status.OK:
            assert re.search(rf"[|,] {status} {status.name.lower().replace('_', ' ')}\b", protocol)
