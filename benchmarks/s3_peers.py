"""The encrypting peers: `rclone serve s3` over crypt, and Amazon's encryption client for Python.

The library wants other versions of boto3 and cryptography than we do, so it lives in an environment of
its own beside ours, made on first use. Its key service is a stand-in that answers at once, to its
favour. It has no box in the middle: its CPU is its own process's, and what plain boto3 costs for the
same requests is measured, too.
"""

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.peers import Peer, free_port

LIBRARY = "amazon-s3-encryption-client-python==4.0.0"
_HOME = Path(__file__).resolve().parent.parent / ".venv-s3ec"


def rclone(folder: Path, endpoint: str, keys: tuple[str, str], bucket: str) -> Peer | None:
    """`rclone serve s3` of a crypt remote over `bucket`; None where rclone is not installed."""
    binary = shutil.which("rclone", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if binary is None:
        return None
    port, config = free_port(), folder / "rclone.conf"
    secret = subprocess.run(
        [binary, "obscure", "a passphrase"], capture_output=True, text=True, check=True
    ).stdout.strip()
    config.write_text(
        f"[s]\ntype = s3\nprovider = Other\nendpoint = {endpoint}\naccess_key_id = {keys[0]}\n"
        f"secret_access_key = {keys[1]}\nforce_path_style = true\nregion = us-east-1\n"
        f"use_unsigned_payload = true\n"
        f"[c]\ntype = crypt\nremote = s:{bucket}\nfilename_encryption = off\n"
        f"directory_name_encryption = false\npassword = {secret}\n"
    )
    return Peer(
        [binary, "--config", str(config), "serve", "s3", "c:", "--addr", f"127.0.0.1:{port}",
         "--no-modtime", "--no-checksum"], port,
    )  # fmt: skip


def library(
    endpoint: str, keys: tuple[str, str], bucket: str, size: int, times: int
) -> dict[str, float]:
    """CPU seconds and wall seconds a request of boto3 without and with the library.

    Keys: `plain put`, `plain get`, `sealed put`, `sealed get`, each also with ` wall`. Empty where the
    library can't be installed.
    """
    python = _HOME / "bin" / "python"
    if not python.exists():
        venv.create(_HOME, with_pip=True)
        if subprocess.call([str(python), "-m", "pip", "install", "-q", LIBRARY], stdout=2) != 0:
            shutil.rmtree(_HOME)
            return {}
    words = [endpoint, *keys, bucket, str(size), str(times)]
    done = subprocess.run(
        [str(python), "-c", _SCRIPT, *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return dict(json.loads(done.stdout))


_SCRIPT = """
import json, os, sys, time
import boto3
from botocore.config import Config
from s3_encryption import S3EncryptionClient, S3EncryptionClientConfig
from s3_encryption.materials.kms_keyring import KmsKeyring
endpoint, access, secret, bucket, size, times = sys.argv[1:]
size, times = int(size), int(times)

class Kms:
    class meta:
        class events:
            register = register_last = register_first = staticmethod(lambda *a, **k: None)
        class config:
            user_agent = user_agent_extra = ""
    def generate_data_key(self, **asked):
        key = os.urandom(32)
        return {"Plaintext": key, "CiphertextBlob": key, "KeyId": "k"}
    def decrypt(self, CiphertextBlob, **asked):
        return {"Plaintext": CiphertextBlob, "KeyId": "k"}

def client():
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1",
        aws_access_key_id=access, aws_secret_access_key=secret,
        config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"))

body, out = bytes(size), {}
sealing = S3EncryptionClient(client(), S3EncryptionClientConfig(KmsKeyring(Kms(), "k")))
for name, s3 in (("plain", client()), ("sealed", sealing)):
    s3.put_object(Bucket=bucket, Key="library-" + name, Body=body)
    for verb in ("put", "get"):
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(times):
            if verb == "put":
                s3.put_object(Bucket=bucket, Key="library-" + name, Body=body)
            else:
                got = s3.get_object(Bucket=bucket, Key="library-" + name)["Body"].read()
                assert len(got) == size
        out[f"{name} {verb}"] = (time.process_time() - cpu) / times
        out[f"{name} {verb} wall"] = (time.perf_counter() - wall) / times
print(json.dumps(out))
"""
