"""How is a software root key kept in a file? Sealed under a passphrase (docs/reference/keys.md).

JSON, format `sealgate-root/1`: a random id, a password KDF with its parameters, and the root key
under AES-256-GCM. Argon2id (RFC 9106, second recommended option: 64 MiB, 3 passes, 4 lanes) where
`cryptography` has it, else scrypt (RFC 7914, N=2^17, r=8, p=1). Id and parameters are AAD, so that
nobody can lower the cost of a guess in an existing file unseen. I/O module; blocking: call it in a
thread. The root and the derived key exist only in the arena and in one wiped buffer.
"""

import base64
import binascii
import json
import secrets
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from proxy import native
from proxy.errors import ConfigError
from proxy.keys.providers.base import CredentialRefused
from proxy.keys.record import KEY_BYTES, SEALED_BYTES, context_hash
from proxy.keys.stores.file import write_atomically
from proxy.native import KeyHandle

FORMAT = "sealgate-root/1"
_MAX_FILE_BYTES = 16 * 1024

# Upper bounds when reading: a forged file must not make the start take all memory or an hour.
_ARGON2ID = {"iterations": (3, 64), "lanes": (4, 16), "memory_kib": (65_536, 1_048_576)}
_SCRYPT = {"n": (1 << 17, 1 << 20), "r": (8, 16), "p": (1, 4)}
_KDFS = {"argon2id": _ARGON2ID, "scrypt": _SCRYPT}


@dataclass(frozen=True, slots=True)
class Root:
    root_id: bytes  # 16
    key: KeyHandle


@dataclass(frozen=True, slots=True)
class _Header:
    form: str
    root_id: bytes
    kdf: str
    parameters: dict[str, int]
    salt: bytes

    def aad(self) -> bytes:
        shown = [f"{name}={self.parameters[name]}" for name in sorted(self.parameters)]
        return context_hash(self.form, self.root_id.hex(), self.kdf, self.salt.hex(), *shown)


def create(path: Path, passphrase: bytearray) -> bytes:
    """A new random root sealed into a new file (0600); returns its id. FileExistsError if there
    is one: a root is never overwritten. The caller wipes `passphrase`."""
    root_id = secrets.token_bytes(16)
    root = native.key_random()
    try:
        write(path, Root(root_id, root), passphrase)
    finally:
        root.wipe()
    return root_id


def write(path: Path, root: Root, passphrase: bytearray, form: str = FORMAT) -> None:
    """`root` sealed into a new file (0600), opened again and compared before it is written.
    FileExistsError if there is one. `form` names the kind of key. The caller wipes both."""
    header = _Header(
        form,
        root.root_id,
        "argon2id",
        {name: default for name, (default, _) in _ARGON2ID.items()},
        secrets.token_bytes(16),
    )
    try:
        kek = _derive(header, passphrase)
    except UnsupportedAlgorithm:
        parameters = {name: default for name, (default, _) in _SCRYPT.items()}
        header = replace(header, kdf="scrypt", parameters=parameters)
        kek = _derive(header, passphrase)
    nonce = secrets.token_bytes(12)
    try:
        sealed = native.wrap_key(kek, root.key, nonce, header.aad())
        again = native.unwrap_key(kek, nonce, sealed, header.aad())
        try:
            if not again.same(root.key):
                raise AssertionError("a root key that was just sealed opens to another key")
        finally:
            again.wipe()
    finally:
        kek.wipe()
    document = {
        "format": form,
        "id": header.root_id.hex(),
        "kdf": header.kdf,
        "parameters": header.parameters,
        "salt": _b64(header.salt),
        "nonce": _b64(nonce),
        "sealed": _b64(sealed),
    }
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, json.dumps(document, indent=1).encode() + b"\n", replace=False)


def load(path: Path, passphrase: bytearray, form: str = FORMAT) -> Root:
    """The root in the arena. CredentialRefused: wrong passphrase or an altered file (which of the
    two cannot be told apart). ConfigError: no such file, or not of this format."""
    header, nonce, sealed = _read(path, form)
    try:
        kek = _derive(header, passphrase)
    except UnsupportedAlgorithm:
        raise ConfigError(f"root file {path}: Argon2id is not available here") from None
    try:
        return Root(header.root_id, native.unwrap_key(kek, nonce, sealed, header.aad()))
    except native.OpenFailed:
        raise CredentialRefused(
            f"root file {path} does not open: wrong passphrase, or the file was altered"
        ) from None
    finally:
        kek.wipe()


def _derive(header: _Header, passphrase: bytearray) -> KeyHandle:
    p = header.parameters
    if header.kdf == "scrypt":
        return native.scrypt_key(passphrase, header.salt, p["n"], p["r"], p["p"])
    derived = bytearray(KEY_BYTES)
    # derive_into takes any buffer, though its stub says bytes; a bytes copy could not be wiped.
    try:
        Argon2id(
            salt=header.salt,
            length=KEY_BYTES,
            iterations=p["iterations"],
            lanes=p["lanes"],
            memory_cost=p["memory_kib"],
        ).derive_into(passphrase, derived)  # type: ignore[arg-type]
        return native.key_import(derived)
    finally:
        native.wipe(derived)


def _read(path: Path, form: str) -> tuple[_Header, bytes, bytes]:
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"root file {path}: {error.strerror}") from None
    try:
        if len(raw) > _MAX_FILE_BYTES:
            raise ValueError("too large")
        top = json.loads(raw)
        if not isinstance(top, dict) or top.get("format") != form:
            raise ValueError(f"not a {form} file")
        kdf = top["kdf"]
        bounds = _KDFS[kdf]
        parameters = {name: top["parameters"][name] for name in bounds}
        if set(top["parameters"]) != set(bounds):
            raise ValueError("unknown KDF parameter")
        for name, (_, most) in bounds.items():
            value = parameters[name]
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"{name} is not 1 to {most}")
        header = _Header(form, bytes.fromhex(top["id"]), kdf, parameters, _unb64(top["salt"]))
        nonce, sealed = _unb64(top["nonce"]), _unb64(top["sealed"])
        if (len(header.root_id), len(header.salt), len(nonce), len(sealed)) != (
            16,
            16,
            12,
            SEALED_BYTES,
        ):
            raise ValueError("a field has the wrong size")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"root file {path}: {error}") from None
    return header, nonce, sealed


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _unb64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("bad base64") from error
