"""proxy/keys/ring.py: states of versions, their transitions, the document."""

import itertools
import json

import pytest

from proxy.keys import ring as rings
from proxy.keys.record import Record, Subject, Suite
from proxy.keys.ring import TRANSITIONS, Ring, RingError, State


def wrapped(number: int) -> Record:
    return Record(
        Suite.TOKEN_AES_GCM,
        Subject(bytes([number]) * 16, number),
        b"P" * 16,
        1,
        b"",
        b"I" * 12,
        b"",
        b"S" * 48,
    )


def two_versions() -> Ring:
    return rings.rotate(rings.create("shop", wrapped(1), 100), wrapped(2), 200)


def test_rotation_retires_what_was_active() -> None:
    ring = two_versions()
    assert [(v.number, v.state) for v in ring.versions] == [(1, State.RETIRED), (2, State.ACTIVE)]
    assert ring.generation == 2
    assert [v.number for v in ring.openable] == [2, 1]
    assert [(e.generation, e.event, e.version) for e in ring.history] == [
        (1, "create", 1),
        (2, "rotate", 2),
    ]


@pytest.mark.parametrize(("old", "new"), list(itertools.product(State, State)))
def test_only_the_transitions_of_the_table_happen(old: State, new: State) -> None:
    ring = two_versions()
    path = {
        State.ACTIVE: [],
        State.RETIRED: [State.DISABLED, State.RETIRED],
        State.DISABLED: [State.DISABLED],
        State.DESTROYED: [State.DISABLED, State.DESTROYED],
    }[old]
    for step in path:
        ring = rings.change_state(ring, 2, step, 300)
    if new in TRANSITIONS[old]:
        moved = rings.change_state(ring, 2, new, 400)
        assert moved.versions[1].state is new
        assert moved.generation == ring.generation + 1
    else:
        with pytest.raises(RingError):
            rings.change_state(ring, 2, new, 400)


def test_destroying_erases_the_wrapped_key() -> None:
    ring = rings.change_state(two_versions(), 1, State.DISABLED, 300)
    ring = rings.change_state(ring, 1, State.DESTROYED, 400)
    assert ring.versions[0].wrapped is None
    assert rings.from_document(json.loads(json.dumps(rings.to_document(ring)))) == ring


def test_a_ring_without_active_version_has_none() -> None:
    ring = rings.change_state(two_versions(), 2, State.DISABLED, 300)
    assert ring.active is None
    assert [v.number for v in ring.openable] == [1]


def test_a_disabled_version_comes_back_retired_never_active() -> None:
    ring = rings.change_state(two_versions(), 2, State.DISABLED, 300)
    assert rings.change_state(ring, 2, State.RETIRED, 400).active is None


def test_rotation_wants_the_next_number_and_a_new_key() -> None:
    ring = rings.create("shop", wrapped(1), 100)
    with pytest.raises(RingError):
        rings.rotate(ring, wrapped(3), 200)
    same_key = Record(
        Suite.TOKEN_AES_GCM, Subject(b"\x01" * 16, 2), b"P" * 16, 1, b"", b"I" * 12, b"", b"S" * 48
    )
    with pytest.raises(RingError):
        rings.rotate(ring, same_key, 200)


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".x", "-x", "x" * 64, "ä", "a b", "a\n"])
def test_names_that_could_leave_the_store_are_refused(name: str) -> None:
    with pytest.raises(RingError):
        rings.check_name(name)


def test_a_document_that_contradicts_itself_is_refused() -> None:
    good = rings.to_document(two_versions())
    assert rings.from_document(good) == two_versions()

    def versions(document: dict[str, object]) -> list[dict[str, object]]:
        found = document["versions"]
        assert isinstance(found, list)
        return found

    for break_it in (
        lambda d: d.update(format="sealgate-ring/2"),
        lambda d: d.update(generation=9),
        lambda d: d.update(generation=True),
        lambda d: d.update(ring="../etc"),
        lambda d: d.update(history=[]),
        lambda d: versions(d)[0].update(state="active"),
        lambda d: versions(d)[0].update(state="destroyed"),
        lambda d: versions(d)[0].update(wrapped=None),
        lambda d: versions(d)[0].update(wrapped="AAAA"),
        lambda d: versions(d)[0].update(wrapped="%"),
        lambda d: versions(d)[0].update(wrapped=versions(d)[1]["wrapped"]),
        lambda d: versions(d)[0].update(id="00"),
        lambda d: versions(d)[0].update(version=2),
        lambda d: versions(d).append(7),  # type: ignore[arg-type]
    ):
        document = json.loads(json.dumps(good))
        break_it(document)
        with pytest.raises(RingError):
            rings.from_document(document)
    with pytest.raises(RingError):
        rings.from_document([])
