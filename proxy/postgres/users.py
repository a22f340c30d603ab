"""Which clients does the proxy know, and who is it towards the server for each? (`postgres.auth`)

I/O module: reads the users file and resolves secrets, once for a configuration; call it off the
loop. Passwords of the server leg are kept as text, since the protocol needs them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.config.model import PostgresAuth, SecretRef, ServerLogin
from proxy.config.secrets import resolve
from proxy.errors import ConfigError
from proxy.postgres.scram import Verifier, Verifiers, read_verifier

_LINE = re.compile(r'"((?:[^"]|"")+)"\s+"((?:[^"]|"")*)"\s*(?:[;#].*)?')


@dataclass(frozen=True, slots=True)
class Credentials:
    """Towards the server. `user` None: the client's own name. The repr shows no password."""

    user: str | None
    password: str | None

    def __repr__(self) -> str:
        return f"Credentials({self.user!r})"


class Users:
    """What `postgres.auth` says, read. Raises ConfigError."""

    def __init__(self, config: PostgresAuth) -> None:
        self.config = config
        known: dict[str, Verifier] = {}
        if config.users_file is not None:
            known.update(_read_file(config.users_file))
        for user in config.users:
            if user.secret is not None:
                known[user.user] = _verifier(f"user {user.user!r}", resolve(user.secret))
        mock = b"" if config.mock_secret is None else resolve(config.mock_secret).encode()
        self.verifiers = Verifiers(known, mock)
        self._known = {*known, *(user.user for user in config.users)}
        self._default = _credentials(config.server)
        self._own = {u.user: _credentials(u.server) for u in config.users if u.server is not None}

    def admits(self, user: str) -> bool:
        """Whether a certificate of this role suffices: it is listed, or nobody is."""
        return not self._known or user in self._known

    def credentials(self, user: str) -> Credentials:
        return self._own.get(user, self._default)


def _credentials(login: ServerLogin) -> Credentials:
    return Credentials(login.user, None if login.password is None else _secret(login.password))


def _secret(ref: SecretRef) -> str:
    return resolve(ref)


def _verifier(where: str, text: str) -> Verifier:
    try:
        return read_verifier(text)
    except ValueError as error:
        raise ConfigError(f"postgres.auth: {where}: {error}") from None


def _read_file(path: str) -> dict[str, Verifier]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"postgres.auth.users_file: {path}: {error}") from None
    found: dict[str, Verifier] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip()[0] in ";#":
            continue
        where = f"{path}:{number}"
        words = _LINE.fullmatch(line.strip())
        if words is None:
            raise ConfigError(f'{where}: write "user" "SCRAM-SHA-256$..."')
        name = words[1].replace('""', '"')
        if name in found:
            raise ConfigError(f"{where}: user {name!r} is there twice; keep one")
        found[name] = _verifier(where, words[2].replace('""', '"'))
    return found
