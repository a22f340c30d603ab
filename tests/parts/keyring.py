"""A key service over a software root in a temporary folder, with one ring `app`."""

import os
from pathlib import Path

from proxy.config.model import FileStore, KeysConfig, SecretRef, SoftwareProvider
from proxy.keys.build import create_ring, init_root, open_keys
from proxy.keys.service import KeyService


async def software_keys(folder: Path, **cache: float) -> KeyService:
    os.environ["SG_TEST_PASSPHRASE"] = "a passphrase of the tests"
    config = KeysConfig(
        provider=SoftwareProvider(
            kind="software",
            file=str(folder / "root.sealed"),
            passphrase=SecretRef(env="SG_TEST_PASSPHRASE"),
        ),
        store=FileStore(kind="file", path=str(folder / "rings")),
        cache=cache,  # type: ignore[arg-type]
        allow_unlocked_memory=True,
    )
    if not (folder / "root.sealed").exists():
        await init_root(config)
        await create_ring(config, "app")
    return await open_keys(config, ())
