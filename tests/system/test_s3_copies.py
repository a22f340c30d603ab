"""Copies that change what is stored: sealed to plain and back, between rings, between origins."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError

from proxy.crypto.envelope import METADATA_NAME
from proxy.s3.listing import STASH_PREFIX
from proxy.s3.operations import copy_object, patience
from tests.parts.s3_gateway import Gateway, client
from tests.parts.seaweed import Seaweed

pytestmark = pytest.mark.system
SEALED, PLAIN, MIXED = "sealed-docs", "plain-docs", "mixed-docs"
OTHER, SECOND = "other-docs", "second-docs"
BUCKETS = (SEALED, PLAIN, MIXED, OTHER, SECOND)
ENVELOPE = METADATA_NAME.removeprefix("x-amz-meta-")
DATA = os.urandom(300_000)


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    server = Seaweed(tmp_path_factory.mktemp("weed"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def s3(weed: Seaweed) -> Iterator[Any]:
    running = Gateway(weed.endpoint, weed.access_key, weed.secret_key).start()
    made = client(running.endpoint)
    for bucket in BUCKETS:
        made.create_bucket(Bucket=bucket)
    yield made
    running.stop()


@pytest.fixture(scope="module")
def origin(weed: Seaweed, s3: Any) -> Any:
    return client(weed.endpoint, weed.access_key, weed.secret_key)


def code_of(call: Any, **arguments: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def absent(origin: Any, bucket: str, key: str) -> bool:
    return code_of(origin.head_object, Bucket=bucket, Key=key)[1] == 404


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 300_000])
@pytest.mark.parametrize("source", BUCKETS)
@pytest.mark.parametrize("target", BUCKETS)
def test_a_copy_arrives_whole_between_all_places(
    s3: Any, origin: Any, source: str, target: str, size: int
) -> None:
    key, copy = f"from/{source}/{target}/{size}", f"to ü/{source}/{size}"
    s3.put_object(
        Bucket=source, Key=key, Body=DATA[:size], Metadata={"a": "b"}, ContentType="x/y",
        Tagging="t=1%202",
    )  # fmt: skip
    result = s3.copy_object(Bucket=target, Key=copy, CopySource={"Bucket": source, "Key": key})
    got = s3.get_object(Bucket=target, Key=copy)
    assert got["Body"].read() == DATA[:size]
    assert got["Metadata"] == {"a": "b"} and got["ContentType"] == "x/y"
    told = result["CopyObjectResult"]["ETag"]  # SeaweedFS leaves the quotes out of its own
    assert told.strip('"') == got["ETag"].strip('"')
    assert s3.get_object_tagging(Bucket=target, Key=copy)["TagSet"] == [
        {"Key": "t", "Value": "1 2"}
    ]
    stored = origin.get_object(Bucket=target, Key=copy)
    assert (ENVELOPE in stored["Metadata"]) == (target != PLAIN)
    assert (stored["Body"].read() == DATA[:size]) == (target == PLAIN)


def test_directives_replace_metadata_and_tags(s3: Any) -> None:
    s3.put_object(Bucket=PLAIN, Key="d", Body=b"1", Metadata={"a": "b"}, Tagging="t=1")
    s3.copy_object(
        Bucket=SEALED, Key="d", CopySource=f"{PLAIN}/d", MetadataDirective="REPLACE",
        Metadata={"c": "d"}, ContentType="n/m", TaggingDirective="REPLACE", Tagging="u=2",
    )  # fmt: skip
    got = s3.head_object(Bucket=SEALED, Key="d")
    assert got["Metadata"] == {"c": "d"} and got["ContentType"] == "n/m"
    tags = s3.get_object_tagging(Bucket=SEALED, Key="d")["TagSet"]
    assert tags == [{"Key": "u", "Value": "2"}]


@pytest.mark.parametrize(("source", "target"), [(PLAIN, SEALED), (SEALED, PLAIN), (OTHER, SECOND)])
def test_source_and_target_conditions_hold(s3: Any, source: str, target: str) -> None:
    etag = s3.put_object(Bucket=source, Key="c", Body=b"1")["ETag"]
    place = {"Bucket": target, "Key": "conditional", "CopySource": f"{source}/c"}
    failed = ("PreconditionFailed", 412)
    assert code_of(s3.copy_object, **place, CopySourceIfMatch='"x"') == failed
    assert code_of(s3.copy_object, **place, CopySourceIfNoneMatch=etag) == failed
    s3.copy_object(**place, CopySourceIfMatch=etag)
    assert code_of(s3.copy_object, **place, IfNoneMatch="*") == failed
    s3.delete_object(Bucket=target, Key="conditional")
    gone = {**place, "CopySource": f"{source}/nothing"}
    assert code_of(s3.copy_object, **gone) == ("NoSuchKey", 404)


def test_the_checksum_goes_along_or_is_computed(s3: Any) -> None:
    s3.put_object(Bucket=SEALED, Key="sum", Body=DATA, ChecksumAlgorithm="SHA256")
    told = s3.head_object(Bucket=SEALED, Key="sum", ChecksumMode="ENABLED")["ChecksumSHA256"]
    made = s3.copy_object(Bucket=SECOND, Key="sum", CopySource=f"{SEALED}/sum")
    assert made["CopyObjectResult"]["ChecksumSHA256"] == told
    copied = s3.head_object(Bucket=SECOND, Key="sum", ChecksumMode="ENABLED")
    assert copied["ChecksumSHA256"] == told
    made = s3.copy_object(
        Bucket=SECOND, Key="sum2", CopySource=f"{SEALED}/sum", ChecksumAlgorithm="CRC32C"
    )
    copied = s3.head_object(Bucket=SECOND, Key="sum2", ChecksumMode="ENABLED")
    assert copied["ChecksumCRC32C"] == made["CopyObjectResult"]["ChecksumCRC32C"]


def test_versions_are_copied_by_their_id(s3: Any) -> None:
    s3.create_bucket(Bucket="sealed-versions")
    status = {"Status": "Enabled"}
    s3.put_bucket_versioning(Bucket="sealed-versions", VersioningConfiguration=status)
    first = s3.put_object(Bucket="sealed-versions", Key="k", Body=b"old")["VersionId"]
    s3.put_object(Bucket="sealed-versions", Key="k", Body=b"new")
    source = {"Bucket": "sealed-versions", "Key": "k", "VersionId": first}
    made = s3.copy_object(Bucket=PLAIN, Key="k", CopySource=source)
    assert made["CopySourceVersionId"] == first
    assert s3.get_object(Bucket=PLAIN, Key="k")["Body"].read() == b"old"


@pytest.mark.parametrize(("source", "target"), [(PLAIN, SEALED), (SEALED, PLAIN), (OTHER, SECOND)])
def test_parts_are_copied_by_ranges(s3: Any, source: str, target: str) -> None:
    data = os.urandom(6 * 1024**2)
    s3.put_object(Bucket=source, Key="p", Body=data)
    upload = s3.create_multipart_upload(Bucket=target, Key="parts")["UploadId"]
    place = {"Bucket": target, "Key": "parts", "UploadId": upload}
    parts = []
    for number, (first, last) in enumerate([(1, len(data) - 1), (0, 99)], 1):
        wanted = f"bytes={first}-{last}"
        made = s3.upload_part_copy(
            **place, PartNumber=number, CopySource=f"{source}/p", CopySourceRange=wanted
        )
        parts.append({"PartNumber": number, "ETag": made["CopyPartResult"]["ETag"]})
    s3.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})
    assert s3.get_object(Bucket=target, Key="parts")["Body"].read() == data[1:] + data[:100]
    s3.copy_object(Bucket=SECOND, Key="of-parts", CopySource=f"{target}/parts")
    s3.copy_object(Bucket=PLAIN, Key="of-parts", CopySource=f"{SECOND}/of-parts")
    assert s3.get_object(Bucket=PLAIN, Key="of-parts")["Body"].read() == data[1:] + data[:100]


def test_a_damaged_source_leaves_nothing(s3: Any, origin: Any) -> None:
    s3.put_object(Bucket=SEALED, Key="bad", Body=DATA)
    stored = origin.get_object(Bucket=SEALED, Key="bad")
    body = bytearray(stored["Body"].read())
    body[200_000] ^= 1
    origin.put_object(Bucket=SEALED, Key="bad", Body=bytes(body), Metadata=stored["Metadata"])
    for bucket in (PLAIN, SECOND):
        error = code_of(s3.copy_object, Bucket=bucket, Key="bad", CopySource=f"{SEALED}/bad")
        assert error == ("XAmzSealgateIntegrity", 500)
        assert absent(origin, bucket, "bad")


def test_an_empty_source_is_verified_before_its_copy_is_there(s3: Any, origin: Any) -> None:
    s3.put_object(Bucket=SEALED, Key="hollow", Body=b"")
    stored = origin.get_object(Bucket=SEALED, Key="hollow")
    body = bytearray(stored["Body"].read())
    body[-1] ^= 1
    origin.put_object(Bucket=SEALED, Key="hollow", Body=bytes(body), Metadata=stored["Metadata"])
    error = code_of(s3.copy_object, Bucket=PLAIN, Key="hollow", CopySource=f"{SEALED}/hollow")
    assert error == ("XAmzSealgateIntegrity", 500)
    assert absent(origin, PLAIN, "hollow")


@pytest.mark.parametrize("condition", ["", "*", "the old one"])
def test_a_source_that_is_replaced_meanwhile_never_comes_under_the_old_envelope(
    s3: Any, origin: Any, monkeypatch: pytest.MonkeyPatch, condition: str
) -> None:
    old = s3.put_object(Bucket=SEALED, Key="moving", Body=b"old")["ETag"]
    rewrapped = copy_object._rewrapped
    replaced: list[bytes] = []

    async def late(*arguments: Any) -> str:
        envelope = await rewrapped(*arguments)
        if not replaced:
            replaced.append(b"new")
            await asyncio.to_thread(s3.put_object, Bucket=SEALED, Key="moving", Body=b"new")
        return envelope

    monkeypatch.setattr(copy_object, "_rewrapped", late)
    place = {"Bucket": OTHER, "Key": "moved" + condition, "CopySource": f"{SEALED}/moving"}
    if condition == "the old one":
        error = code_of(s3.copy_object, **place, CopySourceIfMatch=old)
        assert error == ("PreconditionFailed", 412)
        assert absent(origin, OTHER, place["Key"])
        return
    s3.copy_object(**place, **({"CopySourceIfMatch": condition} if condition else {}))
    assert s3.get_object(Bucket=OTHER, Key=place["Key"])["Body"].read() == b"new"


def test_what_is_reserved_is_no_source(s3: Any) -> None:
    place = {"Key": "x", "CopySource": f"{SEALED}/{STASH_PREFIX}x"}
    for bucket in (PLAIN, SEALED, SECOND):
        assert code_of(s3.copy_object, Bucket=bucket, **place)[0] == "InvalidArgument"


def test_a_long_copy_keeps_its_client_and_tells_errors_inside(
    s3: Any, origin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "QUIET_SECONDS", 0.0005)
    s3.put_object(Bucket=SEALED, Key="slow", Body=DATA)
    refused = {"Bucket": PLAIN, "Key": "slow", "CopySource": f"{SEALED}/slow", "IfMatch": '"no"'}
    assert code_of(s3.copy_object, **refused)[0] in ("PreconditionFailed", "NoSuchKey")
    made = s3.copy_object(Bucket=PLAIN, Key="slow", CopySource=f"{SEALED}/slow")
    assert "transfer-encoding" in made["ResponseMetadata"]["HTTPHeaders"]
    assert made["CopyObjectResult"]["ETag"] == s3.head_object(Bucket=PLAIN, Key="slow")["ETag"]
    upload = s3.create_multipart_upload(Bucket=SEALED, Key="u")["UploadId"]
    place = {"Bucket": SEALED, "Key": "u", "UploadId": upload, "PartNumber": 1}
    assert s3.upload_part_copy(**place, CopySource=f"{PLAIN}/slow")["CopyPartResult"]["ETag"]
    gone = {"Bucket": PLAIN, "Key": "none", "CopySource": f"{SEALED}/nothing"}
    assert code_of(s3.copy_object, **gone)[0] == "NoSuchKey"
    assert absent(origin, PLAIN, "none")


def test_a_large_copy_needs_no_more_memory_than_a_small_one(s3: Any) -> None:
    s3.put_object(Bucket=SEALED, Key="large", Body=os.urandom(1024) * 64 * 1024)
    s3.copy_object(Bucket=PLAIN, Key="large", CopySource=f"{SEALED}/large")
    before = psutil.Process().memory_info().rss
    for _ in range(3):
        s3.copy_object(Bucket=SECOND, Key="large", CopySource=f"{SEALED}/large")
    assert psutil.Process().memory_info().rss - before < 24 * 1024**2
