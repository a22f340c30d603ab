"""The embedded Seaweed of the product, as a part for tests."""

from proxy.runtime.embedded.seaweed import Seaweed

__all__ = ["Seaweed"]
