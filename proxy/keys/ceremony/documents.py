"""What do the documents of a ceremony say? Roster, request and bundle, strictly read and written.

docs/reference/format-bundle.md is the format. Every field is there, none besides; a document that
contradicts itself is refused (`DocumentError`). Pure and immutable; says nothing about who signed
(`approvals`) nor whether it is acceptable here and now (`acceptance`).
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.crypto.kdf import prefixed
from proxy.errors import SealgateError
from proxy.keys.ceremony import canonical
from proxy.keys.ceremony.canonical import Json, NotCanonical

ROSTER = "sealgate-roster/1"
REQUEST = "sealgate-ceremony-request/1"
BUNDLE = "sealgate-ceremony-bundle/1"
DOMAIN = b"sealgate/ceremony/1"

# What a wrapped key may be: an inner AES-256 key by RSAES-OAEP (RFC 8017; hash also for MGF1, empty
# label), then the master by AES-KWP (RFC 5649): the bytes of PKCS #11's CKM_RSA_AES_KEY_WRAP. Or
# the master by RSAES-OAEP itself, for clouds that ask for that.
KEY_WRAPS = ("RSA-OAEP-SHA256+AES256-KWP", "RSA-OAEP-SHA1+AES256-KWP")
ALGORITHMS = (*KEY_WRAPS, "RSA-OAEP-SHA256", "RSA-OAEP-SHA1")
OPERATIONS = ("decrypt", "encrypt")
MAX_CUSTODIANS = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")


class DocumentError(SealgateError):
    """The document is not one of this format, or contradicts itself."""


@dataclass(frozen=True, slots=True)
class Custodian:
    name: str
    sign: bytes  # Ed25519 public key, 32
    seal: bytes  # X25519 public key, 32; empty: the custodian takes no shares (key in a token)

    def document(self) -> dict[str, Json]:
        return {"name": self.name, "seal": self.seal.hex(), "sign": self.sign.hex()}


@dataclass(frozen=True, slots=True)
class Roster:
    """Who the N custodians are, and how many of them must agree (M)."""

    customer: str
    threshold: int
    custodians: tuple[Custodian, ...]  # by name

    def document(self) -> dict[str, Json]:
        return {
            "format": ROSTER,
            "customer": self.customer,
            "threshold": self.threshold,
            "custodians": [c.document() for c in self.custodians],
        }

    @property
    def fingerprint(self) -> bytes:
        """32 bytes that stand for the set and the threshold."""
        return hashlib.sha256(signed_bytes("roster", self.document())).digest()

    def named(self, name: str) -> Custodian | None:
        return next((c for c in self.custodians if c.name == name), None)


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """How a token describes itself."""

    label: str
    manufacturer: str
    model: str
    serial: str

    def document(self) -> dict[str, Json]:
        return {
            "label": self.label,
            "manufacturer": self.manufacturer,
            "model": self.model,
            "serial": self.serial,
        }


@dataclass(frozen=True, slots=True)
class Request:
    """The target asks for a key: here is the key to wrap it with."""

    ceremony: bytes  # 16, random
    customer: str
    target: TokenFacts
    wrapping_key: bytes  # SubjectPublicKeyInfo (RFC 5280), DER
    algorithms: tuple[str, ...]  # that the target can unwrap, best first
    operations: tuple[str, ...]  # that are asked for
    roster: bytes  # fingerprint
    threshold: int
    created: int  # Unix seconds
    expires: int

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the wrapping key's SubjectPublicKeyInfo."""
        return hashlib.sha256(self.wrapping_key).digest()

    def document(self) -> dict[str, Json]:
        return {
            "format": REQUEST,
            "ceremony": self.ceremony.hex(),
            "customer": self.customer,
            "target": self.target.document(),
            "wrapping_key": _b64(self.wrapping_key),
            "fingerprint": self.fingerprint.hex(),
            "algorithms": list(self.algorithms),
            "operations": list(self.operations),
            "roster": self.roster.hex(),
            "threshold": self.threshold,
            "created": self.created,
            "expires": self.expires,
        }


@dataclass(frozen=True, slots=True)
class Bundle:
    """The master key, wrapped for one target, and everything that holds for it."""

    ceremony: bytes  # 16, of the request
    issuer: str
    customer: str
    source: TokenFacts
    target: bytes  # 32: fingerprint of the wrapping key
    request: bytes  # 32: SHA-256 of the request's signed bytes
    algorithm: str
    key_id: bytes  # CKA_ID of the master, 1 to 64
    check_value: bytes  # 3, as CKA_CHECK_VALUE
    operations: tuple[str, ...]
    roster: bytes
    threshold: int
    valid_from: int  # Unix seconds, both inclusive
    valid_until: int
    wrapped: bytes
    proof_iv: bytes = b""  # 12
    proof: bytes = b""  # 16: AES-256-GMAC under the master, over `statement`

    def statement(self) -> bytes:
        """What the master key itself vouches for: everything but the proof."""
        stated = self._document()
        return signed_bytes("proof", stated)

    def _document(self) -> dict[str, Json]:
        return {
            "format": BUNDLE,
            "ceremony": self.ceremony.hex(),
            "issuer": self.issuer,
            "customer": self.customer,
            "source": self.source.document(),
            "target": self.target.hex(),
            "request": self.request.hex(),
            "algorithm": self.algorithm,
            "key": {
                "type": "AES-256",
                "id": self.key_id.hex(),
                "check_value": self.check_value.hex(),
            },
            "rights": {"operations": list(self.operations), "extractable": False},
            "roster": self.roster.hex(),
            "threshold": self.threshold,
            "valid_from": self.valid_from,
            "valid_until": self.valid_until,
            "wrapped": _b64(self.wrapped),
        }

    def document(self) -> dict[str, Json]:
        proof: Json = {"iv": self.proof_iv.hex(), "tag": self.proof.hex()}
        return {**self._document(), "proof": proof}


def signed_bytes(purpose: str, document: Mapping[str, Json]) -> bytes:
    """What a signature or fingerprint is over: domain and purpose, each behind its length as two
    bytes, then the canonical form. So a signature on a request never passes for one on a bundle."""
    return prefixed(DOMAIN, purpose.encode()) + canonical.encode(dict(document))


def parse_custodian(value: object) -> Custodian:
    top = Fields(value, "a custodian")
    name, sign, seal = top.name("name"), top.hex("sign", 32), top.hex("seal", 0, 32)
    top.end()
    return Custodian(name, sign, seal)


def parse_roster(value: object) -> Roster:
    """A roster: 1 to 16 custodians in order of their names, no key twice, a threshold of 1 to N."""
    top = Fields(value, "a roster", ROSTER)
    roster = Roster(
        top.text("customer"),
        top.number("threshold"),
        tuple(parse_custodian(item) for item in top.list("custodians")),
    )
    top.end()
    return check_roster(roster)


def check_roster(roster: Roster) -> Roster:
    """The same, or DocumentError for one that could not mean what it says."""
    people = roster.custodians
    if not 1 <= len(people) <= MAX_CUSTODIANS:
        raise DocumentError(f"a roster has 1 to {MAX_CUSTODIANS} custodians")
    if [c.name for c in people] != sorted({c.name for c in people}):
        raise DocumentError("the custodians of a roster are in order of their names, each once")
    keys = [c.sign for c in people] + [c.seal for c in people if c.seal]
    if len(set(keys)) != len(keys):
        raise DocumentError("two custodians of the roster have the same key")
    if not 1 <= roster.threshold <= len(people):
        raise DocumentError(f"the threshold is 1 to {len(people)}")
    return roster


def parse_request(value: object) -> Request:
    top = Fields(value, "a request", REQUEST)
    request = Request(
        top.hex("ceremony", 16),
        top.text("customer"),
        _facts(top.take("target")),
        top.base64("wrapping_key", 2048),
        top.choice("algorithms", ALGORITHMS),
        top.choice("operations", OPERATIONS),
        top.hex("roster", 32),
        top.number("threshold"),
        top.number("created"),
        top.number("expires"),
    )
    fingerprint = top.hex("fingerprint", 32)
    top.end()
    if fingerprint != request.fingerprint:
        raise DocumentError("the fingerprint of the request is not that of its wrapping key")
    if request.created >= request.expires:
        raise DocumentError("the request expires before it was made")
    return request


def parse_bundle(value: object) -> Bundle:
    top = Fields(value, "a bundle", BUNDLE)
    key = Fields(top.take("key"), "key")
    rights = Fields(top.take("rights"), "rights")
    proof = Fields(top.take("proof"), "proof")
    if key.take("type") != "AES-256":
        raise DocumentError("key.type is AES-256")
    if rights.take("extractable") is not False:
        raise DocumentError("a bundle never grants extraction")
    bundle = Bundle(
        ceremony=top.hex("ceremony", 16),
        issuer=top.text("issuer"),
        customer=top.text("customer"),
        source=_facts(top.take("source")),
        target=top.hex("target", 32),
        request=top.hex("request", 32),
        algorithm=top.text("algorithm"),
        key_id=key.hex("id", *range(1, 65)),
        check_value=key.hex("check_value", 3),
        operations=rights.choice("operations", OPERATIONS),
        roster=top.hex("roster", 32),
        threshold=top.number("threshold"),
        valid_from=top.number("valid_from"),
        valid_until=top.number("valid_until"),
        wrapped=top.base64("wrapped", 2048),
        proof_iv=proof.hex("iv", 12),
        proof=proof.hex("tag", 16),
    )
    for part in (top, key, rights, proof):
        part.end()
    if bundle.algorithm not in ALGORITHMS:
        raise DocumentError(f"unknown algorithm {bundle.algorithm}")
    if bundle.valid_from > bundle.valid_until:
        raise DocumentError("the bundle ends before it begins")
    return bundle


def _facts(value: object) -> TokenFacts:
    top = Fields(value, "a token")
    facts = TokenFacts(*(top.text(n, empty=True) for n in TokenFacts.__slots__))
    top.end()
    return facts


class Fields:
    """The fields of one object, each to be taken once."""

    def __init__(self, value: object, what: str, form: str | None = None) -> None:
        if not isinstance(value, dict):
            raise DocumentError(f"{what} is an object")
        self._left = dict(value)
        self._what = what
        if form is not None and self.take("format") != form:
            raise DocumentError(f"not {what} of format {form}")

    def take(self, name: str) -> object:
        if name not in self._left:
            raise DocumentError(f"{self._what} has no {name}")
        return self._left.pop(name)

    def end(self) -> None:
        if self._left:
            raise DocumentError(f"{self._what}: unknown field {min(self._left)}")

    def text(self, name: str, *, empty: bool = False) -> str:
        value = self.take(name)
        if empty and value == "":
            return ""
        # What a custodian is shown must not move his cursor or turn the reading direction.
        if not isinstance(value, str) or not 1 <= len(value) <= 200 or not value.isprintable():
            raise DocumentError(f"{name} is a line of 1 to 200 printable characters")
        return value

    def name(self, name: str) -> str:
        value = self.take(name)
        if not isinstance(value, str) or _NAME.fullmatch(value) is None:
            raise DocumentError(f"{name} is 1 to 63 of A-Z a-z 0-9 . _ @ -")
        return value

    def number(self, name: str) -> int:
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise DocumentError(f"{name} is a whole number")
        return value

    def hex(self, name: str, *sizes: int) -> bytes:
        value = self.take(name)
        try:
            raw = bytes.fromhex(value) if isinstance(value, str) else None
        except ValueError:
            raw = None
        if raw is None or raw.hex() != value or len(raw) not in sizes:
            raise DocumentError(f"{name} is {sizes[-1]} bytes in lower-case hex")
        return raw

    def base64(self, name: str, most: int) -> bytes:
        value = self.take(name)
        try:
            raw = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
        except (binascii.Error, ValueError):
            raw = b""
        if not 1 <= len(raw) <= most or _b64(raw) != value:
            raise DocumentError(f"{name} is base64 of 1 to {most} bytes")
        return raw

    def list(self, name: str) -> list[object]:
        value = self.take(name)
        if not isinstance(value, list):
            raise DocumentError(f"{name} is a list")
        return value

    def choice(self, name: str, of: tuple[str, ...]) -> tuple[str, ...]:
        """A list of some of `of`, in that order, at least one."""
        chosen = self.list(name)
        if not chosen or [v for v in of if v in chosen] != chosen:
            raise DocumentError(f"{name} is some of {', '.join(of)}, in this order")
        return tuple(v for v in of if v in chosen)


def read(raw: bytes) -> Json:
    """The JSON in `raw`; DocumentError where it is ambiguous."""
    try:
        return canonical.decode(raw)
    except NotCanonical as error:
        raise DocumentError(str(error)) from None


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
