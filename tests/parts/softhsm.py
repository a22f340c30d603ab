"""The embedded SoftHsm of the product, as a part for tests."""

from proxy.runtime.embedded.softhsm import SoftHsm

__all__ = ["SoftHsm"]
