"""`sealgate demo`: everything on one machine, every claim tried before your eyes."""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from proxy.cli.demo_claims import Seen
    from proxy.cli.demo_stand import Stand


def demo(
    once: bool = typer.Option(False, "--once", help="End after the show."),
    as_json: bool = typer.Option(False, "--json", help="Print the claims as JSON to stdout."),
    keep: Path | None = typer.Option(None, "--keep", help="Work in this folder and leave it."),
    pg_port: int = typer.Option(0, "--pg-port", help="Fixed port of the PostgreSQL proxy."),
    s3_port: int = typer.Option(0, "--s3-port", help="Fixed port of the S3 proxy."),
) -> None:
    """Start PostgreSQL, SeaweedFS, an HSM and the proxy; show what each side sees.

    Exit status 0 only if every claim held.
    """
    from rich.console import Console

    from proxy.cli.demo_stand import Stand

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=True)
    folder = (keep or Path(tempfile.mkdtemp(prefix="sealgate-demo-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        folder.chmod(0o755)  # PostgreSQL runs as another user
    stand = Stand(folder, pg_port, s3_port)
    status = 1
    try:
        status = _show(stand, console, as_json)
        if not once:
            _stay(stand, console)
    except KeyboardInterrupt:
        console.print("\nstopping")
        status = 130 if once else status
    finally:
        stand.stop()
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            console.print(f"data kept in {folder}")
    sys.exit(status)


def _show(stand: "Stand", console: Any, as_json: bool) -> int:
    from proxy.cli.demo_claims import Show

    console.print("[bold]sealgate demo[/]: everything on 127.0.0.1\n")
    _step(console, "PostgreSQL", stand.start_postgres, lambda _: f"port {stand.postgres.port}")
    _step(console, "S3 store (SeaweedFS)", stand.start_seaweed, lambda _: stand.seaweed.endpoint)
    _step(console, "root key", stand.start_root, str)
    _step(
        console, "proxy", stand.start_proxy,
        lambda _: ", ".join(f"{n} {p}" for n, p in stand.ports.items()),
    )  # fmt: skip
    console.print()
    results = []
    for title, claim in Show(stand).claims():
        start = time.perf_counter()
        tables, numbers = {}, {}
        try:
            with console.status(title):
                seen: Seen = claim()
            held, line, tables, numbers = True, seen.line, seen.tables, seen.numbers
        except Exception as error:  # noqa: BLE001 - any error is a claim that does not hold
            held, line = False, f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - start
        mark = "[green] ok [/]" if held else "[red]FAIL[/]"
        console.print(f"{mark} {title}", highlight=False)
        console.print(f"     {line}  ({seconds:.1f} s)", markup=False, highlight=False)
        for name, rows in tables.items():
            console.print(_table(name, rows))
        results.append(
            {"claim": title, "held": held, "seen": line, "seconds": round(seconds, 2), **numbers}
        )
    good = sum(bool(r["held"]) for r in results)
    console.print(f"\n[bold]{good} of {len(results)} claims held[/]")
    if as_json:
        summary = {
            "ok": good == len(results),
            "root": "pkcs11" if stand.hsm else "software",
            "claims": results,
            "connections": _connections(stand),
        }
        print(json.dumps(summary, indent=1), flush=True)
    return 0 if good == len(results) else 1


def _step(console: Any, title: str, work: Callable[[], Any], tell: Callable[[Any], str]) -> None:
    start = time.perf_counter()
    with console.status(f"starting: {title}"):
        result = work()
    seconds = time.perf_counter() - start
    console.print(f"[green] ok [/] {title}: {tell(result)}  ({seconds:.1f} s)", highlight=False)


def _table(title: str, rows: list[list[str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in rows[0]:
        table.add_column(heading, overflow="fold")
    for row in rows[1:]:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _connections(stand: "Stand") -> dict[str, str]:
    from proxy.cli.demo_stand import ACCESS_KEY

    return {
        "postgres": stand.dsn(True),
        "postgres_straight": stand.dsn(False),
        "s3": stand.s3_endpoint,
        "s3_access_key": ACCESS_KEY,
        "s3_secret_key": stand.secret,
        "s3_straight": stand.seaweed.endpoint,
        "admin": f"http://127.0.0.1:{stand.ports['admin']}",
    }


def _stay(stand: "Stand", console: Any) -> None:
    console.print("\nIt stays up until Ctrl-C:")
    for name, text in _connections(stand).items():
        console.print(f"  {name:18} {text}", markup=False, highlight=False, soft_wrap=True)
    signal.pause()
