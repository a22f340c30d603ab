"""SCRAM-SHA-256 towards clients, from a stored secret: the server's half, as messages. Pure.

RFC 5802 and RFC 7677 as PostgreSQL profiles them (documentation, "SASL Authentication"): the user
name inside the exchange is not looked at, there is no authorisation name, channel binding is
tls-server-end-point (RFC 5929). An unknown user goes through the same steps with a salt that is
always the same for the name, and fails where a wrong password does. libpq sends an empty user
name, which scramp's server refuses; that library does the client's half (`server_login.py`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from proxy.errors import SealgateError
from proxy.postgres.messages import Malformed

MECHANISM, MECHANISM_PLUS = b"SCRAM-SHA-256", b"SCRAM-SHA-256-PLUS"
_BINDING = b"tls-server-end-point"
_NONCE_BYTES = 18
_DIGEST_BYTES = 32
_MAX_ITERATIONS = 10_000_000
_SECRET = re.compile(r"SCRAM-SHA-256\$([1-9][0-9]{0,7}):([^$]+)\$([^:]+):([^:]+)")
_NONCE = re.compile(rb"[\x21-\x2b\x2d-\x7e]+")


@dataclass(frozen=True, slots=True)
class Verifier:
    """What is stored of a password. Its repr shows nothing."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes

    def __repr__(self) -> str:
        return "Verifier(...)"


def read_verifier(text: str) -> Verifier:
    """From pg_authid.rolpassword's form. Raises ValueError, without the text."""
    found = _SECRET.fullmatch(text.strip())
    if found is None:
        raise ValueError("not a SCRAM-SHA-256 secret as in pg_authid.rolpassword")
    try:
        salt, stored, server = (base64.b64decode(found[i], validate=True) for i in (2, 3, 4))
    except binascii.Error:
        raise ValueError("a part of the SCRAM secret is not base64") from None
    iterations = int(found[1])
    if len(stored) != _DIGEST_BYTES or len(server) != _DIGEST_BYTES or not salt:
        raise ValueError("the keys of a SCRAM-SHA-256 secret have 32 bytes")
    if iterations > _MAX_ITERATIONS:
        raise ValueError("too many iterations in a SCRAM secret")
    return Verifier(iterations, salt, stored, server)


class Verifiers:
    """Secrets by user, and convincing ones for users that are not there.

    The mock salt is HMAC-SHA-256 of the name under `mock_secret`, or under the whole table where
    none is configured; its length and iterations are those most of the real ones have.
    """

    def __init__(self, known: Mapping[str, Verifier], mock_secret: bytes = b"") -> None:
        self._known = dict(known)
        self._mock_key = mock_secret or _digest_of(known.items())
        shapes = Counter((v.iterations, len(v.salt)) for v in known.values())
        self._shape = shapes.most_common(1)[0][0] if shapes else (4096, 16)

    def __contains__(self, user: str) -> bool:
        return user in self._known

    def look_up(self, user: str) -> tuple[Verifier, bool]:
        """The secret, and whether it is a real one."""
        iterations, size = self._shape
        salt = hmac.digest(self._mock_key, user.encode(), "sha256") * (1 + size // 32)
        nothing = bytes(_DIGEST_BYTES)
        mock = Verifier(iterations, salt[:size], nothing, nothing)
        known = self._known.get(user)
        return (mock, False) if known is None else (known, True)


def _digest_of(items: Iterable[tuple[str, Verifier]]) -> bytes:
    digest = hashlib.sha256(b"sealgate mock salt")
    for user, verifier in sorted(items, key=lambda item: item[0]):
        digest.update(hashlib.sha256(user.encode()).digest() + verifier.server_key)
    return digest.digest()


class ScramFailed(SealgateError):
    """The proof does not hold: wrong password, unknown user, or another channel."""


class ScramServer:
    """One exchange. `first` and `final` give the server's messages; both raise Malformed for what
    is not SCRAM, and ScramFailed. Constant time in everything that depends on the secret."""

    def __init__(
        self, verifier: Verifier, real: bool, binding: bytes | None, nonce: bytes = b""
    ) -> None:
        """`binding`: the tls-server-end-point data, where channel binding was offered."""
        self._verifier = verifier
        self._real = real
        self._binding = binding
        self._own_nonce = nonce or base64.b64encode(secrets.token_bytes(_NONCE_BYTES))
        self._header = b""
        self._first_messages = b""
        self._nonce = b""
        self._bound = False

    def first(self, mechanism: bytes, message: bytes) -> bytes:
        """client-first-message → server-first-message."""
        flag, authzid, bare = _split(message)
        if mechanism == MECHANISM_PLUS and self._binding is not None:
            if not flag.startswith(b"p="):
                raise Malformed("SCRAM-SHA-256-PLUS without channel binding")
            if flag != b"p=" + _BINDING:
                raise Malformed("unsupported SCRAM channel-binding type")
            self._bound = True
        elif mechanism == MECHANISM:
            if flag.startswith(b"p="):
                raise Malformed("channel binding without SCRAM-SHA-256-PLUS")
            if flag == b"y" and self._binding is not None:
                # RFC 5802, section 6: somebody took our offer of -PLUS away
                raise ScramFailed("SCRAM channel binding negotiation error")
        else:
            raise Malformed("client selected an invalid SASL authentication mechanism")
        if authzid:
            raise Malformed("client uses authorization identity, but it is not supported")
        self._header = flag + b",,"
        words = bare.split(b",")
        if words[0].startswith(b"m="):
            raise Malformed("client requires an unsupported SCRAM extension")
        if len(words) < 2 or not words[0].startswith(b"n=") or not words[1].startswith(b"r="):
            raise Malformed("malformed SCRAM message")
        theirs = words[1][2:]
        if not _NONCE.fullmatch(theirs):
            raise Malformed("non-printable characters in SCRAM nonce")
        self._nonce = theirs + self._own_nonce
        salt = base64.b64encode(self._verifier.salt)
        answer = b"r=%b,s=%b,i=%d" % (self._nonce, salt, self._verifier.iterations)
        self._first_messages = bare + b"," + answer
        return answer

    def final(self, message: bytes) -> bytes:
        """client-final-message → server-final-message; the client is who it says."""
        without_proof, comma, proof_text = message.rpartition(b",p=")
        words = without_proof.split(b",")
        if not comma or len(words) < 2 or not words[0].startswith(b"c="):
            raise Malformed("malformed SCRAM message")
        bound = base64.b64encode(self._header + (self._binding or b"" if self._bound else b""))
        if not hmac.compare_digest(words[0][2:], bound):
            raise ScramFailed("SCRAM channel binding check failed")
        if words[1] != b"r=" + self._nonce:
            raise Malformed("invalid SCRAM response (nonce mismatch)")
        try:
            proof = base64.b64decode(proof_text, validate=True)
        except binascii.Error:
            proof = b""
        if len(proof) != _DIGEST_BYTES:
            raise Malformed("malformed SCRAM message (proof)")
        signed = self._first_messages + b"," + without_proof
        v = self._verifier
        signature = hmac.digest(v.stored_key, signed, "sha256")
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        match = hmac.compare_digest(hashlib.sha256(client_key).digest(), v.stored_key)
        answer = b"v=" + base64.b64encode(hmac.digest(v.server_key, signed, "sha256"))
        if not (match and self._real):
            raise ScramFailed("the proof does not hold")
        return answer


def _split(message: bytes) -> tuple[bytes, bytes, bytes]:
    """gs2-cbind-flag, authzid and client-first-message-bare."""
    flag, first, rest = message.partition(b",")
    authzid, second, bare = rest.partition(b",")
    if not first or not second or not (flag in (b"n", b"y") or flag.startswith(b"p=")):
        raise Malformed("malformed SCRAM message")
    return flag, authzid, bare
