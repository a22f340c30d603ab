"""How are data keys made, wrapped and used inside a token? Blocking: for threads only.

A data key exists as its wrapped form (AES Key Wrap, RFC 3394, under the token's wrapping key, which
does nothing else: a key that wraps *and* decrypts could be made to open its own wraps). To use one,
it is unwrapped into a session object, sensitive and not extractable; the objects used last are kept,
for the epoch in which they were made.
"""

import contextlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

from proxy.errors import IntegrityError
from proxy.keys.providers import ckr
from proxy.keys.providers.base import CapabilityMissing
from proxy.keys.providers.token import Session
from proxy.native import Pkcs11Error, Pkcs11Module

WRAPPED_BYTES = 40
_KEPT = 256
_AES_KEY_GEN, _AES_KEY_WRAP = 0x1080, 0x2109
_CLASS, _TOKEN, _PRIVATE, _LABEL, _VALUE_LEN, _KEY_TYPE = 0x000, 0x001, 0x002, 0x003, 0x161, 0x100
_SENSITIVE, _ENCRYPT, _DECRYPT, _WRAP, _UNWRAP = 0x103, 0x104, 0x105, 0x106, 0x107
_EXTRACTABLE = 0x162
_SECRET_KEY, _AES = 4, 0x1F
_AES_KEY = ((_CLASS, _SECRET_KEY), (_KEY_TYPE, _AES), (_SENSITIVE, True), (_PRIVATE, True))
_NEW = (
    *_AES_KEY, (_VALUE_LEN, 32), (_TOKEN, False), (_EXTRACTABLE, True), (_ENCRYPT, True),
    (_DECRYPT, True),
)  # fmt: skip
_OPENED = (*_AES_KEY, (_TOKEN, False), (_EXTRACTABLE, False), (_ENCRYPT, True), (_DECRYPT, True))


class NoDataKeys(CapabilityMissing):
    """The root is well, but this token makes and keeps no data keys."""


class KeyNotHere(IntegrityError):
    """A wrapped data key does not open in this token: it was altered, or this token's wrapping key
    is another one. If it opens in no token, it was altered."""


@dataclass(slots=True)
class _Kept:
    handle: int
    users: int


class TokenKeys:
    """The data keys of one token."""

    def __init__(self, label: bytes) -> None:
        """`label`: of the wrapping key."""
        self._label = label
        self._lock = threading.Lock()
        self._epoch = 0
        self._wrapping = 0
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    def create_wrapping_key(self, module: Pkcs11Module, session: int) -> None:
        """A token object, AES-256, for wrapping only. FileExistsError if there is one."""
        if self._find(module, session):
            raise FileExistsError("the token has a wrapping key of this label already")
        module.generate(
            session,
            _AES_KEY_GEN,
            (
                *_AES_KEY, (_VALUE_LEN, 32), (_TOKEN, True), (_EXTRACTABLE, False),
                (_ENCRYPT, False), (_DECRYPT, False), (_WRAP, True), (_UNWRAP, True),
                (_LABEL, self._label),
            ),
        )  # fmt: skip

    def generate(self, module: Pkcs11Module, session: Session) -> bytes:
        """A new key's wrapped form; the key itself is gone again."""
        wrapping = self._wrapping_key(module, session)
        key = module.generate(session.handle, _AES_KEY_GEN, _NEW)
        try:
            wrapped = module.wrap(session.handle, _AES_KEY_WRAP, wrapping, key)
        finally:
            module.destroy(session.handle, key)
        if len(wrapped) != WRAPPED_BYTES:
            raise NoDataKeys("this token's AES key wrap is not that of RFC 3394")
        return wrapped

    def take(self, module: Pkcs11Module, session: Session, wrapped: bytes) -> int:
        """The key's handle, until `give_back`. KeyNotHere: it does not unwrap."""
        wrapping = self._wrapping_key(module, session)
        with self._lock:
            if kept := self._kept.get(wrapped):
                self._kept.move_to_end(wrapped)
                kept.users += 1
                return kept.handle
        try:
            handle = module.unwrap(session.handle, _AES_KEY_WRAP, wrapping, wrapped, _OPENED)
        except Pkcs11Error as error:
            if ckr.kind_of(error.code) in (ckr.Kind.DATA, ckr.Kind.AMBIGUOUS):
                raise KeyNotHere("a wrapped data key does not open in this token") from None
            raise
        with self._lock:
            if other := self._kept.get(wrapped):  # another thread was faster
                module.destroy(session.handle, handle)
                other.users += 1
                return other.handle
            self._kept[wrapped] = _Kept(handle, 1)
            self._shrink(module, session)
            return handle

    def give_back(self, module: Pkcs11Module, session: Session, wrapped: bytes) -> None:
        with self._lock:
            kept = self._kept.get(wrapped)
            if kept is not None and self._epoch == session.epoch:
                kept.users -= 1
                self._shrink(module, session)

    def _shrink(self, module: Pkcs11Module, session: Session) -> None:
        for wrapped in list(self._kept)[: max(len(self._kept) - _KEPT, 0)]:
            if self._kept[wrapped].users == 0:
                with contextlib.suppress(Pkcs11Error):
                    module.destroy(session.handle, self._kept[wrapped].handle)
                del self._kept[wrapped]

    def _wrapping_key(self, module: Pkcs11Module, session: Session) -> int:
        with self._lock:
            if self._epoch != session.epoch:
                self._kept.clear()  # the objects went with the sessions
                self._wrapping = 0
                self._epoch = session.epoch
            if not self._wrapping:
                self._wrapping = self._find(module, session.handle)
            if not self._wrapping:
                raise NoDataKeys(
                    f"the token has no wrapping key {self._label.decode()!r}; "
                    "`sealgate hsm init-wrapping` makes one"
                )
            return self._wrapping

    def _find(self, module: Pkcs11Module, session: int) -> int:
        try:
            return module.find_key(session, self._label, None)
        except ValueError as error:
            raise NoDataKeys(f"wrapping key {self._label.decode()}: {error}") from None
