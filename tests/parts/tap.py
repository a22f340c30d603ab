"""A TCP forwarder in the middle of a leg: it records both directions, can cut and stall.

Runs in a thread of its own with plain sockets: it shares nothing with what it stands between.
"""

import contextlib
import socket
import threading
import time
from types import TracebackType


class Tap:
    """Forwards 127.0.0.1:`port` to `host:target`, keeping every byte of both directions.

    `to_server` and `to_client` are what was forwarded so far. `stall()` holds bytes back until
    `resume()`; `cut()` resets every connection that is open; `refuse` closes new ones at once.
    """

    def __init__(self, host: str, target: int, keep: bool = True) -> None:
        self._to = (host, target)
        self._keep = keep
        self.to_server = bytearray()
        self.to_client = bytearray()
        self.refuse = False
        self.connections = 0
        self._flow = threading.Event()
        self._flow.set()
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Tap":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        # a thread blocked in accept() keeps the port open unless the socket is shut down first
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._flow.set()
        self.cut()

    def stall(self) -> None:
        self._flow.clear()

    def resume(self) -> None:
        self._flow.set()

    def cut(self) -> None:
        with self._lock:
            doomed, self._open = self._open, []
        for link in doomed:
            with contextlib.suppress(OSError):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                link.shutdown(socket.SHUT_RDWR)
                link.close()

    def clear(self) -> None:
        """Forgets what was recorded."""
        self.to_server.clear()
        self.to_client.clear()

    def wait_for(self, needle: bytes, seconds: float = 5) -> bool:
        """Whether `needle` went to the server within this time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if needle in self.to_server:
                return True
            time.sleep(0.01)
        return False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.refuse:
                client.close()
                continue
            try:
                server = socket.create_connection(self._to, 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._open += [client, server]
            for source, sink, log in (
                (client, server, self.to_server),
                (server, client, self.to_client),
            ):
                threading.Thread(target=self._pump, args=(source, sink, log), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, log: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._flow.wait()
                if self._keep:
                    log += data
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
