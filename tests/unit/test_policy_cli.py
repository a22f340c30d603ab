"""`sealgate policy explain | test | show` on a configuration of its own."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from proxy.cli.policy import app
from proxy.errors import ConfigError
from tests.unit.test_config_load import MINIMAL

POLICY = """
policy:
  groups:
    support: ["postgres:support", "postgres:night"]
  rules:
    - {principals: ["postgres:app"], resources: ["column:*"]}
    - principals: ["group:support"]
      resources: ["column:shop.public.people.email"]
      actions: [open]
      effect: mask
      mask: email
      when: {purposes: ["case-*"]}
"""
EMAIL = "column:shop.public.people.email"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sealgate.yaml"
    path.write_text(MINIMAL + POLICY)
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


def test_explain_says_which_rule_decides_and_what_the_others_lack(config: Path) -> None:
    said = run("explain", "postgres:support", EMAIL, "-c", config, "--purpose", "case-9").output
    assert said.splitlines() == [
        "mask email: rule 1 is the strictest that matches",
        "rule 0 (allow) does not match: principal",
        "rule 1 (mask) matches",
    ]
    said = run("explain", "postgres:support", EMAIL, "-c", config).output
    assert said.startswith("deny: no rule matches")
    assert "rule 1 (mask) does not match: purpose" in said


def test_show_lists_whoever_the_rules_name(config: Path) -> None:
    rows = json.loads(run("show", "-c", config, "--json").output)
    assert {(r["who"], r["open"], r["seal"]) for r in rows if r["what"] == EMAIL} == {
        ("postgres:app", "allow", "allow"),
        ("postgres:support", "deny", "deny"),
        ("postgres:night", "deny", "deny"),
    }


def test_cases_that_are_not_met_are_told_with_their_lines(config: Path, tmp_path: Path) -> None:
    cases = tmp_path / "cases.yaml"
    cases.write_text(
        f'- {{who: "postgres:app", what: "{EMAIL}", expect: allow, rule: 0}}\n'
        f'- {{who: "postgres:night", what: "{EMAIL}", purpose: case-1, expect: mask, mask: last4}}\n'
        f'- {{who: "postgres:eve", what: "{EMAIL}", expect: allow}}\n'
    )
    done = run("test", cases, "-c", config)
    assert done.exit_code == 1
    assert (
        f"{cases}:2: postgres:night {EMAIL}: expected mask last4, got email by rule 1"
        in done.output
    )
    assert f"{cases}:3: postgres:eve {EMAIL}: expected allow, got deny by no rule" in done.output
    assert done.output.endswith("1 of 3 as expected\n")


def test_a_case_that_is_no_case_is_named(config: Path, tmp_path: Path) -> None:
    cases = tmp_path / "cases.yaml"
    cases.write_text("- {who: app, what: 'column:x', expect: maybe}\n")
    done = run("test", cases, "-c", config)
    assert isinstance(done.exception, ConfigError)
    assert f"{cases}:1: who:" in str(done.exception) and "expect:" in str(done.exception)
