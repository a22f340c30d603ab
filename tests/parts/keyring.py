"""A key service over a software root in a temporary folder, with one ring `app`."""

import os
from collections.abc import Sequence
from pathlib import Path

from proxy.config.model import FileStore, KeysConfig, PolicyRule, SecretRef, SoftwareProvider
from proxy.keys.build import create_ring, init_root, open_keys, rotate_ring
from proxy.keys.service import KeyService


async def software_keys(
    folder: Path, policy: Sequence[PolicyRule] = (), **cache: float
) -> KeyService:
    config = _config(folder, cache)
    if not (folder / "root.sealed").exists():
        await init_root(config)
        await create_ring(config, "app")
    return await open_keys(config, policy)


async def rotated_keys(folder: Path) -> KeyService:
    """The keys of `software_keys`, their ring with one more version."""
    await rotate_ring(_config(folder, {}), "app")
    return await software_keys(folder)


def _config(folder: Path, cache: dict[str, float]) -> KeysConfig:
    os.environ["SG_TEST_PASSPHRASE"] = "a passphrase of the tests"
    return KeysConfig(
        provider=SoftwareProvider(
            kind="software",
            file=str(folder / "root.sealed"),
            passphrase=SecretRef(env="SG_TEST_PASSPHRASE"),
        ),
        store=FileStore(kind="file", path=str(folder / "rings")),
        cache=cache,  # type: ignore[arg-type]
        allow_unlocked_memory=True,
    )
