"""What an outside suite said, per test, and where two runs of it differ."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

Outcomes = Mapping[str, str]  # test id -> passed, failed, error, skipped

# What a test's name may carry of the machine or the moment.
_VOLATILE = re.compile(r"(?<=port=)\d+|0x[0-9a-f]+|127\.0\.0\.1[:_]\d+|localhost[:_]\d+")


def from_junit(path: Path) -> dict[str, str]:
    """Outcome of each test case of a JUnit file. One id that ran several times keeps its worst."""
    order = ["passed", "skipped", "failed", "error"]
    found: dict[str, str] = {}
    for case in ET.parse(path).getroot().iter("testcase"):  # noqa: S314 written by our own run
        name = _VOLATILE.sub("*", f"{case.get('classname')}::{case.get('name')}")
        said = "passed"
        for child, word in (("skipped", "skipped"), ("failure", "failed"), ("error", "error")):
            if case.find(child) is not None:
                said = word
        found[name] = max(found.get(name, said), said, key=order.index)
    return found


def difference(direct: Outcomes, proxied: Outcomes) -> dict[str, tuple[str, str]]:
    """Test id -> (outcome directly, outcome through the proxy), where these are not the same."""
    return {
        name: (direct.get(name, "absent"), proxied.get(name, "absent"))
        for name in sorted({*direct, *proxied})
        if direct.get(name) != proxied.get(name)
    }


def count(outcomes: Outcomes) -> dict[str, int]:
    kinds = ("passed", "failed", "error", "skipped")
    values = list(outcomes.values())
    return {kind: values.count(kind) for kind in kinds if kind in values}
