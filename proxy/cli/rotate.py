"""`sealgate rotate`: what a rotated key ring leaves to do. Objects are wrapped, or columns sealed, anew."""

from pathlib import Path

import typer

from proxy.cli import postgres, s3


def rotate(
    where: str = typer.Argument("", help="s3://bucket or s3://bucket/prefix; not with --reseal."),
    config: Path = typer.Option(..., "--config", "-c", help="The configuration file."),
    reseal: bool = typer.Option(False, "--reseal", help="Columns: seal anew under the active key."),
    column: list[str] = typer.Option([], "--column", help="With --reseal; all without."),
    throttle: float = typer.Option(
        0.0, "--throttle", "--max-mib-per-second", min=0, help="Rows, or MiB, a second; 0: none."
    ),
    quiet: bool = typer.Option(
        False,
        "--nobody-writes",
        help="Objects: I promise; needed where the origin ignores conditions.",
    ),
    journal: Path | None = typer.Option(
        None, "--journal", help="Objects: a killed job goes on from it."
    ),
    parallel: int = typer.Option(8, "--parallel", min=1, max=256, help="Objects at a time."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would be done."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Bring under the ring's active version what older versions protect; needed before one is destroyed.

    With a bucket: object keys are wrapped again, bodies stay. With --reseal: values of columns are sealed
    again, while clients go on; what is done is skipped, so a killed run is started again.
    """
    if reseal == bool(where):
        raise typer.BadParameter("give either s3://bucket or --reseal")
    if reseal:
        postgres.reseal(config, column, throttle, dry_run, as_json)
    else:
        s3.rotate(where, config, quiet, journal, parallel, throttle, dry_run, as_json)
