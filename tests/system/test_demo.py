"""Does the show hold every claim, with an HSM and without?"""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.system, pytest.mark.slow]


@pytest.mark.parametrize("without_hsm", ["0", "1"])
def test_demo_holds_every_claim(without_hsm: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "proxy.cli.main", "demo", "--once", "--json"],
        env={**os.environ, "SEALGATE_NO_SOFTHSM": without_hsm},
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    said = json.loads(done.stdout)
    broken = {c["claim"]: c["seen"] for c in said["claims"] if not c["held"]}
    assert not broken
    assert done.returncode == 0
    if without_hsm == "1":
        assert said["root"] == "software"
