"""A ring key comes through a real root into a key service: where is it while it lives, and after?

Complements test_proxy_memory.py, which asks the same of the whole proxy: here there is nothing but
the key service, a control is planted in the very process that is scanned, and both roots are tried.
"""

import hashlib
import hmac
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.memory.residue_child import DOMAIN, PURPOSES
from tests.memory.scanner import forms, scan
from tests.system.test_pkcs11 import HERE, MODULE

pytestmark = [
    pytest.mark.memory,
    pytest.mark.skipif(os.geteuid() != 0, reason="reading another process's memory needs root"),
]


def lp(text: str) -> bytes:
    return len(text.encode()).to_bytes(2, "big") + text.encode()


def column_key(ring: bytes, purpose: str) -> bytes:
    """RFC 5869 by the text of docs/reference/format.md."""
    info = lp("column") + lp(purpose) + lp(DOMAIN)
    prk = hmac.digest(b"sealgate/v1", ring, hashlib.sha256)
    return hmac.digest(prk, info + b"\x01", hashlib.sha256)


@pytest.mark.parametrize(
    "kind",
    [
        "software",
        pytest.param(
            "pkcs11",
            marks=pytest.mark.skipif(MODULE is None, reason="needs SoftHSM: no libsofthsm2.so"),
        ),
    ],
)
def test_a_ring_key_is_in_the_arena_while_it_lives_and_nowhere_after(
    kind: str, tmp_path: Path
) -> None:
    environment = prepared(tmp_path, kind)
    ring, control = os.urandom(32), os.urandom(32)
    subprocess.run(
        [sys.executable, "-m", "tests.memory.residue_child", "plant", str(tmp_path), kind],
        cwd=HERE, env=environment, input=ring.hex() + "\n", text=True, check=True, timeout=60,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    needles = forms("ring", ring)
    for purpose in PURPOSES:
        needles |= forms(purpose, column_key(ring, purpose))
    controls = {"control": control}
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.memory.residue_child", "hold", str(tmp_path), kind],
        cwd=HERE, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        tell(child, control.hex())
        until(child, "live")
        live = scan(child.pid, needles | controls)
        tell(child, "")
        until(child, "expired")
        expired = scan(child.pid, needles | controls)
        tell(child, "")
        assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait()
    hidden = [name for name in live.unreadable if "secretmem" in name]
    print(f"{kind}: live {live}, expired {expired}")
    assert live.scanned_bytes > 10 << 20
    assert "control" in {name for name, _ in live.hits}, "the scanner finds what is planted"
    assert "control" in {name for name, _ in expired.hits}
    found = [hit for hit in live.hits if hit[0] != "control"]
    if hidden:
        assert found == [], "with memfd_secret no copy can be read at all"
    else:
        # mlock: readable for root, and so the arena itself shows, in one mapping.
        assert {name for name, _ in found} >= {"ring/whole"}
        assert len({where for _, where in found}) == 1
    assert [hit for hit in expired.hits if hit[0] != "control"] == []


def prepared(directory: Path, kind: str) -> dict[str, str]:
    (directory / "tokens").mkdir()
    (directory / "softhsm2.conf").write_text(
        f"directories.tokendir = {directory}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    environment = {
        **os.environ,
        "LD_BIND_NOW": "1",  # lazy binding saves registers, and so keys, on the stack
        "SOFTHSM2_CONF": str(directory / "softhsm2.conf"),
        "SOFTHSM_MODULE": MODULE or "",
        "TOKEN_PIN": "1234",
    }
    if kind == "pkcs11":
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", "sealgate",
             "--so-pin", "12345678", "--pin", "1234"],
            env=environment, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    return environment


def tell(child: "subprocess.Popen[str]", line: str) -> None:
    assert child.stdin is not None
    child.stdin.write(line + "\n")
    child.stdin.flush()


def until(child: "subprocess.Popen[str]", word: str) -> None:
    """Reads lines (there are log lines between) until the child says the word."""
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip() == word:
            return
    raise AssertionError(f"the child ended before it said {word}")
