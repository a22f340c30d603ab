"""Where is this secret, and what is it now? Reads what a `SecretRef` names, each time anew.

I/O module. A secret is never kept here and never stands in an error text. `resolve_bytes` is for
PINs and passphrases: the caller wipes the buffer (`native.wipe`) as soon as it was used.
"""

import os
import shlex
import subprocess

from proxy.config.model import SecretRef
from proxy.errors import ConfigError

_MAX_BYTES = 64 * 1024
_COMMAND_SECONDS = 10.0


def resolve(ref: SecretRef) -> str:
    """The secret as text (UTF-8), without a final line end. ConfigError if it cannot be had."""
    secret = resolve_bytes(ref)
    try:
        return secret.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"the secret in {_where(ref)} is not UTF-8") from None
    finally:
        secret[:] = bytes(len(secret))


def resolve_bytes(ref: SecretRef) -> bytearray:
    """The secret in a fresh buffer that the caller owns and wipes; not empty."""
    if sum(part is not None for part in (ref.env, ref.file, ref.command)) != 1:
        raise ConfigError("a secret needs exactly one of env, file, command")
    if ref.env is not None:
        secret = _from_env(ref.env)
    elif ref.file is not None:
        secret = _from_file(ref.file)
    else:
        assert ref.command is not None
        secret = _from_command(ref.command)
    while secret and secret[-1] in b"\r\n":
        secret.pop()
    if not secret:
        raise ConfigError(f"the secret in {_where(ref)} is empty")
    return secret


def _where(ref: SecretRef) -> str:
    if ref.env is not None:
        return f"environment variable {ref.env}"
    if ref.file is not None:
        return f"file {ref.file}"
    return "the output of the configured command"


def _from_env(name: str) -> bytearray:
    value = os.environb.get(name.encode())
    if value is None:
        raise ConfigError(f"environment variable {name} is not set")
    return bytearray(value)


def _from_file(path: str) -> bytearray:
    buffer = bytearray(_MAX_BYTES + 1)
    try:
        # Unbuffered: a BufferedReader would keep a copy of the secret in its own buffer.
        with open(path, "rb", buffering=0) as file:
            size = 0
            while size < len(buffer):
                got = file.readinto(memoryview(buffer)[size:])
                if not got:
                    break
                size += got
    except OSError as error:
        raise ConfigError(f"secret file {path}: {error.strerror}") from None
    if size > _MAX_BYTES:
        buffer[:] = bytes(len(buffer))
        raise ConfigError(f"secret file {path} is larger than {_MAX_BYTES} bytes")
    secret = bytearray(memoryview(buffer)[:size])
    buffer[:] = bytes(len(buffer))
    return secret


def _from_command(command: str) -> bytearray:
    try:
        words = shlex.split(command)
        if not words:
            raise ValueError("empty command")
        done = subprocess.run(  # noqa: S603 - the operator's own command, without a shell
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_COMMAND_SECONDS,
            check=True,
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"secret command cannot be run: {type(error).__name__}") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"secret command gave no answer in {_COMMAND_SECONDS:g} s") from None
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"secret command ended with status {error.returncode}") from None
    if len(done.stdout) > _MAX_BYTES:
        raise ConfigError(f"secret command wrote more than {_MAX_BYTES} bytes")
    return bytearray(done.stdout)
