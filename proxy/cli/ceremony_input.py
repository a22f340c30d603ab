"""What do the commands of a ceremony read? Tokens, PINs, passphrases, custodians' keys, files."""

import contextlib
import os
import sys
import termios
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.config import secrets
from proxy.config.model import SecretRef
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.keys.ceremony.custodian import Signer
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


def token_place(
    module: str | None, token: str | None, pin_env: str | None, pin_file: Path | None,
    config: Path | None = None,
) -> "TokenPlace":  # fmt: skip
    """The token that the options name; ConfigError if they do not name one."""
    from proxy.keys.ceremony.tokens import TokenPlace

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
    if module is None or token is None or (pin_env is None) == (pin_file is None):
        raise ConfigError("name the token: --module, --token, and --pin-env or --pin-file")
    ref = SecretRef(env=pin_env, file=None if pin_file is None else os.fspath(pin_file))
    return TokenPlace(module, token, partial(secrets.resolve_bytes, ref))


def passphrase(prompt: str, env: str | None, file: Path | None) -> bytearray:
    """From the environment, a file, or the terminal without echo; the caller wipes it."""
    if env is not None or file is not None:
        return secrets.resolve_bytes(
            SecretRef(env=env, file=None if file is None else os.fspath(file))
        )
    return hidden_line(prompt)


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
    print(prompt, end=" ", file=sys.stderr, flush=True)
    try:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, quiet)
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
def signer_of(
    key: Path | None, passphrase_env: str | None, passphrase_file: Path | None,
    module: str | None, token: str | None, pin_env: str | None, pin_file: Path | None,
    key_label: str, *, make: bool = False,
) -> Iterator["Signer"]:  # fmt: skip
    """The custodian's key, in a file or a token; made first if `make`."""
    from proxy import native
    from proxy.keys.ceremony import custodian, tokens

    if (key is None) == (module is None):
        raise ConfigError("name the custodian's key: --key, or --module and --token")
    if key is None:
        with tokens.session(token_place(module, token, pin_env, pin_file)) as opened:
            if make:
                try:
                    opened.make_ed25519(key_label)
                except FileExistsError as error:
                    raise ConfigError(str(error)) from None
            yield custodian.TokenSigner(opened, key_label)
        return
    secret = passphrase(f"Passphrase of {key}:", passphrase_env, passphrase_file)
    try:
        if make:
            try:
                custodian.make_key(key, secret)
            except FileExistsError:
                raise ConfigError(f"{key} is there already") from None
        context = custodian.opened(key, secret)
        signer = context.__enter__()
    finally:
        native.wipe(secret)
    try:
        yield signer
    finally:
        context.__exit__(None, None, None)
