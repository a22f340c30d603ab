"""What the commands of a ceremony take from a terminal, and what they tell before they do it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy import native
from proxy.cli.ceremony_input import absent
from proxy.errors import ConfigError
from proxy.keys.ceremony import custodian


def enrol(folder: Path, *lines: str) -> tuple[int, str]:
    """`ceremony enrol` at a terminal, at whose prompts these lines are typed: status, what it said."""
    master, slave = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "proxy.cli.main", "ceremony", "enrol", "ada", "--key", "ada.key",
         "-o", "ada.json"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
    ) as running:  # fmt: skip
        assert running.stderr is not None
        said = b""
        for line in lines:
            while not said.endswith(b": "):
                said += running.stderr.read(1)
            os.write(master, line.encode() + b"\n")
            said += running.stderr.read(1)
        _, rest = running.communicate(timeout=60)
    os.close(master)
    os.close(slave)
    return running.returncode, (said + rest).decode()


def test_a_new_passphrase_is_typed_twice_and_opens_the_key(tmp_path: Path) -> None:
    status, said = enrol(tmp_path, "battery staple", "battery staple")
    assert status == 0, said
    assert "battery" not in said
    typed = bytearray(b"battery staple")
    with custodian.opened(tmp_path / "ada.key", typed) as signer:
        person = custodian.parse_enrolment((tmp_path / "ada.json").read_bytes())
        assert person.sign == signer.public[0]
    native.wipe(typed)


def test_a_slip_in_a_new_passphrase_seals_nothing(tmp_path: Path) -> None:
    status, said = enrol(tmp_path, "battery staple", "battery stable")
    assert status != 0
    assert "not the same" in said
    assert os.listdir(tmp_path) == []


def test_what_is_there_is_told_of_before_anything_is_done(tmp_path: Path) -> None:
    there = tmp_path / "ada.json"
    there.touch()
    with pytest.raises(ConfigError, match="there already"):
        absent(tmp_path / "ben.json", there)
    status, said = enrol(tmp_path)
    assert status != 0
    assert "there already" in said
    assert os.listdir(tmp_path) == ["ada.json"]
