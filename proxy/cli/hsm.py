"""`sealgate hsm …`: is each token of the root well, and does it hold the right key?"""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from proxy.cli.keys import _keys, _run, _told
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.keys.providers.pkcs11 import Pkcs11Provider

app = typer.Typer(name="hsm", no_args_is_help=True, help="The tokens that hold the root key.")

_CONFIG = typer.Option(..., "--config", "-c", help="The configuration file.")
_JSON = typer.Option(False, "--json", help="Print the result as JSON.")


@app.command("check")
def check(config: Path = _CONFIG, as_json: bool = _JSON) -> None:
    """Open every token, let it open the canary, and print its state and the `key_check` of the root.

    Changes nothing in a token. Exit status 5 if one of them cannot be used.
    """

    async def work() -> dict[str, Any]:
        provider = _provider(config)
        try:
            await provider.open()
            health = await provider.health()
            return {
                "root_id": provider.root_id.hex(),
                "key_check": provider.key_check,
                "up": health.up,
                "members": [
                    {"name": m.name, "usable": m.usable, "detail": m.detail}
                    for m in provider.members
                ],
            }
        finally:
            await provider.close()

    found = _run(work())
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        typer.echo(f"root {found['root_id']}\nkey_check {found['key_check']}")
        for member in found["members"]:
            typer.echo(f"{member['name']}: {member['detail']}")
    if not all(member["usable"] for member in found["members"]):
        raise typer.Exit(5)


@app.command("init-wrapping")
def init_wrapping(config: Path = _CONFIG) -> None:
    """Make the key that wraps data keys, in the one token of the configuration (kind: pkcs11)."""

    from proxy.cli.acts import act
    from proxy.config.load import load

    async def work(_: object) -> bool:
        provider = _provider(config)
        try:
            await provider.create_wrapping_key()
        except FileExistsError:
            return False
        finally:
            await provider.close()
        return True

    made = partial(act, load(config), "hsm init-wrapping", "", work)
    typer.echo("wrapping key: " + ("made" if _told(made) else "was there"))


def _provider(path: Path) -> "Pkcs11Provider":
    from proxy.keys import build
    from proxy.keys.providers.pkcs11 import Pkcs11Provider

    keys = _keys(path)
    build.prepare_memory(keys)
    provider = build.provider_of(keys)
    if not isinstance(provider, Pkcs11Provider):
        raise ConfigError("keys.provider: its kind is neither pkcs11 nor pkcs11-cluster")
    return provider
