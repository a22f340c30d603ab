"""The gateway is killed (-9) at random points of what it does, started again, and held to its word.

Every round prepares uploads through an instance that lives, and kills the one that serves a burst of
PUT, Complete, CopyObject and UploadPartCopy a moment after a random number of them was acknowledged: by
progress, since a fast machine and a slow one need other times. Afterwards each object has to be exactly
what was acknowledged, or what was asked for and not acknowledged; nothing in between. The seed is
kept; SEED=n takes another, SEED=0 a new one.
"""

import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.parts.proxy import COMMAND, Proxy
from tests.parts.s3_gateway import client
from tests.parts.seaweed import Seaweed
from tests.system.test_s3_jobs import job
from tests.system.test_s3_two_proxies import kill, proxy_before, s3_of

pytestmark = pytest.mark.system
MIB = 1 << 20
ROUNDS = 10
BUCKET = "killed"
PART = 5 * MIB
SEED = int(os.environ.get("SEED", "20261124")) or random.SystemRandom().randrange(1 << 32)


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    server = Seaweed(tmp_path_factory.mktemp("weed"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def pair(weed: Seaweed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, Proxy]]:
    """The one to kill, and the one that lives."""
    folder = tmp_path_factory.mktemp("pair")
    one, two = (proxy_before(weed, folder / n, folder) for n in ("one", "two"))
    one.init_keys("app")
    for proxy in (one, two):
        proxy.start()
    yield one, two
    for proxy in (one, two):
        proxy.stop()


@pytest.fixture(scope="module")
def origin(weed: Seaweed) -> Any:
    return client(weed.endpoint, weed.access_key, weed.secret_key)


class Object:
    """What a key may hold now: the last acknowledged body, and those asked for since."""

    def __init__(self) -> None:
        self.may_be: list[bytes | None] = [None]

    def attempt(self, body: bytes, do: Callable[[], object]) -> bool:
        """Whether it was acknowledged."""
        self.may_be.append(body)
        try:
            do()
        except (BotoCoreError, ClientError):
            return False
        self.may_be = [body]
        return True


class Burst:
    """One round's work, prepared through `live`, to be done through whoever is to be killed."""

    def __init__(self, objects: dict[str, Object], live: Any, chance: random.Random, number: int):
        self.objects, self.number, self.chance = objects, number, chance
        self.uploads: list[tuple[str, bytes, dict[str, Any]]] = []
        for n in range(3):
            tail = chance.randrange(1, 60_000)  # stashed until Complete
            self.uploads.append(self._upload(live, f"multipart-{n}", tail))
        self.acknowledged: Counter[str] = Counter()
        self._progress = threading.Condition()

    def wait_for(self, count: int) -> None:
        """Returns when so many requests were acknowledged."""
        with self._progress:
            assert self._progress.wait_for(lambda: self.acknowledged.total() >= count, 60)

    def body(self, size: int) -> bytes:
        return self.chance.randbytes(min(size, 4096)) * (size // 4096 + 1)

    def _upload(self, live: Any, key: str, tail: int) -> tuple[str, bytes, dict[str, Any]]:
        place = {"Bucket": BUCKET, "Key": key}
        place["UploadId"] = live.create_multipart_upload(**place)["UploadId"]
        bodies = [self.body(PART), self.chance.randbytes(tail)]
        named = [
            {"PartNumber": n, "ETag": live.upload_part(**place, PartNumber=n, Body=b)["ETag"]}
            for n, b in enumerate(bodies, 1)
        ]
        return key, b"".join(bodies), {**place, "MultipartUpload": {"Parts": named}}

    def work(self, s3: Any) -> list[Callable[[], None]]:
        """Each with a key of its own, so that order is never in doubt."""
        source = {"Bucket": BUCKET, "Key": "source"}
        content = next(b for b in self.objects["source"].may_be if b is not None)

        def do(kind: str, key: str, body: bytes, call: Callable[[], object]) -> None:
            if self.objects.setdefault(key, Object()).attempt(body, call):
                with self._progress:
                    self.acknowledged[kind] += 1
                    self._progress.notify_all()

        def part_copy(key: str) -> None:
            place = {"Bucket": BUCKET, "Key": key}
            upload = s3.create_multipart_upload(**place)["UploadId"]
            done = s3.upload_part_copy(**place, UploadId=upload, PartNumber=1, CopySource=source)
            parts = [{"PartNumber": 1, "ETag": done["CopyPartResult"]["ETag"]}]
            s3.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": parts})

        def put(n: int) -> Callable[[], None]:
            key, body = f"single-{n}", self.body((1000, 70_000, 3 * MIB)[n])
            return lambda: do(
                "put", key, body, lambda: s3.put_object(Bucket=BUCKET, Key=key, Body=body)
            )

        def complete(key: str, body: bytes, place: dict[str, Any]) -> Callable[[], None]:
            return lambda: do("complete", key, body, lambda: s3.complete_multipart_upload(**place))

        copied, parted = f"copy-{self.number}", f"part-copy-{self.number}"
        found = [put(n) for n in range(3)]
        found += [complete(*upload) for upload in self.uploads]
        found.append(
            lambda: do(
                "copy", copied, content,
                lambda: s3.copy_object(Bucket=BUCKET, Key=copied, CopySource=source),
            )
        )  # fmt: skip
        found.append(lambda: do("part copy", parted, content, lambda: part_copy(parted)))
        return found


def assert_whole(s3: Any, objects: dict[str, Object]) -> None:
    """Every key holds one of the bodies that it may hold, and says the right size."""
    for key, expected in objects.items():
        try:
            got = s3.get_object(Bucket=BUCKET, Key=key)
        except ClientError as error:
            assert error.response["Error"]["Code"] == "NoSuchKey", (key, error)
            found = None
        else:
            found = got["Body"].read()
            assert len(found) == got["ContentLength"]
        assert found in expected.may_be, (
            f"SEED={SEED}: {key} holds {None if found is None else len(found)} bytes that are "
            f"none of {[None if b is None else len(b) for b in expected.may_be]}"
        )
        expected.may_be = [found]  # what has been seen stays


def test_whatever_moment_the_gateway_dies_objects_are_whole_or_as_before(
    pair: tuple[Proxy, Proxy], origin: Any
) -> None:
    one, two = pair
    live, chance = s3_of(two), random.Random(SEED)
    live.create_bucket(Bucket=BUCKET)
    objects = {"source": Object()}
    content = chance.randbytes(4096) * 1500
    assert objects["source"].attempt(
        content, lambda: live.put_object(Bucket=BUCKET, Key="source", Body=content)
    )
    acknowledged: Counter[str] = Counter()
    cut = 0
    for number in range(ROUNDS):
        burst = Burst(objects, live, chance, number)
        work = burst.work(s3_of(one))
        chance.shuffle(work)
        with ThreadPoolExecutor(len(work)) as pool:
            for each in work:
                pool.submit(each)
            if number:
                burst.wait_for(chance.randrange(len(work) - 1))
                time.sleep(chance.uniform(0, 0.003))
                kill(one)
        if not number:
            assert burst.acknowledged.total() == len(work)
            continue
        acknowledged += burst.acknowledged
        cut += len(work) - burst.acknowledged.total()
        one.start()
        # The clients that were not answered ask again, as SDKs do.
        again = s3_of(one)
        for key, body, place in burst.uploads:
            if objects[key].may_be == [body]:
                continue
            try:
                again.complete_multipart_upload(**place)
            except ClientError as error:
                # The origin had completed before the kill: only then may the upload be gone.
                assert error.response["Error"]["Code"] == "NoSuchUpload", error
            objects[key].may_be = [body]
        assert_whole(again, objects)
    assert cut > ROUNDS, f"SEED={SEED}: the kills came too late, {acknowledged}"
    assert acknowledged.total() > ROUNDS, f"SEED={SEED}: the kills came too early"
    where = f"s3://{BUCKET}"
    job(two, "gc", where, "--older-than-hours", "0", "--delete")
    assert "Uploads" not in origin.list_multipart_uploads(Bucket=BUCKET)
    there = {o["Key"] for o in origin.list_objects_v2(Bucket=BUCKET)["Contents"]}
    assert there == {key for key, o in objects.items() if o.may_be != [None]}
    assert_whole(s3_of(two), objects)
    assert job(two, "verify", where)["done"] == len(there)


def test_a_rotation_killed_at_random_moments_goes_on_and_harms_nothing(
    pair: tuple[Proxy, Proxy], origin: Any
) -> None:
    two, bucket, count = pair[1], "killed-rotation", 120
    s3, chance = s3_of(two), random.Random(SEED)
    s3.create_bucket(Bucket=bucket)
    bodies = {f"k{n:03}": chance.randbytes(chance.randrange(3000)) for n in range(count)}
    for key, body in bodies.items():
        s3.put_object(Bucket=bucket, Key=key, Body=body, Metadata={"who": key})
    where = f"s3://{bucket}"
    start = time.perf_counter()
    assert job(two, "rotate", where)["skipped"] == count
    idle = time.perf_counter() - start  # starting, and looking at all of them
    two.run("keys", "rotate", "app", "--config", str(two.config))
    killed = 0
    slow = ["rotate", where, "--parallel", "2", "--max-mib-per-second", "0.1"]  # about two seconds
    for _ in range(6):
        running = subprocess.Popen(
            [*COMMAND, "s3", *slow, "--config", str(two.config)],
            env={**os.environ, **two.env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            running.wait(idle * 0.7 + chance.uniform(0, 1.5))
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
            left = job(two, "rotate", where, "--dry-run")["done"]
            killed += 0 < left < count
        else:
            break
        for key in chance.sample(sorted(bodies), 10):
            assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == bodies[key]
    assert killed, f"SEED={SEED}: no kill came in the middle"
    told = job(two, "rotate", where)
    assert told["failures"] == 0 and told["done"] + told["skipped"] == count
    job(two, "gc", where, "--older-than-hours", "0", "--delete")  # what killed probes left
    there = {o["Key"] for o in origin.list_objects_v2(Bucket=bucket)["Contents"]}
    assert there == bodies.keys()
    assert "Uploads" not in origin.list_multipart_uploads(Bucket=bucket)
    two.run("keys", "disable", "app", "1", "--config", str(two.config))
    try:
        assert job(two, "verify", where)["done"] == count
        for key, body in bodies.items():
            got = s3.get_object(Bucket=bucket, Key=key)
            assert (got["Body"].read(), got["Metadata"]) == (body, {"who": key})
    finally:
        two.run("keys", "enable", "app", "1", "--config", str(two.config))
