"""`sealgate migrate`: a column that holds data changes its form, in clear to sealed or back, under load."""

import asyncio
import json
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.postgres.jobs.filling import Filled
    from proxy.postgres.jobs.migrate import Estimate

LEFTOVERS = """\
Plaintext of this column is still in:
  - dead row versions of the table: VACUUM FULL, or pg_repack, rewrites it
  - the planner's statistics: ANALYZE; and pg_stat_statements, server logs
  - the write-ahead log and its archive, base backups, dumps, replicas: age them out, or destroy them"""


def migrate(
    column: str = typer.Argument(..., help="schema.table.column, with `state: migrating`."),
    config: Path = typer.Option(..., "--config", "-c", help="The configuration file."),
    to: Literal["sealed", "plain"] = typer.Option("sealed", "--to", help="The form to end in."),
    finish: bool = typer.Option(False, "--finish", help="Then drop the old form: no way back."),
    abort: bool = typer.Option(False, "--abort", help="Drop the form that clients do not use."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would be done, and how long."),
    throttle: float = typer.Option(0.0, "--throttle", min=0, help="Rows a second; 0: no limit."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Seal a column that holds data, or open one, while clients read and write it.

    Steps: add the other form beside the column, fill it, compare every value, switch, and, with --finish,
    drop the old form. Clients use one form until the switch and the other from then on. Without --finish
    both are kept in step, and --to plain leads back quickly.

    It may be killed at any moment: the same command goes on. Set `state: migrating` on the column in the
    configuration of every proxy first, and take it away when all is finished. See docs/how-to/migrate.md.
    """
    if abort and (finish or dry_run):
        raise typer.BadParameter("--abort goes with no other step")
    from proxy.cli.acts import act
    from proxy.config.load import load

    work = partial(_work, column, config, to == "sealed", finish, abort, dry_run, throttle)
    step = "--finish" if finish else "--abort" if abort else f"--to {to}"
    _show(
        asyncio.run(work())
        if dry_run
        else act(load(config), f"migrate {step}", column, lambda _: work()),
        as_json,
    )


async def _work(
    wanted: str, path: Path, sealed: bool, finish: bool, abort: bool, dry_run: bool, rate: float
) -> "dict[str, object] | Estimate":
    import structlog

    from proxy.config.load import load, rings_of
    from proxy.keys.build import open_keys
    from proxy.postgres.hosts import Hosts
    from proxy.postgres.jobs.migrate import Migration
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
        column = known.get(wanted)
        if column is None:
            raise ConfigError(f"{wanted}: not in postgres.columns")
        if not column.migrating:
            raise ConfigError(f"{wanted}: set `state: migrating` on it, for every proxy, first")
        job = Migration(site, hosts, column, rate, _Bar())
        if dry_run:
            return await job.estimate()
        at = await (job.abort() if abort else job.run(sealed, finish))
        filled = job.filling.filled
        return {
            "column": wanted, "form": "sealed" if at.sealed else "plain", "other_form": at.there,
            "filled": filled.rows, "compared": filled.compared,
        }  # fmt: skip
    finally:
        await keys.close()


class _Bar:
    """Says where it stands: on a terminal in one line, else a line for each phase."""

    def __init__(self) -> None:
        self._phase = ""
        self._at = 0.0

    def __call__(self, filled: "Filled") -> None:
        now = time.monotonic()
        new, self._phase = filled.phase != self._phase, filled.phase
        if not new and (not sys.stderr.isatty() or now - self._at < 0.2):
            return
        self._at = now
        text = f"{filled.phase}: {filled.rows} rows filled, {filled.compared} compared"
        typer.echo(
            f"\r\x1b[K{text}" if sys.stderr.isatty() else text, nl=not sys.stderr.isatty(), err=True
        )


def _show(result: "dict[str, object] | Estimate", as_json: bool) -> None:
    if sys.stderr.isatty():
        typer.echo(err=True)
    document = result if isinstance(result, dict) else asdict(result)
    if as_json:
        typer.echo(json.dumps(document, indent=1))
    elif isinstance(result, dict):
        typer.echo(f"{result['column']} is {result['form']}: {result['filled']} filled, "
                   f"{result['compared']} compared")  # fmt: skip
        if result["other_form"]:
            typer.echo("The other form is kept in step: --finish drops it, --to leads back to it.")
        elif result["form"] == "sealed":
            typer.echo(LEFTOVERS)
    else:
        typer.echo(f"{result.column} is {result.now}: about {result.rows} rows, {result.bytes} bytes, "
                   f"about {result.seconds:.0f} s")  # fmt: skip
        for text in result.obstacles:
            typer.echo(f"REFUSED  {text}")
        for text in result.warnings:
            typer.echo(f"note     {text}")
    if not isinstance(result, dict) and result.obstacles:
        raise typer.Exit(1)
