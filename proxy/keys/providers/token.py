"""How are one token's sessions, login and key handle kept alive? Blocking: for threads only.

Theory of operation: a session is used by one thread at a time and lies in `_idle` otherwise; as
many exist as there are threads. Login holds for the whole process and ends with the token's last
session, so one *anchor* session per epoch is opened first, logs in, and is never used. Before an
epoch begins, `check` has seen that the key is the right one. When a code of class SESSION comes
back, the epoch ends: new anchor, login, key looked up again (handles do not survive a new login on
SoftHSM); sessions of older epochs are closed when they are met. One retry follows. If there is no
way in at all, the module is initialised anew (`modules`), and one more try follows. A refused PIN
latches: every later login fails here, without asking the token, until the process starts again.
"""

import contextlib
import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from proxy import native
from proxy.config.hsm import Pkcs11Token
from proxy.keys.providers import ckr
from proxy.keys.providers.base import (
    CapabilityMissing,
    CredentialRefused,
    DeviceDown,
    Overloaded,
    WrongKey,
)
from proxy.keys.providers.modules import SharedModule, shared
from proxy.native import Pkcs11Error, Pkcs11Module

T = TypeVar("T")
_CKA_ID = 0x102
_CKF_TOKEN_INITIALIZED = 0x400


@dataclass(frozen=True, slots=True)
class Session:
    """A session and the key's handle, both valid in one epoch."""

    handle: int
    key: int
    epoch: int


class _Lost(Exception):
    """There is no session any more (`session`), or no way to one."""

    def __init__(self, cause: Exception, session: bool) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.session = session


class Token:
    """One token of one module, and the root key in it."""

    def __init__(
        self,
        config: Pkcs11Token,
        pin: Callable[[], bytearray],
        check: Callable[[Pkcs11Module, Session, bytes], None] = lambda module, session, root: None,
    ) -> None:
        """`pin` gives a fresh buffer, wiped here after each login. `check` gets module, session and
        root id, and raises WrongKey or DeviceDown if the key is not the root."""
        self._config = config
        self._key_label = config.key_label.encode()
        self._key_id = None if config.key_id_hex is None else bytes.fromhex(config.key_id_hex)
        self._pin = pin
        self._check = check
        self._lock = threading.Lock()
        self._shared: SharedModule | None = None
        self._generation = 0
        self._epoch = 0
        self._anchor: int | None = None
        self._key = 0
        self._idle: deque[Session] = deque()
        self._refused: str | None = None
        self.root_id = b""

    def open(self) -> None:
        """Logged in and the key found; raises as in providers.base."""
        self.call(lambda module, session: None)

    def call(self, action: Callable[[Pkcs11Module, Session], T]) -> T:
        """`action` with a session; after a session was lost, again with a new one.

        Codes of the classes DATA and AMBIGUOUS come out as Pkcs11Error: only the caller knows what
        it was doing. All others are translated.
        """
        renewed = reset = False
        with translated():
            while True:
                try:
                    return self._once(action)
                except _Lost as lost:
                    if lost.session and not renewed:
                        renewed = True
                    elif not reset and self._refused is None and self._reset():
                        reset = True
                    else:
                        raise lost.cause from None

    def create_key(self, key_id: bytes) -> None:
        """Makes the root key (never extractable) unless one of this label is there already."""

        def make(module: Pkcs11Module, session: int) -> None:
            if self._has_key(module, session):
                raise FileExistsError("the token has a key of this label already")
            module.generate_aes_key(session, self._key_label, self._key_id or key_id)

        self.administer(make)

    def administer(self, action: Callable[[Pkcs11Module, int], T]) -> T:
        """`action` with a session of its own, logged in, whether or not the root is there."""
        for again in (True, False):
            try:
                with translated(), self._module().use() as module, self._locked():
                    self._meet_generation()
                    session = module.open_session(self.find_slot(module))
                    try:
                        self._login(module, session)
                        return action(module, session)
                    finally:
                        if self._anchor is None:
                            _close_quietly(module, session)
                        else:  # SoftHSM may log out with the session that logged in
                            self._idle.append(Session(session, self._key, self._epoch))
            except DeviceDown:
                if not again or not self._reset():
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        if self._shared is None or (self._anchor is None and not self._idle):
            return
        with self._shared.use() as module, self._locked():
            self._meet_generation()
            while self._idle:
                _close_quietly(module, self._idle.pop().handle)
            if self._anchor is not None:
                _close_quietly(module, self._anchor)
            self._end_epoch()

    # -- sessions ------------------------------------------------------------------------------

    def _once(self, action: Callable[[Pkcs11Module, Session], T]) -> T:
        with self._module().use() as module:
            session = self._enter(module)
            lost = False
            try:
                return action(module, session)
            except Pkcs11Error as error:
                lost = ckr.kind_of(error.code) is ckr.Kind.SESSION
                if lost:
                    raise _Lost(error, session=True) from None
                raise
            finally:
                self._leave(module, session, lost)

    def _enter(self, module: Pkcs11Module) -> Session:
        """A session for this thread alone."""
        with self._locked():
            self._meet_generation()
            while self._idle:
                session = self._idle.pop()
                if session.epoch == self._epoch and self._anchor is not None:
                    return session
                _close_quietly(module, session.handle)
            try:
                if self._anchor is None:
                    self._log_in(module)
                return Session(module.open_session(self.find_slot(module)), self._key, self._epoch)
            except (WrongKey, CredentialRefused):
                raise
            except (DeviceDown, CapabilityMissing) as error:
                raise _Lost(error, session=False) from None
            except Pkcs11Error as error:
                kind = ckr.kind_of(error.code)
                if kind in (ckr.Kind.CREDENTIAL, ckr.Kind.LOAD):
                    raise
                cause: Exception = error
                if kind in (ckr.Kind.DATA, ckr.Kind.AMBIGUOUS):  # not of a decryption
                    cause = DeviceDown(f"{error.function}: {ckr.name_of(error.code)}")
                raise _Lost(cause, session=False) from None

    def _leave(self, module: Pkcs11Module, session: Session, lost: bool) -> None:
        with self._locked():
            if not lost:
                self._idle.append(session)
                return
            _close_quietly(module, session.handle)
            if session.epoch == self._epoch and self._anchor is not None:
                _close_quietly(module, self._anchor)  # else another thread has mended it already
                self._end_epoch()

    def _reset(self) -> bool:
        return self._module().reset(id(self), self._generation)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The lock; not for ever, since whoever holds it may hang in the module."""
        if not self._lock.acquire(timeout=self._config.call_timeout_seconds):
            raise DeviceDown("a login to the token hangs")
        try:
            yield
        finally:
            self._lock.release()

    # -- below here: under the lock ------------------------------------------------------------

    def _meet_generation(self) -> None:
        """After a reset the old handles may be given out again: they are forgotten, not closed."""
        if self._generation != self._module().generation:
            self._generation = self._module().generation
            self._idle.clear()
            self._end_epoch()

    def _end_epoch(self) -> None:
        self._anchor = None
        self._epoch += 1
        self._module().left(id(self))

    def _log_in(self, module: Pkcs11Module) -> None:
        session = module.open_session(self.find_slot(module))
        try:
            self._login(module, session)
            key = self._find_key(module, session)
            root_id = _root_id(module.attribute(session, key, _CKA_ID))
            self._check(module, Session(session, key, self._epoch), root_id)
        except BaseException:
            _close_quietly(module, session)
            raise
        self._anchor = session
        self._key = key
        self.root_id = root_id
        self._epoch += 1
        self._module().joined(id(self))
        self._module().well()

    def _module(self) -> SharedModule:
        if self._shared is None:
            c = self._config
            self._shared = shared(c.module, c.module_parameters, c.environment)
        return self._shared

    def find_slot(self, module: Pkcs11Module) -> int:
        found = [int(s["slot"]) for s in module.slots() if self._matches(s)]
        if not found:
            raise DeviceDown(f"no token with {self._wanted()} (module {self._config.module})")
        if len(found) > 1:
            raise CapabilityMissing(f"several tokens have {self._wanted()}")
        return found[0]

    def _matches(self, slot: dict[str, Any]) -> bool:
        c = self._config
        return (
            (c.token_label is None or slot["label"] == c.token_label)
            and (c.token_serial is None or slot["serial"] == c.token_serial)
            and (c.slot is None or slot["slot"] == c.slot)
            and bool(slot["flags"] & _CKF_TOKEN_INITIALIZED)
        )

    def _wanted(self) -> str:
        c = self._config
        named = {"label": c.token_label, "serial number": c.token_serial, "slot": c.slot}
        return ", ".join(f"{name} {value!r}" for name, value in named.items() if value is not None)

    def _has_key(self, module: Pkcs11Module, session: int) -> int:
        try:
            return module.find_key(session, self._key_label, self._key_id)
        except ValueError as error:
            raise CapabilityMissing(f"root key {self._config.key_label}: {error}") from None

    def _find_key(self, module: Pkcs11Module, session: int) -> int:
        key = self._has_key(module, session)
        if not key:
            raise CapabilityMissing(
                f"the token with {self._wanted()} has no AES key with label "
                f"{self._config.key_label!r}; `sealgate keys init` makes one"
            )
        return key

    def _login(self, module: Pkcs11Module, session: int) -> None:
        if self._refused is not None:
            raise CredentialRefused(self._refused)
        pin = self._pin()
        try:
            module.login(session, pin)
        except Pkcs11Error as error:
            if ckr.kind_of(error.code) is ckr.Kind.CREDENTIAL:
                self._refused = (
                    f"the token with {self._wanted()} refused the PIN: {ckr.name_of(error.code)}; "
                    "it is not tried again, so that the token does not lock itself"
                )
            raise
        finally:
            native.wipe(pin)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Pkcs11Error → the classes of providers.base, but for DATA and AMBIGUOUS."""
    try:
        yield
    except Pkcs11Error as error:
        kind, text = ckr.kind_of(error.code), f"{error.function}: {ckr.name_of(error.code)}"
        if kind is ckr.Kind.CREDENTIAL:
            raise CredentialRefused(text) from None
        if kind is ckr.Kind.CAPABILITY:
            raise CapabilityMissing(text) from None
        if kind is ckr.Kind.LOAD:
            raise Overloaded(text) from None
        if kind in (ckr.Kind.DEVICE, ckr.Kind.SESSION):
            raise DeviceDown(text) from None
        raise


def _root_id(attribute: bytes) -> bytes:
    # Keys made by us carry 16 random bytes; one made by the operator's own tool may carry others.
    return attribute if len(attribute) == 16 else hashlib.sha256(attribute).digest()[:16]


def _close_quietly(module: Pkcs11Module, session: int) -> None:
    with contextlib.suppress(Pkcs11Error):  # it may be gone with its token
        module.close_session(session)
