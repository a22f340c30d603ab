"""A PostgresListener on a thread with a loop of its own, so that blocking clients can use it."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

import uvloop

from proxy.config.model import PostgresConfig
from proxy.postgres.listener import PostgresListener


class Listening:
    """`keys` is made on the loop, from a coroutine, and closed with the listener."""

    def __init__(
        self,
        config: PostgresConfig,
        keys: Callable[[], Coroutine[Any, Any, Any]] | None = None,
    ) -> None:
        self._config = config
        self._make_keys = keys
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=lambda: uvloop.run(self._main()), daemon=True)

    def __enter__(self) -> "Listening":
        self._thread.start()
        assert self._ready.wait(30)
        if self._error is not None:
            raise self._error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs `work` on the listener's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.keys = None if self._make_keys is None else await self._make_keys()
        try:
            self.listener = PostgresListener(self._config, self.keys)  # type: ignore[arg-type]
            await self.listener.start()
            address = self.listener.address
            self.port = address[1] if isinstance(address, tuple) else 0
        except BaseException as error:
            self._error = error
            self._ready.set()
            return
        self._ready.set()
        await self._stop.wait()
        await self.listener.drain(0)
        if self.keys is not None:
            await self.keys.close()
