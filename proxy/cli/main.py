"""`sealgate`: the commands, and the exit status of each family of errors."""

import os
import sys

import typer

from proxy import __version__
from proxy.errors import ConfigError, KeyUnavailable, SealgateError

EXIT_CONFIG, EXIT_KEYS, EXIT_OTHER = 4, 5, 1

app = typer.Typer(
    name="sealgate",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Transparent encryption proxy for PostgreSQL and S3. Keys stay rooted in your own HSM.",
    epilog="Exit status: 0 done, 2 wrong usage, 4 configuration, 5 keys or HSM, 1 anything else.",
)


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    import ssl

    import cryptography

    from proxy import native

    report = native.arena_report()
    typer.echo(f"sealgate {__version__}, native {native.FLAVOUR}, engine {report['engine']}")
    typer.echo(f"python {sys.version.split()[0]}, its TLS {ssl.OPENSSL_VERSION}")
    typer.echo(f"cryptography {cryptography.__version__}")
    raise typer.Exit


@app.callback()
def top(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Versions of all parts."
    ),
) -> None:
    """Options that stand before a command."""


def _commands() -> None:
    from proxy.cli import check, demo, migrate, serve

    app.command()(serve.serve)
    app.command()(check.check)
    app.command()(demo.demo)
    app.command()(migrate.migrate)
    from proxy.cli.keys import app as keys

    app.add_typer(keys, name="keys")
    from proxy.cli.audit import app as audit

    app.add_typer(audit, name="audit")
    from proxy.cli.hsm import app as hsm

    app.add_typer(hsm, name="hsm")
    from proxy.cli.ceremony import app as ceremony

    app.add_typer(ceremony, name="ceremony")
    from proxy.cli import rotate, s3

    app.add_typer(s3.app, name="s3")
    from proxy.cli import postgres

    app.add_typer(postgres.app, name="postgres")
    from proxy.cli import policy

    app.add_typer(policy.app, name="policy")
    app.command()(s3.verify)
    app.command()(rotate.rotate)


def run() -> None:
    """Entry point of the distribution."""
    _commands()
    try:
        app()
    except ConfigError as error:
        _fail(str(error), EXIT_CONFIG)
    except KeyUnavailable as error:
        _fail(str(error), EXIT_KEYS)
    except SealgateError as error:
        _fail(str(error), EXIT_OTHER)
    except BrokenPipeError:
        os._exit(EXIT_OTHER)


def _fail(text: str, status: int) -> None:
    typer.echo(f"sealgate: {text}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    run()
