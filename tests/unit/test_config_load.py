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


LISTEN, UPSTREAM = "listen: {port: 6432}", "upstream: {host: db.example.com, port: 5432}"


def test_addresses_are_texts_or_mappings_one_or_several() -> None:
    text = MINIMAL.replace(LISTEN, 'listen: ["unix:/run/x", "[::1]:6432"]').replace(
        UPSTREAM, "upstream: db.example.com:5433"
    )
    postgres = parse(text, "f", {}).postgres
    assert postgres is not None
    assert [str(a) for a in postgres.listen] == ["unix:/run/x", "[::1]:6432"]
    assert [(a.host, a.port) for a in postgres.upstream] == [("db.example.com", 5433)]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (UPSTREAM, "upstream: db.example.com", "has no port"),
        (LISTEN, LISTEN + "\n  auth: {mode: scram}", "users_file"),
        (LISTEN, LISTEN + "\n  auth: {mode: certificate}", "postgres.tls.clients"),
        (LISTEN, LISTEN + "\n  auth: {channel_binding: require}", "needs `postgres.tls:`"),
        (LISTEN, LISTEN + "\n  upstream_tls: {cert_file: a}", "both cert_file and key_file"),
        (LISTEN, "listen: {unix: /x, unix_mode: rwx}", "pattern"),
    ],
)
def test_settings_that_cannot_work_together_are_named(old: str, new: str, said: str) -> None:
    assert any(said in line for line in problems(MINIMAL.replace(old, new)))
