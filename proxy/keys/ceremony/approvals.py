"""Who has agreed? Ed25519 signatures (RFC 8032) of custodians over a request or a bundle.

A signed file is `{"request" | "bundle": {...}, "signatures": [...]}`. A signature is over
`documents.signed_bytes`. What counts is told by `count`: distinct custodians of one roster, none
revoked; anything else in the list (a stranger, a second signature of one custodian, a signature
that does not verify) makes the whole file refused, not ignored, since nobody signs twice by
mistake and a file that was tampered with deserves no second look. Pure.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from proxy.errors import SealgateError
from proxy.keys.ceremony import canonical, documents
from proxy.keys.ceremony.canonical import Json
from proxy.keys.ceremony.documents import Bundle, DocumentError, Fields, Request, Roster

ALGORITHM = "Ed25519"


class Refused(SealgateError):
    """The ceremony does not go on; the text says which rule was broken."""


@dataclass(frozen=True, slots=True)
class Signature:
    custodian: str
    value: bytes  # 64


@dataclass(frozen=True, slots=True)
class Signed:
    """A request or a bundle with the signatures it has got so far."""

    content: Request | Bundle
    signatures: tuple[Signature, ...] = ()

    @property
    def purpose(self) -> str:
        return "request" if isinstance(self.content, Request) else "bundle"

    @property
    def message(self) -> bytes:
        """The bytes that a custodian signs."""
        return documents.signed_bytes(self.purpose, self.content.document())

    def encode(self) -> bytes:
        """The file: canonical JSON and a line end."""
        signatures: list[Json] = [
            {"custodian": s.custodian, "algorithm": ALGORITHM, "value": s.value.hex()}
            for s in self.signatures
        ]
        top: dict[str, Json] = {self.purpose: self.content.document(), "signatures": signatures}
        return canonical.encode(top) + b"\n"


def parse(raw: bytes) -> Signed:
    """The signed file in `raw`. Says nothing about its signatures but that they have their form."""
    top = documents.read(raw)
    if not isinstance(top, dict) or len(top) != 2 or "signatures" not in top:
        raise DocumentError("not a signed request or bundle")
    content: Request | Bundle
    if "request" in top:
        content = documents.parse_request(top["request"])
    elif "bundle" in top:
        content = documents.parse_bundle(top["bundle"])
    else:
        raise DocumentError("not a signed request or bundle")
    listed = top["signatures"]
    if not isinstance(listed, list) or len(listed) > 4 * documents.MAX_CUSTODIANS:
        raise DocumentError("signatures is a short list")
    return Signed(content, tuple(_signature(item) for item in listed))


def _signature(item: Json) -> Signature:
    top = Fields(item, "a signature")
    signature = Signature(top.name("custodian"), top.hex("value", 64))
    if top.take("algorithm") != ALGORITHM:
        raise DocumentError(f"signatures are {ALGORITHM}")
    top.end()
    return signature


def add(signed: Signed, roster: Roster, custodian: str, value: bytes) -> Signed:
    """With one more signature, verified; Refused for a stranger or a second one of the same."""
    if any(s.custodian == custodian for s in signed.signatures):
        raise Refused(f"{custodian} has signed this already")
    more = replace(signed, signatures=(*signed.signatures, Signature(custodian, value)))
    count(more, roster, ())
    return more


def count(signed: Signed, roster: Roster, revoked: Collection[str]) -> int:
    """How many custodians of `roster` have signed, revoked ones not counted. Refused if a signature
    is a stranger's, is there twice, or does not verify."""
    message = signed.message
    seen: set[str] = set()
    for signature in signed.signatures:
        custodian = roster.named(signature.custodian)
        if custodian is None:
            raise Refused(f"{signature.custodian} is not a custodian of this roster")
        if signature.custodian in seen:
            raise Refused(f"{signature.custodian} has signed twice")
        seen.add(signature.custodian)
        try:
            Ed25519PublicKey.from_public_bytes(custodian.sign).verify(signature.value, message)
        except (InvalidSignature, ValueError):
            raise Refused(f"the signature of {signature.custodian} does not verify") from None
    return len(seen - set(revoked))


def require(signed: Signed, roster: Roster, revoked: Collection[str]) -> None:
    """Refused unless as many custodians as the roster demands have signed."""
    have = count(signed, roster, revoked)
    if have < roster.threshold:
        raise Refused(
            f"{have} of {roster.threshold} signatures that count: ask more custodians to approve"
        )
