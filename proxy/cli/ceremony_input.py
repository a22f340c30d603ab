"""What do the commands of a ceremony read? Tokens, PINs, passphrases, custodians' keys, files."""

import contextlib
import os
import sys
import termios
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.cli.ceremony_options import KeyOptions, PlacedOptions, SignerOptions, TokenOptions
from proxy.config import secrets
from proxy.config.model import SecretRef
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.keys.ceremony.custodian import FileSigner, Signer
    from proxy.keys.ceremony.tokens import TokenPlace

_MAX_BYTES = 256 * 1024
_MAX_LINE = 1024


def read_file(path: Path) -> bytes:
    """The file's bytes, 256 KiB at most; ConfigError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(raw) > _MAX_BYTES:
        raise ConfigError(f"{path}: larger than {_MAX_BYTES} bytes")
    return raw


def write_new(path: Path, body: bytes) -> None:
    """A file of mode 0600 that was not there before; ConfigError if it was, or cannot be."""
    from proxy.keys.stores.file import write_atomically

    try:
        write_atomically(path, body, replace=False)
    except FileExistsError:
        raise ConfigError(f"{path} is there already") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def absent(*paths: Path) -> None:
    """ConfigError if one of them is there: told before anything is done that cannot be undone."""
    for path in paths:
        if path.exists():
            raise ConfigError(f"{path} is there already")


def token_place(options: TokenOptions) -> "TokenPlace":
    """The token that the options name; ConfigError if they do not name one."""
    from proxy.keys.ceremony.tokens import TokenPlace

    config = options.config if isinstance(options, PlacedOptions) else None
    if config is not None:
        from proxy.config.hsm import Pkcs11Provider
        from proxy.config.load import load

        provider = load(config).keys.provider
        if not isinstance(provider, Pkcs11Provider):
            raise ConfigError(f"{config}: keys.provider is not one token")
        if provider.token_label is None:
            raise ConfigError(f"{config}: a ceremony needs keys.provider.token_label")
        pin = partial(secrets.resolve_bytes, provider.pin)
        return TokenPlace(provider.module, provider.token_label, pin, provider.environment)
    module, token = options.module, options.token
    if module is None or token is None or (options.pin_env is None) == (options.pin_file is None):
        raise ConfigError("name the token: --module, --token, and --pin-env or --pin-file")
    pin = partial(secrets.resolve_bytes, _ref(options.pin_env, options.pin_file))
    return TokenPlace(module, token, pin)


def passphrase(prompt: str, env: str | None, file: Path | None, *, new: bool = False) -> bytearray:
    """From the environment, a file, or the terminal without echo, twice if it is `new`: what is
    sealed under a slip of the fingers opens never again. The caller wipes it."""
    if env is not None or file is not None:
        return secrets.resolve_bytes(_ref(env, file))
    typed = hidden_line(prompt)
    if new:
        from proxy import native

        again = hidden_line("Once more:")
        same = typed == again
        native.wipe(again)
        if not same:
            native.wipe(typed)
            raise ConfigError("the two passphrases are not the same")
    return typed


def _ref(env: str | None, file: Path | None) -> SecretRef:
    return SecretRef(env=env, file=None if file is None else os.fspath(file))


def hidden_line(prompt: str) -> bytearray:
    """One line typed without echo, in a buffer that the caller wipes; ConfigError if there is no
    terminal or nothing was typed."""
    if not sys.stdin.isatty():
        raise ConfigError("no terminal to ask for the passphrase: name --passphrase-env or -file")
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    quiet = [*before]
    quiet[3] &= ~termios.ECHO
    line = bytearray(_MAX_LINE)
    try:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, quiet)
        print(prompt, end=" ", file=sys.stderr, flush=True)  # now: the flush drops what is there
        size = os.readv(terminal, [line])
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
        print(file=sys.stderr)
    typed = bytearray(memoryview(line)[:size])
    line[:] = bytes(len(line))
    while typed and typed[-1] in b"\r\n":
        typed.pop()
    if not typed:
        raise ConfigError("nothing was typed")
    return typed


@contextlib.contextmanager
def key_file(options: KeyOptions, *, make: bool = False) -> Iterator["FileSigner"]:
    """The custodian's keys in his file; made first if `make`."""
    from proxy import native
    from proxy.keys.ceremony import custodian

    path = options.key
    if path is None:
        raise ConfigError("name the custodian's key: --key")
    if make:
        absent(path)
    secret = passphrase(
        f"Passphrase of {path}:", options.passphrase_env, options.passphrase_file, new=make
    )
    with contextlib.ExitStack() as stack:
        try:
            if make:
                custodian.make_key(path, secret)
            signer = stack.enter_context(custodian.opened(path, secret))
        except FileExistsError:
            raise ConfigError(f"{path} is there already") from None
        finally:
            native.wipe(secret)
        yield signer


@contextlib.contextmanager
def signer_of(options: SignerOptions, *, make: bool = False) -> Iterator["Signer"]:
    """The custodian's key, in a file or a token; made first if `make`."""
    from proxy.keys.ceremony import custodian, tokens

    if (options.key is None) == (options.module is None):
        raise ConfigError("name the custodian's key: --key, or --module and --token")
    if options.key is not None:
        with key_file(options, make=make) as signer:
            yield signer
        return
    with tokens.session(token_place(options)) as opened:
        if make:
            try:
                opened.make_ed25519(options.key_label)
            except FileExistsError as error:
                raise ConfigError(str(error)) from None
        yield custodian.TokenSigner(opened, options.key_label)
