"""How does a call that may never return run beside the loop? In threads that can be left behind.

A C call cannot be cancelled. A caller that gave up says so (`abandon`); the thread is then no more
counted, another takes its place, and it ends when its call does. Only so many may hang: past that,
every new call is refused. Threads are daemons, so that a hung module does not keep the process.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

_HUNG_PER_THREAD = 4


class Job:
    """One call: its future, and whether somebody still waits for it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.future: Future[Any] = Future()
        self.abandoned = False
        self.began = time.monotonic()


class CallThreads:
    """At most `size` threads that are of use, made when they are needed."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._alive = 0
        self._made = 0
        self.hung = 0
        self._left: set[Job] = set()  # the hung calls

    @property
    def hung_since(self) -> float | None:
        """On the monotonic clock, when the oldest call was made that hangs; None: none does."""
        with self._lock:
            return min((job.began for job in self._left), default=None)

    @property
    def stuck(self) -> bool:
        """So many calls hang that no more are made until some return."""
        return self.hung >= self._size * _HUNG_PER_THREAD

    def submit(self, work: Callable[[], Any]) -> Job:
        job = Job(work)
        with self._lock:
            if self._alive < self._size:
                self._alive += 1
                self._made += 1
                threading.Thread(
                    target=self._serve, name=f"pkcs11-{self._name}-{self._made}", daemon=True
                ).start()
        self._jobs.put(job)
        return job

    def abandon(self, job: Job) -> bool:
        """Nobody waits for `job` any more. True: it was under way, and its thread is left behind."""
        if job.future.cancel():
            return False
        with self._lock:
            if job.future.done() or job.abandoned:
                return False
            job.abandoned = True
            self._alive -= 1
            self.hung += 1
            self._left.add(job)
            return True

    def stop(self) -> None:
        """Threads end after what is queued."""
        with self._lock:
            for _ in range(self._alive):
                self._jobs.put(None)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                result, error = job.work(), None
            except BaseException as raised:
                result, error = None, raised
            with self._lock:  # so that `abandon` sees it done, or this sees it abandoned
                if error is not None:
                    job.future.set_exception(error)
                else:
                    job.future.set_result(result)
                if job.abandoned:
                    self.hung -= 1
                    self._left.discard(job)
                    return
            del job, result, error
