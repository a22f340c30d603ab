"""proxy/cli/keys.py: what an operator types, and what a program reads."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from proxy.cli.keys import app
from proxy.errors import ConfigError
from proxy.keys.providers.base import CredentialRefused
from proxy.keys.stores.base import StoreConflict


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TEST_PASSPHRASE", "correct horse")
    path = tmp_path / "sealgate.yaml"
    provider = {
        "kind": "software",
        "file": f"{tmp_path}/root.json",
        "passphrase": {"env": "TEST_PASSPHRASE"},
    }
    keys = {
        "provider": provider,
        "store": {"kind": "file", "path": f"{tmp_path}/rings"},
        "allow_unlocked_memory": True,
    }
    postgres = {
        "listen": {"port": 0},
        "upstream": {"port": 5432},
        "database": "shop",
        "catalog": {"user": "sealgate"},
    }
    path.write_text(json.dumps({"keys": keys, "postgres": postgres}))
    yield path
    structlog.reset_defaults()


def run(config: Path, *words: str) -> str:
    result = CliRunner().invoke(app, [*words, "--config", os.fspath(config)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_init_makes_root_and_rings_once(config: Path) -> None:
    first = json.loads(run(config, "init", "--ring", "app", "--json"))
    second = json.loads(run(config, "init", "--ring", "app", "--ring", "docs", "--json"))
    assert (first["created"], second["created"]) == (True, False)
    assert first["root_id"] == second["root_id"]
    assert [r["created"] for r in second["rings"]] == [False, True]


def test_a_ring_goes_through_its_life(config: Path) -> None:
    run(config, "init", "--ring", "app")
    run(config, "rotate", "app")
    run(config, "disable", "app", "1")
    run(config, "enable", "app", "1")
    run(config, "disable", "app", "1")
    run(config, "destroy", "app", "1", "--confirm", "app")
    shown = json.loads(run(config, "show", "app", "--json"))
    assert [v["state"] for v in shown["versions"]] == ["destroyed", "active"]
    assert [e["event"] for e in shown["history"]] == [
        "create", "rotate", "disabled", "retired", "disabled", "destroyed",
    ]  # fmt: skip
    assert json.loads(run(config, "list", "--json")) == [shown]
    assert "active 2" in run(config, "list")
    assert "destroyed" in run(config, "show", "app")


@pytest.mark.parametrize(
    "words",
    [
        ("show", "nothing"),
        ("rotate", "nothing"),
        ("create", "../x"),
        ("disable", "app", "9"),
        ("enable", "app", "1"),
        ("destroy", "app", "1", "--confirm", "app"),
        ("destroy", "app", "1", "--confirm", "other"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_is_said(config: Path, words: tuple[str, ...]) -> None:
    run(config, "init", "--ring", "app")
    with pytest.raises(ConfigError):
        run(config, *words)


def test_a_ring_is_not_made_twice(config: Path) -> None:
    run(config, "init", "--ring", "app")
    with pytest.raises(StoreConflict):
        run(config, "create", "app")


def test_a_wrong_passphrase_changes_nothing(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(config, "init", "--ring", "app")
    monkeypatch.setenv("TEST_PASSPHRASE", "wrong")
    with pytest.raises(CredentialRefused):
        run(config, "rotate", "app")
    assert json.loads(run(config, "show", "app", "--json"))["generation"] == 1


def test_no_answer_shows_a_wrapped_key(config: Path) -> None:
    run(config, "init", "--ring", "app")
    document = json.loads((config.parent / "rings" / "app.ring.json").read_text())
    wrapped = document["versions"][0]["wrapped"]
    for words in (("show", "app"), ("show", "app", "--json"), ("list", "--json")):
        assert wrapped not in run(config, *words)
