"""proxy/keys/providers/threads.py: a call that hangs is known by when it was made, until it returns."""

import threading
import time

from proxy.keys.providers.threads import CallThreads


def test_a_call_left_behind_counts_as_hung_until_it_returns() -> None:
    threads = CallThreads(1, "test")
    under_way, free = threading.Event(), threading.Event()

    def work() -> None:
        under_way.set()
        free.wait(10)

    before = time.monotonic()
    job = threads.submit(work)
    assert under_way.wait(5)
    assert threads.hung_since is None
    assert threads.abandon(job)
    since = threads.hung_since
    assert since is not None
    assert before <= since <= time.monotonic()
    free.set()
    end = time.monotonic() + 5
    while threads.hung_since is not None:
        assert time.monotonic() < end
        time.sleep(0.005)
    threads.stop()
