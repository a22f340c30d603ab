"""Free loopback ports below the ephemeral range, so that no outgoing connection takes one first."""

import random
import socket
import time

_FIRST, _LAST = 15000, 30000


def free_port(also: tuple[int, ...] = ()) -> int:
    """A port on which nothing listens now; with `also`, at these offsets neither."""
    for _ in range(500):
        port = random.SystemRandom().randrange(_FIRST, _LAST)
        if all(_free(port + offset) for offset in (0, *also)):
            return port
    raise OSError("no free loopback port")


def _free(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def wait_until_open(port: int, seconds: float) -> None:
    """Returns when something accepts on the port. TimeoutError."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"nothing listens on 127.0.0.1:{port} after {seconds:.0f} s")
