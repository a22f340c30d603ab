"""What does a client get when the origin fails, and is a dead connection harmless?"""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from structlog.testing import capture_logs

from tests.parts.hostile import Answer, Asked, HostileOrigin, error
from tests.parts.s3_gateway import Gateway, client

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def origin() -> Iterator[HostileOrigin]:
    made = HostileOrigin()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def gateway(origin: HostileOrigin) -> Iterator[Gateway]:
    running = Gateway(origin.endpoint, "ak", "sk").start()
    yield running
    running.stop()


@pytest.fixture
def s3(gateway: Gateway, origin: HostileOrigin) -> Iterator[Any]:
    yield client(gateway.endpoint)
    origin.refuse = origin.twist = None


@pytest.mark.parametrize("size", [10, 200_000])
def test_an_origins_error_comes_through_and_its_reason_is_logged(
    s3: Any, origin: HostileOrigin, size: int
) -> None:
    logging.getLogger().setLevel(logging.INFO)
    origin.refuse = lambda asked: error(500, "InternalError", "no writable volumes")
    with capture_logs() as logs, pytest.raises(ClientError) as raised:
        s3.put_object(Bucket="sealed-a", Key="k", Body=bytes(size))
    assert raised.value.response["Error"]["Code"] == "InternalError"
    told = [entry for entry in logs if entry["event"] == "the origin failed"]
    assert told[0]["reason"] == "no writable volumes" and told[0]["status"] == 500


@pytest.mark.parametrize("status, code", [(500, "InternalError"), (503, "ServiceUnavailable")])
def test_a_bare_error_of_the_origin_becomes_an_s3_error(
    s3: Any, origin: HostileOrigin, status: int, code: str
) -> None:
    origin.refuse = lambda asked: Answer(status, {"content-type": "text/html"}, b"<h1>oops")
    for call in (
        lambda: s3.put_object(Bucket="sealed-a", Key="k", Body=b"x" * 100_000),
        lambda: s3.get_object(Bucket="sealed-a", Key="k"),
        lambda: s3.list_objects_v2(Bucket="sealed-a"),
        lambda: s3.create_multipart_upload(Bucket="sealed-a", Key="k"),
    ):
        with pytest.raises(ClientError) as raised:
            call()
        assert raised.value.response["Error"]["Code"] == code
        assert raised.value.response["ResponseMetadata"]["RequestId"]


def test_a_small_put_on_a_dead_kept_connection_is_sealed_again(
    s3: Any, origin: HostileOrigin
) -> None:
    s3.put_object(Bucket="sealed-a", Key="k", Body=b"first")
    seen: list[bytes] = []

    def cut_once(asked: Asked) -> Answer | None:
        if asked.method == "PUT" and not seen:
            seen.append(asked.body)
            raise OSError("the connection dies with the request")
        return None

    origin.refuse = cut_once
    s3.put_object(Bucket="sealed-a", Key="k", Body=b"second")
    stored = origin.objects["sealed-a", "k"].body
    assert len(stored) == len(seen[0]) and stored[:24] != seen[0][:24]  # another salt
    assert s3.get_object(Bucket="sealed-a", Key="k")["Body"].read() == b"second"
