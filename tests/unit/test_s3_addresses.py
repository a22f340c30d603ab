"""Where does a client of the S3 gateway come from? The policy's networks rest on it."""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from proxy.s3.wire import Wire


class _Noted(Wire):
    """Keeps the address it was made with, and whether bytes came after it."""

    made: list["_Noted"] = []

    def __init__(self) -> None:
        super().__init__(bytearray(4096), 4096)
        self.made.append(self)

    def head_received(self, head: bytes) -> None:
        raise AssertionError

    def broken(self, error: BaseException) -> None:
        raise AssertionError

    def lost(self, error: BaseException | None) -> None:
        """Nothing is under way."""


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the condition never came true")


async def _over_tcp(reset: bool) -> _Noted:
    _Noted.made.clear()
    server = await asyncio.get_running_loop().create_server(_Noted, "127.0.0.1", 0)
    link = socket.create_connection(server.sockets[0].getsockname())
    link.sendall(b"GET / HTTP/1.1\r\n")
    if reset:  # before the loop has accepted it
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        link.close()
    await _until(lambda: bool(_Noted.made) and _Noted.made[0].received_bytes > 0)
    link.close()
    server.close()
    return _Noted.made[0]


async def _over_unix(path: Path) -> _Noted:
    _Noted.made.clear()
    server = await asyncio.get_running_loop().create_unix_server(_Noted, str(path))
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(path))
        await _until(lambda: bool(_Noted.made))
    server.close()
    return _Noted.made[0]


Runner = Callable[[Coroutine[Any, Any, _Noted]], _Noted]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_client_has_its_address_and_one_on_a_unix_socket_is_local(
    run: Runner, tmp_path: Path
) -> None:
    assert run(_over_tcp(reset=False)).client_address == "127.0.0.1"
    assert run(_over_unix(tmp_path / "s")).client_address == "local"


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_client_that_resets_its_connection_is_not_taken_for_a_local_one(run: Runner) -> None:
    """Its request is still read, and may write."""
    assert run(_over_tcp(reset=True)).client_address in ("", "127.0.0.1")
