"""The embedded Postgres of the product, as a part for tests."""

from proxy.runtime.embedded.postgres import Postgres

__all__ = ["Postgres"]
