"""`sealgate check`: is this configuration sound, and what will leak under it?"""

import json
from pathlib import Path

import typer

from proxy.config.model import Config
from proxy.errors import ConfigError


def check(
    config: Path = typer.Option(..., "--config", "-c", help="The configuration file."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
    online: bool = typer.Option(
        False, "--online", help="Also ask the origins of sealed buckets what they honour."
    ),
) -> None:
    """Check a configuration: every problem at once, each with file, line and what to write instead.

    Then says, column by column, what the cloud will learn. Exit status 4 if anything is wrong.
    """
    from proxy.policy.leakage import findings

    loaded = checked(config)
    columns = loaded.postgres.columns if loaded.postgres else ()
    leaks = findings(columns)
    missing = _missing(config, loaded) if online else {}
    if as_json:
        document = {"ok": True, "leakage": [vars_of(f) for f in leaks]}
        if online:
            document["missing"] = missing
        typer.echo(json.dumps(document, indent=1))
        return
    typer.echo(f"{config}: sound")
    for finding in leaks:
        typer.echo(f"  {finding.column}: {finding.text}")
    for bucket, names in missing.items():
        typer.echo(f"  {bucket}: its origin lacks {', '.join(names) if names else 'nothing'}")


def _missing(path: Path, loaded: Config) -> dict[str, list[str]]:
    """By bucket with a whole name that is not plain: what its origin does not honour."""
    from proxy.cli.s3 import capabilities

    rules = loaded.s3.buckets if loaded.s3 else ()
    names = {r.bucket for r in rules if r.state != "plain" and not r.bucket.endswith("*")}
    return {n: [c.name for c in capabilities(path, n) if not c.good] for n in sorted(names)}


def vars_of(finding: object) -> dict[str, str]:
    names = getattr(type(finding), "__dataclass_fields__", {})
    return {name: str(getattr(finding, name)) for name in names}


def checked(path: Path) -> Config:
    """The configuration, its types resolved and its leakage acknowledged. ConfigError."""
    from proxy.config.load import load
    from proxy.policy.leakage import refusals
    from proxy.postgres.searches import search_of
    from proxy.postgres.types.registry import resolve

    loaded = load(path)
    problems = []
    columns = loaded.postgres.columns if loaded.postgres else ()
    for i, column in enumerate(columns):
        try:
            resolve(column.type)
        except ConfigError as error:
            problems.append(f"{path}: postgres.columns.{i}.type: {error}")
            continue
        try:
            search_of(column)
        except ConfigError as error:
            problems.append(f"{path}: {error}")
    problems += [f"{path}: {f.column}: {f.text}" for f in refusals(columns)]
    if problems:
        raise ConfigError("\n".join(problems))
    return loaded
