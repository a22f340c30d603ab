"""How does an auditor get what verifies the log? The audit masters, sealed under a passphrase. IO.

JSON, format `sealgate-audit-key/1` (docs/reference/audit.md): scrypt (RFC 7914, N=2^17, r=8, p=1)
of the passphrase wraps each master with AES-256-GCM; format, version id and salt are additional data.
It opens nothing that the product sealed. Who has it can also write lines that verify: signed
checkpoints are what it cannot make. Blocking.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path

from proxy import native
from proxy.errors import ConfigError
from proxy.keys.providers.base import CredentialRefused
from proxy.keys.record import context_hash
from proxy.keys.stores.file import write_atomically
from proxy.native import KeyHandle

FORMAT = "sealgate-audit-key/1"
_N, _R, _P = 1 << 17, 8, 1
_MAX_FILE_BYTES = 1 << 20


def write(path: Path, masters: Mapping[str, KeyHandle], passphrase: bytearray) -> None:
    """A new file, mode 0600. FileExistsError if there is one. The caller wipes `passphrase`."""
    salt = native.random_bytes(16)
    kek = native.scrypt_key(passphrase, salt, _N, _R, _P)
    keys = []
    try:
        for version, master in sorted(masters.items()):
            nonce = native.random_bytes(12)
            sealed = native.wrap_key(kek, master, nonce, _aad(version, salt))
            keys.append({"version_id": version, "nonce": nonce.hex(), "sealed": _b64(sealed)})
    finally:
        kek.wipe()
    document = {"format": FORMAT, "scrypt": {"n": _N, "r": _R, "p": _P, "salt": salt.hex()}, "keys": keys}  # fmt: skip # noqa: E501
    write_atomically(path, json.dumps(document, indent=1).encode() + b"\n", replace=False)


def load(path: Path, passphrase: bytearray) -> dict[str, KeyHandle]:
    """The masters by version id; the caller wipes them. CredentialRefused: wrong passphrase or an
    altered file. ConfigError: no such file, or not of this format."""
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read(_MAX_FILE_BYTES))
        if document["format"] != FORMAT:
            raise ValueError(f"not a {FORMAT} file")
        cost = document["scrypt"]
        if (cost["n"], cost["r"], cost["p"]) != (_N, _R, _P):
            raise ValueError("other scrypt parameters")
        salt = bytes.fromhex(cost["salt"])
        keys = [
            (str(k["version_id"]), bytes.fromhex(k["nonce"]), base64.b64decode(k["sealed"], validate=True))
            for k in document["keys"]
        ]  # fmt: skip # noqa: E501
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, RecursionError, binascii.Error) as error:
        raise ConfigError(f"{path}: {error}") from None
    kek = native.scrypt_key(passphrase, salt, _N, _R, _P)
    found: dict[str, KeyHandle] = {}
    try:
        for version, nonce, sealed in keys:
            found[version] = native.unwrap_key(kek, nonce, sealed, _aad(version, salt))
    except (native.OpenFailed, ValueError):
        for master in found.values():
            master.wipe()
        raise CredentialRefused(f"{path} does not open: wrong passphrase, or altered") from None
    finally:
        kek.wipe()
    return found


def _aad(version: str, salt: bytes) -> bytes:
    return context_hash(FORMAT, version, salt.hex())


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
