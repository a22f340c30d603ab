"""proxy/keys/record.py: one byte string per record, and nothing else parses."""

from dataclasses import replace

import pytest

from proxy.keys import record as records
from proxy.keys.record import Record, RecordError, Subject, Suite

TOKEN = Record(
    Suite.TOKEN_AES_GCM, Subject(b"K" * 16, 7), b"P" * 16, 1, b"", b"I" * 12, b"", b"S" * 48
)
SOFTWARE = Record(
    Suite.SOFTWARE_AES_GCM,
    Subject(b"K" * 16, 7, not_before=5, not_after=9),
    b"P" * 16,
    1,
    b"s" * 16,
    b"I" * 12,
    b"vendor",
    b"S" * 48,
)


@pytest.mark.parametrize("record", [TOKEN, SOFTWARE])
def test_a_record_survives_the_round_trip(record: Record) -> None:
    assert records.parse(record.encode()) == record


def test_the_published_vector_stays() -> None:
    assert TOKEN.encode().hex() == (
        "53474b01" "01" "01" + "50" * 16 + "00000001" + "4b" * 16 + "00000007" + "00" * 16
        + "00" + "0c" + "49" * 12 + "00" + "53" * 48
    )  # fmt: skip


@pytest.mark.parametrize("record", [TOKEN, SOFTWARE])
def test_every_cut_off_or_longer_record_is_refused(record: Record) -> None:
    raw = record.encode()
    for n in range(len(raw)):
        with pytest.raises(RecordError):
            records.parse(raw[:n])
    with pytest.raises(RecordError):
        records.parse(raw + b"\0")


@pytest.mark.parametrize(("offset", "value"), [(0, 0), (3, 2), (4, 0), (4, 2), (5, 9)], ids=str)
def test_an_unknown_header_is_refused(offset: int, value: int) -> None:
    raw = bytearray(TOKEN.encode())
    raw[offset] = value
    with pytest.raises(RecordError):
        records.parse(bytes(raw))


def test_version_zero_is_refused() -> None:
    raw = bytearray(TOKEN.encode())
    raw[42:46] = bytes(4)
    with pytest.raises(RecordError):
        records.parse(bytes(raw))


def test_sizes_of_a_suite_are_exact() -> None:
    for wrong in (
        replace(TOKEN, iv=b"I" * 16),
        replace(TOKEN, salt=b"s" * 16),
        replace(SOFTWARE, salt=b""),
        replace(TOKEN, vendor=b"v" * 33),
        replace(TOKEN, sealed=b"S" * 47),
        replace(TOKEN, parent_id=b"P" * 15),
    ):
        with pytest.raises(RecordError):
            wrong.encode()


def test_every_field_before_the_ciphertext_is_in_the_aad() -> None:
    context = records.ring_context("shop")
    base = SOFTWARE.aad(context)
    changed = [
        replace(SOFTWARE, parent_id=b"Q" * 16),
        replace(SOFTWARE, parent_version=2),
        replace(SOFTWARE, salt=b"t" * 16),
        replace(SOFTWARE, iv=b"J" * 12),
        replace(SOFTWARE, vendor=b""),
        replace(SOFTWARE, subject=replace(SOFTWARE.subject, version=8)),
        replace(SOFTWARE, subject=replace(SOFTWARE.subject, key_id=b"L" * 16)),
        replace(SOFTWARE, subject=replace(SOFTWARE.subject, not_before=6)),
        replace(SOFTWARE, subject=replace(SOFTWARE.subject, not_after=10)),
    ]
    for other in changed:
        assert other.aad(context) != base
    assert SOFTWARE.aad(records.ring_context("shop2")) != base
    assert replace(SOFTWARE, sealed=b"T" * 48).aad(context) == base


def test_context_parts_cannot_be_shifted_into_each_other() -> None:
    assert records.context_hash("ab", "c") != records.context_hash("a", "bc")
