"""A part of the outside suites in CI; the whole of them is `python -m tests.transparency`."""

from pathlib import Path

import pytest

from tests.transparency.outcome import count
from tests.transparency.stand import compare
from tests.transparency.suites import SUITES

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("name", ["asyncpg", "sqlalchemy-psycopg"])
def test_an_outside_suite_sees_no_proxy(name: str, tmp_path: Path) -> None:
    suite = SUITES[name]
    try:
        folder = suite.fetch(tmp_path, None)
    except Exception as missing:  # the registry is not there
        pytest.skip(f"no source distribution of {name}: {missing}")
    result = compare(suite, folder, suite.bounded)
    passed = count(result.outcomes["proxied"]).get("passed", 0)
    print(f"{name}: {passed} pass on both sides, unsteady by themselves: {result.unsteady}")
    assert not result.different
    assert passed > 50
