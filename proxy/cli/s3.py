"""`sealgate s3 …`: what an operator does to whole buckets. Seal, open, check, re-wrap, tidy up.

Jobs read and write through the gateway's own operations; the policy sees principal `s3:operator`.
Exit status 1 when an object failed. `--json` prints one document to standard output.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.s3.jobs.engine import Engine
    from proxy.s3.jobs.journal import Progress
    from proxy.s3.jobs.probe import Capability
    from proxy.s3.jobs.runner import Work

T = TypeVar("T")
app = typer.Typer(name="s3", no_args_is_help=True, help="Whole buckets: seal, verify, tidy up.")

_WHERE = typer.Argument(..., help="s3://bucket or s3://bucket/prefix")
_CONFIG = typer.Option(..., "--config", "-c", help="The configuration file.")
_JSON = typer.Option(False, "--json", help="Print the result as JSON.")
_JOURNAL = typer.Option(None, "--journal", help="File that a killed job goes on from.")
_PARALLEL = typer.Option(8, "--parallel", min=1, max=256, help="Objects at a time.")
_RATE = typer.Option(0.0, "--max-mib-per-second", min=0, help="0: no limit.")
_DRY = typer.Option(False, "--dry-run", help="Only say what would be done.")


@app.command("migrate")
def migrate(
    where: str = _WHERE,
    config: Path = _CONFIG,
    to: str = typer.Option("", "--to", help="Another bucket or prefix; without it in place."),
    verify: bool = typer.Option(False, "--verify", help="Read every object back and compare."),
    quiet: bool = typer.Option(
        False, "--nobody-writes", help="I promise; needed where the origin ignores conditions."
    ),
    journal: Path | None = _JOURNAL,
    parallel: int = _PARALLEL,
    rate: float = _RATE,
    dry_run: bool = _DRY,
    as_json: bool = _JSON,
) -> None:
    """Seal what is in a bucket, in place (it has to be `mixed`) or into another one.

    From a sealed into a plain bucket it opens instead. What is done already is skipped.
    """
    bucket, prefix = _place(where)

    async def work(engine: "Engine") -> "Progress":
        from proxy.s3.jobs.migrate import Migration

        target, below = _place(to) if to else ("", None)
        job = Migration(engine, bucket, prefix, target, below, dry_run=dry_run, verify=verify)
        if job.in_place and not quiet and not dry_run:
            await _need(engine, bucket, ("put-if-match",))
        name = f"migrate {where} {to}"
        return await _every(
            engine, bucket, prefix, job.work, journal, name, parallel, rate, dry_run
        )

    moved = _with_engine(config, work, "" if dry_run else "s3 migrate", f"{where} {to}".strip())
    _report(moved, as_json, "would be sealed" if dry_run else "moved")


@app.command("verify")
def verify(
    where: str = _WHERE,
    config: Path = _CONFIG,
    journal: Path | None = _JOURNAL,
    parallel: int = _PARALLEL,
    rate: float = _RATE,
    as_json: bool = _JSON,
) -> None:
    """Open every object to its last byte and name those that do not open."""
    bucket, prefix = _place(where)

    async def work(engine: "Engine") -> "Progress":
        from proxy.s3.jobs.verify import Verification

        job = Verification(engine, bucket)
        name = f"verify {where}"
        return await _every(engine, bucket, prefix, job.work, journal, name, parallel, rate)

    _report(_with_engine(config, work), as_json, "opened")


@app.command("rotate")
def rotate(
    where: str = _WHERE,
    config: Path = _CONFIG,
    quiet: bool = typer.Option(
        False, "--nobody-writes", help="I promise; needed where the origin ignores conditions."
    ),
    journal: Path | None = _JOURNAL,
    parallel: int = _PARALLEL,
    rate: float = _RATE,
    dry_run: bool = _DRY,
    as_json: bool = _JSON,
) -> None:
    """Wrap object keys under the ring's active version again; needed before an old one is destroyed."""
    bucket, prefix = _place(where)

    async def work(engine: "Engine") -> "Progress":
        from proxy.s3.jobs.rotate import Rotation

        if not quiet and not dry_run:
            await _need(engine, bucket, ("copy-source-if-match", "copy-if-match"))
        job = Rotation(engine, bucket, dry_run)
        name = f"rotate {where}"
        return await _every(
            engine, bucket, prefix, job.work, journal, name, parallel, rate, dry_run
        )

    _report(
        _with_engine(config, work, "" if dry_run else "s3 rotate", where),
        as_json,
        "would be wrapped again" if dry_run else "wrapped again",
    )


@app.command("gc")
def gc(
    where: str = typer.Argument(..., help="s3://bucket"),
    config: Path = _CONFIG,
    hours: float = typer.Option(24 * 7, "--older-than-hours", min=0, help="Younger ones are kept."),
    delete: bool = typer.Option(False, "--delete", help="Remove them; without it they are named."),
    as_json: bool = _JSON,
) -> None:
    """Find old unfinished uploads and stashed parts without upload, and remove them."""
    bucket, _ = _place(where)

    async def work(engine: "Engine") -> list[dict[str, str]]:
        from proxy.s3.jobs import collect

        found = await collect.find(engine, bucket, timedelta(hours=hours), datetime.now(UTC))
        for left in found if delete else ():
            await collect.remove(engine, bucket, left)
        return [{"key": x.key, "upload": x.upload_id, "since": x.since.isoformat()} for x in found]

    found = _with_engine(config, work, "s3 gc --delete" if delete else "", where)
    if as_json:
        typer.echo(json.dumps({"deleted": delete, "found": found}, indent=1))
        return
    for item in found:
        typer.echo(f"{item['since']}  {'upload' if item['upload'] else 'part'}  {item['key']}")
    typer.echo(f"{len(found)} {'removed' if delete else 'found; --delete removes them'}")


@app.command("probe")
def probe(
    where: str = typer.Argument(..., help="s3://bucket, in which a scratch prefix is used"),
    config: Path = _CONFIG,
    save: Path | None = typer.Option(None, "--save", help="Also write the capability set there."),
    as_json: bool = _JSON,
) -> None:
    """Ask an origin what it really honours: conditions, ranges, room for metadata, part rules."""
    bucket, _ = _place(where)

    found = [asdict(c) for c in capabilities(config, bucket)]
    document = json.dumps({"bucket": bucket, "capabilities": found}, indent=1)
    if save is not None:
        save.write_text(document + "\n")
    if as_json:
        typer.echo(document)
        return
    for c in found:
        good = "yes" if c["good"] else f"NO ({c['detail']})"
        typer.echo(f"{c['name']:26} {good:24} needed for {c['needed']}")


def capabilities(config: Path, bucket: str) -> "list[Capability]":
    """What the origin of `bucket` honours, asked now."""
    return _with_engine(config, lambda engine: _probe(engine, bucket))


async def _probe(engine: "Engine", bucket: str) -> "list[Capability]":
    from proxy import native
    from proxy.s3.jobs.probe import Probe

    return await Probe(engine.origin(bucket), bucket, native.random_bytes(8).hex()).run()


async def _need(engine: "Engine", bucket: str, names: tuple[str, ...]) -> None:
    """ConfigError where the origin does not honour what keeps a client's write from being lost."""
    missing = [c.name for c in await _probe(engine, bucket) if c.name in names and not c.good]
    if missing:
        raise ConfigError(
            f"the origin of {bucket} ignores {', '.join(missing)}: an object that a client writes "
            "meanwhile could be lost. Stop all writers and say --nobody-writes"
        )


def _place(where: str) -> tuple[str, str]:
    bucket, _, prefix = where.removeprefix("s3://").partition("/")
    if not where.startswith("s3://") or not bucket:
        raise ConfigError(f"{where}: expected s3://bucket or s3://bucket/prefix")
    return bucket, prefix


def _with_engine(
    config: Path, work: Callable[["Engine"], Awaitable[T]], command: str = "", where: str = ""
) -> T:
    """What `work` makes of the configured places. `command`: it changes them, so audit tells."""
    from proxy.cli.acts import act
    from proxy.config.load import load
    from proxy.config.secrets import resolve
    from proxy.keys.build import open_keys
    from proxy.runtime import logs
    from proxy.s3.jobs.engine import Engine

    loaded = load(config)
    logs.set_up(loaded.log)  # to standard error: a result on standard output stays one document
    if loaded.s3 is None:
        raise ConfigError(f"{config}: there is no section s3")
    s3 = loaded.s3

    async def main() -> T:
        keys = await open_keys(loaded.keys, loaded.policy)
        engine = Engine(s3, keys, resolve)
        try:
            await engine.start()
            return await work(engine)
        finally:
            await engine.close()
            await keys.close()

    return act(loaded, command, where, lambda _: main()) if command else asyncio.run(main())


async def _every(
    engine: "Engine",
    bucket: str,
    prefix: str,
    work: "Work",
    path: Path | None,
    name: str,
    parallel: int,
    rate: float,
    dry_run: bool = False,
) -> "Progress":
    from proxy.s3.jobs.journal import Journal
    from proxy.s3.jobs.runner import Throttle, run

    last = time.monotonic()

    def tell(progress: "Progress") -> None:
        nonlocal last
        if sys.stderr.isatty() and time.monotonic() - last > 1:
            last = time.monotonic()
            typer.echo(
                f"\r{progress.seen} objects, {progress.failures} failed, "
                f"{progress.bytes / 2**20:.0f} MiB",
                nl=False,
                err=True,
            )

    journal = Journal(None if dry_run else path, name)
    throttle = Throttle(rate * 2**20)
    return await run(
        engine, bucket, prefix, work, journal, parallel=parallel, throttle=throttle, tell=tell
    )


def _report(progress: "Progress", as_json: bool, verb: str) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(progress), indent=1))
    else:
        for key, reason in progress.failed.items():
            typer.echo(f"FAILED  {key}: {reason}")
        typer.echo(
            f"{progress.seen} objects: {progress.done} {verb}, {progress.skipped} skipped, "
            f"{progress.failures} failed, {progress.bytes} bytes"
        )
    if progress.failures:
        raise typer.Exit(1)
