"""`sealgate postgres …`: what an operator does to whole columns. Verify, and seal anew.

The policy sees principal `postgres:operator`; the server sees `postgres.catalog.user`, who needs SELECT, and
UPDATE for `reseal`, on the tables. Exit status 1 when a value does not open. Never shows a value.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.postgres.jobs.columns import ColumnJob, Estimate, Progress

T = TypeVar("T")
app = typer.Typer(name="postgres", no_args_is_help=True, help="Whole columns: verify, seal anew.")

_CONFIG = typer.Option(..., "--config", "-c", help="The configuration file.")
_COLUMNS = typer.Option([], "--column", help="schema.table.column; may be repeated. All without.")
_JSON = typer.Option(False, "--json", help="Print the result as JSON.")
_RATE = typer.Option(0.0, "--rows-per-second", min=0, help="0: no limit.")


@app.command("verify")
def verify(
    config: Path = _CONFIG,
    column: list[str] = _COLUMNS,
    rate: float = _RATE,
    as_json: bool = _JSON,
) -> None:
    """Open every value; name the rows of those that do not open."""
    _show(asyncio.run(_work(config, column, rate, False)), as_json)


@app.command("reseal")
def reseal(
    config: Path = _CONFIG,
    column: list[str] = _COLUMNS,
    rate: float = _RATE,
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Say how much, and how long, by a sample."
    ),
    as_json: bool = _JSON,
) -> None:
    """Seal anew what is under an old key, or without the search options of today's configuration.

    Clients may go on. What is done already is skipped, so a killed job is started again.
    """
    if dry_run:
        _show_estimates(
            asyncio.run(_each(config, column, rate, lambda job: job.estimate())), as_json
        )
        return
    from proxy.cli.acts import act
    from proxy.config.load import load

    target = ", ".join(column) or "all columns"
    work = partial(_work, config, column, rate, True)
    _show(act(load(config), "postgres reseal", target, lambda _: work()), as_json)


async def _work(path: Path, wanted: list[str], rate: float, write: bool) -> "list[Progress]":
    return await _each(
        path, wanted, rate, lambda job: (job.reseal if write else job.verify)(_report)
    )


async def _each(
    path: Path, wanted: list[str], rate: float, work: "Callable[[ColumnJob], Awaitable[T]]"
) -> "list[T]":
    """What `work` makes of the job of each column."""
    import structlog

    from proxy.config.load import load, rings_of
    from proxy.keys.build import open_keys
    from proxy.postgres.hosts import Hosts
    from proxy.postgres.jobs.columns import ColumnJob
    from proxy.postgres.site import Site

    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    loaded = load(path)
    if loaded.postgres is None:
        raise ConfigError(f"{path}: there is no section `postgres`")
    hosts = Hosts(loaded.postgres)
    keys = await open_keys(loaded.keys, loaded.policy, prewarm=rings_of(loaded))
    try:
        site = Site(loaded.postgres, keys, hosts)
        known = {".".join(name): found for name, found in site.snapshot.protected.items()}
        if missing := [name for name in wanted if name not in known]:
            raise ConfigError(f"--column {missing[0]}: not in postgres.columns")
        if moving := [name for name in wanted if known[name].migrating]:
            raise ConfigError(f"--column {moving[0]}: finish its migration first")
        known = {name: column for name, column in known.items() if not column.migrating}
        done = []
        for name in wanted or sorted(known):
            done.append(await work(ColumnJob(site, hosts, known[name], rate)))
        return done
    finally:
        await keys.close()


def _report(progress: "Progress") -> None:
    if sys.stderr.isatty():
        text = f"\r{progress.column}: {progress.rows} rows, {progress.resealed} sealed anew"
        typer.echo(text, nl=False, err=True)


def _show(done: "list[Progress]", as_json: bool) -> None:
    if sys.stderr.isatty():
        typer.echo(err=True)
    if as_json:
        typer.echo(json.dumps([asdict(p) for p in done], indent=1))
    for p in done if not as_json else []:
        typer.echo(
            f"{p.column}: {p.rows} values, {p.resealed} sealed anew, {len(p.damaged)} do not open"
        )
        for place in p.damaged:
            typer.echo(f"  {place['table']} ctid {place['ctid']} key {place['key'] or '-'}")
    if any(p.damaged for p in done):
        raise typer.Exit(1)


def _show_estimates(found: "list[Estimate]", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(e) for e in found], indent=1))
        return
    for e in found:
        typer.echo(
            f"{e.column}: about {e.rows} rows, {e.bytes} bytes; {e.stale:.0%} to be sealed anew, "
            f"about {e.seconds:.0f} s"
        )
