"""A root key in an HSM, by PKCS #11: AES-256-GCM inside the token, keys straight into the arena.

No call is made on the event loop's thread: a token may block for milliseconds or for ever, and a
failed call can leave an error in that thread's OpenSSL queue. Calls run in a pool of our own
threads, as many as sessions, with a deadline each; a call that misses it is left behind (C calls
cannot be cancelled), counts as the device's failure, and what it may still bring is wiped.

SoftHSM 2.6 and others answer "tag does not match" with CKR_GENERAL_ERROR, which can also mean a
broken device. Opening a *canary*, sealed at start under the same key, in the same session, decides:
it opens, so the data was bad; it does not, so the device is.
"""

import asyncio
import concurrent.futures
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from proxy.config.model import Pkcs11Provider as Pkcs11Config
from proxy.errors import IntegrityError
from proxy.keys.providers import ckr
from proxy.keys.providers.base import (
    CapabilityMissing,
    DeviceDown,
    Overloaded,
    Provider,
    ProviderHealth,
)
from proxy.keys.providers.token import Session, Token
from proxy.keys.record import Record, Subject, Suite
from proxy.native import KeyHandle, Pkcs11Error, Pkcs11Module

T = TypeVar("T")
_CANARY = b"sealgate canary!"
_CANARY_AAD = b"sealgate/v1 canary"
_QUEUED_PER_SESSION = 64


class Pkcs11Provider(Provider):
    name = "pkcs11"

    def __init__(self, config: Pkcs11Config, pin: Callable[[], bytearray]) -> None:
        self._config = config
        # The module reads its environment when it is initialised, e.g. SOFTHSM2_CONF.
        os.environ.update(config.environment)
        self._token = Token(
            config.module,
            config.token_label,
            config.key_label.encode(),
            None if config.key_id_hex is None else bytes.fromhex(config.key_id_hex),
            pin,
        )
        self._threads = ThreadPoolExecutor(config.sessions, thread_name_prefix="pkcs11")
        self._pending = 0
        self._canary: tuple[bytes, bytes] | None = None  # (IV, sealed)
        self._closed = False

    @property
    def root_id(self) -> bytes:
        return self._token.root_id

    async def open(self) -> None:
        await self._run(self._open)

    async def create_root(self) -> bytes:
        """Makes the root key in the token; returns its id. FileExistsError if there is one."""
        key_id = secrets.token_bytes(16)
        await self._run(lambda: self._token.create_key(key_id))
        await self.open()
        return self.root_id

    async def wrap(self, key: KeyHandle, subject: Subject, context: bytes) -> Record:
        record = Record(Suite.TOKEN_AES_GCM, subject, self.root_id, 1, b"", secrets.token_bytes(12))
        aad = record.aad(context)

        def seal(module: Pkcs11Module, session: Session) -> bytes:
            return module.gcm_wrap(session.handle, session.key, record.iv, key, aad)

        try:
            sealed = await self._run(lambda: self._token.call(seal))
        except Pkcs11Error as error:  # nothing an attacker chose goes in: the device's fault
            raise DeviceDown(f"{error.function}: {ckr.name_of(error.code)}") from None
        except ValueError as error:
            raise CapabilityMissing(str(error)) from None
        return replace(record, sealed=sealed)

    async def unwrap(self, record: Record, context: bytes) -> KeyHandle:
        if self._canary is None:  # the token was away at start
            await self.open()
        if record.suite is not Suite.TOKEN_AES_GCM or record.parent_id != self.root_id:
            raise IntegrityError("the key is wrapped under another root")
        aad = record.aad(context)
        return await self._run(lambda: self._unwrap(record, aad))

    async def random(self, n: int) -> bytes:
        return await self._run(lambda: self._token.call(lambda m, s: m.random(s.handle, n)))

    async def health(self) -> ProviderHealth:
        try:
            if self._canary is None:
                await self.open()
            await self._run(lambda: self._token.call(self._open_canary))
        except Pkcs11Error as error:
            return ProviderHealth(False, f"canary: {ckr.name_of(error.code)}")
        except Exception as error:
            return ProviderHealth(False, str(error))
        return ProviderHealth(True, f"token {self._config.token_label!r} opens its canary")

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            done = self._threads.submit(self._token.close)
            await asyncio.wait_for(
                asyncio.wrap_future(done), timeout=self._config.call_timeout_seconds
            )
        except TimeoutError:
            pass  # a hung module keeps its threads; the process ends without them
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    # -- below here: in a pool thread ----------------------------------------------------------

    def _open(self) -> None:
        self._token.open()
        iv = secrets.token_bytes(12)
        try:
            sealed = self._token.call(
                lambda m, s: m.gcm_encrypt(s.handle, s.key, iv, _CANARY, _CANARY_AAD)
            )
        except Pkcs11Error as error:
            raise DeviceDown(f"{error.function}: {ckr.name_of(error.code)}") from None
        except ValueError as error:
            raise CapabilityMissing(str(error)) from None
        self._canary = (iv, sealed)
        self._token.call(self._open_canary)

    def _unwrap(self, record: Record, aad: bytes) -> KeyHandle:
        def unseal(module: Pkcs11Module, session: Session) -> KeyHandle:
            try:
                return module.gcm_unwrap(session.handle, session.key, record.iv, record.sealed, aad)
            except Pkcs11Error as error:
                if ckr.kind_of(error.code) is not ckr.Kind.AMBIGUOUS:
                    raise
                self._open_canary(module, session)  # raises unless the device is well
                raise IntegrityError("a wrapped key does not open under this root") from None

        try:
            return self._token.call(unseal)
        except Pkcs11Error as error:
            if ckr.kind_of(error.code) is ckr.Kind.DATA:
                raise IntegrityError("a wrapped key does not open under this root") from None
            raise DeviceDown(f"{error.function}: {ckr.name_of(error.code)}") from None
        except ValueError as error:
            raise CapabilityMissing(str(error)) from None

    def _open_canary(self, module: Pkcs11Module, session: Session) -> None:
        if self._canary is None:
            raise DeviceDown("the token is not open")
        iv, sealed = self._canary
        opened = module.gcm_decrypt(session.handle, session.key, iv, sealed, _CANARY_AAD)
        if opened != _CANARY:
            raise DeviceDown("the token opens its canary to something else")

    # -- the border between loop and threads ---------------------------------------------------

    async def _run(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise DeviceDown("the provider is closed")
        if self._pending >= self._config.sessions * _QUEUED_PER_SESSION:
            raise Overloaded("too many calls wait for the token")
        self._pending += 1
        future = self._threads.submit(work)
        try:
            return await asyncio.wait_for(
                asyncio.wrap_future(future), self._config.call_timeout_seconds
            )
        except TimeoutError:
            _abandon(future)
            raise DeviceDown(
                f"the token gave no answer within {self._config.call_timeout_seconds:g} s"
            ) from None
        except asyncio.CancelledError:
            _abandon(future)
            raise
        finally:
            self._pending -= 1


def _abandon(future: "concurrent.futures.Future[T]") -> None:
    """Nobody waits for this call any more: a key that it still brings is wiped."""

    def wipe(done: "concurrent.futures.Future[T]") -> None:
        if not done.cancelled() and done.exception() is None:
            result = done.result()
            if isinstance(result, KeyHandle):
                result.wipe()

    if not future.cancel():
        future.add_done_callback(wipe)
