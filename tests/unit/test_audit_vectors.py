"""The chain's format does not change: committed lines are made again, and verified by others."""

import json
from pathlib import Path

from tests.parts.audited import verify
from tests.parts.small_verifier import check, master_of
from tests.vectors.audit import FILE, made

VECTORS = json.loads(FILE.read_text())


def test_the_same_keys_give_the_same_lines() -> None:
    assert made() == VECTORS


def test_the_committed_lines_verify(tmp_path: Path) -> None:
    for name, lines in VECTORS["files"].items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    report = verify(tmp_path)
    assert not report.findings
    assert not report.notes
    assert check(tmp_path, master_of(bytes.fromhex(VECTORS["ring_key"]))) == report.lines
