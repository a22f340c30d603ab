"""One worker: an event loop with the listeners of both protocols, and the key service.

I/O module. Started by the supervisor with its listening sockets already bound; says each second on
its status pipe how it is; drains on SIGTERM, or when the supervisor is gone.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from typing import Any

import structlog
import uvloop

from proxy import native
from proxy.config.load import load, rings_of
from proxy.config.model import Config
from proxy.config.secrets import resolve
from proxy.errors import SealgateError
from proxy.keys.build import open_keys, prepare_memory
from proxy.postgres.listener import PostgresListener
from proxy.runtime import logs
from proxy.s3.gateway import S3Gateway

EXIT_CONFIG = 4  # the supervisor does not start such a worker again
_BEAT_SECONDS = 1.0

log = structlog.get_logger("worker")


async def serve(config: Config, pg_fds: list[int], s3_fd: int, status_fd: int) -> None:
    """Runs until SIGTERM or until the supervisor is gone; then drains and wipes."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    loop.add_reader(sys.stdin.fileno(), _gone, loop, stop)
    keys = await open_keys(config.keys, config.policy, prewarm=rings_of(config))
    servers: list[PostgresListener | S3Gateway] = []
    try:
        if config.postgres and pg_fds:
            socks = [_socket(fd) for fd in pg_fds]
            servers.append(PostgresListener(config.postgres, keys, socks=socks))
        if config.s3 and s3_fd >= 0:
            gateway = S3Gateway(config.s3, keys, resolve_secret=resolve, sock=_socket(s3_fd))
            servers.append(gateway)
        for server in servers:
            await server.start()
        while not stop.is_set():
            health: dict[str, object] = {"keys": keys.health()}
            for server in servers:
                if isinstance(server, PostgresListener):
                    health["postgres"] = server.health()
            _say(status_fd, {"ready": True, "health": health})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _BEAT_SECONDS)
        _say(status_fd, {"ready": False, "draining": True})
        await asyncio.gather(*(server.drain(config.drain_seconds) for server in servers))
    finally:
        await keys.close()


def _gone(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """The supervisor holds the other end of standard input: its end is ours."""
    if not os.read(sys.stdin.fileno(), 1):
        loop.remove_reader(sys.stdin.fileno())
        stop.set()


def _socket(fd: int) -> socket.socket:
    made = socket.socket(fileno=fd)
    made.setblocking(False)
    return made


def _say(fd: int, what: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, json.dumps(what, default=str).encode() + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--pg-fd", type=int, action="append", default=[])
    parser.add_argument("--s3-fd", type=int, default=-1)
    parser.add_argument("--status-fd", type=int, required=True)
    options = parser.parse_args()
    try:
        config = load(options.config)
        logs.set_up(config.log, pid=os.getpid())
        native.harden_process()
        prepare_memory(config.keys)
        if os.environ.get("LD_BIND_NOW") != "1":
            log.warning("LD_BIND_NOW is not set: symbol binding may leave key bytes on the stack")
        uvloop.run(serve(config, options.pg_fd, options.s3_fd, options.status_fd))
    except SealgateError as error:
        _say(options.status_fd, {"ready": False, "error": str(error)})
        sys.exit(EXIT_CONFIG)


if __name__ == "__main__":
    main()
