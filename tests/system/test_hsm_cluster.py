"""Several real tokens as one root, with faults under load; the scenarios stand in cluster_child.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.runtime.embedded.softhsm import _module
from tests.parts.faulty_hsm import SOFTOKN
from tests.system import cluster_child

MODULE = _module()

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        MODULE is None or shutil.which("softhsm2-util") is None,
        reason="needs SoftHSM: apt-get install softhsm2",
    ),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
    pytest.mark.skipif(
        SOFTOKN is None, reason="needs NSS as the second implementation: apt-get install libnss3"
    ),
]


@pytest.mark.parametrize("scenario", [s.__name__ for s in cluster_child.SCENARIOS])
def test_cluster_of_real_tokens(scenario: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.system.cluster_child", scenario,
         str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "SOFTHSM_MODULE": MODULE or "", "TOKEN_PIN": "246810"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    print(done.stdout[-4000:])
    assert done.returncode == 0, f"status {done.returncode}\n{done.stderr[-6000:]}"
    assert done.stdout.rstrip().endswith("done")
