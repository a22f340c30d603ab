"""Random sequences of S3 operations: a plain bucket directly, and a sealed one through the gateway.

Every answer is compared field by field. ETags, version ids, upload ids and continuation tokens are
opaque: they have to correspond one to one over the whole run. What may differ is in `ADDED` and
`IGNORED`, each with its reason, and in docs/reference/s3.md. A failing seed prints the whole run.
"""

import hashlib
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.parts.s3_gateway import Gateway, client
from tests.parts.seaweed import Seaweed

pytestmark = pytest.mark.system
MIB = 1 << 20
SIZES = [0, 1, 100, 16383, 16384, 16385, 70_000, 300_000]
KEYS = ["a", "b", "dir/a", "dir/b", "dir/sub/c", "uni/ü", "odd/a+b c", "odd/%2F", "odd/x=y&z"]
TYPES = ["text/plain", "application/octet-stream", "image/png; q=1"]
EMPTY_ETAG = "d41d8cd98f00b204e9800998ecf8427e"

OPAQUE = {
    "ETag", "VersionId", "UploadId", "NextContinuationToken", "ContinuationToken",
    "NextVersionIdMarker", "VersionIdMarker", "CopySourceVersionId",
    "DeleteMarkerVersionId",
}  # fmt: skip
IGNORED = {
    "LastModified", "Date", "Initiated", "ResponseMetadata", "RetryAttempts",  # moments
    "Location", "Bucket", "Name", "Resource", "HostId", "RequestId",  # names of the place
    "Message", "Body",  # texts are free; bodies are compared apart
    # The listing of SeaweedFS tells the algorithm of the ciphertext's checksum.
    "ChecksumAlgorithm",
}  # fmt: skip
# Told by the gateway as AWS tells it, where SeaweedFS says nothing.
ADDED = {"ChecksumType", "ChecksumCRC32", "ChecksumCRC32C", "ChecksumSHA1", "ChecksumSHA256",
         "CopySourceVersionId"}  # fmt: skip


class Each:
    """A value that each side has its own of."""

    def __init__(self, plain: Any, sealed: Any) -> None:
        self.sides = (plain, sealed)

    def __repr__(self) -> str:
        return f"<{self.sides[0]} | {self.sides[1]}>"


def side(value: Any, n: int) -> Any:
    if isinstance(value, Each):
        return value.sides[n]
    if isinstance(value, dict):
        return {k: side(v, n) for k, v in value.items()}
    if isinstance(value, list):
        return [side(v, n) for v in value]
    return value


class Both:
    """Two clients asked the same, and the correspondence of what is opaque."""

    def __init__(self, plain: Any, sealed: Any, buckets: tuple[str, str]) -> None:
        self._clients = (plain, sealed)
        self.bucket = Each(*buckets)
        self._pairs: dict[tuple[str, str], str] = {}
        self.log: list[str] = []

    def __call__(self, operation: str, **arguments: Any) -> tuple[Any, Any] | None:
        """The answers; None when both refused, alike."""
        told = {n: len(v) if isinstance(v, bytes) else v for n, v in arguments.items()}
        self.log.append(f"{operation} {told}")
        arguments.setdefault("Bucket", self.bucket)
        outcomes = []
        for n, asked in enumerate(self._clients):
            try:
                answer = getattr(asked, operation)(**side(arguments, n))
                if "Body" in answer:
                    answer["Body"] = answer["Body"].read()
                outcomes.append(("ok", answer))
            except ClientError as error:
                told = error.response
                status = told["ResponseMetadata"]["HTTPStatusCode"]
                outcomes.append((told["Error"]["Code"], {"HTTPStatusCode": status}))
        (said, plain), (also, sealed) = outcomes
        assert said == also, f"{operation}: {said} {plain} but sealed {also} {sealed}"
        if said != "ok":
            assert plain == sealed
            return None
        assert plain.get("Body") == sealed.get("Body"), operation
        status = (a["ResponseMetadata"]["HTTPStatusCode"] for a in (plain, sealed))
        assert len(set(status)) == 1
        self._compare(operation, plain, sealed)
        return plain, sealed

    def _compare(self, path: str, plain: Any, sealed: Any) -> None:
        if isinstance(plain, dict) and isinstance(sealed, dict):
            names = {n for n in plain.keys() | sealed.keys() if n not in IGNORED}
            for name in names:
                here = f"{path}.{name}"
                if name in ADDED and name not in plain:
                    continue
                if (name in plain) != (name in sealed):
                    raise AssertionError(
                        f"{here}: {plain.get(name)!r} but sealed {sealed.get(name)!r}"
                    )
                if name in OPAQUE:
                    self._correspond(here, name, plain[name], sealed[name])
                else:
                    self._compare(here, plain[name], sealed[name])
        elif isinstance(plain, list) and isinstance(sealed, list):
            assert len(plain) == len(sealed), f"{path}: {plain} but sealed {sealed}"
            for n, (one, other) in enumerate(zip(plain, sealed, strict=True)):
                self._compare(f"{path}[{n}]", one, other)
        elif not isinstance(plain, datetime):
            assert plain == sealed, f"{path}: {plain!r} but sealed {sealed!r}"

    def _correspond(self, path: str, name: str, plain: str, sealed: str) -> None:
        if path.startswith("upload_part"):  # a part's is only good for Complete
            return
        kind = "ETag" if "ETag" in name else name
        there = self._pairs.setdefault((kind + " of sealed", sealed), plain)
        assert there == plain, f"{path}: {sealed} stood for {there}, now for {plain}"
        if plain.strip('"') != EMPTY_ETAG:  # one content, one MD5; sealed, every time another one
            back = self._pairs.setdefault((kind + " of plain", plain), sealed)
            assert back == sealed, f"{path}: {plain} was {back}, now {sealed}"


class Walk:
    """One random sequence. What it remembers of the state is only there to make requests sensible."""

    def __init__(self, both: Both, seed: int, versioned: bool) -> None:
        self.both = both
        self.rng = random.Random(seed)
        self.versioned = versioned
        self.etags: dict[str, Each] = {}
        self.versions: list[tuple[str, Each]] = []
        self.uploads: list[tuple[str, Each, dict[int, Each]]] = []
        self._made = 0

    def body(self, size: int) -> bytes:
        self._made += 1
        block = hashlib.shake_128(str(self._made).encode()).digest(min(size, 4096))
        return (block * (size // max(1, len(block)) + 1))[:size]

    def key(self) -> str:
        return self.rng.choice(KEYS)

    def etag(self, key: str) -> Any:
        if self.rng.random() < 0.3:
            return '"' + "0" * 32 + '"'
        return self.etags.get(key, '"' + "1" * 32 + '"')

    def remember(self, key: str, answers: tuple[Any, Any] | None) -> None:
        if answers is None:
            return
        plain, sealed = answers
        found = [
            a.get("ETag") or a.get("CopyObjectResult", {}).get("ETag") for a in (plain, sealed)
        ]
        self.etags[key] = Each(*found)
        if "VersionId" in plain:
            self.versions.append((key, Each(plain["VersionId"], sealed["VersionId"])))

    def step(self) -> None:
        choices = {
            self.put: 10, self.get: 10, self.head: 5, self.delete: 3, self.copy: 5, self.list: 5,
            self.list_versions: 1, self.delete_several: 1, self.tags: 1, self.upload: 1,
            self.attributes: 2,
        }  # fmt: skip
        self.rng.choices(list(choices), list(choices.values()))[0]()

    def some(self, **maybe: Any) -> dict[str, Any]:
        return {n: v for n, v in maybe.items() if self.rng.random() < 0.2}

    def properties(self) -> dict[str, Any]:
        # Without one SeaweedFS guesses from the bytes it sees.
        kind = {"ContentType": self.rng.choice(TYPES)}
        return kind | self.some(
            Metadata={"a": "1", "b-c": "two words"},
            CacheControl="no-store",
            ContentDisposition='attachment; filename="x"',
            ContentLanguage="de",
            ContentEncoding="gzip",
            Tagging="x=1&y=2",
        )

    def put(self) -> None:
        key = self.key()
        arguments = self.properties()
        if self.rng.random() < 0.15:
            arguments["IfNoneMatch"] = "*"
        elif self.rng.random() < 0.15:
            arguments["IfMatch"] = self.etag(key)
        if self.rng.random() < 0.3:
            arguments["ChecksumAlgorithm"] = self.rng.choice(["CRC32", "CRC32C", "SHA1", "SHA256"])
        body = self.body(self.rng.choice(SIZES))
        self.remember(key, self.both("put_object", Key=key, Body=body, **arguments))

    def read_arguments(self, key: str) -> dict[str, Any]:
        past = datetime(2001, 1, 1)
        arguments = self.some(
            IfMatch=self.etag(key),
            IfNoneMatch=self.etag(key),
            IfModifiedSince=past,
            ResponseContentType="x/y",
            ResponseCacheControl="max-age=1",
        )
        if self.rng.random() < 0.2:
            arguments["IfUnmodifiedSince"] = past + timedelta(days=self.rng.choice([1, 20_000]))
        return arguments

    def place(self) -> tuple[str, dict[str, Any]]:
        if self.versions and self.rng.random() < 0.4:
            key, version = self.rng.choice(self.versions)
            return key, {"Key": key, "VersionId": version}
        key = self.key()
        return key, {"Key": key}

    def get(self) -> None:
        key, place = self.place()
        arguments = self.read_arguments(key)
        roll = self.rng.random()
        if roll < 0.5:
            first = self.rng.choice([0, 1, 99, 16383, 16384, 50_000, 299_999])
            arguments["Range"] = self.rng.choice(
                [f"bytes={first}-", f"bytes={first}-{first + self.rng.choice([0, 1, 20_000])}"]
                + [f"bytes=-{self.rng.choice([1, 100, 16384, 400_000])}", "pages=1-2"]
            )
        self.both("get_object", **place, **arguments)

    def head(self) -> None:
        key, place = self.place()
        arguments = {n: v for n, v in self.read_arguments(key).items() if n[:2] == "If"}
        self.both("head_object", **place, **arguments)

    def attributes(self) -> None:
        _, place = self.place()
        self.both(
            "get_object_attributes",
            **place,
            ObjectAttributes=["ETag", "ObjectSize", "StorageClass"],
        )

    def delete(self) -> None:
        _, place = self.place()
        answers = self.both("delete_object", **place)
        if answers and "VersionId" in answers[0] and "VersionId" not in place:
            self.versions.append((place["Key"], Each(*(a["VersionId"] for a in answers))))

    def delete_several(self) -> None:
        names = self.rng.sample(KEYS, 3)
        self.both("delete_objects", Delete={"Objects": [{"Key": k} for k in names]})

    def copy(self) -> None:
        key, target = self.place(), self.key()
        source = {"Bucket": self.both.bucket, **key[1]}
        arguments: dict[str, Any] = {}
        if self.rng.random() < 0.5:
            properties = {n: v for n, v in self.properties().items() if n != "Tagging"}
            arguments = {"MetadataDirective": "REPLACE", **properties}
        if self.rng.random() < 0.2:
            arguments["CopySourceIfMatch"] = self.etag(key[0])
        if self.rng.random() < 0.1:
            arguments["CopySourceIfNoneMatch"] = self.etag(key[0])
        self.remember(target, self.both("copy_object", Key=target, CopySource=source, **arguments))

    def list(self) -> None:
        arguments = self.some(Prefix="dir/", Delimiter="/", EncodingType="url", StartAfter="b")
        arguments["MaxKeys"] = self.rng.choice([1, 3, 1000])
        token: Any = None
        for _ in range(12):
            more = {"ContinuationToken": token} if token else {}
            answers = self.both("list_objects_v2", **arguments, **more)
            if answers is None or not answers[0]["IsTruncated"]:
                break
            token = Each(*(a["NextContinuationToken"] for a in answers))
        arguments.pop("StartAfter", None)
        self.both("list_objects", **arguments)

    def list_versions(self) -> None:
        if self.versioned:
            self.both("list_object_versions", **self.some(Prefix="dir/"))

    def tags(self) -> None:
        key = self.key()
        tags = {"TagSet": [{"Key": "k", "Value": "v w"}]}
        self.both("put_object_tagging", Key=key, Tagging=tags)
        self.both("get_object_tagging", Key=key)

    def upload(self) -> None:
        key = self.key()
        properties = {n: v for n, v in self.properties().items() if n != "Tagging"}
        answers = self.both("create_multipart_upload", Key=key, **properties)
        assert answers is not None
        upload = Each(*(a["UploadId"] for a in answers))
        sizes = [5 * MIB + self.rng.choice([0, 7])] * self.rng.choice([1, 2])
        sizes += self.rng.choice([[], [1], [200_000]])
        numbers = sorted(self.rng.sample(range(1, 20), len(sizes)))
        parts = list(zip(numbers, sizes, strict=True))
        self.rng.shuffle(parts)
        sent: dict[int, Each] = {}
        place = {"Key": key, "UploadId": upload}
        for number, size in parts:
            for _ in range(self.rng.choice([1, 1, 2])):
                answers = self.both("upload_part", **place, PartNumber=number, Body=self.body(size))
                assert answers is not None
                sent[number] = Each(*(a["ETag"] for a in answers))
        if self.rng.random() < 0.5:
            source = {"Bucket": self.both.bucket, "Key": self.key()}
            more = self.some(CopySourceRange="bytes=0-0")
            number = numbers[-1] + 1
            answers = self.both(
                "upload_part_copy", **place, PartNumber=number, CopySource=source, **more
            )
            if answers is not None:
                sent[number] = Each(*(a["CopyPartResult"]["ETag"] for a in answers))
        named = [{"PartNumber": n, "ETag": sent[n]} for n in sorted(sent)]
        roll = self.rng.random()
        if roll < 0.2:
            self.both("abort_multipart_upload", **place)
            return
        if roll < 0.4 and len(named) > 1:
            self.both("complete_multipart_upload", **place, MultipartUpload={"Parts": named[::-1]})
        if roll < 0.5:
            wrong = [*named[:-1], {**named[-1], "ETag": '"' + "2" * 32 + '"'}]
            self.both("complete_multipart_upload", **place, MultipartUpload={"Parts": wrong})
        self.remember(
            key, self.both("complete_multipart_upload", **place, MultipartUpload={"Parts": named})
        )
        for number in numbers:
            self.both("head_object", Key=key, PartNumber=number)
        whole = sum(sizes)
        self.both("get_object", Key=key, PartNumber=max(sent))
        for first in (0, 5 * MIB - 3, whole - 1):
            self.both("get_object", Key=key, Range=f"bytes={first}-{first + 10}")
        self.both("get_object", Key=key)


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


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_sealed_bucket_answers_as_a_plain_one(
    weed: Seaweed, gateway: Gateway, seed: int, versioned: bool
) -> None:
    buckets = tuple(f"{kind}-walk-{seed}-{int(versioned)}" for kind in ("direct", "sealed"))
    plain = client(weed.endpoint, weed.access_key, weed.secret_key)
    sealed = client(gateway.endpoint)
    for asked, bucket in ((plain, buckets[0]), (sealed, buckets[1])):
        asked.create_bucket(Bucket=bucket)
        if versioned:
            asked.put_bucket_versioning(
                Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
            )
    both = Both(plain, sealed, (buckets[0], buckets[1]))
    walk = Walk(both, seed * 2 + versioned, versioned)
    try:
        for _ in range(120):
            walk.step()
    except AssertionError:
        print("\n".join(both.log[-12:]))
        raise
