"""One script of operations in every client: directly against SeaweedFS, and through the proxy. Equal.

A client that cannot be had here is skipped with what is missing. Outcomes are what a program looks at:
bytes, sizes, names, types, error codes.
"""

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.parts.proxy import Proxy
from tests.parts.s3_gateway import client
from tests.parts.seaweed import Seaweed
from tests.system.test_s3_two_proxies import proxy_before

pytestmark = pytest.mark.system
SCRIPT = Path(__file__).with_name("s3_script.mjs")
NODE_SDK = "@aws-sdk/client-s3@3.1175.0"
SIZES = {"empty": 0, "small": 10, "chunk": 16384, "some": 70_001, "large": 9_000_000}


@dataclass(frozen=True)
class Side:
    """Where a script runs against."""

    endpoint: str
    access_key: str
    secret: str
    bucket: str


Script = Callable[[Side, Path], Any]


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


@pytest.fixture
def equal(weed: Seaweed, proxy: Proxy, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Runs a script on both sides and compares; returns the outcome."""
    name = request.node.name.removeprefix("test_").split("[")[0].replace("_", "-")[:40]

    def run(script: Script, suffix: str = "") -> Any:
        sides = (
            Side(weed.endpoint, weed.access_key, weed.secret_key, f"direct-{name}{suffix}"),
            Side(
                f"http://127.0.0.1:{proxy.s3_port}", "APP", "app-secret", f"sealed-{name}{suffix}"
            ),
        )
        outcomes = []
        for side in sides:
            client(side.endpoint, side.access_key, side.secret).create_bucket(Bucket=side.bucket)
            folder = tmp_path / side.bucket
            folder.mkdir()
            outcomes.append(script(side, folder))
        assert outcomes[0] == outcomes[1]
        return outcomes[0]

    return run


def body(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def tree(folder: Path) -> Path:
    """A directory with a file of each size."""
    for name, size in SIZES.items():
        (folder / "tree" / name[0]).mkdir(parents=True, exist_ok=True)
        made = folder / "tree" / name[0] / f"{name} + ü"
        made.write_bytes(body(size))
        os.utime(made, (1_700_000_000, 1_700_000_000))  # a sync compares with whole seconds
    return folder / "tree"


def contents(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("checksums", ["when_supported", "when_required"])
def test_boto3(equal: Any, checksums: str) -> None:
    def script(side: Side, folder: Path) -> Any:
        s3 = client(
            side.endpoint,
            side.access_key,
            side.secret,
            request_checksum_calculation=checksums,
            response_checksum_validation=checksums,
        )
        out: dict[str, Any] = {}
        for name, size in SIZES.items():
            s3.upload_fileobj(io.BytesIO(body(size)), side.bucket, f"k/{name}")
            into = io.BytesIO()
            s3.download_fileobj(side.bucket, f"k/{name}", into)
            out[name] = hashlib.sha256(into.getvalue()).hexdigest()
        s3.copy({"Bucket": side.bucket, "Key": "k/large"}, side.bucket, "k/copied")
        listed = s3.list_objects_v2(Bucket=side.bucket, Prefix="k/")["Contents"]
        out["list"] = [(o["Key"], o["Size"]) for o in listed]
        s3.delete_objects(Bucket=side.bucket, Delete={"Objects": [{"Key": "k/small"}]})
        try:
            s3.head_object(Bucket=side.bucket, Key="k/small")
        except ClientError as error:
            out["gone"] = error.response["Error"]["Code"]
        return out

    outcome = equal(script, "-" + checksums[5:8])
    assert outcome["large"] == hashlib.sha256(body(SIZES["large"])).hexdigest()


def test_aws_cli(equal: Any) -> None:
    aws = tool("aws")

    def script(side: Side, folder: Path) -> Any:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "AWS_ACCESS_KEY_ID": side.access_key,
            "AWS_SECRET_ACCESS_KEY": side.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "PYTHONUTF8": "1",
        }

        def run(*words: str) -> str:
            done = subprocess.run(
                # SeaweedFS leaves a first upload into a new bucket hanging now and then.
                [
                    sys.executable, aws, "--cli-read-timeout", "5",
                    "--endpoint-url", side.endpoint, *words,
                ],
                env=env, capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return done.stdout

        source, where = tree(folder), f"s3://{side.bucket}/t"
        run("s3", "sync", str(source), where)
        assert not run("s3", "sync", str(source), where)  # sizes and times are right: nothing to do
        run("s3", "cp", "--recursive", where, f"s3://{side.bucket}/copy")
        run("s3", "sync", f"s3://{side.bucket}/copy", str(folder / "back"))
        assert contents(folder / "back") == contents(source)
        listed = run("s3", "ls", "--recursive", where).splitlines()
        run("s3", "rm", "--recursive", f"s3://{side.bucket}/copy")
        rest = json.loads(run("s3api", "list-objects-v2", "--bucket", side.bucket))
        sizes = [(o["Key"], o["Size"]) for o in rest["Contents"]]
        return [line.split(maxsplit=2)[2] for line in listed], sizes

    equal(script)


def test_rclone(equal: Any) -> None:
    rclone = tool("rclone")

    def script(side: Side, folder: Path) -> Any:
        config = folder / "rclone.conf"
        config.write_text(
            f"[s]\ntype = s3\nprovider = Other\nendpoint = {side.endpoint}\n"
            f"access_key_id = {side.access_key}\nsecret_access_key = {side.secret}\n"
            "force_path_style = true\nregion = us-east-1\nupload_cutoff = 6M\nchunk_size = 5M\n"
        )

        def run(*words: str) -> bytes:
            done = subprocess.run(
                [rclone, "--config", str(config), "--retries", "1", *words],
                capture_output=True, timeout=120, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr.decode()
            return done.stdout

        source, where = tree(folder), f"s:{side.bucket}/t"
        run("copy", str(source), where)
        run("check", "--download", str(source), where)
        run("sync", where, str(folder / "back"))
        assert contents(folder / "back") == contents(source)
        run("copy", where, f"s:{side.bucket}/copy")
        listed = sorted(run("lsf", "-R", "--format", "ps", f"s:{side.bucket}").decode().split("\n"))
        parts = [  # as a mount reads: here and there
            run("cat", "--offset", str(at), "--count", "4096", f"{where}/l/large + ü")
            for at in (0, 16_380, 5_242_870, SIZES["large"] - 5)
        ]
        run("purge", f"s:{side.bucket}/copy")
        return listed, parts, run("size", "--json", f"s:{side.bucket}")

    outcome = equal(script)
    assert outcome[1][2] == body(SIZES["large"])[5_242_870:][:4096]


def test_s3cmd(equal: Any) -> None:
    s3cmd = tool("s3cmd")

    def script(side: Side, folder: Path) -> Any:
        host = side.endpoint.removeprefix("http://")

        def run(*words: str) -> str:
            done = subprocess.run(
                [
                    sys.executable, s3cmd, "-c", "/dev/null", "--no-ssl", f"--host={host}",
                    f"--host-bucket={host}", f"--access_key={side.access_key}",
                    f"--secret_key={side.secret}", "--region=us-east-1", "--no-progress", *words,
                ],
                capture_output=True, text=True, timeout=120, check=False,
                env={**os.environ, "PYTHONUTF8": "1", "HOME": str(folder)},
            )  # fmt: skip
            assert done.returncode == 0, done.stderr + done.stdout
            return done.stdout

        source, where = tree(folder), f"s3://{side.bucket}/t/"
        run("sync", "--multipart-chunk-size-mb=5", f"{source}/", where)
        run("cp", f"{where}s/some + ü", f"{where}s/copy")
        (folder / "back").mkdir()
        run("sync", where, f"{folder}/back/")
        listed = run("ls", "-r", where).splitlines()
        run("del", f"{where}s/copy")
        return contents(folder / "back"), [
            line.replace(side.bucket, "").split()[2:] for line in listed
        ]

    equal(script)


def test_node_sdk(equal: Any, tmp_path: Path) -> None:
    node, npm = tool("node"), tool("npm")
    home = tmp_path / "node"
    home.mkdir()
    done = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "--silent", NODE_SDK],
        cwd=home, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.skip(f"npm cannot install {NODE_SDK}")
    shutil.copy(SCRIPT, home / "script.mjs")

    def script(side: Side, folder: Path) -> Any:
        done = subprocess.run(
            [node, "script.mjs", side.endpoint, side.access_key, side.secret, side.bucket],
            cwd=home, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    outcome = equal(script)
    assert outcome["missing"][1] == 404 and outcome["changed"][1] == 412 and outcome["etags"]


def test_pyarrow_partitioned_parquet(equal: Any) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    dataset = pytest.importorskip("pyarrow.dataset")
    fs = pytest.importorskip("pyarrow.fs")
    rows = 60_000
    table = pa.table(
        {
            "id": list(range(rows)),
            "country": [("de", "fr", "it")[n % 3] for n in range(rows)],
            "text": [f"row {n} {n * n}" for n in range(rows)],
        }
    )

    def script(side: Side, folder: Path) -> Any:
        store = fs.S3FileSystem(
            access_key=side.access_key,
            secret_key=side.secret,
            endpoint_override=side.endpoint.removeprefix("http://"),
            scheme="http",
            region="us-east-1",
        )
        where = f"{side.bucket}/table"
        dataset.write_dataset(
            table,
            where,
            filesystem=store,
            format="parquet",
            partitioning=dataset.partitioning(pa.schema([("country", pa.string())]), flavor="hive"),
        )
        found = dataset.dataset(where, filesystem=store, format="parquet", partitioning="hive")
        picked = found.to_table(
            filter=(dataset.field("country") == "fr") & (dataset.field("id") > 50_000),
            columns=["id", "text"],
        ).sort_by("id")
        files = [
            (f.path.removeprefix(side.bucket), f.size)
            for f in store.get_file_info(fs.FileSelector(where, recursive=True))
            if f.is_file
        ]
        with store.open_output_stream(f"{side.bucket}/stream") as stream:
            stream.write(body(SIZES["large"]))
        with store.open_input_file(f"{side.bucket}/stream") as file:
            pieces = file.read_at(1000, 5_000_000), file.read_at(10, 0), file.size()
        return found.count_rows(), picked.to_pydict(), sorted(files), pieces

    outcome = equal(script)
    assert outcome[0] == rows and len(outcome[1]["id"]) > 3000
