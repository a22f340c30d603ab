"""boto3, aws cli and rclone on a sealed bucket, against what the origin holds."""

import http.client
import io
import os
import shutil
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError, ResponseStreamingError

from tests.parts.stack import APP_KEY, APP_SECRET, Stack

pytestmark = pytest.mark.system

CANARY = b"canary-4c1f9e02-object "
SIZES = [0, 1, 16383, 16384, 16385, 65536, 5 << 20]


def client(endpoint: str, key: str, secret: str, **more: Any) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, **more),
    )


@pytest.fixture(scope="session")
def sealed(stack: Stack) -> Any:
    return client(stack.s3_endpoint, APP_KEY, APP_SECRET)


@pytest.fixture(scope="session")
def raw(stack: Stack) -> Any:
    return client(stack.seaweed.endpoint, stack.seaweed.access_key, stack.seaweed.secret_key)


@pytest.fixture
def bucket(stack: Stack, sealed: Any) -> Iterator[str]:
    name = f"sealed-{uuid.uuid4().hex[:10]}"
    sealed.create_bucket(Bucket=name)
    stack.s3_tap.clear()
    yield name
    for entry in sealed.list_objects_v2(Bucket=name).get("Contents", []):
        sealed.delete_object(Bucket=name, Key=entry["Key"])
    sealed.delete_bucket(Bucket=name)


def body(size: int) -> bytes:
    return (CANARY * (size // len(CANARY) + 1))[:size]


def code(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


@pytest.mark.parametrize("size", SIZES)
def test_boto3_reads_what_it_wrote(
    stack: Stack, sealed: Any, raw: Any, bucket: str, size: int
) -> None:
    data = body(size)
    sealed.put_object(
        Bucket=bucket, Key="a/b c+ü.txt", Body=data, ContentType="text/x-y", Metadata={"who": "me"}
    )
    got = sealed.get_object(Bucket=bucket, Key="a/b c+ü.txt")
    assert got["Body"].read() == data
    assert got["ContentType"] == "text/x-y"
    assert got["Metadata"] == {"who": "me"}
    head = sealed.head_object(Bucket=bucket, Key="a/b c+ü.txt")
    assert head["ContentLength"] == size
    assert head["ETag"] == got["ETag"]
    (entry,) = sealed.list_objects_v2(Bucket=bucket)["Contents"]
    assert (entry["Size"], entry["ETag"]) == (size, head["ETag"])
    (entry,) = sealed.list_objects(Bucket=bucket)["Contents"]
    assert entry["Size"] == size
    stored = raw.get_object(Bucket=bucket, Key="a/b c+ü.txt")["Body"].read()
    assert len(stored) > size
    assert CANARY not in stored
    assert CANARY not in stack.s3_tap.to_server
    stack.proxy.assert_not_in_logs(CANARY.decode())
    with urllib.request.urlopen(f"{stack.admin}/metrics", timeout=5) as answer:
        assert CANARY not in answer.read()


RANGES = [
    "0-0",
    "0-99",
    "16383-16384",
    "16384-32767",
    "100000-",
    "-1",
    "-40000",
    "0-",
    "99999-9999999",
]


@pytest.mark.parametrize("what", RANGES)
def test_ranges_are_slices(sealed: Any, bucket: str, what: str) -> None:
    data = os.urandom(150_000)
    sealed.put_object(Bucket=bucket, Key="r", Body=data)
    first, _, last = what.partition("-")
    if not first:
        expected = data[-int(last) :]
    else:
        expected = data[int(first) : int(last) + 1 if last else None]
    got = sealed.get_object(Bucket=bucket, Key="r", Range=f"bytes={what}")
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert got["Body"].read() == expected
    assert got["ContentRange"].endswith("/150000")


def test_range_past_the_end_is_refused(sealed: Any, bucket: str) -> None:
    sealed.put_object(Bucket=bucket, Key="r", Body=b"abc")
    with pytest.raises(ClientError) as caught:
        sealed.get_object(Bucket=bucket, Key="r", Range="bytes=3-")
    assert code(caught) == "InvalidRange"


def test_conditions_and_copy(sealed: Any, bucket: str) -> None:
    etag = sealed.put_object(Bucket=bucket, Key="one", Body=b"first")["ETag"]
    with pytest.raises(ClientError) as caught:
        sealed.get_object(Bucket=bucket, Key="one", IfNoneMatch=etag)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 304
    assert sealed.get_object(Bucket=bucket, Key="one", IfMatch=etag)["Body"].read() == b"first"
    with pytest.raises(ClientError) as caught:
        sealed.put_object(Bucket=bucket, Key="one", Body=b"x", IfNoneMatch="*")
    assert code(caught) == "PreconditionFailed"
    sealed.copy_object(Bucket=bucket, Key="two", CopySource={"Bucket": bucket, "Key": "one"})
    assert sealed.get_object(Bucket=bucket, Key="two")["Body"].read() == b"first"


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_presigned_urls(stack: Stack, bucket: str, version: str) -> None:
    signer = client(stack.s3_endpoint, APP_KEY, APP_SECRET, signature_version=version)

    def ask(verb: str, operation: str, body: bytes | None = None) -> tuple[int, bytes]:
        url = urlsplit(
            signer.generate_presigned_url(operation, Params={"Bucket": bucket, "Key": "p"})
        )
        link = http.client.HTTPConnection(url.netloc, timeout=10)
        link.request(verb, f"{url.path}?{url.query}", body)
        answer = link.getresponse()
        return answer.status, answer.read()

    assert ask("PUT", "put_object", b"by url")[0] == 200
    assert ask("GET", "get_object") == (200, b"by url")


def test_plain_bucket_is_left_alone(stack: Stack, sealed: Any, raw: Any) -> None:
    name = f"plain-{uuid.uuid4().hex[:8]}"
    sealed.create_bucket(Bucket=name)
    sealed.put_object(Bucket=name, Key="k", Body=b"in clear")
    assert raw.get_object(Bucket=name, Key="k")["Body"].read() == b"in clear"
    assert sealed.get_object(Bucket=name, Key="k")["Body"].read() == b"in clear"


def replace(raw: Any, bucket: str, key: str, data: bytes | None = None, **meta: str) -> None:
    """What a tampering operator does: other bytes or other metadata under the same key."""
    old = raw.get_object(Bucket=bucket, Key=key)
    content = old["Body"].read()
    raw.put_object(
        Bucket=bucket,
        Key=key,
        Body=content if data is None else data,
        Metadata=old["Metadata"] | meta,
    )


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


CHUNK = 16384 + 16
DAMAGE = {
    "a byte of the first chunk": lambda d: flipped(d, 100),
    "a byte of the salt": lambda d: flipped(d, 3),
    "a byte of the commitment": lambda d: flipped(d, 30),
    "a byte in the middle": lambda d: flipped(d, 56 + 2 * CHUNK + 9),
    "a byte of the footer": lambda d: flipped(d, len(d) - 10),
    "two chunks exchanged": lambda d: (
        d[:56] + d[56 + CHUNK : 56 + 2 * CHUNK] + d[56 : 56 + CHUNK] + d[56 + 2 * CHUNK :]
    ),
    "a chunk dropped": lambda d: d[:56] + d[56 + CHUNK :],
    "a chunk doubled": lambda d: d[: 56 + CHUNK] + d[56:],
    "the end cut off": lambda d: d[: 56 + 2 * CHUNK],
    "the last byte cut off": lambda d: d[:-1],
    "emptied": lambda d: b"",
}


def refused(sealed: Any, bucket: str, key: str, data: bytes) -> bool:
    """Whether reading ends in an error; a client must never take it for whole."""
    try:
        got = sealed.get_object(Bucket=bucket, Key=key)["Body"].read()
    except (ClientError, HTTPClientError, ResponseStreamingError):
        return True
    assert got != data, "opened to the very value: nothing was damaged"
    return False


@pytest.mark.parametrize("what", DAMAGE)
def test_tampered_object_is_never_taken_for_whole(
    sealed: Any, raw: Any, bucket: str, what: str
) -> None:
    data = body(100_000)
    sealed.put_object(Bucket=bucket, Key="t", Body=data)
    stored = raw.get_object(Bucket=bucket, Key="t")["Body"].read()
    replace(raw, bucket, "t", DAMAGE[what](stored))
    assert refused(sealed, bucket, "t", data)
    sealed.put_object(Bucket=bucket, Key="t", Body=data)
    assert sealed.get_object(Bucket=bucket, Key="t")["Body"].read() == data


def test_swapped_and_moved_objects_do_not_open(sealed: Any, raw: Any, bucket: str) -> None:
    for key in "ab":
        sealed.put_object(Bucket=bucket, Key=key, Body=body(50_000) + key.encode())
    raw.copy_object(Bucket=bucket, Key="moved", CopySource={"Bucket": bucket, "Key": "a"})
    with pytest.raises(ClientError):
        sealed.get_object(Bucket=bucket, Key="moved")
    a, b = (raw.get_object(Bucket=bucket, Key=k) for k in "ab")
    a_body, b_body = a["Body"].read(), b["Body"].read()
    raw.put_object(Bucket=bucket, Key="a", Body=b_body, Metadata=b["Metadata"])
    assert refused(sealed, bucket, "a", body(50_000) + b"a")
    raw.put_object(Bucket=bucket, Key="a", Body=b_body, Metadata=a["Metadata"])
    assert refused(sealed, bucket, "a", body(50_000) + b"a")
    raw.put_object(Bucket=bucket, Key="b", Body=a_body, Metadata={})
    with pytest.raises(ClientError):
        sealed.get_object(Bucket=bucket, Key="b")


def test_wrong_signature_unknown_key_and_skewed_clock(stack: Stack, bucket: str) -> None:
    for key, secret, expected in (
        (APP_KEY, "wrong", "SignatureDoesNotMatch"),
        ("NOBODY", APP_SECRET, "InvalidAccessKeyId"),
    ):
        with pytest.raises(ClientError) as caught:
            client(stack.s3_endpoint, key, secret).list_objects_v2(Bucket=bucket)
        assert code(caught) == expected


def test_wrong_checksum_is_refused_and_nothing_is_stored(sealed: Any, bucket: str) -> None:
    with pytest.raises(ClientError) as caught:
        sealed.put_object(Bucket=bucket, Key="w", Body=b"hello", ChecksumCRC32="AAAAAA==")
    assert code(caught) in {"BadDigest", "InvalidRequest"}
    with pytest.raises(ClientError) as caught:
        sealed.get_object(Bucket=bucket, Key="w")
    assert code(caught) == "NoSuchKey"


def test_aws_cli_writes_lists_reads(stack: Stack, bucket: str, tmp_path: Path) -> None:
    aws = shutil.which("aws", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if aws is None:
        pytest.skip("aws cli is not installed")
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": APP_KEY,
        "AWS_SECRET_ACCESS_KEY": APP_SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, aws, "--endpoint-url", stack.s3_endpoint, *words]
            if Path(aws).read_bytes()[:2] == b"#!"
            else [aws, "--endpoint-url", stack.s3_endpoint, *words],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    data = body(3_000_000)
    (tmp_path / "up").write_bytes(data)
    run("s3", "cp", str(tmp_path / "up"), f"s3://{bucket}/cli/file")
    assert "3000000" in run("s3", "ls", f"s3://{bucket}/cli/")
    run("s3", "cp", f"s3://{bucket}/cli/file", str(tmp_path / "down"))
    assert (tmp_path / "down").read_bytes() == data
    run(
        "s3api",
        "get-object",
        "--bucket",
        bucket,
        "--key",
        "cli/file",
        "--range",
        "bytes=20000-29999",
        str(tmp_path / "part"),
    )
    assert (tmp_path / "part").read_bytes() == data[20000:30000]


def test_rclone_copies_checks_and_reads_ranges(stack: Stack, bucket: str, tmp_path: Path) -> None:
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if rclone is None:
        pytest.skip("rclone is not installed")
    config = tmp_path / "rclone.conf"
    config.write_text(
        f"[s]\ntype = s3\nprovider = Other\nendpoint = {stack.s3_endpoint}\n"
        f"access_key_id = {APP_KEY}\nsecret_access_key = {APP_SECRET}\nforce_path_style = true\n"
        "region = us-east-1\n"
    )

    def run(*words: str) -> bytes:
        done = subprocess.run(
            [rclone, "--config", str(config), *words], capture_output=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    source = tmp_path / "tree"
    for i, size in enumerate((0, 10, 20_000, 2_000_000)):
        (source / f"d{i}").mkdir(parents=True)
        (source / f"d{i}" / "file").write_bytes(body(size))
    run("copy", str(source), f"s:{bucket}/tree")
    run("check", "--download", str(source), f"s:{bucket}/tree")
    listed = run("lsf", "-R", "--format", "ps", f"s:{bucket}/tree").decode()
    assert "d3/file;2000000" in listed
    part = run("cat", "--offset", "30000", "--count", "5000", f"s:{bucket}/tree/d3/file")
    assert part == body(2_000_000)[30_000:35_000]


def test_large_object_passes_in_order(sealed: Any, bucket: str) -> None:
    data = os.urandom(1 << 20) * 40
    sealed.put_object(Bucket=bucket, Key="large", Body=io.BytesIO(data))
    assert sealed.get_object(Bucket=bucket, Key="large")["Body"].read() == data
