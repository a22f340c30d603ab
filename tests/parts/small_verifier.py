"""The audit chain verified by what docs/reference/audit.md says, with hashlib and hmac alone.

Nothing of the product is imported: this stands for somebody else's verifier.
"""

import hashlib
import hmac
import json
from pathlib import Path

SALT = b"sealgate/v1"


def hkdf(key: bytes, *info: bytes) -> bytes:
    """RFC 5869, 32 bytes; each field of the info behind its 16-bit length."""
    prk = hmac.digest(SALT, key, "sha256")
    packed = b"".join(len(f).to_bytes(2, "big") + f for f in info)
    return hmac.digest(prk, packed + b"\x01", "sha256")


def master_of(ring_key: bytes) -> bytes:
    return hkdf(ring_key, b"audit-master")


def check(directory: Path, master: bytes) -> int:
    """How many lines there are; AssertionError at the first that is not right."""
    count = 0
    writers: dict[str, list[Path]] = {}
    for path in sorted(directory.glob("*.jsonl"), key=lambda p: p.name[-12:]):
        writers.setdefault(path.name.split("-")[2], []).append(path)
    for writer, paths in writers.items():
        key = hkdf(master, b"audit-writer", bytes.fromhex(writer))
        previous, n = "0" * 64, 0
        for path in paths:
            for line in path.read_bytes().splitlines():
                body, mac = line[:-74], line[-66:-2].decode()
                assert line[-74:-66] == b',"mac":"', (path, n)
                assert hmac.new(key, body, hashlib.sha256).hexdigest() == mac, (path, n)
                document = json.loads(line)
                assert (document["n"], document["w"], document["p"]) == (n + 1, writer, previous)
                previous, n = mac, n + 1
                key = hkdf(key, b"audit-next")
                count += 1
    return count
