"""boto3 through the gateway to a real SeaweedFS: what goes in comes out, and nothing else does."""

import io
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
import trustme
from botocore.exceptions import ClientError, IncompleteReadError, ResponseStreamingError
from urllib3.exceptions import IncompleteRead, ProtocolError

from proxy.config.model import TlsServer
from proxy.crypto.envelope import METADATA_NAME
from tests.parts.s3_gateway import Gateway, client
from tests.parts.seaweed import Seaweed

pytestmark = pytest.mark.system
CHUNK = 16384
BUCKET = "sealed-docs"
CUT_SHORT = (IncompleteReadError, ResponseStreamingError, IncompleteRead, ProtocolError)
ENVELOPE = METADATA_NAME.removeprefix("x-amz-meta-")


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    server = Seaweed(tmp_path_factory.mktemp("weed"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def gateway(weed: Seaweed) -> Iterator[Gateway]:
    running = Gateway(weed.endpoint, weed.access_key, weed.secret_key).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def s3(gateway: Gateway) -> Any:
    made = client(gateway.endpoint)
    for bucket in (BUCKET, "mixed-docs", "plain-docs"):
        made.create_bucket(Bucket=bucket)
    return made


@pytest.fixture(scope="module")
def origin(weed: Seaweed, s3: Any) -> Any:
    return client(weed.endpoint, weed.access_key, weed.secret_key)


def raw(origin: Any, key: str) -> tuple[bytes, str]:
    found = origin.get_object(Bucket=BUCKET, Key=key)
    return found["Body"].read(), found["Metadata"][ENVELOPE]


def store_raw(origin: Any, key: str, body: bytes, envelope: str) -> None:
    origin.put_object(Bucket=BUCKET, Key=key, Body=body, Metadata={ENVELOPE: envelope})


def code_of(call: Any, **arguments: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 5 * 2**20 + 3])
def test_an_object_comes_back_whole_and_in_ranges(s3: Any, origin: Any, size: int) -> None:
    data, key = os.urandom(size), f"dir/ü +{size}"
    put = s3.put_object(Bucket=BUCKET, Key=key, Body=data, ContentType="a/b", Metadata={"u": "v"})
    assert put["ETag"].endswith('-0"') and put["ChecksumCRC32"]
    head = s3.head_object(Bucket=BUCKET, Key=key)
    assert (head["ContentLength"], head["ETag"], head["Metadata"], head["ContentType"]) == (
        size,
        put["ETag"],
        {"u": "v"},
        "a/b",
    )
    got = s3.get_object(Bucket=BUCKET, Key=key, IfMatch=put["ETag"])
    assert got["Body"].read() == data
    assert size < 16 or data[:16] not in raw(origin, key)[0]
    for first, last in [
        (0, 0),
        (0, size - 1),
        (size // 2, size - 1),
        (CHUNK - 1, CHUNK),
        (CHUNK, CHUNK),
        (1, 2 * CHUNK + 1),
        (size - 1, size + 10),
    ]:
        if 0 <= first <= last and first < size:
            got = s3.get_object(Bucket=BUCKET, Key=key, Range=f"bytes={first}-{last}")
            assert got["Body"].read() == data[first : last + 1]
            assert got["ContentRange"] == f"bytes {first}-{min(last, size - 1)}/{size}"
    for length in (1, CHUNK + 1, 10 * size) if size else ():
        got = s3.get_object(Bucket=BUCKET, Key=key, Range=f"bytes=-{length}")
        assert got["Body"].read() == data[-length:]
    assert code_of(s3.get_object, Bucket=BUCKET, Key=key, Range=f"bytes={size}-") == (
        "InvalidRange",
        416,
    )
    listed = {e["Key"]: e for e in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
    assert (listed[key]["Size"], listed[key]["ETag"]) == (size, put["ETag"])


@pytest.mark.parametrize("size", [8 * 2**20 + 1, 16 * 2**20, 21 * 2**20 + 5])
def test_multipart_uploads_of_boto3_come_back(s3: Any, origin: Any, size: int) -> None:
    data, key = os.urandom(size), f"multi-{size}"
    s3.upload_fileobj(io.BytesIO(data), BUCKET, key)
    into = io.BytesIO()
    s3.download_fileobj(BUCKET, key, into)
    assert into.getvalue() == data
    assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == data
    border = 8 * 2**20
    got = s3.get_object(Bucket=BUCKET, Key=key, Range=f"bytes={border - 9}-{border}")
    assert got["Body"].read() == data[border - 9 : border + 1]
    s3.copy({"Bucket": BUCKET, "Key": key}, BUCKET, key + "-copy")  # UploadPartCopy
    assert s3.get_object(Bucket=BUCKET, Key=key + "-copy")["Body"].read() == data
    s3.copy_object(Bucket=BUCKET, Key=key + "-2", CopySource=f"{BUCKET}/{key}")
    assert s3.get_object(Bucket=BUCKET, Key=key + "-2")["Body"].read() == data
    listed = {e["Key"]: e["Size"] for e in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
    assert listed[key] == listed[key + "-copy"] == size
    assert "Contents" not in origin.list_objects_v2(Bucket=BUCKET, Prefix=".sealgate-stash/")


def test_a_rotated_ring_still_opens_what_it_sealed(s3: Any, gateway: Gateway) -> None:
    s3.put_object(Bucket=BUCKET, Key="before", Body=b"x" * 40000)
    gateway.keys.rotate()
    s3.put_object(Bucket=BUCKET, Key="after", Body=b"y")
    assert s3.get_object(Bucket=BUCKET, Key="before")["Body"].read() == b"x" * 40000
    assert s3.get_object(Bucket=BUCKET, Key="after")["Body"].read() == b"y"


def test_a_part_sent_twice_counts_as_the_client_completes_it(s3: Any) -> None:
    where = {"Bucket": BUCKET, "Key": "twice"}
    upload = s3.create_multipart_upload(**where)["UploadId"]
    first, second = os.urandom(5 * 2**20), os.urandom(5 * 2**20)
    s3.upload_part(**where, UploadId=upload, PartNumber=1, Body=first)
    part = s3.upload_part(**where, UploadId=upload, PartNumber=1, Body=second)
    s3.complete_multipart_upload(
        **where,
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    assert s3.get_object(**where)["Body"].read() == second


def test_a_resumed_upload_completes_from_the_list_of_parts(s3: Any) -> None:
    where = {"Bucket": BUCKET, "Key": "resumed"}
    upload = s3.create_multipart_upload(**where)["UploadId"]
    data = {1: os.urandom(5 * 2**20), 4: os.urandom(100)}
    for number in (4, 1):
        s3.upload_part(**where, UploadId=upload, PartNumber=number, Body=data[number])
    listed = s3.list_parts(**where, UploadId=upload)["Parts"]
    assert [(p["PartNumber"], p["Size"]) for p in listed] == [(1, 5 * 2**20), (4, 100)]
    s3.complete_multipart_upload(
        **where,
        UploadId=upload,
        MultipartUpload={
            "Parts": [{"PartNumber": p["PartNumber"], "ETag": p["ETag"]} for p in listed]
        },
    )
    assert s3.get_object(**where)["Body"].read() == data[1] + data[4]


def test_two_swapped_objects_do_not_open(s3: Any, origin: Any) -> None:
    for key in ("swap-a", "swap-b"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode() * 1000)
    a, b = raw(origin, "swap-a"), raw(origin, "swap-b")
    for body, envelope in [b, (b[0], a[1]), (a[0], b[1])]:
        store_raw(origin, "swap-a", body, envelope)
        assert code_of(s3.get_object, Bucket=BUCKET, Key="swap-a")[0] == "XAmzSealgateIntegrity"
        assert code_of(s3.get_object, Bucket=BUCKET, Key="swap-a", Range="bytes=5-9")[0] == (
            "XAmzSealgateIntegrity"
        )


def test_damage_is_an_error_or_ends_the_body_short(s3: Any, origin: Any) -> None:
    size = 40 * CHUNK + 100
    s3.put_object(Bucket=BUCKET, Key="whole", Body=os.urandom(size))
    body, _ = raw(origin, "whole")
    for at in (
        0,
        30,
        56,
        20000,
        len(body) // 2,
        len(body) - 10_000,
        len(body) - 300,
        len(body) - 100,
        len(body) - 1,
    ):
        s3.put_object(Bucket=BUCKET, Key="damaged", Body=os.urandom(size))
        stored, envelope = raw(origin, "damaged")
        changed = bytearray(stored)
        changed[at] ^= 1
        store_raw(origin, "damaged", bytes(changed), envelope)
        with pytest.raises((ClientError, *CUT_SHORT)):
            s3.get_object(Bucket=BUCKET, Key="damaged")["Body"].read()


@pytest.mark.parametrize("cut", [1, 16, 328, CHUNK + 16, 5 * (CHUNK + 16)])
def test_a_truncated_object_is_never_taken_for_a_whole_one(s3: Any, origin: Any, cut: int) -> None:
    s3.put_object(Bucket=BUCKET, Key="cut", Body=os.urandom(20 * CHUNK))
    body, envelope = raw(origin, "cut")
    store_raw(origin, "cut", body[:-cut], envelope)
    with pytest.raises((ClientError, *CUT_SHORT)):
        s3.get_object(Bucket=BUCKET, Key="cut")["Body"].read()
    with pytest.raises((ClientError, *CUT_SHORT)):
        s3.get_object(Bucket=BUCKET, Key="cut", Range="bytes=-5")["Body"].read()


def test_an_object_without_envelope_is_an_error_unless_the_place_is_mixed(
    s3: Any, origin: Any
) -> None:
    for bucket in (BUCKET, "mixed-docs"):
        origin.put_object(Bucket=bucket, Key="naked", Body=b"hello")
    for call in (s3.get_object, s3.head_object):
        assert code_of(call, Bucket=BUCKET, Key="naked")[1] == 500
    assert s3.get_object(Bucket="mixed-docs", Key="naked")["Body"].read() == b"hello"
    got = s3.get_object(Bucket="mixed-docs", Key="naked", Range="bytes=1-2")
    assert got["Body"].read() == b"el"
    assert s3.head_object(Bucket="mixed-docs", Key="naked")["ContentLength"] == 5


def test_plain_places_are_forwarded_untouched(s3: Any, origin: Any) -> None:
    put = s3.put_object(Bucket="plain-docs", Key="p", Body=b"plain" * 9, Metadata={"a": "b"})
    direct = origin.get_object(Bucket="plain-docs", Key="p")
    assert direct["Body"].read() == b"plain" * 9
    assert put["ETag"] == direct["ETag"] == s3.head_object(Bucket="plain-docs", Key="p")["ETag"]
    s3.put_object(Bucket=BUCKET, Key="open/x", Body=b"in the open")
    assert origin.get_object(Bucket=BUCKET, Key="open/x")["Body"].read() == b"in the open"


def test_conditions_hold_with_the_etags_that_were_shown(s3: Any) -> None:
    etag = s3.put_object(Bucket=BUCKET, Key="cond", Body=b"1")["ETag"]
    assert code_of(s3.get_object, Bucket=BUCKET, Key="cond", IfNoneMatch=etag)[1] == 304
    assert code_of(s3.head_object, Bucket=BUCKET, Key="cond", IfNoneMatch=etag)[1] == 304
    assert code_of(s3.get_object, Bucket=BUCKET, Key="cond", IfMatch='"x"')[1] == 412
    assert code_of(s3.put_object, Bucket=BUCKET, Key="cond", Body=b"2", IfNoneMatch="*")[1] == 412
    s3.put_object(Bucket=BUCKET, Key="cond", Body=b"2", IfMatch=etag)
    stale = {"Bucket": BUCKET, "Key": "cond", "Range": "bytes=0-0"}
    assert s3.get_object(**stale)["Body"].read() == b"2"
    s3.put_object(Bucket=BUCKET, Key="cond", Body=b"3")  # what the range cache knows is now old
    assert s3.get_object(**stale)["Body"].read() == b"3"


def test_what_cannot_be_honoured_is_refused_by_name(s3: Any) -> None:
    refused = [
        (
            s3.put_object,
            {"Key": "k", "Body": b"", "SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32},
        ),
        (s3.put_object, {"Key": "k", "Body": b"", "WriteOffsetBytes": 5}),
        (
            s3.select_object_content,
            {
                "Key": "k",
                "Expression": "select 1",
                "ExpressionType": "SQL",
                "InputSerialization": {"CSV": {}},
                "OutputSerialization": {"CSV": {}},
            },
        ),
    ]
    for call, arguments in refused:
        try:
            answer = code_of(call, Bucket=BUCKET, **arguments)
        except ValueError:
            continue  # this SDK refuses SSE-C over http by itself
        assert answer == ("NotImplemented", 501)
    reserved = {"Bucket": BUCKET, "Body": b""}
    assert code_of(s3.put_object, Key="k", Metadata={ENVELOPE: "x"}, **reserved)[1] == 400
    assert code_of(s3.put_object, Key=".sealgate-stash/x", **reserved)[1] == 400
    assert code_of(s3.put_object, Key="k", Metadata={"a": "x" * 2000}, **reserved) == (
        "MetadataTooLarge",
        400,
    )


def test_missing_rights_keys_and_origins_have_their_own_answers(s3: Any, gateway: Gateway) -> None:
    put = {"Key": "k", "Body": b"data"}
    assert code_of(s3.put_object, Bucket="denied-x", **put) == ("AccessDenied", 403)
    assert code_of(s3.put_object, Bucket="keyless-x", **put) == ("ServiceUnavailable", 503)
    assert code_of(s3.put_object, Bucket="away-x", **put) == ("ServiceUnavailable", 503)
    assert code_of(s3.put_object, Bucket="unknown", **put) == ("NoSuchBucket", 404)
    assert code_of(s3.get_object, Bucket=BUCKET, Key="none") == ("NoSuchKey", 404)
    wrong = client(gateway.endpoint, secret="wrong")
    assert code_of(wrong.get_object, Bucket=BUCKET, Key="k") == ("SignatureDoesNotMatch", 403)
    unknown = client(gateway.endpoint, access_key="NOBODY")
    assert code_of(unknown.get_object, Bucket=BUCKET, Key="k") == ("InvalidAccessKeyId", 403)


def test_operations_without_object_bytes_are_forwarded(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="tagged", Body=b"1")
    tags = {"TagSet": [{"Key": "a", "Value": "b"}]}
    s3.put_object_tagging(Bucket=BUCKET, Key="tagged", Tagging=tags)
    assert s3.get_object_tagging(Bucket=BUCKET, Key="tagged")["TagSet"] == tags["TagSet"]
    assert {b["Name"] for b in s3.list_buckets()["Buckets"]} >= {BUCKET, "plain-docs"}
    deleted = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "tagged"}]})
    assert deleted["Deleted"][0]["Key"] == "tagged"
    assert code_of(s3.head_object, Bucket=BUCKET, Key="tagged")[1] == 404


@pytest.mark.parametrize("version", ["s3v4", "s3"])
def test_presigned_urls_work_until_changed(s3: Any, gateway: Gateway, version: str) -> None:
    s3.put_object(Bucket=BUCKET, Key="linked", Body=b"by link")
    signer = client(gateway.endpoint, signature_version=version)
    url = signer.generate_presigned_url(
        "get_object", Params={"Bucket": BUCKET, "Key": "linked", "ResponseContentType": "x/y"}
    )
    with urllib.request.urlopen(url) as answer:
        assert (answer.read(), answer.headers["content-type"]) == (b"by link", "x/y")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url.replace("linked", "other"))
    assert caught.value.code == 403
    put = signer.generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": "linked"})
    urllib.request.urlopen(
        urllib.request.Request(put, b"new", {"Content-Type": ""}, method="PUT")
    ).close()
    assert s3.get_object(Bucket=BUCKET, Key="linked")["Body"].read() == b"new"


def test_boto3_over_tls_sends_trailers_and_is_served(
    weed: Seaweed, s3: Any, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    tls = TlsServer(cert_file=str(tmp_path / "server.pem"), key_file=str(tmp_path / "server.pem"))
    running = Gateway(weed.endpoint, weed.access_key, weed.secret_key, tls).start()
    try:
        made = boto3.client(
            "s3",
            endpoint_url=running.endpoint,
            aws_access_key_id="CLIENT",
            aws_secret_access_key="client-secret",
            region_name="us-east-1",
            verify=str(tmp_path / "ca.pem"),
        )
        for size in (0, 11, 3 * 2**20 + 1, 20 * 2**20):
            data, into = os.urandom(size), io.BytesIO()
            put = made.put_object(Bucket=BUCKET, Key="tls", Body=data)
            assert put["ChecksumCRC32"]
            assert made.get_object(Bucket=BUCKET, Key="tls")["Body"].read() == data
            made.upload_fileobj(io.BytesIO(data), BUCKET, "tls-multi")
            made.download_fileobj(BUCKET, "tls-multi", into)
            assert into.getvalue() == data
    finally:
        running.stop()


class Endless:
    """A body of `size` bytes that is never in memory."""

    def __init__(self, size: int) -> None:
        self._size, self._at, self._block = size, 0, os.urandom(1 << 20)

    def __len__(self) -> int:
        return self._size

    def read(self, wanted: int = -1) -> bytes:
        begin = self._at % len(self._block)
        left = self._size - self._at
        piece = self._block[begin : begin + (left if wanted < 0 else min(wanted, left))]
        self._at += len(piece)
        return piece

    def seek(self, to: int, whence: int = 0) -> int:
        self._at = (0, self._at, self._size)[whence] + to
        return self._at

    def tell(self) -> int:
        return self._at


@pytest.mark.slow
def test_memory_does_not_grow_with_the_object(s3: Any) -> None:
    process = psutil.Process()

    def transfer(size: int) -> int:
        s3.put_object(Bucket=BUCKET, Key="endless", Body=Endless(size))
        body, seen, most = s3.get_object(Bucket=BUCKET, Key="endless")["Body"], 0, 0
        while piece := body.read(1 << 20):
            seen += len(piece)
            most = max(most, process.memory_info().rss)
        assert seen == size
        return most

    small = transfer(16 * 2**20)
    assert transfer(512 * 2**20) - small < 24 * 2**20


def test_rclone_and_aws_cli_write_list_and_read(gateway: Gateway, s3: Any, tmp_path: Path) -> None:
    tools = Path(os.sys.executable).parent  # type: ignore[attr-defined]
    (tmp_path / "in").mkdir()
    for name, size in [("small", 10), ("large", 12 * 2**20 + 1)]:
        (tmp_path / "in" / name).write_bytes(os.urandom(size))
        os.utime(tmp_path / "in" / name, (1e9, 1e9))  # sync compares times in seconds
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": "CLIENT",
        "AWS_SECRET_ACCESS_KEY": "client-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "RCLONE_CONFIG": str(tmp_path / "none.conf"),
        "RCLONE_S3_PROVIDER": "Other",
        "RCLONE_S3_ENV_AUTH": "true",
        "RCLONE_S3_ENDPOINT": gateway.endpoint,
        "RCLONE_S3_REGION": "us-east-1",
    }

    def run(*command: str) -> str:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    rclone = str(tools / "rclone")
    run(rclone, "copy", str(tmp_path / "in"), f":s3:{BUCKET}/rclone", "--s3-upload-cutoff", "5M")
    run(rclone, "check", str(tmp_path / "in"), f":s3:{BUCKET}/rclone", "--download")
    assert "12582913 large" in run(rclone, "ls", f":s3:{BUCKET}/rclone")
    aws = (str(tools / "aws"), "--endpoint-url", gateway.endpoint, "s3")
    run(*aws, "sync", str(tmp_path / "in"), f"s3://{BUCKET}/cli/")
    assert run(*aws, "sync", str(tmp_path / "in"), f"s3://{BUCKET}/cli/") == ""
    run(*aws, "sync", f"s3://{BUCKET}/cli/", str(tmp_path / "out"))
    for name in ("small", "large"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()
