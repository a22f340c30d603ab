"""Would we get everything back? Every version of every ring, opened with the configured root."""

from dataclasses import dataclass

from proxy.config.model import KeysConfig
from proxy.crypto import kdf
from proxy.errors import IntegrityError
from proxy.keys import build
from proxy.keys.providers.base import Provider
from proxy.keys.record import ring_context
from proxy.keys.ring import Ring, State, Version


@dataclass(frozen=True, slots=True)
class Trial:
    ring: str
    version: int
    outcome: str
    lost: bool  # sealed data of this version could not be recovered


async def try_rings(config: KeysConfig) -> list[Trial]:
    """One line for each version, in order of ring and number. Raises what opening the root does."""
    rings = await build.list_rings(config)
    build.prepare_memory(config)
    provider = build.provider_of(config)
    try:
        await provider.open()
        return [await _try(provider, ring, v) for ring in rings for v in ring.versions]
    finally:
        await provider.close()


async def _try(provider: Provider, ring: Ring, version: Version) -> Trial:
    if version.wrapped is None:
        return Trial(ring.name, version.number, f"{State.DESTROYED.value}: nothing to open", False)
    try:
        key = await provider.unwrap(version.wrapped, ring_context(ring.name))
    except IntegrityError as error:
        return Trial(ring.name, version.number, str(error), True)
    try:
        same = kdf.ring_version_id(key) == version.key_id
    finally:
        key.wipe()
    return Trial(ring.name, version.number, "opens" if same else "opens to another key", not same)
