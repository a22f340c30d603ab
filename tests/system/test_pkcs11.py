"""The pkcs11 provider against a real SoftHSM; the scenarios stand in pkcs11_child.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system import pkcs11_child

MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
)
MODULE = next((path for path in MODULES if os.path.exists(path)), None)
HERE = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(MODULE is None, reason="needs SoftHSM: libsofthsm2.so is not installed"),
    pytest.mark.skipif(
        shutil.which("softhsm2-util") is None, reason="needs SoftHSM: softhsm2-util is missing"
    ),
]


@pytest.mark.parametrize("scenario", [s.__name__ for s in pkcs11_child.SCENARIOS])
def test_with_a_real_token(scenario: str, tmp_path: Path) -> None:
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(
        f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    environment = {
        **os.environ,
        "SOFTHSM2_CONF": str(tmp_path / "softhsm2.conf"),
        "SOFTHSM_MODULE": MODULE or "",
        "TOKEN_PIN": "1234",
    }
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.system.pkcs11_child", scenario,
         str(tmp_path)],
        cwd=HERE, env=environment, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    print(done.stdout[-4000:])
    assert done.returncode == 0, f"status {done.returncode}\n{done.stderr[-6000:]}"
    assert done.stdout.rstrip().endswith("done")
    for secret in ("1234", "4321"):
        assert f"PIN {secret}" not in done.stdout + done.stderr
