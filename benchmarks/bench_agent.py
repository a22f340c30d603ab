"""What does the key agent add to a cold ring key? `python -m benchmarks.bench_agent`

The same SoftHSM token, asked by the provider alone and through the agent's socket, one key at a time
and sixteen together. Both sides of the socket share one process and one loop here, so the agent's
share is an upper bound of its CPU time, without the switch between two processes.
"""

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from proxy.audit.sink import MemorySink
from proxy.config.model import Config
from proxy.keys import build
from proxy.keys.agent.client import AgentProvider
from proxy.keys.agent.guard import Guard
from proxy.keys.agent.server import AgentServer
from proxy.native import KeyHandle
from proxy.runtime.embedded.softhsm import SoftHsm

_ROUNDS = 300


def _config(folder: Path) -> Config:
    hsm = SoftHsm(folder / "hsm")
    os.environ["SG_BENCH_PIN"] = hsm.pin
    return Config.model_validate(
        {
            "keys": {
                "provider": {
                    "kind": "pkcs11",
                    "module": hsm.module,
                    "token_label": hsm.token_label,
                    "pin": {"env": "SG_BENCH_PIN"},
                    "environment": hsm.env,
                },
                "store": {"kind": "file", "path": str(folder / "rings")},
                "allow_unlocked_memory": True,
            },
            "postgres": {
                "listen": "127.0.0.1:0",
                "upstream": "127.0.0.1:1",
                "database": "shop",
                "catalog": {"user": "app"},
                "columns": [{"column": "public.t.c", "type": "text", "ring": "app"}],
            },
        }
    )


async def _micros(one: Callable[[], Awaitable[KeyHandle]], together: int) -> float:
    """Microseconds per key, the best of three runs."""
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(_ROUNDS // together):
            for key in await asyncio.gather(*(one() for _ in range(together))):
                key.wipe()
        best = min(best, (time.perf_counter() - began) / (_ROUNDS // together * together))
    return best * 1e6


async def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = _config(folder)
        await build.init_root(config.keys)
        ring = await build.create_ring(config.keys, "app")
        record = ring.versions[0].wrapped
        assert record is not None
        bare = build.provider_of(config.keys)
        await bare.open()
        path = str(folder / "a.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(path)
            server = AgentServer(bare, Guard(config), call_seconds=5, audit=MemorySink())
            server.opened.set()
            server.start(listener, lambda pid, uid: "worker")
            agent = AgentProvider(path, "pkcs11", 5.0)
            for together in (1, 16):
                alone = await _micros(lambda: bare.unwrap_ring(record, "app", None), together)
                through = await _micros(lambda: agent.unwrap_ring(record, "app", None), together)
                print(
                    f"{together:2} at once: token {alone:6.0f} us, through the agent {through:6.0f} us "
                    f"per key (+{through - alone:.0f} us)"
                )
            await agent.close()
            server.close()
        await bare.close()


if __name__ == "__main__":
    asyncio.run(main())
