"""What the connections of one listener share: configuration, catalogue, plans, keys.

The only part of a session's surroundings that awaits anything: `fulfil` does what a session
asked for with `pending`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.config.model import PostgresConfig
from proxy.postgres.upstream import Upstream

if TYPE_CHECKING:
    from proxy.keys.service import KeyService


class Site:
    def __init__(self, config: PostgresConfig, keys: KeyService, upstream: Upstream) -> None:
        self.config = config
        self.keys = keys
        self.upstream = upstream

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def protects(self, database: str) -> bool:
        """Whether statements in this database can touch anything protected."""
        return bool(self.config.columns) and database == self.config.database

    async def fulfil(self, need: object) -> object:
        raise NotImplementedError
