"""`sealgate ceremony split | combine | words`: a master key in shares; and `drill`."""

import asyncio
import os
import secrets as random
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from proxy.cli.ceremony_input import (
    absent,
    key_file,
    passphrase,
    read_file,
    token_place,
    write_new,
)
from proxy.cli.ceremony_options import (
    KeyLabel,
    KeyOptions,
    RootOptions,
    Roster,
    TokenOptions,
    spread,
)
from proxy.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    """The commands of this module are commands of `app`."""
    for command in (split, combine, words, drill):
        app.command(command.__name__)(spread(command))


def split(
    roster: Roster,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the sealed shares.")],
    root_options: RootOptions,
) -> None:
    """Split a fresh master key (or that of a root file) into one sealed share per custodian."""
    from proxy import native
    from proxy.keys import rootfile
    from proxy.keys.ceremony import canonical, documents, shares

    people = documents.parse_roster(documents.read(read_file(roster)))
    files = [out / f"{person.name}.share.json" for person in people.custodians]
    absent(*files)  # half a set of new shares among old ones would give nothing
    root_file = root_options.root_file
    if root_file is None:
        root = rootfile.Root(random.token_bytes(16), native.key_random())
    else:
        typed = passphrase(
            f"Passphrase of {root_file}:",
            root_options.passphrase_env,
            root_options.passphrase_file,
        )
        try:
            root = rootfile.load(root_file, typed)
        finally:
            native.wipe(typed)
    try:
        sealed = shares.split(root.key, root.root_id, people, int(time.time()))
    finally:
        root.key.wipe()
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path, share in zip(files, sealed, strict=True):
        write_new(path, canonical.encode(share.document()) + b"\n")
    typer.echo(
        f"root {root.root_id.hex()}: {len(sealed)} shares, any {people.threshold} give it again"
    )


def combine(
    root_options: RootOptions,
    token_options: TokenOptions,
    share: list[Path] = typer.Option([], "--share", help="A sealed share; repeatable."),
    key: list[Path] = typer.Option([], "--key", help="Its custodian's key file, in that order."),
    key_passphrase_file: list[Path] = typer.Option(
        [], "--key-passphrase-file", help="Its passphrase, in that order; else it is asked for."
    ),
    words_file: list[Path] = typer.Option([], "--words-file", help="A share as words."),
    root_id: str = typer.Option("", "--root-id", help="With words alone: id of the root, hex."),
    key_label: KeyLabel = "sealgate-root",
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
    root_file = root_options.root_file
    if (root_file is None) == (token_options.module is None):
        raise ConfigError("where to: --root-file, or --module and --token")
    if root_file is not None:
        absent(root_file)
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
                typed = passphrase(
                    f"New passphrase of {root_file}:",
                    root_options.passphrase_env,
                    root_options.passphrase_file,
                    new=True,
                )
                try:
                    rootfile.write(root_file, rootfile.Root(whole_id, master), typed)
                finally:
                    native.wipe(typed)
            else:
                with tokens.session(token_place(token_options)) as opened:
                    opened.import_key(master, key_label, whole_id)
        finally:
            master.wipe()
    except FileExistsError as error:
        raise ConfigError(str(error)) from None
    finally:
        for _, part in parts:
            part.wipe()
    typer.echo(
        f"root {whole_id.hex()} is whole again, in {root_file or f'token {token_options.token}'}"
    )


def words(
    share: Annotated[Path, typer.Argument(help="The custodian's sealed share.")],
    key: KeyOptions,
) -> None:
    """Write a share as 33 words, for paper. Whoever reads them has the share."""
    from proxy import native
    from proxy.keys.ceremony import shares

    sealed = shares.parse(read_file(share))
    with key_file(key) as signer:
        text = shares.words(sealed, signer.seal_key)
    try:
        sys.stdout.flush()
        left = memoryview(text)
        while left:  # unbuffered: no copy stays in a stream's buffer
            left = left[os.write(sys.stdout.fileno(), left) :]
    finally:
        native.wipe(text)


def drill(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="Source's token, a copy of the store.")
    ],
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
