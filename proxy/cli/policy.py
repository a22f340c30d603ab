"""`sealgate policy`: what may whom, and why; and does the policy say what it was meant to?

Nothing here needs a server, a token or a key: only the configuration is read.
"""

import json
from pathlib import Path
from typing import Any

import typer
import yaml
from pydantic import ValidationError

from proxy.cli.check import checked
from proxy.config.policy import PolicyConfig
from proxy.errors import ConfigError
from proxy.policy.expectations import Case, asked, explanation, failure, word_of

app = typer.Typer(
    no_args_is_help=True,
    help="Who may open and seal what. Works on the configuration file alone.",
)
_CONFIG = typer.Option(..., "--config", "-c", help="The configuration file.")


@app.command()
def explain(
    who: str = typer.Argument(help="A principal: postgres:app, s3:reader, mtls:billing.example."),
    what: str = typer.Argument(
        help="column:<db>.<schema>.<table>.<column>, or bucket:<name>/<prefix>."
    ),
    config: Path = _CONFIG,
    action: str = typer.Option("open", help="open or seal."),
    client: str = typer.Option("", help="Its IP address; local: a Unix socket."),
    identity: str = typer.Option("", help="The name in its certificate."),
    purpose: str = typer.Option("", help="The purpose that it states."),
    at: str = typer.Option("", help="A moment: 2026-12-01T09:00:00+01:00. Default: now."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON document."),
) -> None:
    """Say what a principal gets, which rule decides, and what every other rule lacks.

    What is not given is not known: a rule that asks for a network does not match without --client.
    Exit status 0 whatever the answer is.
    """
    loaded = checked(config)
    document: dict[str, Any] = {
        "who": who, "what": what, "action": action, "client": client, "identity": identity,
        "purpose": purpose, "expect": "deny", "ring": _ring_of(loaded, what),
    }  # fmt: skip
    if at:
        document["at"] = at
    case = _case(document, "arguments")
    lines = explanation(case, loaded.policy)
    if as_json:
        typer.echo(json.dumps({"answer": lines[0].partition(":")[0], "why": lines}, indent=1))
        return
    for line in lines:
        typer.echo(line)


@app.command("test")
def run_cases(
    cases: Path = typer.Argument(
        help="A YAML list of cases; `sealgate policy test --help` shows one."
    ),
    config: Path = _CONFIG,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON document."),
) -> None:
    """Check a list of expectations; exit status 1 when one is not met.

    A case names who, what, and what is expected (allow, mask, null, ciphertext, deny); optionally
    action, mask, rule, client, identity, purpose, at:

    - {who: "postgres:support", what: "column:shop.public.people.card", expect: mask, mask: last4}
    """
    loaded = checked(config)
    failed: list[dict[str, Any]] = []
    found = _cases(cases)
    for place, document in found:
        document.setdefault("ring", _ring_of(loaded, str(document.get("what", ""))))
        case = _case(document, place)
        if (wrong := failure(case, loaded.policy)) is not None:
            failed.append({"case": place, "who": case.who, "what": case.what, "wrong": wrong})
    if as_json:
        typer.echo(json.dumps({"cases": len(found), "failed": failed}, indent=1))
    else:
        for one in failed:
            typer.echo(f"{one['case']}: {one['who']} {one['what']}: {one['wrong']}")
        typer.echo(f"{len(found) - len(failed)} of {len(found)} as expected")
    if failed:
        raise typer.Exit(1)


@app.command()
def show(
    config: Path = _CONFIG,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON document."),
) -> None:
    """Print a table: every principal that the rules name in full, against every column and bucket.

    Conditions are taken as not met where they ask for a network, an identity or a purpose.
    """
    loaded = checked(config)
    who = _named(loaded.policy)
    rows: list[dict[str, str]] = []
    for what, ring in _resources(loaded):
        for principal in who:
            answers = {}
            for action in ("open", "seal"):
                case = _case(
                    {
                        "who": principal,
                        "what": what,
                        "ring": ring,
                        "action": action,
                        "expect": "deny",
                    },
                    "policy",
                )
                answers[action] = _answer(case, loaded.policy)
            rows.append({"who": principal, "what": what, **answers})
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    widths = [max((len(r[k]) for r in rows), default=0) for k in ("what", "who", "open")]
    for row in rows:
        typer.echo(
            f"{row['what']:{widths[0]}}  {row['who']:{widths[1]}}  "
            f"open {row['open']:{widths[2]}}  seal {row['seal']}"
        )


def _answer(case: Case, policy: PolicyConfig) -> str:
    from proxy.policy.decide import Policy

    decision = Policy(policy).decide(*asked(case))
    mask = f" {decision.mask.pattern}" if decision.mask is not None else ""
    return f"{word_of(decision)}{mask}"


def _named(policy: PolicyConfig) -> list[str]:
    """Principals without a star, in the order in which they first appear."""
    found = dict.fromkeys(p for rule in policy.rules for p in policy.members(rule.principals))
    return [p for p in found if "*" not in p]


def _resources(loaded: Any) -> list[tuple[str, str]]:
    """Every column's and bucket's name for the policy, and its ring."""
    found: list[tuple[str, str]] = []
    if loaded.postgres:
        for column in loaded.postgres.columns:
            domain = column.domain or f"{loaded.postgres.database}.{column.column}"
            found.append((f"column:{domain}", column.ring))
    if loaded.s3:
        found += [(f"bucket:{b.bucket}/{b.prefix}", b.ring) for b in loaded.s3.buckets if b.ring]
    return found


def _ring_of(loaded: Any, what: str) -> str:
    return dict(_resources(loaded)).get(what, "")


def _cases(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Each case as written, with its place. ConfigError."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
        listed = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506 texts only
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if not isinstance(listed, list) or not all(isinstance(c, dict) for c in listed):
        raise ConfigError(f"{path}:1: a list of cases is expected")
    assert isinstance(node, yaml.SequenceNode)
    lines = [n.start_mark.line + 1 for n in node.value]
    return [(f"{path}:{line}", case) for line, case in zip(lines, listed, strict=True)]


def _case(document: dict[str, Any], place: str) -> Case:
    try:
        return Case.model_validate(document)
    except ValidationError as error:
        what = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{place}: {what}") from None
