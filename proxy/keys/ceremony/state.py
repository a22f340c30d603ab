"""What does one side of a ceremony remember? A folder: whom it trusts, what it asked, what it took.

`roster.json` (pinned once, by its fingerprint), `revoked/<name>`, `requests/<ceremony>` (made here
and not yet used), `imported/<ceremony>` (never again). Mode 0700, written atomically. Nothing in it
is secret, but whoever can write here decides whose signatures count: keep it as you keep the HSM's
own configuration. I/O module, blocking.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from proxy.errors import ConfigError
from proxy.keys.ceremony import approvals, canonical, documents
from proxy.keys.ceremony.acceptance import Authority
from proxy.keys.ceremony.approvals import Refused, Signed
from proxy.keys.ceremony.documents import Request, Roster
from proxy.keys.stores.file import make_directory, write_atomically


class CeremonyState:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def trust(self, roster: Roster) -> None:
        """The roster is the one that counts here. Refused if another one does already."""
        make_directory(self._folder)
        body = canonical.encode(roster.document()) + b"\n"
        try:
            write_atomically(self._folder / "roster.json", body, replace=False)
        except FileExistsError:
            if self.authority().roster != roster:
                raise Refused("another roster is trusted here already") from None

    def revoke(self, name: str) -> None:
        """The custodian's signatures do not count here any more; there is no way back."""
        if self.authority().roster.named(name) is None:
            raise Refused(f"{name} is not a custodian of the roster that is trusted here")
        self._note("revoked", name, b"")

    def authority(self) -> Authority:
        """ConfigError if no roster is trusted here."""
        roster = documents.parse_roster(documents.read(self._read("roster.json", "no roster")))
        return Authority(roster, frozenset(self._names("revoked")))

    def remember_request(self, request: Request) -> None:
        self._note("requests", request.ceremony.hex(), Signed(request).encode())

    def pending(self, ceremony: bytes) -> Request | None:
        """The request of this ceremony that was made here and is not used up."""
        if ceremony.hex() not in self._names("requests"):
            return None
        content = approvals.parse(self._read(f"requests/{ceremony.hex()}", "no request")).content
        return content if isinstance(content, Request) else None

    def imported(self) -> frozenset[bytes]:
        return frozenset(bytes.fromhex(name) for name in self._names("imported"))

    def remember_import(self, ceremony: bytes, bundle: bytes) -> None:
        """Refused if it was imported already."""
        try:
            self._note("imported", ceremony.hex(), bundle, replace=False)
        except FileExistsError:
            raise Refused("this ceremony was imported already") from None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._folder / "requests" / ceremony.hex())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One act at a time in this folder."""
        make_directory(self._folder)
        handle = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _note(self, kind: str, name: str, body: bytes, *, replace: bool = True) -> None:
        folder = self._folder / kind
        make_directory(folder)
        write_atomically(folder / name, body, replace=replace)

    def _names(self, kind: str) -> list[str]:
        try:
            return [name for name in os.listdir(self._folder / kind) if not name.startswith(".")]
        except FileNotFoundError:
            return []

    def _read(self, name: str, absent: str) -> bytes:
        try:
            with open(self._folder / name, "rb") as file:
                return file.read(canonical.MAX_BYTES + 1)
        except OSError as error:
            raise ConfigError(
                f"ceremony folder {self._folder}: {absent} ({error.strerror})"
            ) from None
