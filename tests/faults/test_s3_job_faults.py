"""Jobs when the origin or a client gets in the way: nothing of a client's is lost, and it is said."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from proxy.s3.jobs import transfer
from proxy.s3.jobs.engine import Engine
from proxy.s3.jobs.journal import Journal, Progress
from proxy.s3.jobs.migrate import Migration
from proxy.s3.jobs.rotate import Rotation
from proxy.s3.jobs.runner import run
from tests.parts.hostile import Answer, Asked, HostileOrigin, Stored
from tests.parts.s3_gateway import Gateway

pytestmark = pytest.mark.system
ENVELOPE = "x-amz-meta-sealgate"
MIB = 1 << 20


@pytest.fixture
def origin() -> Iterator[HostileOrigin]:
    made = HostileOrigin()
    yield made
    made.stop()


@pytest.fixture
def with_engine(origin: HostileOrigin) -> Callable[[Callable[[Engine], Awaitable[Any]]], Any]:
    gateway = Gateway(origin.endpoint, "ak", "sk")  # for its configuration and keys; not started

    def work(what: Callable[[Engine], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            engine = Engine(
                gateway.gateway.config,
                gateway.keys,  # type: ignore[arg-type]
                lambda ref: gateway._secrets[str(ref.env)],
            )
            await engine.start()
            try:
                return await what(engine)
            finally:
                await engine.close()

        return asyncio.run(main())

    work.keys = gateway.keys  # type: ignore[attr-defined]
    return work


def plain(body: bytes) -> Stored:
    etag = '"' + hashlib.md5(body, usedforsecurity=False).hexdigest() + '"'
    return Stored(body, {"content-type": "a/b", "x-amz-meta-who": "me"}, etag)


async def migrated(engine: Engine, bucket: str, target: str = "", **more: Any) -> Progress:
    job = Migration(engine, bucket, "", target, **more)
    return await run(engine, bucket, "", job.work, Journal(None, "test"), parallel=2)


def test_a_large_object_goes_in_parts_and_reads_back(
    origin: HostileOrigin, with_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MAX_AT_ONCE_BYTES", 6 * MIB)
    monkeypatch.setattr(transfer, "PART_BYTES", 5 * MIB)
    body = hashlib.shake_128(b"large").digest(12 * MIB + 17)
    origin.objects["plain-a", "large"] = plain(body)
    told = with_engine(lambda e: migrated(e, "plain-a", "sealed-a", verify=True))
    assert (told.done, told.failed, told.bytes) == (1, {}, len(body))
    stored = origin.objects["sealed-a", "large"]
    assert ENVELOPE in stored.headers and stored.headers["x-amz-meta-who"] == "me"
    assert body[:64] not in stored.body and not origin.uploads
    told = with_engine(lambda e: migrated(e, "sealed-a", "plain-b", verify=True))
    assert told.done == 1 and origin.objects["plain-b", "large"].body == body


def test_what_a_client_writes_meanwhile_is_kept(origin: HostileOrigin, with_engine: Any) -> None:
    origin.objects["mixed-a", "k"] = plain(b"before" * 20_000)
    after = plain(b"the client's own write")

    def write_between(asked: Asked, answer: Answer) -> Answer:
        if asked.method == "GET" and asked.key == "k":
            origin.objects["mixed-a", "k"] = after
        return answer

    origin.twist = write_between

    def honour(asked: Asked) -> Answer | None:
        there = origin.objects.get((asked.bucket, asked.key))
        if (
            asked.method == "PUT"
            and there
            and asked.headers.get("if-match", there.etag) != there.etag
        ):
            return Answer(412, {}, b"<Error><Code>PreconditionFailed</Code></Error>")
        return None

    origin.refuse = honour
    told = with_engine(lambda e: migrated(e, "mixed-a"))
    assert (told.done, told.skipped, told.failures) == (0, 1, 0)
    assert origin.objects["mixed-a", "k"] is after


def test_one_bad_object_is_named_and_the_rest_is_done(
    origin: HostileOrigin, with_engine: Any
) -> None:
    for key in ("a", "b", "c"):
        origin.objects["plain-a", key] = plain(key.encode() * 100_000)

    def cut(asked: Asked, answer: Answer) -> Answer:
        if asked.method == "GET" and asked.key == "b":
            return replace(answer, length=len(answer.body), cut_after=50_000)
        return answer

    origin.twist = cut
    told = with_engine(lambda e: migrated(e, "plain-a", "sealed-a"))
    assert told.done == 2 and set(told.failed) == {"b"} and "OriginFailed" in told.failed["b"]
    assert ("sealed-a", "b") not in origin.objects


def test_a_copy_that_reads_back_as_something_else_is_a_failure(
    origin: HostileOrigin, with_engine: Any
) -> None:
    origin.objects["plain-a", "k"] = plain(b"x" * 100_000)

    def damage(asked: Asked, answer: Answer) -> Answer:
        if asked.method == "GET" and asked.bucket == "sealed-a" and answer.status == 200:
            return replace(answer, body=answer.body[:40_000] + b"!" + answer.body[40_001:])
        return answer

    origin.twist = damage
    told = with_engine(lambda e: migrated(e, "plain-a", "sealed-a", verify=True))
    assert told.done == 0 and "IntegrityError" in told.failed["k"]


def test_rotation_sends_both_conditions(origin: HostileOrigin, with_engine: Any) -> None:
    origin.objects["plain-a", "k"] = plain(b"x" * 100_000)
    with_engine(lambda e: migrated(e, "plain-a", "sealed-a"))
    before = origin.objects["sealed-a", "k"]
    with_engine.keys.rotate()

    async def rotate(engine: Engine) -> Progress:
        job = Rotation(engine, "sealed-a")
        return await run(engine, "sealed-a", "", job.work, Journal(None, "test"))

    told = with_engine(rotate)
    assert (told.done, told.failed) == (1, {})
    asked = next(a for a in origin.asked if "x-amz-copy-source" in a.headers)
    assert asked.headers["if-match"] == asked.headers["x-amz-copy-source-if-match"] == before.etag
    after = origin.objects["sealed-a", "k"]
    assert after.body == before.body and after.headers["content-type"] == "a/b"
    assert after.headers[ENVELOPE] != before.headers[ENVELOPE]
    assert with_engine(rotate).skipped == 1
