"""Two `sealgate serve`, one upload: parts through either, and the work of a killed one goes on.

Nothing about an upload lives in a process, so which one gets a part does not matter, and a client that
resumes from ListParts finds what was acknowledged.
"""

import contextlib
import hashlib
import http.client
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from botocore.exceptions import BotoCoreError, ClientError

from benchmarks.measure import process_tree
from tests.parts.proxy import Proxy
from tests.parts.s3_gateway import client
from tests.parts.seaweed import Seaweed

pytestmark = pytest.mark.system
MIB = 1 << 20
BUCKET = "two"


def proxy_before(weed: Seaweed, folder: Path, keys: Path) -> Proxy:
    """Not started; all share the root and the rings in `keys`."""
    folder.mkdir()
    document: dict[str, Any] = {
        "workers": 1,
        "keys": {
            "provider": {
                "kind": "software",
                "file": str(keys / "root"),
                "passphrase": {"env": "SG_PASS"},
            },
            "store": {"kind": "file", "path": str(keys / "rings")},
        },
        "s3": {
            "listen": {"host": "127.0.0.1", "port": 0},
            "credentials": [{"access_key": "APP", "secret": {"env": "SG_APP"}, "principal": "app"}],
            "origins": [
                {
                    "name": "weed",
                    "endpoint": weed.endpoint,
                    "access_key": {"env": "SG_KEY"},
                    "secret_key": {"env": "SG_SECRET"},
                }
            ],
            "buckets": [
                {"bucket": "plain-*", "origin": "weed", "state": "plain"},
                {"bucket": "mixed-*", "origin": "weed", "state": "mixed", "ring": "app"},
                {"bucket": "*", "origin": "weed", "ring": "app"},
            ],
        },
        "admin": {"listen": {"host": "127.0.0.1", "port": 0}},
    }
    config = folder / "sealgate.yaml"
    config.write_text(yaml.safe_dump(document))
    env = {
        "SG_PASS": "a passphrase of the tests",
        "SG_APP": "app-secret",
        "SG_KEY": weed.access_key,
        "SG_SECRET": weed.secret_key,
    }
    return Proxy(config, env)


def s3_of(proxy: Proxy) -> Any:
    return client(f"http://127.0.0.1:{proxy.s3_port}", "APP", "app-secret")


def kill(proxy: Proxy) -> None:
    """The whole process tree at once, as a machine that loses its power."""
    for pid in process_tree(proxy.pid):
        os.kill(pid, signal.SIGKILL)
    proxy.stop()


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    server = Seaweed(tmp_path_factory.mktemp("weed"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def pair(weed: Seaweed, tmp_path: Path) -> Iterator[tuple[Proxy, Proxy]]:
    one, two = (proxy_before(weed, tmp_path / n, tmp_path) for n in ("one", "two"))
    one.init_keys("app")
    for proxy in (one, two):
        proxy.start()
    with contextlib.suppress(ClientError):
        s3_of(one).create_bucket(Bucket=BUCKET)
    yield one, two
    for proxy in (one, two):
        proxy.stop()


def part_body(number: int) -> bytes:
    return hashlib.shake_128(str(number).encode()).digest(4096) * (1280 + number)


def test_parts_of_one_upload_go_through_two_proxies_alternately(pair: tuple[Proxy, Proxy]) -> None:
    clients = [s3_of(p) for p in pair]
    place = {"Bucket": BUCKET, "Key": "shared"}
    place["UploadId"] = clients[0].create_multipart_upload(**place)["UploadId"]
    bodies = {n: part_body(n) for n in range(1, 7)} | {7: b"the small last one"}

    def send(number: int) -> dict[str, Any]:
        done = clients[number % 2].upload_part(**place, PartNumber=number, Body=bodies[number])
        return {"PartNumber": number, "ETag": done["ETag"]}

    with ThreadPoolExecutor(4) as pool:
        named = list(pool.map(send, [5, 7, 1, 3, 2, 6, 4]))
    named.sort(key=lambda part: part["PartNumber"])
    listed = [clients[n].list_parts(**place)["Parts"] for n in range(2)]
    assert [p["Size"] for p in listed[0]] == [len(bodies[n]) for n in sorted(bodies)]
    assert listed[0] == listed[1]
    clients[1].complete_multipart_upload(**place, MultipartUpload={"Parts": named})
    whole = b"".join(bodies[n] for n in sorted(bodies))
    for asked in clients:
        assert asked.get_object(Bucket=BUCKET, Key="shared")["Body"].read() == whole


def test_an_upload_goes_on_after_its_proxy_was_killed(pair: tuple[Proxy, Proxy]) -> None:
    one, two = pair
    place = {"Bucket": BUCKET, "Key": "resumed"}
    place["UploadId"] = s3_of(one).create_multipart_upload(**place)["UploadId"]
    bodies = {n: part_body(n) for n in range(1, 9)}
    acknowledged: dict[int, str] = {}
    enough = threading.Event()

    def send_until_it_dies(number: int) -> None:
        try:
            done = s3_of(one).upload_part(**place, PartNumber=number, Body=bodies[number])
        except (BotoCoreError, ClientError):
            return
        acknowledged[number] = done["ETag"]
        if len(acknowledged) >= 3:
            enough.set()

    with ThreadPoolExecutor(2) as pool:
        for number in bodies:
            pool.submit(send_until_it_dies, number)
        assert enough.wait(60)
        kill(one)
    s3 = s3_of(two)
    there = {p["PartNumber"]: p for p in s3.list_parts(**place)["Parts"]}
    assert acknowledged.keys() <= there.keys()
    named = []
    for number, body in bodies.items():
        if number in there:
            assert there[number]["Size"] == len(body)
            tag = there[number]["ETag"]
        else:
            tag = s3.upload_part(**place, PartNumber=number, Body=body)["ETag"]
        named.append({"PartNumber": number, "ETag": tag})
    s3.complete_multipart_upload(**place, MultipartUpload={"Parts": named})
    got = s3.get_object(Bucket=BUCKET, Key="resumed")["Body"].read()
    assert got == b"".join(bodies.values())


def test_a_put_cut_by_a_kill_leaves_the_object_before_it(
    pair: tuple[Proxy, Proxy], weed: Seaweed
) -> None:
    one, two = pair
    s3_of(one).put_object(Bucket=BUCKET, Key="kept", Body=b"before")
    begun = threading.Event()

    class Slow:
        """A body that stops in the middle until the proxy is dead."""

        left = 32 * MIB

        def __len__(self) -> int:
            return 32 * MIB

        def read(self, n: int = -1) -> bytes:
            self.left -= MIB
            if self.left < 16 * MIB:
                begun.set()
                killed.wait(30)
            return bytes(MIB)

    killed = threading.Event()

    def put() -> str:
        signer = client(
            f"http://127.0.0.1:{one.s3_port}", "APP", "app-secret", signature_version="s3v4"
        )
        url = urlsplit(
            signer.generate_presigned_url("put_object", {"Bucket": BUCKET, "Key": "kept"})
        )
        link = http.client.HTTPConnection("127.0.0.1", one.s3_port, timeout=30)
        try:
            link.request(
                "PUT", f"{url.path}?{url.query}", Slow(), {"Content-Length": str(32 * MIB)}
            )
            return str(link.getresponse().status)
        except OSError as error:
            return type(error).__name__

    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(put)
        assert begun.wait(30)
        kill(one)
        killed.set()
        assert outcome.result() != "200"
    got = s3_of(two).get_object(Bucket=BUCKET, Key="kept")["Body"].read()
    assert got == b"before"
