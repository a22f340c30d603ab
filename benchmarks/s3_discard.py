"""An origin for measuring memory: it throws away what is PUT, unseen, and says that all is well.

Bodies are discarded in the kernel (MSG_TRUNC), so that the proxy in front is all that is measured.
"""

import contextlib
import re
import socket
import threading
import time

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)
_ANSWER = (
    b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "d41d8cd98f00b204e9800998ecf8427e"\r\n\r\n'
)


class DiscardingOrigin:
    """Listens on `port` from the start; `bytes` counts what came."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.bytes = 0
        self.pause_seconds = 0.0  # before a body is taken
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        buffer, got = bytearray(1 << 20), b""
        with link, contextlib.suppress(OSError):  # a proxy that gives up
            while True:
                while (at := got.find(b"\r\n\r\n")) < 0:
                    piece = link.recv(65_536)
                    if not piece:
                        return
                    got += piece
                found = _LENGTH.search(got[: at + 2])
                left = int(found[1]) if found else 0
                self.bytes += left
                time.sleep(self.pause_seconds)
                body = got[at + 4 :]
                got, left = body[left:], left - min(left, len(body))
                while left:
                    n = link.recv_into(buffer, min(left, len(buffer)), socket.MSG_TRUNC)
                    if not n:
                        return
                    left -= n
                link.sendall(_ANSWER)
