"""How are one token's sessions, login and key handle kept alive? Blocking: for threads only.

Theory of operation: a session is used by one thread at a time and lies in `_idle` otherwise; as
many exist as there are threads. Login holds for the whole process and ends with the token's last
session, so one *anchor* session per epoch is opened first, logs in, and is never used. When a code
of class SESSION comes back, the thread that saw it starts a new epoch under the lock: new anchor,
login, key looked up again (handles do not survive a new login on SoftHSM); sessions of older epochs
are closed when they are met. One retry follows, never more. If the token cannot be found any more,
the module is finalised and initialised again, since SoftHSM looks for tokens only then; never while
a call is under way (v2.40: undefined), so never when a thread hangs. A refused PIN latches: every
later login fails here, without asking the token, until the process is started again.
"""

import contextlib
import hashlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from proxy import native
from proxy.keys.providers import ckr
from proxy.keys.providers.base import CapabilityMissing, CredentialRefused, DeviceDown, Overloaded
from proxy.native import Pkcs11Error, Pkcs11Module

T = TypeVar("T")
_CKA_ID = 0x102
_CKF_TOKEN_INITIALIZED = 0x400
_OPEN: "weakref.WeakSet[Token]" = weakref.WeakSet()  # tokens that may have sessions


@dataclass(frozen=True, slots=True)
class Session:
    """A session and the key's handle, both valid in one epoch."""

    handle: int
    key: int
    epoch: int


class Token:
    """One token of one module, and the root key in it."""

    def __init__(
        self,
        module: str,
        token_label: str,
        key_label: bytes,
        key_id: bytes | None,
        pin: Callable[[], bytearray],
    ) -> None:
        """`pin` gives a fresh buffer, wiped here after each login."""
        self._path = module
        self._label = token_label
        self._key_label = key_label
        self._key_id = key_id
        self._pin = pin
        self._lock = threading.Lock()
        self._module: Pkcs11Module | None = None
        self._epoch = 0
        self._anchor: int | None = None
        self._key = 0
        self._idle: deque[Session] = deque()
        self._refused: str | None = None
        self._busy = 0  # sessions in use
        self.root_id = b""

    def open(self) -> None:
        """Logged in and the key found; raises as in providers.base."""
        with translated(), self._lock:
            if self._anchor is None:
                self._begin_epoch()

    def call(self, action: Callable[[Pkcs11Module, Session], T]) -> T:
        """`action` with a session; after a session was lost, once more with a new one.

        Codes of the classes DATA and AMBIGUOUS come out as Pkcs11Error: only the caller knows what
        it was doing. All others are translated.
        """
        with translated():
            try:
                return self._once(action)
            except Pkcs11Error as error:
                if ckr.kind_of(error.code) is not ckr.Kind.SESSION:
                    raise
            return self._once(action)

    def create_key(self, key_id: bytes) -> None:
        """Makes the root key (never extractable) unless one of this label is there already."""
        with translated(), self._lock:
            module, slot = self._load(), self._find_slot()
            session = module.open_session(slot)
            try:
                self._login(module, session)
                if self._has_key(module, session):
                    raise FileExistsError("the token has a key of this label already")
                module.generate_aes_key(session, self._key_label, self._key_id or key_id)
            finally:
                _close_quietly(module, session)

    def close(self) -> None:
        with self._lock:
            if self._module is None:
                return
            while self._idle:
                _close_quietly(self._module, self._idle.pop().handle)
            if self._anchor is not None:
                _close_quietly(self._module, self._anchor)
            self._anchor = None
            self._epoch += 1

    def _once(self, action: Callable[[Pkcs11Module, Session], T]) -> T:
        session = self._enter()
        assert self._module is not None
        lost = False
        try:
            return action(self._module, session)
        except Pkcs11Error as error:
            lost = ckr.kind_of(error.code) is ckr.Kind.SESSION
            raise
        finally:
            self._leave(session, lost)

    def _enter(self) -> Session:
        """A session for this thread alone."""
        with self._lock:
            module = self._load()
            session = None
            while self._idle and session is None:
                session = self._idle.pop()
                if session.epoch != self._epoch or self._anchor is None:
                    _close_quietly(module, session.handle)
                    session = None
            if session is None:
                if self._anchor is None:
                    self._begin_epoch()
                session = Session(module.open_session(self._find_slot()), self._key, self._epoch)
            self._busy += 1
            return session

    def _leave(self, session: Session, lost: bool) -> None:
        with self._lock:
            self._busy -= 1
            if not lost:
                self._idle.append(session)
                return
            assert self._module is not None
            _close_quietly(self._module, session.handle)
            if session.epoch == self._epoch:  # else another thread has mended it already
                self._begin_epoch()

    # -- below here: under the lock ------------------------------------------------------------

    def _begin_epoch(self) -> None:
        """New anchor, login, key; with the module initialised anew if that is what it takes."""
        try:
            self._log_in()
        except (DeviceDown, CapabilityMissing, Pkcs11Error):
            if not self._initialised_anew():
                raise
            self._log_in()

    def _log_in(self) -> None:
        module = self._load()
        session = module.open_session(self._find_slot())
        try:
            self._login(module, session)
            key = self._find_key(module, session)
            root_id = _root_id(module.attribute(session, key, _CKA_ID))
        except BaseException:
            _close_quietly(module, session)
            raise
        old, self._anchor = self._anchor, session
        self._key = key
        self.root_id = root_id
        self._epoch += 1
        _OPEN.add(self)
        if old is not None:
            _close_quietly(module, old)

    def _initialised_anew(self) -> bool:
        """Whether the module was reset: never with a call of this token under way, nor with
        another token of this process open on the module, nor after a refused PIN."""
        others = any(t is not self and t._path == self._path and t._anchor for t in _OPEN)
        if self._busy or others or self._refused is not None:
            return False
        if self._module is None:
            return False
        # The handles of before may be given out again: forget them, do not close them.
        self._idle.clear()
        self._anchor = None
        self._epoch += 1
        self._module.reinitialize()
        return True

    def _load(self) -> Pkcs11Module:
        if self._module is None:
            try:
                self._module = Pkcs11Module(self._path)
            except (OSError, ValueError) as error:
                raise CapabilityMissing(str(error)) from None
        return self._module

    def _find_slot(self) -> int:
        assert self._module is not None
        found = [
            slot["slot"]
            for slot in self._module.slots()
            if slot["label"] == self._label
            and isinstance(slot["flags"], int)
            and slot["flags"] & _CKF_TOKEN_INITIALIZED
        ]
        if not found:
            raise DeviceDown(f"no token with label {self._label!r} (module {self._path})")
        if len(found) > 1:
            raise CapabilityMissing(f"several tokens have the label {self._label!r}")
        assert isinstance(found[0], int)
        return found[0]

    def _has_key(self, module: Pkcs11Module, session: int) -> int:
        try:
            return module.find_key(session, self._key_label, self._key_id)
        except ValueError as error:
            raise CapabilityMissing(f"root key {self._key_label.decode()}: {error}") from None

    def _find_key(self, module: Pkcs11Module, session: int) -> int:
        key = self._has_key(module, session)
        if not key:
            raise CapabilityMissing(
                f"token {self._label!r} has no AES key with label "
                f"{self._key_label.decode()!r}; `sealgate keys init` makes one"
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
                    f"token {self._label!r} refused the PIN: {ckr.name_of(error.code)}; it is not "
                    "tried again, so that the token does not lock itself"
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
