"""An origin that alters, cuts, swaps, replays and lies: does a client ever get a byte that was not written?

For every case the rule is one: what is delivered is a prefix of the truth that ends before the chunk
that is bad, and it is never whole. Requests are raw, so that short answers are seen as they are.
"""

import base64
import hashlib
import http.client
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from proxy.crypto import footer
from proxy.crypto.parts import CHUNK_BYTES, HEADER_BYTES, SEALED_CHUNK_BYTES, stream_size
from tests.parts.hostile import Answer, Asked, HostileOrigin, Stored
from tests.parts.s3_gateway import Gateway, client

pytestmark = pytest.mark.system
BUCKET, OTHER = "sealed-h", "sealed-i"
MIB = 1 << 20
ENVELOPE = "x-amz-meta-sealgate"
SINGLE = hashlib.shake_128(b"single").digest(5 * CHUNK_BYTES + 100)
LARGE = hashlib.shake_128(b"large").digest(40 * CHUNK_BYTES)
PARTS = [hashlib.shake_128(bytes([n])).digest(5 * MIB + n * 13) for n in range(2)] + [b"last" * 9]
TRUTH = {"single": SINGLE, "large": LARGE, "parts": b"".join(PARTS), "empty": b""}


@pytest.fixture(scope="module")
def origin() -> Iterator[HostileOrigin]:
    made = HostileOrigin()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def gateway(origin: HostileOrigin) -> Iterator[Gateway]:
    running = Gateway(origin.endpoint, "ak", "sk").start()
    s3 = client(running.endpoint)
    for bucket in (BUCKET, OTHER):
        for key in ("single", "large", "empty"):
            s3.put_object(Bucket=bucket, Key=key, Body=TRUTH[key])
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="parts")["UploadId"]
    place = {"Bucket": BUCKET, "Key": "parts", "UploadId": upload}
    sent = [
        {"PartNumber": n, "ETag": s3.upload_part(**place, PartNumber=n, Body=body)["ETag"]}
        for n, body in enumerate(PARTS, 1)
    ]
    s3.complete_multipart_upload(**place, MultipartUpload={"Parts": sent})
    yield running
    running.stop()


@pytest.fixture
def store(origin: HostileOrigin, gateway: Gateway) -> Iterator[dict[tuple[str, str], Stored]]:
    """The origin's objects; what a test does to them is undone, and nothing stays cached."""
    kept = dict(origin.objects)
    yield origin.objects
    origin.objects.clear()
    origin.objects.update(kept)
    origin.twist = origin.refuse = None
    forget(gateway)


def forget(gateway: Gateway) -> None:
    cache = gateway.gateway._services.cache
    for where in list(cache._map):
        cache.drop(where)


def get(
    gateway: Gateway, key: str, first: int | None = None, last: int = 0
) -> tuple[int, bytes, bool]:
    """Status, the bytes that came, and whether they were as many as announced."""
    forget(gateway)
    signed = client(gateway.endpoint, signature_version="s3v4").generate_presigned_url(
        "get_object", {"Bucket": BUCKET, "Key": key}
    )
    parts = urlsplit(signed)
    link = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    headers = {} if first is None else {"Range": f"bytes={first}-{last}"}
    try:
        link.request("GET", f"{parts.path}?{parts.query}", headers=headers)
        answer = link.getresponse()
        try:
            return answer.status, answer.read(), True
        except http.client.IncompleteRead as error:
            return answer.status, error.partial, False
    finally:
        link.close()


def assert_never_taken_for_whole(gateway: Gateway, key: str, good_bytes: int) -> None:
    """At most the first `good_bytes` of the truth, and the answer fails or ends short."""
    status, body, whole = get(gateway, key)
    if status != 200:
        assert status >= 400 and b"XAmzSealgateIntegrity" in body, (status, body[:300])
        return
    assert not whole
    assert len(body) <= good_bytes and TRUTH[key].startswith(body)


def flipped(body: bytes, at: int) -> bytes:
    at %= len(body)
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def altered(
    store: dict[tuple[str, str], Stored], key: str, change: Callable[[bytes], bytes]
) -> None:
    found = store[BUCKET, key]
    store[BUCKET, key] = replace(found, body=change(found.body))


def chunk_at(n: int) -> int:
    return HEADER_BYTES + n * SEALED_CHUNK_BYTES


def test_the_truth_comes_back_while_the_origin_is_honest(gateway: Gateway, store: Any) -> None:
    for key, body in TRUTH.items():
        assert get(gateway, key) == (200, body, True)
    assert get(gateway, "parts", 5 * MIB - 5, 5 * MIB + 20)[1] == TRUTH["parts"][5 * MIB - 5 :][:26]


SECOND = stream_size(len(PARTS[0]))
LAST = SECOND + stream_size(len(PARTS[1]))
SINGLE_STREAM = stream_size(len(SINGLE))
LARGE_STREAM = stream_size(len(LARGE))
# name: (object, position in its stored body, plaintext bytes before the bad chunk)
POSITIONS = {
    "salt, first byte": ("single", 0, 0),
    "salt, last byte": ("single", 23, 0),
    "commitment, first byte": ("single", 24, 0),
    "commitment, last byte": ("single", 55, 0),
    "first chunk, first byte": ("single", chunk_at(0), 0),
    "first chunk, last byte": ("single", chunk_at(1) - 17, 0),
    "first tag": ("single", chunk_at(1) - 1, 0),
    "a middle chunk": ("single", chunk_at(2) + 5, 2 * CHUNK_BYTES),
    "a middle tag": ("single", chunk_at(3) - 8, 2 * CHUNK_BYTES),
    "the last chunk": ("single", chunk_at(5) + 50, 5 * CHUNK_BYTES),
    "the last tag": ("single", SINGLE_STREAM - 1, 5 * CHUNK_BYTES),
    "the empty last chunk of an aligned object": ("large", LARGE_STREAM - 3, 40 * CHUNK_BYTES),
    "a chunk behind what is read at once": ("large", chunk_at(33) + 7, 33 * CHUNK_BYTES),
    "entry": ("single", -footer.TAIL_BYTES - 1, len(SINGLE) - 1),
    "tail, magic": ("single", -footer.TAIL_BYTES, len(SINGLE) - 1),
    "tail, parts": ("single", -footer.TAIL_BYTES + 11, len(SINGLE) - 1),
    "tail, pad": ("single", -footer.TAIL_BYTES + 14, len(SINGLE) - 1),
    "tail, salt": ("single", -footer.TAIL_BYTES + 70, len(SINGLE) - 1),
    "tail, entries' tag": ("single", -footer.TAIL_BYTES + 90, len(SINGLE) - 1),
    "tail, totals": ("single", -40, len(SINGLE) - 1),
    "tail, last byte": ("single", -1, len(SINGLE) - 1),
    "empty object, its tag": ("empty", HEADER_BYTES + 3, 0),
    "empty object, its footer": ("empty", -5, 0),
    "second part, salt": ("parts", SECOND, len(PARTS[0])),
    "second part, commitment": ("parts", SECOND + 30, len(PARTS[0])),
    "second part, chunk": ("parts", SECOND + chunk_at(1), len(PARTS[0]) + CHUNK_BYTES),
    "last part": ("parts", LAST + 60, len(PARTS[0]) + len(PARTS[1])),
    "parts, pad": ("parts", -footer.TAIL_BYTES - 3 * footer.ENTRY_BYTES - 1, len(TRUTH["parts"]) - 1),
    "parts, upload hash": ("parts", -footer.TAIL_BYTES + 40, 0),
    "parts, ring version": ("parts", -footer.TAIL_BYTES + 18, 0),
    "parts, entries": ("parts", -footer.TAIL_BYTES - 20, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", POSITIONS)
def test_a_flipped_bit_anywhere_is_noticed(gateway: Gateway, store: Any, name: str) -> None:
    key, at, good = POSITIONS[name]
    altered(store, key, lambda body: flipped(body, at))
    assert_never_taken_for_whole(gateway, key, good)


@pytest.mark.parametrize("chunk", range(6))
def test_a_range_shows_nothing_of_a_bad_chunk_and_all_of_the_good_ones(
    gateway: Gateway, store: Any, chunk: int
) -> None:
    altered(store, "single", lambda body: flipped(body, chunk_at(chunk) + 9))
    for asked in range(6):
        first = asked * CHUNK_BYTES + 10
        last = min(first + 100, len(SINGLE) - 1)
        status, body, whole = get(gateway, "single", first, last)
        if asked == chunk:
            assert status >= 500 or (not whole and not body)
        else:
            assert (status, body) == (206, SINGLE[first : last + 1])


CUTS = [0, 1, 55, 56, 57, chunk_at(1), chunk_at(1) + 16, chunk_at(5), SINGLE_STREAM, -256, -1]


@pytest.mark.parametrize("cut", CUTS)
def test_a_cut_object_is_never_whole(gateway: Gateway, store: Any, cut: int) -> None:
    altered(store, "single", lambda body: body[:cut] if cut else b"")
    assert_never_taken_for_whole(gateway, "single", 0)
    status, body, whole = get(gateway, "single", 20, 30)
    assert status >= 400 or (not whole and SINGLE[20:31].startswith(body)) or body == SINGLE[20:31]


@pytest.mark.parametrize("more", [b"\0", bytes(16), bytes(88), bytes(SEALED_CHUNK_BYTES)])
def test_an_object_with_something_added_does_not_open(
    gateway: Gateway, store: Any, more: bytes
) -> None:
    altered(store, "single", lambda body: body + more)
    assert_never_taken_for_whole(gateway, "single", len(SINGLE) - 1)
    altered(store, "single", lambda body: more + body[: -len(more)])
    assert_never_taken_for_whole(gateway, "single", 0)


def test_reordered_repeated_and_missing_chunks_are_noticed(gateway: Gateway, store: Any) -> None:
    whole = store[BUCKET, "single"].body
    one, two, three = (whole[chunk_at(n) : chunk_at(n + 1)] for n in (1, 2, 3))
    front, back = whole[: chunk_at(1)], whole[chunk_at(4) :]
    for middle in (two + one + three, one + one + three, one + three + two):
        altered(store, "single", lambda _, m=middle: front + m + back)
        assert_never_taken_for_whole(gateway, "single", 3 * CHUNK_BYTES)


def test_reordered_and_missing_parts_are_noticed(gateway: Gateway, store: Any) -> None:
    whole = store[BUCKET, "parts"].body
    edges = [0]
    for part in PARTS:
        edges.append(edges[-1] + stream_size(len(part)))
    streams = [whole[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    rest = whole[edges[-1] :]
    for order in ([1, 0, 2], [0, 0, 2], [0, 2, 1], [2, 0, 1]):
        altered(store, "parts", lambda _, o=order: b"".join(streams[n] for n in o) + rest)
        assert_never_taken_for_whole(gateway, "parts", len(PARTS[0]))
    altered(store, "parts", lambda _: b"".join(streams[:2]) + rest)
    assert_never_taken_for_whole(gateway, "parts", 0)


def test_objects_bodies_and_envelopes_cannot_be_exchanged(gateway: Gateway, store: Any) -> None:
    mine, large, theirs = store[BUCKET, "single"], store[BUCKET, "large"], store[OTHER, "single"]
    for instead in (
        large,
        theirs,
        replace(mine, body=theirs.body),
        replace(mine, headers=theirs.headers),
        replace(mine, headers=large.headers),
        replace(mine, body=large.body),
    ):
        store[BUCKET, "single"] = instead
        assert_never_taken_for_whole(gateway, "single", 0)


def test_an_old_body_under_a_new_envelope_does_not_open(gateway: Gateway, store: Any) -> None:
    before = store[BUCKET, "single"]
    client(gateway.endpoint).put_object(Bucket=BUCKET, Key="single", Body=SINGLE)
    after = store[BUCKET, "single"]
    assert before.body[:56] != after.body[:56]
    store[BUCKET, "single"] = replace(after, body=before.body)
    assert_never_taken_for_whole(gateway, "single", 0)


def test_every_character_of_the_envelope_counts(gateway: Gateway, store: Any) -> None:
    found = store[BUCKET, "single"]
    text = found.headers[ENVELOPE]
    for at in range(0, len(text), 7):
        wrong = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
        store[BUCKET, "single"] = replace(found, headers={**found.headers, ENVELOPE: wrong})
        assert_never_taken_for_whole(gateway, "single", 0)
    for wrong in ("", text[:-1], text + "A", text[:40], base64.b64encode(bytes(150)).decode()):
        store[BUCKET, "single"] = replace(found, headers={**found.headers, ENVELOPE: wrong})
        assert_never_taken_for_whole(gateway, "single", 0)
    bare = {n: v for n, v in found.headers.items() if n != ENVELOPE}
    store[BUCKET, "single"] = replace(found, headers=bare)
    assert_never_taken_for_whole(gateway, "single", 0)
    store[BUCKET, "single"] = Stored(SINGLE, bare, found.etag)  # plaintext, put there by the origin
    assert_never_taken_for_whole(gateway, "single", 0)


def is_read(asked: Asked, answer: Answer) -> bool:
    return asked.method == "GET" and answer.status in (200, 206)


def lie_length(asked: Asked, answer: Answer) -> Answer:
    return replace(answer, length=len(answer.body) + 16)


def lie_short(asked: Asked, answer: Answer) -> Answer:
    return replace(answer, body=answer.body[:-16], length=len(answer.body) - 16)


def break_off(asked: Asked, answer: Answer) -> Answer:
    return replace(answer, length=len(answer.body), cut_after=len(answer.body) // 2)


def lie_total(asked: Asked, answer: Answer) -> Answer:
    told = answer.headers.get("content-range", "")
    front, _, total = told.rpartition("/")
    changed = {"content-range": f"{front}/{int(total) + SEALED_CHUNK_BYTES}"} if told else {}
    return replace(answer, headers={**answer.headers, **changed})


def another_range(asked: Asked, answer: Answer) -> Answer:
    if answer.status == 200:
        return answer
    return replace(answer, body=answer.body[1:] + answer.body[:1])


def no_range(asked: Asked, answer: Answer) -> Answer:
    headers = {n: v for n, v in answer.headers.items() if n != "content-range"}
    return replace(answer, headers=headers)


def twice_enveloped(asked: Asked, answer: Answer) -> Answer:
    return replace(answer, headers={**answer.headers, ENVELOPE.title(): answer.headers[ENVELOPE]})


def zeros(asked: Asked, answer: Answer) -> Answer:
    return replace(answer, body=bytes(len(answer.body)))


@pytest.mark.parametrize(
    "lie",
    [lie_length, lie_short, break_off, lie_total, another_range, no_range, twice_enveloped, zeros],
)
@pytest.mark.parametrize("key", ["single", "parts"])
def test_lies_of_one_answer_never_bring_a_wrong_byte(
    gateway: Gateway, origin: HostileOrigin, store: Any, lie: Any, key: str
) -> None:
    for turn in range(3):  # which of the answers to one read is the lie
        for first, last in (
            (None, 0),
            (30_000, 60_000),
            (len(TRUTH[key]) - 50, len(TRUTH[key]) - 1),
        ):
            seen = 0

            def twist(asked: Asked, answer: Answer, turn: int = turn) -> Answer:
                nonlocal seen
                if not is_read(asked, answer):
                    return answer
                seen += 1
                return lie(asked, answer) if seen == turn + 1 else answer

            origin.twist = twist
            truth = TRUTH[key] if first is None else TRUTH[key][first : last + 1]
            status, body, whole = get(gateway, key, first, last)
            if status < 400:
                assert truth.startswith(body)
                assert body == truth or not whole


def test_a_changing_etag_does_not_mix_two_versions(
    gateway: Gateway, origin: HostileOrigin, store: Any
) -> None:
    """The object is replaced by another genuine one between the requests of one ranged read."""
    s3 = client(gateway.endpoint)
    s3.put_object(Bucket=BUCKET, Key="large", Body=bytes(len(LARGE)))
    zero = store[BUCKET, "large"]
    s3.put_object(Bucket=BUCKET, Key="large", Body=LARGE)
    turn = 0

    def twist(asked: Asked, answer: Answer) -> Answer:
        nonlocal turn
        turn += 1
        if turn == 1:
            store[BUCKET, "large"] = zero
        return answer

    origin.twist = twist
    first, last = 100_000, 300_000
    status, body, whole = get(gateway, "large", first, last)
    assert status == 206 and whole
    assert body in (LARGE[first : last + 1], bytes(last - first + 1))


def test_parts_that_the_origin_exchanges_or_misreports_do_not_open(
    gateway: Gateway, origin: HostileOrigin, store: Any
) -> None:
    s3 = client(gateway.endpoint)

    def upload(lie: Callable[[dict[int, Stored]], None]) -> None:
        name = s3.create_multipart_upload(Bucket=BUCKET, Key="parts")["UploadId"]
        place = {"Bucket": BUCKET, "Key": "parts", "UploadId": name}
        early = s3.upload_part(**place, PartNumber=1, Body=bytes(len(PARTS[0])))
        old = origin.uploads[name].parts[1]
        sent = [
            s3.upload_part(**place, PartNumber=n, Body=b)["ETag"] for n, b in enumerate(PARTS, 1)
        ]
        assert early["ETag"] != sent[0]
        origin.uploads[name].parts[0] = old
        lie(origin.uploads[name].parts)
        origin.uploads[name].parts.pop(0, None)
        named = [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(sent, 1)]
        s3.complete_multipart_upload(**place, MultipartUpload={"Parts": named})

    def replay(parts: dict[int, Stored]) -> None:
        parts[1] = replace(parts[0], etag=parts[1].etag)  # an earlier attempt of the same part

    def swap(parts: dict[int, Stored]) -> None:
        one, two = parts[1], parts[2]
        parts[1], parts[2] = replace(two, etag=one.etag), replace(one, etag=two.etag)

    for lie in (replay, swap):
        upload(lie)
        assert_never_taken_for_whole(gateway, "parts", 0)
    upload(lambda parts: None)
    assert get(gateway, "parts")[1] == TRUTH["parts"]
