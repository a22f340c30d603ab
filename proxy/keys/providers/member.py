"""How is one token used from the loop: with a deadline, a breaker, and a judgement of its state?

No call is made on the event loop's thread: a token may block for milliseconds or for ever, and a
failed call can leave an error in that thread's OpenSSL queue. A call that misses its deadline is
left behind and counts as the device's failure; what it may still bring is wiped.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from proxy import metrics
from proxy.config.hsm import Pkcs11Token
from proxy.errors import IntegrityError
from proxy.keys.breaker import Breaker, State
from proxy.keys.providers.base import (
    CapabilityMissing,
    CredentialRefused,
    DeviceDown,
    Overloaded,
)
from proxy.keys.providers.threads import CallThreads
from proxy.keys.providers.token import Session, Token
from proxy.keys.providers.token_keys import NoDataKeys, TokenKeys
from proxy.native import KeyHandle, Pkcs11Module

T = TypeVar("T")
_QUEUED_PER_SESSION = 64
_COOLDOWN_SECONDS = 1.0
_WEIGHT = 0.2  # of a new latency in the mean


class Member:
    """One token. `token` and `keys` are for its threads only; all else for the loop's."""

    def __init__(
        self,
        name: str,
        config: Pkcs11Token,
        pin: Callable[[], bytearray],
        check: Callable[[Pkcs11Module, Session, bytes], None],
    ) -> None:
        self.name = name
        self.config = config
        self.token = Token(config, pin, check)
        self.keys = TokenKeys(config.wrap_key_label.encode())
        self.breaker = Breaker(time.monotonic, cooldown_seconds=_COOLDOWN_SECONDS)
        self.threads = CallThreads(config.sessions, name)
        self.latency_seconds = 0.0
        self.suspect = False  # was slow or failed, and no probe has been well since
        self.last_used = 0
        self.in_flight = 0
        self.opened = False
        self.quarantine: str | None = None  # why it must not be used: another key, PIN, no key
        self.trouble = "not opened yet"
        self.checked_at = 0.0
        self.well = False  # the last probe

    @property
    def usable(self) -> bool:
        """Whether requests may be given to it."""
        return self.opened and self.quarantine is None and self.breaker.state is State.CLOSED

    @property
    def detail(self) -> str:
        """For the operator; holds no secret."""
        if self.quarantine is not None:
            return f"quarantined: {self.quarantine}"
        hung = f"; {self.threads.hung} calls hang" if self.threads.hung else ""
        if self.usable:
            return f"{'slow' if self.suspect else 'up'}, {self.latency_seconds * 1000:.1f} ms{hung}"
        return f"down: {self.trouble}{hung}"

    async def call(self, action: Callable[[Pkcs11Module, Session], T]) -> T:
        """`action` in one of its threads, with a session. Raises as in providers.base; Pkcs11Error
        (classes DATA and AMBIGUOUS) if `action` does not explain them."""
        return await self.run(lambda: self.token.call(action))

    async def open(self) -> None:
        await self.run(self.token.open)
        self.opened = True

    async def run(self, work: Callable[[], T]) -> T:
        """`work` in one of its threads; what it says about the device is noted."""
        if self.threads.stuck:
            raise DeviceDown(f"{self.threads.hung} calls hang in the module")
        if self.in_flight >= self.config.sessions * _QUEUED_PER_SESSION:
            raise Overloaded("too many calls wait for the token")
        began = time.monotonic()
        self.in_flight += 1
        job = self.threads.submit(work)
        outcome = "cancelled"
        try:
            result: T = await asyncio.wait_for(
                asyncio.wrap_future(job.future), self.config.call_timeout_seconds
            )
        except TimeoutError:
            job.future.add_done_callback(_wipe)
            seconds = f"{self.config.call_timeout_seconds:g} s"
            if not self.threads.abandon(job):
                outcome = "overloaded"
                raise Overloaded(f"no session was free for {seconds}") from None
            outcome = "device"
            self.failed(f"the token gave no answer within {seconds}")
            raise DeviceDown(self.trouble) from None
        except DeviceDown as error:
            outcome = "device"
            self.failed(str(error))
            raise
        except NoDataKeys:
            outcome = "unfit"
            self.breaker.neutral()
            raise
        except (CapabilityMissing, CredentialRefused) as error:
            outcome = "unfit"
            self.quarantine = str(error)
            self.breaker.neutral()
            raise
        except IntegrityError:
            outcome = "integrity"
            self.breaker.success()
            raise
        except asyncio.CancelledError:
            job.future.add_done_callback(_wipe)
            self.threads.abandon(job)
            self.breaker.neutral()
            raise
        except BaseException:
            outcome = "error"
            self.breaker.neutral()
            raise
        finally:
            self.in_flight -= 1
            metrics.hsm_member_calls_total.labels(self.name, outcome).inc()
        self.breaker.success()
        took = time.monotonic() - began
        self.latency_seconds += _WEIGHT * (took - self.latency_seconds)
        outcome = "ok"
        return result

    def failed(self, why: str) -> None:
        self.trouble = why
        self.suspect = True
        self.breaker.failure()

    async def probe(self, action: Callable[[Pkcs11Module, Session], Any]) -> bool:
        """Tries the token; whether it can be used again. Does not raise."""
        if self.breaker.state is not State.CLOSED and not self.breaker.admit():
            return False
        began = time.monotonic()
        try:
            await self.call(action)
        except Exception as error:
            self.checked_at = time.monotonic()
            self.well = False
            if not isinstance(error, CapabilityMissing | CredentialRefused):
                self.trouble = str(error)
            return False
        self.checked_at = time.monotonic()
        self.latency_seconds = self.checked_at - began
        self.quarantine = None
        self.opened = self.well = True
        self.suspect = False
        return True

    async def close(self) -> None:
        job = self.threads.submit(self.token.close)
        try:
            await asyncio.wait_for(
                asyncio.wrap_future(job.future), timeout=self.config.call_timeout_seconds
            )
        except (TimeoutError, DeviceDown):
            self.threads.abandon(job)  # a hung module keeps its threads; they are daemons
        finally:
            self.threads.stop()


def _wipe(done: "Future[Any]") -> None:
    """Nobody waits for this call any more: a key that it still brings is wiped."""
    if not done.cancelled() and done.exception() is None:
        result = done.result()
        if isinstance(result, KeyHandle):
            result.wipe()
