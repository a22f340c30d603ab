"""What does a custodian hold, and what does he do with it? Enrol, sign, open a share.

A custodian's key is 32 random bytes in a file sealed under his passphrase (the format of a root
file, `sealgate-custodian/1`), or a non-extractable Ed25519 key in a token of his. From the file's
key come two, by HKDF: an Ed25519 seed that signs, and an X25519 key that shares are sealed to.
The enrolment is public and signed by itself, so that nobody enrols a key he does not have.
I/O module, blocking.
"""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from proxy import native
from proxy.crypto import kdf
from proxy.keys import rootfile
from proxy.keys.ceremony import canonical, documents
from proxy.keys.ceremony.approvals import Refused
from proxy.keys.ceremony.documents import Custodian, DocumentError, Fields
from proxy.keys.ceremony.tokens import TokenSession
from proxy.keys.rootfile import Root
from proxy.native import KeyHandle

KEY_FORMAT = "sealgate-custodian/1"
ENROLMENT = "sealgate-enrolment/1"
_SIGN, _SEAL = b"custodian-sign", b"custodian-seal"


@dataclass(frozen=True, slots=True)
class FileSigner:
    """A custodian's two private keys, in the arena."""

    sign_key: KeyHandle
    seal_key: KeyHandle

    def sign(self, message: bytes) -> bytes:
        return native.ed25519_sign(self.sign_key, message)

    @property
    def public(self) -> tuple[bytes, bytes]:
        """(Ed25519, X25519)"""
        return native.ed25519_public(self.sign_key), native.x25519_public(self.seal_key)


@dataclass(frozen=True, slots=True)
class TokenSigner:
    """A custodian's key in a token: it signs; shares cannot be sealed to it."""

    session: TokenSession
    label: str

    def sign(self, message: bytes) -> bytes:
        return self.session.ed25519_sign(self.label, message)

    @property
    def public(self) -> tuple[bytes, bytes]:
        return self.session.ed25519_public(self.label), b""


Signer = FileSigner | TokenSigner


def make_key(path: Path, passphrase: bytearray) -> None:
    """A custodian's key in a new file. FileExistsError if there is one. The caller wipes."""
    key = native.key_random()
    try:
        rootfile.write(path, Root(secrets.token_bytes(16), key), passphrase, KEY_FORMAT)
    finally:
        key.wipe()


@contextlib.contextmanager
def opened(path: Path, passphrase: bytearray) -> Iterator[FileSigner]:
    """The keys in `path`, for the time of the block. CredentialRefused: wrong passphrase."""
    whole = rootfile.load(path, passphrase, KEY_FORMAT).key
    sign_key = native.hkdf_sha256(whole, kdf.SALT, kdf.prefixed(_SIGN))
    seal_key = native.hkdf_sha256(whole, kdf.SALT, kdf.prefixed(_SEAL))
    whole.wipe()
    try:
        yield FileSigner(sign_key, seal_key)
    finally:
        sign_key.wipe()
        seal_key.wipe()


def enrol(name: str, signer: Signer) -> bytes:
    """The enrolment file: public keys under the custodian's own signature."""
    sign, seal = signer.public
    person = documents.parse_custodian(Custodian(name, sign, seal).document())
    message = documents.signed_bytes("enrolment", person.document())
    top: dict[str, canonical.Json] = {
        "format": ENROLMENT,
        "custodian": person.document(),
        "signature": signer.sign(message).hex(),
    }
    return canonical.encode(top) + b"\n"


def parse_enrolment(raw: bytes) -> Custodian:
    """Who is enrolled. Refused if the signature is not of the key that is enrolled."""
    top = Fields(documents.read(raw), "an enrolment", ENROLMENT)
    person = documents.parse_custodian(top.take("custodian"))
    signature = top.hex("signature", 64)
    top.end()
    message = documents.signed_bytes("enrolment", person.document())
    try:
        Ed25519PublicKey.from_public_bytes(person.sign).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise Refused(f"the enrolment of {person.name} is not signed by its own key") from None
    return person


def make_roster(customer: str, threshold: int, people: list[Custodian]) -> documents.Roster:
    """The roster of these custodians, in its one order; DocumentError if it makes no sense."""
    ordered = tuple(sorted(people, key=lambda person: person.name))
    roster = documents.check_roster(documents.Roster(customer, threshold, ordered))
    if documents.parse_roster(roster.document()) != roster:
        raise DocumentError("the roster cannot be written")
    return roster
