"""A root key without an HSM: in the arena, loaded from a file sealed under a passphrase.

For trying the product and for sites whose threat model accepts it; `rootfile` has the format. Each
wrap uses AES-256-GCM under HKDF(root, random 16-byte salt), so that the 2^32 limit of SP 800-38D
for random IVs does not add up over the root's life (ESDK does the same).
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from proxy import native
from proxy.crypto import kdf
from proxy.errors import IntegrityError, KeyUnavailable
from proxy.keys import rootfile
from proxy.keys.providers.base import CredentialRefused, Provider, ProviderHealth
from proxy.keys.record import Record, Subject, Suite
from proxy.native import KeyHandle

_LABEL = b"root-wrap"  # of the root alone; the labels below it stand in proxy/crypto/kdf.py


class SoftwareProvider(Provider):
    name = "software"

    def __init__(self, path: str | Path, passphrase: Callable[[], bytearray]) -> None:
        """`passphrase` gives a fresh buffer, wiped here after use; it is called at `open` only."""
        self._path = Path(path)
        self._passphrase = passphrase
        self._root: rootfile.Root | None = None
        self._refused: str | None = None

    @property
    def root_id(self) -> bytes:
        return self._opened().root_id

    async def open(self) -> None:
        if self._root is not None:
            return
        if self._refused is not None:
            raise CredentialRefused(self._refused)
        try:
            self._root = await asyncio.to_thread(self._load)
        except CredentialRefused as error:
            self._refused = str(error)
            raise

    def _load(self) -> rootfile.Root:
        passphrase = self._passphrase()
        try:
            return rootfile.load(self._path, passphrase)
        finally:
            native.wipe(passphrase)

    async def wrap(self, key: KeyHandle, subject: Subject, context: bytes) -> Record:
        root = self._opened()
        record = Record(
            Suite.SOFTWARE_AES_GCM,
            subject,
            root.root_id,
            1,
            secrets.token_bytes(16),
            secrets.token_bytes(12),
        )
        kek = _sub_key(root.key, record.salt)
        try:
            sealed = native.wrap_key(kek, key, record.iv, record.aad(context))
        finally:
            kek.wipe()
        return replace(record, sealed=sealed)

    async def unwrap(self, record: Record, context: bytes) -> KeyHandle:
        root = self._opened()
        if record.suite is not Suite.SOFTWARE_AES_GCM or record.parent_id != root.root_id:
            raise IntegrityError("the key is wrapped under another root")
        kek = _sub_key(root.key, record.salt)
        try:
            return native.unwrap_key(kek, record.iv, record.sealed, record.aad(context))
        except native.OpenFailed:
            raise IntegrityError("a wrapped key does not open under this root") from None
        finally:
            kek.wipe()

    async def random(self, n: int) -> bytes:
        return native.random_bytes(n)

    async def health(self) -> ProviderHealth:
        if self._root is not None and self._root.key.alive:
            return ProviderHealth(True, "software root in memory")
        return ProviderHealth(False, self._refused or "software root is not open")

    async def close(self) -> None:
        if self._root is not None:
            self._root.key.wipe()
            self._root = None

    def _opened(self) -> rootfile.Root:
        if self._root is None:
            raise KeyUnavailable("the software root is not open")
        return self._root


def _sub_key(root: KeyHandle, salt: bytes) -> KeyHandle:
    return native.hkdf_sha256(root, kdf.SALT, kdf.prefixed(_LABEL, salt))
