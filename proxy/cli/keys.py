"""`sealgate keys …`: the operator's acts on the root key and on key rings.

Never shows a key: names, ids, states and times only. `--json` prints one document to stdout.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.audit.sink import Sink
    from proxy.keys.ring import Ring, State

T = TypeVar("T")
app = typer.Typer(name="keys", no_args_is_help=True, help="Root key and key rings.")

_CONFIG = typer.Option(..., "--config", "-c", help="The configuration file.")
_JSON = typer.Option(False, "--json", help="Print the result as JSON.")


@app.command("init")
def init(
    config: Path = _CONFIG,
    ring: list[str] = typer.Option([], "--ring", help="Also make this ring; may be repeated."),
    configured: bool = typer.Option(
        False, "--all", help="Also make every ring that the configuration names."
    ),
    as_json: bool = _JSON,
) -> None:
    """Make the root key, in the token or in a sealed file, and rings below it.

    What exists already is left as it is, so the command may be run again.
    """
    from proxy.cli.acts import first_act
    from proxy.config.load import load, rings_of
    from proxy.keys import build

    loaded = load(config)
    own = [loaded.audit.ring] if loaded.audit is not None else []
    wanted = list(dict.fromkeys([*own, *ring, *(rings_of(loaded) if configured else [])]))

    async def work(audit: "Sink") -> tuple[build.RootInfo, list[tuple[str, bool]]]:
        root = await build.init_root(loaded.keys, audit=audit)
        there = {known.name for known in await build.list_rings(loaded.keys)}
        made = []
        for name in wanted:
            if name not in there:
                await build.create_ring(loaded.keys, name, audit=audit)
            made.append((name, name not in there))
        return root, made

    root, made = _told(lambda: first_act(loaded, "keys init", ",".join(wanted), work))
    if as_json:
        _print(
            {
                "provider": root.provider,
                "root_id": root.root_id.hex(),
                "created": root.created,
                "rings": [{"ring": name, "created": created} for name, created in made],
            }
        )
        return
    typer.echo(f"root {root.root_id.hex()} ({root.provider}): {_made(root.created)}")
    for name, created in made:
        typer.echo(f"ring {name}: {_made(created)}")


@app.command("create")
def create(
    ring: str = typer.Argument(help="Name of the new ring."),
    config: Path = _CONFIG,
    as_json: bool = _JSON,
) -> None:
    """Make a ring with one active version."""
    from proxy.keys import build

    _show(_act(config, "create", ring, partial(build.create_ring, name=ring)), as_json)


@app.command("list")
def list_(config: Path = _CONFIG, as_json: bool = _JSON) -> None:
    """List all rings; asks the store only, not the token."""
    from proxy.keys import build

    found = _run(build.list_rings(_keys(config)))
    if as_json:
        _print([_document(ring) for ring in found])
        return
    for ring in found:
        active = ring.active
        typer.echo(
            f"{ring.name}  {len(ring.versions)} version(s), "
            f"active {active.number if active else 'none'}, generation {ring.generation}"
        )


@app.command("show")
def show(
    ring: str = typer.Argument(help="Name of the ring."),
    config: Path = _CONFIG,
    as_json: bool = _JSON,
) -> None:
    """Show a ring's versions, states and history; asks the store only."""
    from proxy.keys import build

    _show(_run(build.show_ring(_keys(config), ring)), as_json)


@app.command("rotate")
def rotate(
    ring: str = typer.Argument(help="Name of the ring."),
    config: Path = _CONFIG,
    as_json: bool = _JSON,
) -> None:
    """Make a new active version; what older versions sealed still opens."""
    from proxy.keys import build

    _show(_act(config, "rotate", ring, partial(build.rotate_ring, name=ring)), as_json)


@app.command("disable")
def disable(
    ring: str = typer.Argument(help="Name of the ring."),
    version: int = typer.Argument(help="Number of the version.", min=1),
    config: Path = _CONFIG,
    as_json: bool = _JSON,
) -> None:
    """Refuse to use a version; `enable` takes it back."""
    from proxy.keys.ring import State

    _move(config, ring, version, State.DISABLED, as_json)


@app.command("enable")
def enable(
    ring: str = typer.Argument(help="Name of the ring."),
    version: int = typer.Argument(help="Number of the version.", min=1),
    config: Path = _CONFIG,
    as_json: bool = _JSON,
) -> None:
    """Let a disabled version open again; it never seals again."""
    from proxy.keys.ring import State

    _move(config, ring, version, State.RETIRED, as_json)


@app.command("destroy")
def destroy(
    ring: str = typer.Argument(help="Name of the ring."),
    version: int = typer.Argument(help="Number of the disabled version.", min=1),
    config: Path = _CONFIG,
    confirm: str = typer.Option(..., "--confirm", help="The ring's name once more."),
    as_json: bool = _JSON,
) -> None:
    """Erase a disabled version's wrapped key. What it sealed is lost for good."""
    from proxy.keys.ring import State

    if confirm != ring:
        raise ConfigError(f"--confirm must be {ring}")
    _move(config, ring, version, State.DESTROYED, as_json)


def _move(config: Path, ring: str, version: int, state: "State", as_json: bool) -> None:
    from proxy.keys import build

    work = partial(build.change_state, name=ring, number=version, state=state)
    _show(_act(config, f"{state.value}", f"{ring} version {version}", work), as_json)


def _keys(path: Path) -> Any:
    from proxy.config.load import load

    return load(path).keys


def _act(path: Path, verb: str, target: str, work: Callable[..., Awaitable[T]]) -> T:
    """`work(keys, audit=sink)` as an operator's act, which the audit log tells."""
    from proxy.cli.acts import act
    from proxy.config.load import load

    loaded = load(path)
    return _told(
        lambda: act(loaded, f"keys {verb}", target, lambda sink: work(loaded.keys, audit=sink))
    )


def _run(work: Coroutine[Any, Any, T]) -> T:
    """The result of what changes nothing."""
    return _told(lambda: asyncio.run(work))


def _told(work: Callable[[], T]) -> T:
    """The result; what the operator must write differently becomes a ConfigError."""
    from proxy.keys.ring import RingError

    _quiet_stdout()
    try:
        return work()
    except RingError as error:
        raise ConfigError(str(error)) from None


def _quiet_stdout() -> None:
    """Audit lines go to stderr: stdout is the answer, maybe read by a program."""
    import sys

    import structlog

    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


def _document(ring: "Ring") -> dict[str, object]:
    """The ring without its wrapped keys: an answer on a screen is not a backup."""
    return {
        "ring": ring.name,
        "generation": ring.generation,
        "versions": [
            {
                "version": v.number,
                "id": v.key_id.hex(),
                "state": v.state.value,
                "created": v.created,
                "root_id": v.wrapped.parent_id.hex() if v.wrapped else None,
            }
            for v in ring.versions
        ],
        "history": [
            {"generation": e.generation, "time": e.time, "event": e.event, "version": e.version}
            for e in ring.history
        ],
    }


def _show(ring: "Ring", as_json: bool) -> None:
    if as_json:
        _print(_document(ring))
        return
    typer.echo(f"ring {ring.name}, generation {ring.generation}")
    for version in ring.versions:
        made = datetime.fromtimestamp(version.created, UTC).isoformat(" ", "seconds")
        typer.echo(
            f"  {version.number:>4}  {version.state.value:<9}  {version.key_id.hex()}  {made}"
        )


def _made(created: bool) -> str:
    return "made" if created else "was there"


def _print(document: object) -> None:
    typer.echo(json.dumps(document, indent=1))
