"""What clients may ask besides plain reads and writes: forms, tokens, no signature, checksums, parts."""

import base64
import hashlib
import urllib.error
import urllib.request
import uuid
import zlib
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.parts.hostile import HostileOrigin
from tests.parts.s3_gateway import Gateway, client
from tests.parts.seaweed import Seaweed

pytestmark = pytest.mark.system
BUCKET, PLAIN, PUBLIC = "sealed-asks", "plain-asks", "public-asks"
MIB = 1 << 20


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
    for bucket in (BUCKET, PLAIN, PUBLIC):
        made.create_bucket(Bucket=bucket)
    return made


def code_of(call: Any, **arguments: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def post(url: str, fields: dict[str, str], file: bytes) -> tuple[int, dict[str, str], bytes]:
    boundary = uuid.uuid4().hex
    out = b""
    for name, value in fields.items():
        out += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    out += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="f.bin"\r\n\r\n'.encode()
    out += file + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(url, out, method="POST")
    request.add_header("Content-Type", f"multipart/form-data; boundary={boundary}")

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *a: Any, **k: Any) -> None:
            return None

    try:
        with urllib.request.build_opener(NoRedirect).open(request) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


@pytest.mark.parametrize("version", ["s3", "s3v4"])
@pytest.mark.parametrize("bucket", [BUCKET, PLAIN])
@pytest.mark.parametrize("size", [0, 5, 3 * MIB])
def test_a_form_of_boto3_uploads_a_file(
    s3: Any, gateway: Gateway, version: str, bucket: str, size: int
) -> None:
    signer = client(gateway.endpoint, signature_version=version)
    made = signer.generate_presigned_post(
        bucket,
        "forms/${filename}",
        Fields={"Content-Type": "text/x-form", "x-amz-meta-who": "me"},
        Conditions=[
            {"Content-Type": "text/x-form"},
            {"x-amz-meta-who": "me"},
            ["content-length-range", 0, 4 * MIB],
        ],
    )
    body = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    status, headers, _ = post(made["url"], made["fields"], body)
    assert status == 204 and headers["location"].endswith(f"/{bucket}/forms/f.bin")
    got = s3.get_object(Bucket=bucket, Key="forms/f.bin")
    assert got["Body"].read() == body and got["ETag"] == headers["etag"]
    assert got["ContentType"] == "text/x-form" and got["Metadata"] == {"who": "me"}


def test_a_form_is_held_to_its_policy_and_answers_as_asked(s3: Any, gateway: Gateway) -> None:
    def sign(**more: Any) -> Any:
        return s3.generate_presigned_post(BUCKET, "form-k", **more)

    made = sign(Conditions=[["content-length-range", 0, 3]])
    status, _, body = post(made["url"], made["fields"], b"four")
    assert status == 400 and b"EntityTooLarge" in body
    status, _, body = post(made["url"], {**made["fields"], "key": "other"}, b"x")
    assert status == 403 and b"AccessDenied" in body
    signature = next(n for n in made["fields"] if n.lower().endswith("signature"))
    status, _, body = post(made["url"], {**made["fields"], signature: "0" * 64}, b"x")
    assert status == 403 and b"SignatureDoesNotMatch" in body
    status, _, body = post(made["url"], {"key": "k"}, b"x")
    assert status == 403 and b"AccessDenied" in body
    source = {"x-amz-copy-source": f"{BUCKET}/other"}
    made = sign(Fields=source, Conditions=[source])
    status, _, body = post(made["url"], made["fields"], b"x")
    assert status == 400 and b"copies nothing" in body
    assert code_of(s3.head_object, Bucket=BUCKET, Key="form-k") == ("404", 404)
    for field, value, expected in (
        ("success_action_status", "201", 201),
        ("success_action_status", "200", 200),
        ("success_action_redirect", "http://127.0.0.1:1/done", 303),
    ):
        made = sign(Fields={field: value}, Conditions=[{field: value}])
        status, headers, body = post(made["url"], made["fields"], b"x")
        assert status == expected
        if status == 201:
            assert b"<Key>form-k</Key>" in body and b"<PostResponse>" in body
        if status == 303:
            assert headers["location"].startswith(value + f"?bucket={BUCKET}&key=form-k&etag=")


def test_a_session_token_must_be_the_credentials_own(gateway: Gateway, s3: Any) -> None:
    def session(access_key: str, secret: str, token: str | None) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=gateway.endpoint,
            region_name="eu-central-1",
            aws_access_key_id=access_key,
            aws_secret_access_key=secret,
            aws_session_token=token,
        )

    with_token = session("SESSION", "session-secret", "the-token")
    with_token.put_object(Bucket=BUCKET, Key="token", Body=b"x")
    url = with_token.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": "token"})
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"x"
    for access_key, secret, token in (
        ("SESSION", "session-secret", None),
        ("SESSION", "session-secret", "another"),
        ("CLIENT", "client-secret", "the-token"),
    ):
        asking = session(access_key, secret, token)
        assert code_of(asking.get_object, Bucket=BUCKET, Key="token") == ("InvalidToken", 400)


def test_without_a_signature_only_public_objects_are_read(gateway: Gateway, s3: Any) -> None:
    nobody = boto3.client(
        "s3",
        endpoint_url=gateway.endpoint,
        region_name="us-east-1",
        config=Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}),
    )
    for bucket in (PUBLIC, BUCKET):
        s3.put_object(Bucket=bucket, Key="k", Body=b"for all")
    assert nobody.get_object(Bucket=PUBLIC, Key="k")["Body"].read() == b"for all"
    assert nobody.get_object(Bucket=PUBLIC, Key="k", Range="bytes=0-2")["Body"].read() == b"for"
    assert nobody.head_object(Bucket=PUBLIC, Key="k")["ContentLength"] == 7
    denied = ("AccessDenied", 403)
    assert code_of(nobody.get_object, Bucket=BUCKET, Key="k") == denied
    assert code_of(nobody.put_object, Bucket=PUBLIC, Key="k", Body=b"x") == denied
    assert code_of(nobody.delete_object, Bucket=PUBLIC, Key="k") == denied
    assert code_of(nobody.list_objects_v2, Bucket=PUBLIC) == denied
    assert code_of(nobody.get_object_tagging, Bucket=PUBLIC, Key="k") == denied
    override = {"ResponseContentType": "text/html"}
    assert code_of(nobody.get_object, Bucket=PUBLIC, Key="k", **override)[0] == "InvalidRequest"


ALGORITHMS = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", [0, 100, 300_000])
def test_a_checksum_sent_is_answered_on_whole_reads_only(
    s3: Any, algorithm: str, size: int
) -> None:
    body = hashlib.shake_128(b"x").digest(size)
    put = s3.put_object(Bucket=BUCKET, Key="sum", Body=body, ChecksumAlgorithm=algorithm)
    value = put[f"Checksum{algorithm}"]
    got = s3.get_object(Bucket=BUCKET, Key="sum", ChecksumMode="ENABLED")
    assert got["Body"].read() == body and got[f"Checksum{algorithm}"] == value
    head = s3.head_object(Bucket=BUCKET, Key="sum", ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm}"] == value and head["ChecksumType"] == "FULL_OBJECT"
    wanted = ["Checksum", "ObjectSize", "ETag"]
    told = s3.get_object_attributes(Bucket=BUCKET, Key="sum", ObjectAttributes=wanted)
    assert told["ObjectSize"] == size and told["Checksum"][f"Checksum{algorithm}"] == value
    if size:
        part = s3.get_object(Bucket=BUCKET, Key="sum", Range="bytes=1-9", ChecksumMode="ENABLED")
        assert f"Checksum{algorithm}" not in part and part["Body"].read() == body[1:10]
    s3.copy_object(Bucket=BUCKET, Key="sum2", CopySource={"Bucket": BUCKET, "Key": "sum"})
    head = s3.head_object(Bucket=BUCKET, Key="sum2", ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm}"] == value


def test_the_checksum_of_a_multipart_object_follows_from_its_parts(s3: Any) -> None:
    parts = [b"a" * (5 * MIB), b"b" * (5 * MIB + 7), b"c" * 11]
    for algorithm, kind in (("CRC32", "COMPOSITE"), ("CRC32", "FULL_OBJECT"), ("CRC64NVME", None)):
        typed = {"ChecksumType": kind} if kind else {}
        upload = s3.create_multipart_upload(
            Bucket=BUCKET, Key="mp-sum", ChecksumAlgorithm=algorithm, **typed
        )["UploadId"]
        name = f"Checksum{algorithm}"
        place = {"Bucket": BUCKET, "Key": "mp-sum", "UploadId": upload}
        sent = []
        for number, body in enumerate(parts, 1):
            done = s3.upload_part(
                **place, PartNumber=number, Body=body, ChecksumAlgorithm=algorithm
            )
            sent.append({"PartNumber": number, "ETag": done["ETag"], name: done[name]})
        done = s3.complete_multipart_upload(**place, MultipartUpload={"Parts": sent}, **typed)
        head = s3.head_object(Bucket=BUCKET, Key="mp-sum", ChecksumMode="ENABLED")
        assert head[name] == done[name]
        if algorithm == "CRC32" and kind == "FULL_OBJECT":
            whole = zlib.crc32(b"".join(parts)).to_bytes(4, "big")
            assert base64.b64decode(head[name]) == whole
        if kind == "COMPOSITE":
            assert head[name].endswith("-3")
        got = s3.get_object(Bucket=BUCKET, Key="mp-sum", ChecksumMode="ENABLED")
        assert got["Body"].read() == b"".join(parts) and got[name] == head[name]
    wanted = ["ObjectParts", "ObjectSize", "Checksum"]
    told = s3.get_object_attributes(
        Bucket=BUCKET, Key="mp-sum", ObjectAttributes=wanted, MaxParts=2
    )
    assert told["ObjectParts"]["TotalPartsCount"] == 3 and told["ObjectParts"]["IsTruncated"]
    assert [p["Size"] for p in told["ObjectParts"]["Parts"]] == [5 * MIB, 5 * MIB + 7]


def test_head_and_get_by_part_number_agree(s3: Any) -> None:
    for number, size in ((1, 5 * MIB), (2, 5 * MIB + 7), (3, 11)):
        head = s3.head_object(Bucket=BUCKET, Key="mp-sum", PartNumber=number)
        got = s3.get_object(Bucket=BUCKET, Key="mp-sum", PartNumber=number)
        assert len(got["Body"].read()) == head["ContentLength"] == size
        assert head["PartsCount"] == got["PartsCount"] == 3
    assert code_of(s3.head_object, Bucket=BUCKET, Key="mp-sum", PartNumber=4)[1] == 416
    s3.put_object(Bucket=BUCKET, Key="one", Body=b"single")
    assert s3.head_object(Bucket=BUCKET, Key="one", PartNumber=1)["ContentLength"] == 6
    assert code_of(s3.head_object, Bucket=BUCKET, Key="one", PartNumber=2)[1] == 416


KEYS = [
    "a b/ü~(x)*'!",
    "a+b",
    "a%2Fb",
    "a//b",
    "//a",
    "a/",
    "ключ/名前",
    "a=b&c?d#e",
    "\\x",
    "%",
    "a\tb",
]


@pytest.fixture(scope="module")
def exact() -> Iterator[Gateway]:
    """Before an origin that keeps every key; SeaweedFS loses some that end or begin with a slash."""
    origin = HostileOrigin()
    running = Gateway(origin.endpoint, "ak", "sk").start()
    yield running
    running.stop()
    origin.stop()


@pytest.mark.parametrize("key", KEYS)
def test_odd_keys_are_kept_as_they_are(exact: Gateway, key: str) -> None:
    s3 = client(exact.endpoint)
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"odd")
    assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"odd"
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=key)["Contents"]
    assert [(o["Key"], o["Size"]) for o in listed if o["Key"] == key] == [(key, 3)]
    for version in ("s3", "s3v4"):
        signer = client(exact.endpoint, signature_version=version)
        url = signer.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": key})
        with urllib.request.urlopen(url) as answer:
            assert answer.read() == b"odd"
    s3.copy_object(Bucket=BUCKET, Key=key + "2", CopySource={"Bucket": BUCKET, "Key": key})
    assert s3.get_object(Bucket=BUCKET, Key=key + "2")["Body"].read() == b"odd"
    s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key}, {"Key": key + "2"}]})
    assert code_of(s3.head_object, Bucket=BUCKET, Key=key) == ("404", 404)


def test_response_overrides_hold_on_whole_and_ranged_reads(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="o", Body=b"x" * 50_000, ContentType="a/b")
    for more in ({}, {"Range": "bytes=20000-20003"}):
        got = s3.get_object(
            Bucket=BUCKET,
            Key="o",
            ResponseContentType="c/d",
            ResponseContentDisposition="attachment",
            **more,
        )
        assert got["ContentType"] == "c/d" and got["ContentDisposition"] == "attachment"
    assert s3.get_object(Bucket=BUCKET, Key="o")["ContentType"] == "a/b"


def test_versions_have_their_own_sizes_and_delete_markers(s3: Any) -> None:
    bucket = "sealed-versions"
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    first = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["VersionId"]
    second = s3.put_object(Bucket=bucket, Key="k", Body=b"22")["VersionId"]
    marker = s3.delete_object(Bucket=bucket, Key="k")
    assert marker["DeleteMarker"]
    assert code_of(s3.get_object, Bucket=bucket, Key="k") == ("NoSuchKey", 404)
    for version, body in ((first, b"1"), (second, b"22")):
        got = s3.get_object(Bucket=bucket, Key="k", VersionId=version)
        assert got["Body"].read() == body and got["VersionId"] == version
        assert s3.head_object(Bucket=bucket, Key="k", VersionId=version)["ContentLength"] == len(
            body
        )
        part = s3.get_object(Bucket=bucket, Key="k", VersionId=version, Range="bytes=0-0")
        assert part["Body"].read() == body[:1]
    listed = s3.list_object_versions(Bucket=bucket)
    assert {v["VersionId"]: v["Size"] for v in listed["Versions"]} == {first: 1, second: 2}
    assert [m["VersionId"] for m in listed["DeleteMarkers"]] == [marker["VersionId"]]
    source = {"Bucket": bucket, "Key": "k", "VersionId": first}
    s3.copy_object(Bucket=bucket, Key="k", CopySource=source)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"1"
    gone = s3.delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": "k", "VersionId": marker["VersionId"]}]}
    )
    assert not gone.get("Errors")
    assert "DeleteMarkers" not in s3.list_object_versions(Bucket=bucket)
