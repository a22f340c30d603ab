"""Does a configuration say everything that is wrong with it, and where?"""

from pathlib import Path

import pytest

from proxy.config.load import load, parse, rings_of
from proxy.errors import ConfigError

ROOT = Path(__file__).parents[2]
MINIMAL = (ROOT / "config" / "minimal.yaml").read_text()


def problems(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml", environ or {})
    return str(caught.value).splitlines()


@pytest.mark.parametrize("name", ["sealgate.yaml", "minimal.yaml"])
def test_shipped_examples_load(name: str) -> None:
    assert rings_of(load(ROOT / "config" / name, {})) == ["shop"]


def test_unknown_setting_is_named_with_its_line_and_the_likely_name() -> None:
    (said,) = problems(MINIMAL.replace("  upstream:", "  upstraem: {port: 1}\n  upstream:"))
    line = MINIMAL.splitlines().index("  upstream: {host: db.example.com, port: 5432}") + 1
    assert said.startswith(f"f.yaml:{line}:3: postgres.upstraem: "), said
    assert "did you mean 'upstream'?" in said


def test_all_problems_are_told_at_once() -> None:
    text = MINIMAL.replace("port: 6432", "port: six").replace("equality: true", "equality: maybe")
    said = problems(text)
    assert len(said) == 2, said
    assert "(got 'six')" in said[0]
    assert "(got 'maybe')" in said[1]


def test_duplicate_key_is_refused() -> None:
    assert any("is there twice" in line for line in problems(MINIMAL + "postgres: {}\n"))


def test_yaml_words_stay_strings() -> None:
    config = parse(MINIMAL.replace("database: shop", "database: no"), "f", {})
    assert config.postgres is not None
    assert config.postgres.database == "no"


def test_environment_overrides_the_file() -> None:
    config = parse(MINIMAL, "f", {"SEALGATE_KEYS__CACHE__MAX_AGE_SECONDS": "7"})
    assert config.keys.cache.max_age_seconds == 7.0


def test_broken_yaml_names_the_place() -> None:
    (said,) = problems("keys: [1,\n")
    assert said.startswith("f.yaml:2:1: not YAML"), said


def test_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.yaml", {})
