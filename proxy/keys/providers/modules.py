"""Which PKCS #11 modules has this process loaded, and when may one be initialised anew?

A module is initialised once per process, whatever the number of its tokens that are used. Some
(SoftHSM) look for tokens only in C_Initialize, so that a token that was replaced is found again only
by C_Finalize and C_Initialize, which end every session of the module and must not happen while a
call is under way (v2.40: undefined). So: every call is counted; a reset first holds new calls back
and waits for those under way; it gives up if they do not end. Tokens see the new `generation`.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping

from proxy.keys.providers.base import CapabilityMissing, DeviceDown
from proxy.native import Pkcs11Error, Pkcs11Module

_DRAIN_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
_ENVIRONMENT = threading.Lock()
_LOADED: "dict[str, SharedModule]" = {}


class SharedModule:
    """One module and its users."""

    def __init__(self, path: str, parameters: str | None, environment: Mapping[str, str]) -> None:
        self.path = path
        self.parameters = parameters
        self.environment = dict(environment)
        self.generation = 0
        self._module: Pkcs11Module | None = None
        self._free = threading.Condition()
        self._calls = 0
        self._resetting = False
        self._not_before = 0.0
        self._pause = _FIRST_PAUSE_SECONDS
        self.users: set[int] = set()  # ids of tokens that are logged in

    @contextlib.contextmanager
    def use(self) -> Iterator[Pkcs11Module]:
        """The module, kept as it is meanwhile. Loads it at the first use."""
        with self._free:
            if not self._free.wait_for(lambda: not self._resetting, 2 * _DRAIN_SECONDS):
                raise DeviceDown(f"module {self.path} is being initialised")
            if self._module is None:
                self._module = self._load()
            self._calls += 1
        try:
            yield self._module
        finally:
            with self._free:
                self._calls -= 1
                self._free.notify_all()

    def reset(self, token: int, seen: int) -> bool:
        """Whether the module is a fresh one, since `seen`. Not within `use`.

        Users other than `token` pay with new sessions, so that one that stays away does not make
        them do so all the time: each reset that disturbs others doubles the pause before the next.
        """
        with self._free:
            if self.generation != seen:
                return True
            alone = not (self.users - {token})
            if self._module is None or self._resetting:
                return False
            if not alone and time.monotonic() < self._not_before:
                return False
            self._not_before = time.monotonic() + self._pause
            self._pause = min(self._pause * 2, _LONGEST_PAUSE_SECONDS)
            self._resetting = True
            try:
                if not self._free.wait_for(lambda: self._calls == 0, _DRAIN_SECONDS):
                    return False
                with _ENVIRONMENT:
                    os.environ.update(self.environment)
                    self._module.reinitialize()
                self.users.clear()
                self.generation += 1
                return True
            except Pkcs11Error as error:
                raise DeviceDown(str(error)) from None
            finally:
                self._resetting = False
                self._free.notify_all()

    def joined(self, token: int) -> None:
        """`token` is logged in."""
        with self._free:
            self.users.add(token)

    def well(self) -> None:
        """What was missing is there: the next reset need not wait."""
        with self._free:
            self._pause = _FIRST_PAUSE_SECONDS

    def left(self, token: int) -> None:
        with self._free:
            self.users.discard(token)

    def _load(self) -> Pkcs11Module:
        # The module reads its environment when it is initialised, e.g. SOFTHSM2_CONF.
        with _ENVIRONMENT:
            os.environ.update(self.environment)
            try:
                return Pkcs11Module(self.path, self.parameters)
            except (OSError, ValueError) as error:
                raise CapabilityMissing(str(error)) from None


def shared(path: str, parameters: str | None, environment: Mapping[str, str]) -> SharedModule:
    """The process's module of this path. CapabilityMissing if it is asked for in two ways."""
    with _ENVIRONMENT:
        known = _LOADED.get(path)
        if known is None:
            known = _LOADED[path] = SharedModule(path, parameters, environment)
    if known.parameters != parameters:
        raise CapabilityMissing(f"module {path} is configured with two module_parameters")
    if known._module is None:
        known.environment.update(environment)
    return known
