"""`sealgate audit …`: is the log whole, what is in it, and what does an auditor need?"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.audit.chain import Entry
    from proxy.audit.findings import Report
    from proxy.config.model import Config

EXIT_MANIPULATED = 3

app = typer.Typer(
    name="audit",
    no_args_is_help=True,
    help="The audit log.",
    epilog="verify: exit status 0 whole, 3 manipulated (or, with --strict, an end that is not "
    "marked), 4 configuration, 5 keys.",
)

_CONFIG = typer.Option(None, "--config", "-c", help="The configuration file.")
_DIRECTORY = typer.Option(None, "--directory", help="The log's directory, without a configuration.")
_JSON = typer.Option(False, "--json", help="Print the result as JSON.")
_SINCE = typer.Option("", "--since", help="From this time on: 2026-11-24 or 2026-11-24T10:30.")
_UNTIL = typer.Option("", "--until", help="Up to this time, exclusive.")
_PRINCIPAL = typer.Option("", "--principal", help="As postgres:app; may end in *.")
_RESOURCE = typer.Option("", "--resource", help="As column:shop.public.people.email or a ring.")
_ACTION = typer.Option("", "--action", help="seal or open.")
_EVENT = typer.Option("", "--event", help="As key.deny; may end in *.")


@app.command("verify")
def verify(
    config: Path | None = _CONFIG,
    directory: Path | None = _DIRECTORY,
    key: Path | None = typer.Option(None, "--key", help="The auditor's key file: needs no token."),
    passphrase_env: str = typer.Option(
        "SEALGATE_AUDIT_PASSPHRASE", "--passphrase-env", help="Where the key file's passphrase is."
    ),
    against: Path | None = typer.Option(
        None, "--against", help="What an earlier verification saved: the log must go on from there."
    ),
    save: Path | None = typer.Option(
        None, "--save", help="Write what was seen here, for --against; keep it elsewhere."
    ),
    since: str = typer.Option(
        "", "--since-day", help="YYYYMMDD: files of days before were taken away by right."
    ),
    strict: bool = typer.Option(False, "--strict", help="An end that is not marked is an error."),
    as_json: bool = _JSON,
) -> None:
    """Prove the log whole, or name file, line and kind of each manipulation.

    With --config, signed checkpoints are checked by the root key, too. With --directory and --key
    it works anywhere. A log that is whole in itself may still be an old copy: --against tells.
    """
    from proxy.audit.verify import Verifier
    from proxy.keys.stores.file import write_atomically

    place = _place(config, directory)
    if not place.is_dir():
        raise ConfigError(f"{place}: no such directory")
    seen = _saved(against) if against is not None else None
    if key is not None:
        masters = _key_file(key, passphrase_env)
        try:
            report = Verifier(place, masters, against=seen, since=since).run()
        finally:
            for master in masters.values():
                master.wipe()
    else:
        report = asyncio.run(_with_root(_config(config), place, seen, since))
    if save is not None and not report.findings:
        seen = {"format": "sealgate-audit-seen/1", "heads": report.heads}
        write_atomically(save, json.dumps(seen).encode())  # it may be the file of --against
    _show(report, as_json)
    if report.findings or (strict and report.notes):
        raise typer.Exit(EXIT_MANIPULATED)


@app.command("tail")
def tail(
    config: Path | None = _CONFIG,
    directory: Path | None = _DIRECTORY,
    lines: int = typer.Option(20, "--lines", "-n", min=0, help="So many lines to begin with."),
    follow: bool = typer.Option(False, "--follow", "-f", help="Go on with what is written."),
) -> None:
    """Show the latest lines of all writers, for people. Verifies nothing."""
    from proxy.audit import show

    place = _place(config, directory)
    found = sorted(_entries(place), key=lambda e: e.time)
    for entry in found[len(found) - lines :] if lines else []:
        typer.echo(show.text(entry))
    if not follow:
        return
    offsets = {path: path.stat().st_size for path in place.glob("*.jsonl")}
    while True:
        time.sleep(0.2)
        fresh = [e for path in sorted(place.glob("*.jsonl")) for e in _grown(path, offsets)]
        for entry in sorted(fresh, key=lambda e: e.time):
            typer.echo(show.text(entry))


@app.command("export")
def export(
    config: Path | None = _CONFIG,
    directory: Path | None = _DIRECTORY,
    form: str = typer.Option("json", "--format", help="json (a document each line), csv or cef."),
    since: str = _SINCE,
    until: str = _UNTIL,
    principal: str = _PRINCIPAL,
    resource: str = _RESOURCE,
    action: str = _ACTION,
    event: str = _EVENT,
) -> None:
    """Print lines by time, for another program. Verifies nothing: `verify` first."""
    from proxy import __version__
    from proxy.audit import show

    wanted = show.Filter(since, until, principal, resource, action, event)
    place = _place(config, directory)
    entries = (e for e in sorted(_entries(place), key=lambda e: e.time) if wanted.takes(e))
    if form == "csv":
        sys.stdout.writelines(show.csv_lines(entries))
    elif form == "cef":
        sys.stdout.writelines(show.cef(entry, __version__) for entry in entries)
    elif form == "json":
        sys.stdout.writelines(map(show.json_line, entries))
    else:
        raise typer.BadParameter("json, csv or cef", param_hint="--format")


@app.command("export-key")
def export_key(
    config: Path = typer.Option(..., "--config", "-c", help="The configuration file."),
    out: Path = typer.Option(..., "--out", help="The new file."),
    passphrase_env: str = typer.Option(
        "SEALGATE_AUDIT_PASSPHRASE", "--passphrase-env", help="Where its passphrase is."
    ),
) -> None:
    """Write the key that verifies the log, sealed under a passphrase, for an auditor.

    It opens no data. Whoever has it could also forge lines, but no signed checkpoint.
    """
    from proxy.audit.sink import Sink
    from proxy.cli.acts import act
    from proxy.keys import auditing, auditkey
    from proxy.keys.build import reach_root, store_of

    loaded = _config(config)
    name = _ring(loaded)

    async def work(_: Sink) -> int:
        provider = reach_root(loaded.keys)
        try:
            await provider.open()
            masters = await auditing.masters(provider, store_of(loaded.keys), name)
        finally:
            await provider.close()
        try:
            with _passphrase(passphrase_env) as passphrase:
                auditkey.write(out, masters, passphrase)
        except FileExistsError:
            raise ConfigError(f"{out} exists; keys are not overwritten") from None
        finally:
            for master in masters.values():
                master.wipe()
        return len(masters)

    count = act(loaded, "audit export-key", str(out), work)
    typer.echo(f"{out}: {count} version(s) of ring {name}")


async def _with_root(config: "Config", place: Path, seen: Any, since: str) -> "Report":
    """Verification with the masters and the signatures of the root."""
    from proxy.audit.verify import Verifier
    from proxy.keys import auditing
    from proxy.keys.build import prepare_memory, reach_root, store_of

    prepare_memory(config.keys)
    provider = reach_root(config.keys)
    try:
        await provider.open()
        masters = await auditing.masters(provider, store_of(config.keys), _ring(config))
        loop = asyncio.get_running_loop()

        def signed(writer: str, n: int, mac: str, _root: bytes, signature: bytes) -> bool:
            asked = auditing.signed(provider, writer, n, mac, signature)
            return asyncio.run_coroutine_threadsafe(asked, loop).result()

        try:
            verifier = Verifier(place, masters, against=seen, check_signature=signed, since=since)
            return await asyncio.to_thread(verifier.run)
        finally:
            for master in masters.values():
                master.wipe()
    finally:
        await provider.close()


def _config(path: Path | None) -> "Config":
    from proxy.config.load import load

    if path is None:
        raise ConfigError("--config is needed, or --directory with --key")
    return load(path)


def _ring(config: "Config") -> str:
    if config.audit is None:
        raise ConfigError("the configuration has no section audit")
    return config.audit.ring


def _place(config: Path | None, directory: Path | None) -> Path:
    if directory is not None:
        return directory
    loaded = _config(config)
    _ring(loaded)
    assert loaded.audit is not None
    return Path(loaded.audit.path)


def _saved(path: Path) -> Any:
    try:
        document = json.loads(path.read_text())
        if document["format"] != "sealgate-audit-seen/1":
            raise ValueError("not what verify --save writes")
        heads = {str(w): [str(f), int(n), str(m)] for w, (f, n, m) in document["heads"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return heads


def _key_file(path: Path, env: str) -> Any:
    from proxy import native
    from proxy.keys import auditkey

    native.arena_init(4096, True)  # an auditor's machine may lock no memory
    with _passphrase(env) as passphrase:
        return auditkey.load(path, passphrase)


@contextlib.contextmanager
def _passphrase(env: str) -> Iterator[bytearray]:
    from proxy import native
    from proxy.config.model import SecretRef
    from proxy.config.secrets import resolve_bytes

    passphrase = resolve_bytes(SecretRef(env=env))
    try:
        yield passphrase
    finally:
        native.wipe(passphrase)


def _entries(place: Path) -> Iterator["Entry"]:
    from proxy.audit import chain
    from proxy.audit.files import lines_of, listed

    for name in listed(place):
        for line, _ in lines_of(place / str(name)):
            if (entry := chain.parse(line)) is not None:
                yield entry


def _grown(path: Path, offsets: dict[Path, int]) -> Iterator["Entry"]:
    from proxy.audit import chain

    with open(path, "rb") as file:
        file.seek(offsets.get(path, 0))
        for line in file:
            if not line.endswith(b"\n"):
                break
            offsets[path] = offsets.get(path, 0) + len(line)
            if (entry := chain.parse(line[:-1])) is not None:
                yield entry


def _show(report: "Report", as_json: bool) -> None:
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "whole": not report.findings,
                    "files": report.files,
                    "lines": report.lines,
                    "writers": report.writers,
                    "signatures": report.signatures,
                    "findings": [
                        {"kind": f.kind.value, "file": f.file, "line": f.line, "detail": f.detail}
                        for f in report.findings
                    ],
                    "notes": report.notes,
                },
                indent=1,
            )
        )
        return
    for finding in report.findings:
        typer.echo(str(finding))
    for note in report.notes:
        typer.echo(f"note: {note}")
    typer.echo(
        f"{'MANIPULATED' if report.findings else 'whole'}: {report.lines} lines in {report.files} "
        f"files of {report.writers} writers, {report.signatures} signatures checked"
    )
