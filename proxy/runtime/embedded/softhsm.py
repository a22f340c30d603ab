"""A SoftHSM token of its own for the demo and the tests: a fresh folder, a fresh token."""

import os
import shutil
import subprocess
from pathlib import Path

_MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
)


class SoftHsm:
    """Attributes: module, token_label, pin, env (what its library must find in the environment)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token_label = "sealgate"
        self.pin = "246810"
        found = _module()
        if found is None:
            raise FileNotFoundError("no SoftHSM: apt-get install softhsm2")
        self.module = found
        tokens = folder / "tokens"
        tokens.mkdir(parents=True, exist_ok=True)
        conf = folder / "softhsm2.conf"
        conf.write_text(
            f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        self.env = {"SOFTHSM2_CONF": str(conf)}
        if not any(tokens.iterdir()):
            subprocess.run(
                [
                    "softhsm2-util",
                    "--init-token",
                    "--free",
                    "--label",
                    self.token_label,
                    "--pin",
                    self.pin,
                    "--so-pin",
                    "13579-so",
                ],
                env={**os.environ, **self.env},
                check=True,
                capture_output=True,
            )

    @staticmethod
    def available() -> bool:
        """Whether the library and its tool are installed, and nobody said not to use them."""
        if os.environ.get("SEALGATE_NO_SOFTHSM") == "1":
            return False
        return _module() is not None and shutil.which("softhsm2-util") is not None


def _module() -> str | None:
    named = os.environ.get("SEALGATE_SOFTHSM_MODULE")
    return next((m for m in (named, *_MODULES) if m and Path(m).exists()), None)
