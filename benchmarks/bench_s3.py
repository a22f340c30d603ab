"""S3: direct, HAProxy and Sealgate in one run: PUT and GET of three sizes, and memory.

The client sends presigned requests over one plain connection, so that it costs as little as it may.
The origin is a real SeaweedFS; its own cost is in every row, which is why the ratio to direct says
less than the CPU of the box in the middle.
"""

import http.client
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from benchmarks import peers
from benchmarks.measure import Series, cpu_seconds, process_tree, rss_bytes, table
from benchmarks.stand import Stand

SIZES = {"1 KiB": (1024, 300), "1 MiB": (1 << 20, 60), "64 MiB": (64 << 20, 4)}
GIB = 1 << 30


class Target:
    """Where to connect, and how its requests are signed (a peer forwards the origin's own host)."""

    def __init__(
        self, name: str, port: int, pid: int, endpoint: str, keys: tuple[str, str], bucket: str
    ):
        self.name, self.port, self.pid, self.bucket = name, port, pid, bucket
        self.host = urlsplit(endpoint).netloc
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=keys[0],
            aws_secret_access_key=keys[1],
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    def path(self, operation: str, key: str) -> str:
        url = self.client.generate_presigned_url(
            operation, Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=3600
        )
        parts = urlsplit(url)
        return f"{parts.path}?{parts.query}"


def put(target: Target, key: str, body: bytes, times: int) -> None:
    path = target.path("put_object", key)
    link = http.client.HTTPConnection("127.0.0.1", target.port, timeout=300)
    for _ in range(times):
        link.request("PUT", path, body, {"Host": target.host})
        answer = link.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{target.name}: PUT {answer.status} {text[:300]!r}")
    link.close()


def get(target: Target, key: str, size: int, times: int) -> None:
    path = target.path("get_object", key)
    link = http.client.HTTPConnection("127.0.0.1", target.port, timeout=300)
    buffer = bytearray(1 << 20)
    for _ in range(times):
        link.request("GET", path, headers={"Host": target.host})
        answer = link.getresponse()
        got = 0
        while n := answer.readinto(buffer):
            got += n
        if answer.status != 200 or got != size:
            raise RuntimeError(f"{target.name}: GET {answer.status}, {got} of {size} bytes")
    link.close()


def run(stand: Stand, rounds: int = 5) -> tuple[str, dict[str, dict[str, Series]]]:
    """The table as text, and the series behind it (CPU per GiB; for 1 KiB per 100 000 requests)."""
    small: dict[str, dict[str, Series]] = {}
    large: dict[str, dict[str, Series]] = {}
    with tempfile.TemporaryDirectory() as tmp:
        keys = (stand.s3_access_key, stand.s3_secret_key)
        origin = (stand.s3_endpoint, keys, "bench-clear")
        targets = [Target("direct", stand.s3_port, 0, *origin)]
        balancer = peers.haproxy(Path(tmp), "127.0.0.1", stand.s3_port, "http")
        if balancer:
            targets.append(Target("haproxy", balancer.port, balancer.pid, *origin))
        targets.append(
            Target(
                "sealgate",
                stand.proxy_s3_port,
                stand.proxy_pid,
                stand.proxy_s3_endpoint,
                (stand.proxy_access_key, stand.proxy_secret_key),
                "bench-sealed",
            )
        )
        for target in targets[::2] if balancer else targets:
            target.client.create_bucket(Bucket=target.bucket)
        try:
            for label, (size, times) in SIZES.items():
                body = bytes(range(256)) * (size // 256)
                into, unit = (small, 1) if size < 4096 else (large, size / GIB)
                for verb in ("PUT", "GET"):
                    row = into[f"{verb} {label}"] = {t.name: Series() for t in targets}
                    for target in targets:
                        put(target, f"{size}-{target.name}", body, 1)
                    for _ in range(rounds):
                        for target in targets:
                            pids = process_tree(target.pid) if target.pid else []
                            cpu, start = cpu_seconds(pids), time.perf_counter()
                            if verb == "PUT":
                                put(target, f"{size}-{target.name}", body, times)
                            else:
                                get(target, f"{size}-{target.name}", size, times)
                            row[target.name].rates.append(times / (time.perf_counter() - start))
                            row[target.name].cpu.append((cpu_seconds(pids) - cpu) / times / unit)
            flat = memory_flat(targets[-1], stand)
        finally:
            if balancer:
                balancer.__exit__(None, None, None)
    text = "\n\n".join(
        (
            table("S3, small", "CPU s / 100 000 requests", 1e5, small),
            table("S3, large", "CPU s / GiB", 1, large),
            flat,
        )
    )
    return text, {**small, **large}


class _Zeros:
    """A body of `size` zero bytes that nobody holds."""

    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, n: int = 1 << 16) -> bytes:
        n = min(n, self.left)
        self.left -= n
        return bytes(n)


def memory_flat(target: Target, stand: Stand) -> str:
    """Resident memory of the proxy before, and at most, while 1 GiB goes up and comes back."""
    pids = process_tree(stand.proxy_pid)
    before, peak, done = rss_bytes(pids), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, rss_bytes(pids))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        link = http.client.HTTPConnection("127.0.0.1", target.port, timeout=600)
        link.request(
            "PUT",
            target.path("put_object", "gib"),
            _Zeros(GIB),
            {"Host": target.host, "Content-Length": str(GIB)},
        )
        answer = link.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"PUT of 1 GiB: {answer.status}")
        get(target, "gib", GIB, 1)
    finally:
        done.set()
        watcher.join()
    mib = 1 << 20
    return (
        f"memory while 1 GiB goes up and comes back: {before / mib:.0f} MiB before, "
        f"{peak / mib:.0f} MiB at most"
    )
