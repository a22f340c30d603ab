"""`sealgate ceremony split | combine | words`: a master key in shares; and `drill`."""

import asyncio
import os
import secrets as random
import sys
import time
from pathlib import Path

import typer

from proxy.cli.ceremony_input import passphrase, read_file, signer_of, token_place, write_new
from proxy.errors import ConfigError

_MODULE = typer.Option(None, "--module", help="Import into a token: its PKCS #11 module.")
_TOKEN = typer.Option(None, "--token", help="Label of that token.")
_PIN_ENV = typer.Option(None, "--pin-env", help="Environment variable that holds the PIN.")
_PIN_FILE = typer.Option(None, "--pin-file", help="File that holds the PIN.")
_ROOT = typer.Option(None, "--root-file", help="A sealed root file (keys.provider.file).")
_PASS_ENV = typer.Option(None, "--passphrase-env", help="Variable with the root's passphrase.")
_PASS_FILE = typer.Option(None, "--passphrase-file", help="File with the root's passphrase.")


def add_to(app: typer.Typer) -> None:
    """The commands of this module are commands of `app`."""
    for command in (split, combine, words, drill):
        app.command(command.__name__)(command)


def split(
    roster: Path = typer.Option(..., "--roster", help="The custodians; its threshold is M."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder for the sealed shares."),
    root_file: Path | None = _ROOT,
    passphrase_env: str | None = _PASS_ENV,
    passphrase_file: Path | None = _PASS_FILE,
) -> None:
    """Split a fresh master key (or that of a root file) into one sealed share per custodian."""
    from proxy import native
    from proxy.keys import rootfile
    from proxy.keys.ceremony import canonical, documents, shares

    people = documents.parse_roster(documents.read(read_file(roster)))
    if root_file is None:
        root = rootfile.Root(random.token_bytes(16), native.key_random())
    else:
        typed = passphrase(f"Passphrase of {root_file}:", passphrase_env, passphrase_file)
        try:
            root = rootfile.load(root_file, typed)
        finally:
            native.wipe(typed)
    try:
        sealed = shares.split(root.key, root.root_id, people, int(time.time()))
    finally:
        root.key.wipe()
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    for share in sealed:
        write_new(out / f"{share.custodian}.share.json", canonical.encode(share.document()) + b"\n")
    typer.echo(
        f"root {root.root_id.hex()}: {len(sealed)} shares, any {people.threshold} give it again"
    )


def combine(
    share: list[Path] = typer.Option([], "--share", help="A sealed share; repeatable."),
    key: list[Path] = typer.Option([], "--key", help="Its custodian's key file, in that order."),
    key_passphrase_file: list[Path] = typer.Option(
        [], "--key-passphrase-file", help="Its passphrase, in that order; else it is asked for."
    ),
    words_file: list[Path] = typer.Option([], "--words-file", help="A share as words."),
    root_id: str = typer.Option("", "--root-id", help="With words alone: id of the root, hex."),
    root_file: Path | None = _ROOT,
    passphrase_env: str | None = _PASS_ENV,
    passphrase_file: Path | None = _PASS_FILE,
    module: str | None = _MODULE,
    token: str | None = _TOKEN,
    pin_env: str | None = _PIN_ENV,
    pin_file: Path | None = _PIN_FILE,
    key_label: str = typer.Option("sealgate-root", "--key-label", help="Label in the token."),
) -> None:
    """Put M shares together, into a new root file or as a root key into a token."""
    from proxy import native
    from proxy.config import secrets
    from proxy.config.model import SecretRef
    from proxy.keys import rootfile
    from proxy.keys.ceremony import custodian, shares, tokens
    from proxy.native import KeyHandle

    if len(share) != len(key) or (key_passphrase_file and len(key) != len(key_passphrase_file)):
        raise ConfigError("each --share needs its --key (and each its passphrase file, or none)")
    if (root_file is None) == (module is None):
        raise ConfigError("where to: --root-file, or --module and --token")
    parts: list[tuple[shares.ShareHeader, KeyHandle]] = []
    ids = {root_id} - {""}
    try:
        for at, (path, key_path) in enumerate(zip(share, key, strict=True)):
            sealed = shares.parse(read_file(path))
            named = key_passphrase_file[at] if key_passphrase_file else None
            typed = passphrase(f"{sealed.custodian}, passphrase of {key_path}:", None, named)
            try:
                with custodian.opened(key_path, typed) as signer:
                    value = shares.open_share(sealed, signer.seal_key)
            finally:
                native.wipe(typed)
            parts.append((shares.ShareHeader.of(sealed.header), value))
            ids.add(sealed.root_id.hex())
        for path in words_file:
            text = secrets.resolve_bytes(SecretRef(file=os.fspath(path)))
            try:
                parts.append(shares.from_words(text))
            finally:
                native.wipe(text)
        if len(ids) != 1 or len(next(iter(ids))) != 32:
            raise ConfigError("the shares are of different roots, or --root-id is missing")
        whole_id = bytes.fromhex(next(iter(ids)))
        master = shares.combine(parts)
        try:
            if root_file is not None:
                typed = passphrase(f"New passphrase of {root_file}:", passphrase_env,
                                   passphrase_file)  # fmt: skip
                try:
                    rootfile.write(root_file, rootfile.Root(whole_id, master), typed)
                finally:
                    native.wipe(typed)
            else:
                with tokens.session(token_place(module, token, pin_env, pin_file)) as opened:
                    opened.import_key(master, key_label, whole_id)
        finally:
            master.wipe()
    except FileExistsError as error:
        raise ConfigError(f"{root_file}: {error}") from None
    finally:
        for _, part in parts:
            part.wipe()
    typer.echo(f"root {whole_id.hex()} is whole again, in {root_file or f'token {token}'}")


def words(
    share: Path = typer.Argument(help="The custodian's sealed share."),
    key: Path = typer.Option(..., "--key", help="The custodian's key file."),
    passphrase_env: str | None = typer.Option(None, "--passphrase-env", help="Its passphrase."),
    passphrase_file: Path | None = typer.Option(None, "--passphrase-file", help="Its passphrase."),
) -> None:
    """Write a share as 33 words, for paper. Whoever reads them has the share."""
    from proxy import native
    from proxy.keys.ceremony import custodian, shares

    sealed = shares.parse(read_file(share))
    with signer_of(
        key, passphrase_env, passphrase_file, None, None, None, None, ""
    ) as signer:  # fmt: skip
        assert isinstance(signer, custodian.FileSigner)
        text = shares.words(sealed, signer.seal_key)
    try:
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), text)  # unbuffered: no copy stays in a stream's buffer
    finally:
        native.wipe(text)


def drill(
    config: Path = typer.Option(..., "--config", "-c", help="Source's token, a copy of the store."),
) -> None:
    """Disaster drill: does this root alone open every version of every ring in the store?

    Nothing is changed. Exit status 5 if one version does not open.
    """
    from proxy.cli.keys import _quiet_stdout
    from proxy.config.load import load
    from proxy.errors import KeyUnavailable
    from proxy.keys.ceremony.drill import try_rings

    _quiet_stdout()
    found = asyncio.run(try_rings(load(config).keys))
    for line in found:
        typer.echo(f"{line.ring} {line.version}: {line.outcome}")
    lost = [line for line in found if line.lost]
    if lost or not found:
        raise KeyUnavailable(f"{len(lost)} of {len(found)} ring versions do not open")
    typer.echo("every ring version opens")
