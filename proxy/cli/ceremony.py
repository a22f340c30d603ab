"""`sealgate ceremony …`: a master key goes from one HSM into another, M of N people agreeing.

Files go in and out; nothing secret is ever printed. docs/how-to/bring-your-own-key.md.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxy.cli import ceremony_shares
from proxy.cli.ceremony_input import absent, read_file, signer_of, token_place, write_new
from proxy.cli.ceremony_options import (
    KeyLabel,
    Out,
    PlacedOptions,
    Roster,
    SignerOptions,
    State,
    spread,
)
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.keys.ceremony.approvals import Signed
    from proxy.keys.ceremony.state import CeremonyState

app = typer.Typer(
    name="ceremony", no_args_is_help=True, help="Bring your own key: M of N custodians agree."
)
ceremony_shares.add_to(app)

_OPERATIONS = typer.Option(
    ["decrypt", "encrypt"], "--operation", help="A right of the key; may be repeated."
)


@app.command("enrol")
@spread
def enrol(
    name: Annotated[str, typer.Argument(help="The custodian's name.")],
    out: Out,
    custodian_key: SignerOptions,
) -> None:
    """Make a custodian's key, in a sealed file or in a token of his, and his public enrolment."""
    from proxy.keys.ceremony import custodian

    absent(out)
    with signer_of(custodian_key, make=True) as signer:
        write_new(out, custodian.enrol(name, signer))
    typer.echo(f"{name}: enrolment written to {out}")


@app.command("roster")
def roster(
    enrolments: Annotated[list[Path], typer.Argument(help="The custodians' enrolments.")],
    threshold: Annotated[
        int, typer.Option("--threshold", "-m", min=1, help="How many must agree.")
    ],
    customer: Annotated[str, typer.Option("--customer", help="Whose keys these are.")],
    out: Out,
) -> None:
    """Put the custodians' enrolments together into a roster."""
    from proxy.keys.ceremony import canonical, custodian

    people = [custodian.parse_enrolment(read_file(path)) for path in enrolments]
    made = custodian.make_roster(customer, threshold, people)
    write_new(out, canonical.encode(made.document()) + b"\n")
    typer.echo(f"{threshold} of {len(people)}, fingerprint {made.fingerprint.hex()}")


@app.command("trust")
def trust(
    roster: Annotated[Path, typer.Argument(help="The roster.")],
    fingerprint: Annotated[str, typer.Option("--fingerprint", help="As read to you, all of it.")],
    state: State,
) -> None:
    """Let a roster count on this side, once for all."""
    from proxy.keys.ceremony import documents

    made = documents.parse_roster(documents.read(read_file(roster)))
    if fingerprint.strip().lower() != made.fingerprint.hex():
        raise ConfigError(f"the fingerprint of {roster} is {made.fingerprint.hex()}")
    _state(state).trust(made)
    typer.echo(f"trusted: {made.threshold} of {len(made.custodians)} of {made.customer}")


@app.command("revoke")
def revoke(name: Annotated[str, typer.Argument(help="The custodian.")], state: State) -> None:
    """Let a custodian's signatures not count on this side any more, for good."""
    _state(state).revoke(name)
    typer.echo(f"{name} does not count here any more")


@app.command("master")
@spread
def master(
    placed: PlacedOptions,
    key_label: KeyLabel = "sealgate-root",
) -> None:
    """Make a master key in the source's token: it can be wrapped, and never read."""
    from proxy.keys.ceremony import tokens

    with tokens.session(token_place(placed)) as opened:
        key_id = _exists(lambda: opened.make_master(key_label))
        check = opened.check_value(opened.master(key_label))
    typer.echo(f"master {key_label} made: id {key_id.hex()}, check value {check.hex()}")


@app.command("request")
@spread
def request(
    state: State,
    out: Out,
    placed: PlacedOptions,
    operation: list[str] = _OPERATIONS,
    bits: int = typer.Option(4096, "--bits", min=2048, max=8192, help="Size of the wrapping key."),
    hours: int = typer.Option(24, "--hours", min=1, max=720, help="How long the request is good."),
    cloud: str | None = typer.Option(None, "--cloud", help="azure, aws or gcp: it is the target."),
    public_key: Path | None = typer.Option(
        None, "--public-key", help="The cloud's wrapping key, PEM or DER; with --cloud."
    ),
    algorithm: str | None = typer.Option(
        None, "--algorithm", help="The cloud's own name for how the key is to be wrapped."
    ),
) -> None:
    """At the target: make a wrapping key in the token and ask for a master key."""
    from proxy.cli.acts import in_ceremony
    from proxy.keys.ceremony import acts

    absent(out)
    now, lifetime = int(time.time()), hours * 3600
    if cloud is not None:
        if public_key is None:
            raise ConfigError("--cloud needs --public-key")
        spki, algorithms = _cloud_key(public_key), _cloud_algorithms(cloud, algorithm)
        made = in_ceremony(
            placed.config, "ceremony request", cloud,
            lambda audit: acts.request_for_cloud(
                spki, cloud, _state(state), now, algorithms=algorithms, lifetime=lifetime,
                audit=audit,
            ),
        )  # fmt: skip
    else:
        place = token_place(placed)
        made = in_ceremony(
            placed.config, "ceremony request", place.label,
            lambda audit: acts.request(
                place, _state(state), now, operations=_operations(operation), bits=bits,
                lifetime=lifetime, audit=audit,
            ),
        )  # fmt: skip
    write_new(out, made)
    _show(made)


@app.command("approve")
@spread
def approve(
    document: Annotated[
        Path, typer.Argument(help="A request or a bundle; the signature is added to it.")
    ],
    name: Annotated[str, typer.Option("--name", help="Your name on the roster.")],
    roster: Roster,
    custodian_key: SignerOptions,
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
) -> None:
    """By a custodian: read what it says, compare the fingerprints, and sign it."""
    from proxy.keys.ceremony import acts, documents
    from proxy.keys.stores.file import write_atomically

    raw = read_file(document)
    _show(raw)
    if not yes:
        typer.confirm("Is all of this as it was agreed?", abort=True, err=True)
    known = documents.parse_roster(documents.read(read_file(roster)))
    with signer_of(custodian_key) as signer:
        signed = acts.approve(raw, known, name, signer)
    write_atomically(document, signed)
    typer.echo(f"signed by {name}")


@app.command("show")
def show(document: Annotated[Path, typer.Argument(help="A request or a bundle.")]) -> None:
    """Show what a request or a bundle says, and who has signed it."""
    _show(read_file(document))


@app.command("export")
@spread
def export(
    request: Annotated[Path, typer.Argument(help="The approved request.")],
    state: State,
    out: Out,
    issuer: Annotated[str, typer.Option("--issuer", help="Who gives the key away.")],
    placed: PlacedOptions,
    key_label: KeyLabel = "sealgate-root",
    operation: list[str] = typer.Option([], "--operation", help="Grant only this; repeatable."),
    days: int = typer.Option(7, "--days", min=1, max=365, help="How long the bundle is good."),
) -> None:
    """At the source: wrap the master key for the target of an approved request."""
    from proxy.cli.acts import in_ceremony
    from proxy.keys.ceremony import acts

    place = token_place(placed)
    made = in_ceremony(
        placed.config, "ceremony export", f"{key_label} by {request}",
        lambda audit: acts.export(
            read_file(request), place, _state(state), int(time.time()), key_label=key_label,
            issuer=issuer, operations=_operations(operation) if operation else None,
            lifetime=days * 86400, audit=audit,
        ),
        root=True,
    )  # fmt: skip
    write_new(out, made)
    _show(made)


@app.command("import")
@spread
def import_(
    bundle: Annotated[Path, typer.Argument(help="The approved bundle.")],
    state: State,
    placed: PlacedOptions,
    key_label: KeyLabel = "sealgate-root",
) -> None:
    """At the target: check everything, and make the key a root key of the token."""
    from proxy.cli.acts import in_ceremony
    from proxy.keys.ceremony import acts

    place = token_place(placed)
    done = _exists(
        lambda: in_ceremony(
            placed.config, "ceremony import", f"{key_label} by {bundle}",
            lambda audit: acts.import_(
                read_file(bundle), place, _state(state), int(time.time()), key_label=key_label,
                audit=audit,
            ),
        )
    )  # fmt: skip
    typer.echo(
        f"imported as {key_label}: id {done.key_id.hex()}, check value {done.check_value.hex()}, "
        f"may {' and '.join(done.operations)}"
    )


@app.command("blob")
def blob(
    bundle: Annotated[Path, typer.Argument(help="The approved bundle of a request for a cloud.")],
    state: State,
    out: Out,
    service: Annotated[str, typer.Option("--service", help="azure, aws or gcp.")],
    key_id: str = typer.Option("", "--key-id", help="azure: kid of the exchange key; aws: KeyId."),
    import_token: Path | None = typer.Option(None, "--import-token", help="aws: its file."),
) -> None:
    """Write an approved bundle in the form that a cloud's key service takes."""
    from proxy.keys.ceremony import acts, exchange

    approved = acts.approved_bundle(read_file(bundle), _state(state), int(time.time()))
    if service == "azure":
        body = exchange.azure_blob(approved, key_id)
    elif service == "aws":
        if import_token is None:
            raise ConfigError("aws needs --import-token")
        body = exchange.aws_import(approved, key_id, read_file(import_token))
    elif service == "gcp":
        body = exchange.gcp_wrapped(approved)
    else:
        raise ConfigError("--service is azure, aws or gcp")
    write_new(out, body)
    typer.echo(f"{service}: wrapped by {exchange.SERVICES[service][approved.algorithm]}")


def _show(raw: bytes) -> None:
    from proxy.keys.ceremony import approvals

    for line in _lines(approvals.parse(raw)):
        typer.echo(line)


def _lines(signed: "Signed") -> list[str]:
    from proxy.keys.ceremony.documents import Request

    content = signed.content
    lines = [
        f"{signed.purpose} of ceremony {content.ceremony.hex()}",
        f"  customer     {content.customer}",
        f"  roster       {content.roster.hex()} ({content.threshold} must sign)",
    ]
    if isinstance(content, Request):
        lines += [
            f"  target       token {content.target.label}, serial {content.target.serial}",
            f"  wrapping key {content.fingerprint.hex()}",
            f"  asks for     {', '.join(content.operations)}",
            f"  valid        {_time(content.created)} to {_time(content.expires)}",
        ]
    else:
        lines += [
            f"  issuer       {content.issuer}",
            f"  source       token {content.source.label}, serial {content.source.serial}",
            f"  wrapping key {content.target.hex()}",
            f"  key          {content.key_id.hex()}, check value {content.check_value.hex()}",
            f"  grants       {', '.join(content.operations)}",
            f"  valid        {_time(content.valid_from)} to {_time(content.valid_until)}",
        ]
    names = ", ".join(s.custodian for s in signed.signatures)
    return [*lines, f"  signed by    {names or 'nobody'} (not verified here)"]


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def _state(folder: Path) -> "CeremonyState":
    from proxy.cli.keys import _quiet_stdout
    from proxy.keys.ceremony.state import CeremonyState

    _quiet_stdout()
    return CeremonyState(folder)


def _operations(wanted: list[str]) -> tuple[str, ...]:
    from proxy.keys.ceremony.documents import OPERATIONS

    if not wanted or set(wanted) - set(OPERATIONS):
        raise ConfigError(f"--operation is one of {', '.join(OPERATIONS)}")
    return tuple(op for op in OPERATIONS if op in wanted)


def _exists(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except FileExistsError as error:
        raise ConfigError(str(error)) from None


def _cloud_algorithms(cloud: str, name: str | None) -> tuple[str, ...]:
    from proxy.keys.ceremony.exchange import SERVICES

    if cloud not in SERVICES:
        raise ConfigError(f"--cloud is one of {', '.join(SERVICES)}")
    found = tuple(ours for ours, theirs in SERVICES[cloud].items() if name in (None, theirs))
    if not found or (len(found) > 1 and name is None):
        raise ConfigError(f"--algorithm is one of {', '.join(SERVICES[cloud].values())}")
    return found


def _cloud_key(path: Path) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    raw = read_file(path)
    load = form.load_pem_public_key if raw.startswith(b"-----") else form.load_der_public_key
    try:
        key = load(raw)
    except ValueError:
        raise ConfigError(f"{path} is not a public key") from None
    return key.public_bytes(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo)
