"""Jobs on whole buckets, as an operator runs them, with clients looking at the result."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.parts.proxy import COMMAND, Proxy
from tests.parts.s3_gateway import client
from tests.parts.seaweed import Seaweed
from tests.system.test_s3_two_proxies import proxy_before, s3_of

pytestmark = pytest.mark.system
MIB = 1 << 20
ENVELOPE = "sealgate"


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    server = Seaweed(tmp_path_factory.mktemp("weed"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def proxy(weed: Seaweed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    made = proxy_before(weed, folder / "p", folder)
    made.init_keys("app")
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def origin(weed: Seaweed) -> Any:
    return client(weed.endpoint, weed.access_key, weed.secret_key)


def job(proxy: Proxy, *words: str, status: int = 0) -> Any:
    """The JSON that the command prints."""
    done = subprocess.run(
        [*COMMAND, "s3", *words, "--config", str(proxy.config), "--json"],
        env={**os.environ, **proxy.env}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == status, f"{words}: {done.stdout} {done.stderr}"
    return json.loads(done.stdout) if done.stdout else done.stderr


BODIES = {
    "a": b"", "b": b"one", "dir/ü+ %": b"x" * 70_000, "dir/large": bytes(range(256)) * 40_000,
}  # fmt: skip
KEPT: dict[str, Any] = {
    "Metadata": {"who": "me"},
    "ContentType": "text/x-kept",
    "CacheControl": "no-store",
    "Tagging": "a=1&b=two",
}


def fill(origin: Any, bucket: str) -> None:
    origin.create_bucket(Bucket=bucket)
    for key, body in BODIES.items():
        origin.put_object(Bucket=bucket, Key=key, Body=body, **KEPT)


def assert_as_filled(s3: Any, bucket: str, prefix: str = "") -> None:
    for key, body in BODIES.items():
        got = s3.get_object(Bucket=bucket, Key=prefix + key)
        assert got["Body"].read() == body
        assert got["ContentType"] == "text/x-kept" and got["CacheControl"] == "no-store"
        assert got["Metadata"] == {"who": "me"}
        tags = s3.get_object_tagging(Bucket=bucket, Key=prefix + key)["TagSet"]
        assert {t["Key"]: t["Value"] for t in tags} == {"a": "1", "b": "two"}


def sealed_keys(origin: Any, bucket: str) -> set[str]:
    listed = origin.list_objects_v2(Bucket=bucket).get("Contents", [])
    heads = {o["Key"]: origin.head_object(Bucket=bucket, Key=o["Key"]) for o in listed}
    return {key for key, head in heads.items() if ENVELOPE in head["Metadata"]}


def test_a_bucket_is_sealed_in_place_and_opened_again(
    proxy: Proxy, origin: Any, tmp_path: Path
) -> None:
    bucket, s3 = "mixed-place", s3_of(proxy)
    fill(origin, bucket)
    where = f"s3://{bucket}"
    told = job(proxy, "migrate", where, "--dry-run")
    assert told["done"] == len(BODIES) and not sealed_keys(origin, bucket)
    journal = str(tmp_path / "journal")
    told = job(proxy, "migrate", where, "--verify", "--journal", journal, "--parallel", "2")
    assert (told["done"], told["failures"]) == (len(BODIES), 0)
    assert told["bytes"] == sum(map(len, BODIES.values())) and told["finished"]
    assert sealed_keys(origin, bucket) == set(BODIES)
    for key, body in BODIES.items():
        assert not body or body not in origin.get_object(Bucket=bucket, Key=key)["Body"].read()
    assert_as_filled(s3, bucket)
    assert job(proxy, "migrate", where)["skipped"] == len(BODIES)
    assert job(proxy, "verify", where)["done"] == len(BODIES)
    origin.create_bucket(Bucket="plain-again")
    told = job(proxy, "migrate", where, "--to", "s3://plain-again/back/", "--verify")
    assert (told["done"], told["failures"]) == (len(BODIES), 0)
    assert_as_filled(origin, "plain-again", "back/")
    assert not sealed_keys(origin, "plain-again")
    assert job(proxy, "migrate", where, "--to", "s3://plain-again/back/")["skipped"] == len(BODIES)


def test_a_plain_bucket_is_sealed_into_another(proxy: Proxy, origin: Any) -> None:
    fill(origin, "plain-source")
    origin.create_bucket(Bucket="target")
    told = job(proxy, "migrate", "s3://plain-source/dir/", "--to", "s3://target/in/")
    assert told["done"] == 2
    got = s3_of(proxy).get_object(Bucket="target", Key="in/large")
    assert got["Body"].read() == BODIES["dir/large"]
    assert "mixed" in job(proxy, "migrate", "s3://target", status=4)


def test_a_killed_job_goes_on_behind_what_it_had_done(
    proxy: Proxy, origin: Any, tmp_path: Path
) -> None:
    bucket = "mixed-resume"
    origin.create_bucket(Bucket=bucket)
    for n in range(30):
        origin.put_object(Bucket=bucket, Key=f"k{n:02}", Body=b"x" * 200_000)
    journal = tmp_path / "journal"
    words = ["migrate", f"s3://{bucket}", "--nobody-writes", "--parallel", "1"]
    slow = [*words, "--max-mib-per-second", "2", "--journal", str(journal)]
    running = subprocess.Popen(
        [*COMMAND, "s3", *slow, "--config", str(proxy.config)],
        env={**os.environ, **proxy.env}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(200):
        if len(sealed_keys(origin, bucket)) >= 5:
            break
    running.kill()
    running.wait()
    before = sealed_keys(origin, bucket)
    assert 5 <= len(before) < 30
    told = job(proxy, *words, "--journal", str(journal))
    assert told["failures"] == 0 and told["finished"]
    assert told["done"] + told["skipped"] == 30 and told["skipped"] >= len(before)
    assert len(sealed_keys(origin, bucket)) == 30
    assert job(proxy, "verify", f"s3://{bucket}")["done"] == 30


def test_verify_names_exactly_what_is_damaged(proxy: Proxy, origin: Any) -> None:
    bucket, s3 = "checked", s3_of(proxy)
    s3.create_bucket(Bucket=bucket)
    for key in ("good", "bad", "gone"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"y" * 50_000)
    found = origin.get_object(Bucket=bucket, Key="bad")
    body = bytearray(found["Body"].read())
    body[30_000] ^= 1
    origin.put_object(Bucket=bucket, Key="bad", Body=bytes(body), Metadata=found["Metadata"])
    origin.put_object(Bucket=bucket, Key="gone", Body=b"no envelope")
    told = job(proxy, "verify", f"s3://{bucket}", status=1)
    assert set(told["failed"]) == {"bad", "gone"} and told["done"] == 1
    assert all("IntegrityError" in reason for reason in told["failed"].values())


def test_rotate_wraps_again_so_that_an_old_ring_version_can_go(proxy: Proxy, origin: Any) -> None:
    bucket, s3 = "rotated", s3_of(proxy)
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="single", Body=b"s" * 40_000, **KEPT)
    upload = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    place = {"Bucket": bucket, "Key": "parts", "UploadId": upload}
    parts = [b"p" * (5 * MIB + 3), b"q" * 9]
    named = [
        {"PartNumber": n, "ETag": s3.upload_part(**place, PartNumber=n, Body=b)["ETag"]}
        for n, b in enumerate(parts, 1)
    ]
    s3.complete_multipart_upload(**place, MultipartUpload={"Parts": named})
    bodies = {
        k: origin.get_object(Bucket=bucket, Key=k)["Body"].read() for k in ("single", "parts")
    }
    assert job(proxy, "rotate", f"s3://{bucket}")["skipped"] == 2
    proxy.run("keys", "rotate", "app", "--config", str(proxy.config))
    assert job(proxy, "rotate", f"s3://{bucket}", "--dry-run")["done"] == 2
    told = job(proxy, "rotate", f"s3://{bucket}")
    assert (told["done"], told["failures"]) == (2, 0), told
    for key, body in bodies.items():
        assert origin.get_object(Bucket=bucket, Key=key)["Body"].read() == body  # not rewritten
    proxy.run("keys", "disable", "app", "1", "--config", str(proxy.config))
    assert job(proxy, "verify", f"s3://{bucket}")["done"] == 2
    got = s3.get_object(Bucket=bucket, Key="single")
    assert got["Metadata"] == {"who": "me"} and got["ContentType"] == "text/x-kept"
    proxy.run("keys", "enable", "app", "1", "--config", str(proxy.config))


def test_gc_takes_what_nobody_will_finish_and_nothing_else(proxy: Proxy, origin: Any) -> None:
    bucket, s3 = "littered", s3_of(proxy)
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="object", Body=b"stays")
    uploads = []
    for key in ("alive", "dead"):
        upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"small")
        uploads.append(upload)
    origin.abort_multipart_upload(Bucket=bucket, Key="dead", UploadId=uploads[1])  # behind our back
    assert job(proxy, "gc", f"s3://{bucket}")["found"] == []
    told = job(proxy, "gc", f"s3://{bucket}", "--older-than-hours", "0")
    kinds = sorted(("upload" if f["upload"] else "part") for f in told["found"])
    assert kinds == ["part", "part", "upload"] and not told["deleted"]
    job(proxy, "gc", f"s3://{bucket}", "--older-than-hours", "0", "--delete")
    assert [o["Key"] for o in origin.list_objects_v2(Bucket=bucket)["Contents"]] == ["object"]
    assert "Uploads" not in origin.list_multipart_uploads(Bucket=bucket)


def test_the_probe_finds_out_what_the_origin_honours(
    proxy: Proxy, origin: Any, tmp_path: Path
) -> None:
    origin.create_bucket(Bucket="probed")
    saved = tmp_path / "capabilities.json"
    told = job(proxy, "probe", "s3://probed", "--save", str(saved))
    good = {c["name"]: c["good"] for c in told["capabilities"]}
    for name in ("range", "suffix-range", "metadata", "put-if-match", "copy-source-if-match"):
        assert good[name], told
    assert good["multipart"] and good["metadata-room-2k"] and good["copy-replaces-metadata"]
    assert json.loads(saved.read_text()) == told
    with pytest.raises(ClientError):
        origin.head_object(Bucket="probed", Key=".sealgate-stash/probe/x")
    assert origin.list_objects_v2(Bucket="probed").get("KeyCount") == 0
