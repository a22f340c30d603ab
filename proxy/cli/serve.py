"""`sealgate serve`: the proxy."""

import asyncio
import sys
from pathlib import Path

import typer


def serve(
    config: Path = typer.Option(..., "--config", "-c", help="The configuration file."),
) -> None:
    """Run the proxy until SIGTERM.

    SIGTERM drains (a second one does not wait). SIGHUP reloads the file: policy, certificates,
    servers and limits under open connections; for the rest new workers take over, and old ones
    finish what they have. A file with an error changes nothing. One JSON line on standard output
    says when everything is ready, and on which addresses.
    """
    from proxy.cli.check import checked
    from proxy.runtime import logs
    from proxy.runtime.supervisor import Supervisor

    loaded = checked(config)
    logs.set_up(loaded.log)

    async def run() -> int:
        return await Supervisor(str(config), loaded).run()

    sys.exit(asyncio.run(run()))
