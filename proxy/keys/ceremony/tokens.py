"""What happens to the master key inside a token? Made, wrapped for a target, unwrapped, proved.

PKCS #11 v2.40. No byte of the master or of the inner wrapping key leaves a token in clear. The
wrapped form is that of CKM_RSA_AES_KEY_WRAP: a fresh AES-256 key by RSAES-OAEP (RFC 8017), then the
master by AES key wrap with padding (RFC 5649) under it, one behind the other. It is made and taken
apart in two steps, which give the same bytes and which more tokens can do (SoftHSM 2.6 has no
CKM_RSA_AES_KEY_WRAP, and OAEP with SHA-1 only). Blocking; one session, one thread, one act.
"""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers

from proxy import native
from proxy.errors import ConfigError, IntegrityError
from proxy.keys.ceremony.approvals import Refused
from proxy.keys.ceremony.documents import ALGORITHMS, KEY_WRAPS, TokenFacts
from proxy.keys.providers import ckr
from proxy.keys.providers.base import CapabilityMissing, DeviceDown
from proxy.keys.providers.token import translated
from proxy.native import KeyHandle, Pkcs11Error, Pkcs11Module

SECRET, PUBLIC, PRIVATE = 4, 2, 3  # CKO_SECRET_KEY, CKO_PUBLIC_KEY, CKO_PRIVATE_KEY
RSA, AES, EDWARDS = 0x00, 0x1F, 0x40  # CKK_
CLASS, TOKEN, PRIVACY, LABEL, VALUE, KEY_TYPE, ID = 0x0, 0x1, 0x2, 0x3, 0x11, 0x100, 0x102
SENSITIVE, EXTRACTABLE, VALUE_LEN = 0x103, 0x162, 0x161
ENCRYPT, DECRYPT, WRAP, UNWRAP, SIGN, VERIFY, DERIVE = (
    0x104,
    0x105,
    0x106,
    0x107,
    0x108,
    0x10A,
    0x10C,
)
MODULUS, MODULUS_BITS, EXPONENT, EC_PARAMS, EC_POINT = 0x120, 0x121, 0x122, 0x180, 0x181
RSA_PAIR, RSA_OAEP, AES_GEN, EC_EDWARDS_PAIR, EDDSA = 0x0, 0x9, 0x1080, 0x1055, 0x1057
# RFC 5649 by either of its names: CKM_AES_KEY_WRAP_KWP (v3.0), CKM_AES_KEY_WRAP_PAD (v2.40)
AES_KWP = (0x210B, 0x210A)
_SHA256, _SHA_1 = 0x250, 0x220  # CKM_
HASHES: Mapping[str, int] = dict(zip(ALGORITHMS, (_SHA256, _SHA_1) * 2, strict=True))

_EDWARDS25519 = b"\x13\x0cedwards25519"  # PrintableString, PKCS #11 v3.0, 6.3.2
_F4 = b"\x01\x00\x01"
WRAPPING_BITS = 4096
_MIN_BITS, _MAX_BITS = 2048, 8192
_CKF_TOKEN_INITIALIZED = 0x400

Attributes = list[tuple[int, bool | int | bytes | KeyHandle]]


@dataclass(frozen=True, slots=True)
class TokenPlace:
    """Which token, and how one gets in. `pin` gives a fresh buffer, wiped after the login."""

    module: str
    label: str
    pin: Callable[[], bytearray]
    environment: Mapping[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def session(place: TokenPlace) -> Iterator["TokenSession"]:
    """Logged in to the token for the time of the block; return codes become the errors of
    providers.base (codes about data: IntegrityError)."""
    os.environ.update(place.environment)  # the module reads it when it is initialised
    try:
        module = Pkcs11Module(place.module)
    except (OSError, ValueError) as error:
        raise CapabilityMissing(str(error)) from None
    with _translated():
        found = [s for s in module.slots() if s["label"] == place.label and _initialised(s)]
        if len(found) != 1:
            raise DeviceDown(f"{len(found) or 'no'} tokens with label {place.label!r}")
        slot = found[0]["slot"]
        assert isinstance(slot, int)
        handle = module.open_session(slot)
        try:
            pin = place.pin()
            try:
                module.login(handle, pin)
            finally:
                native.wipe(pin)
            facts = TokenFacts(
                *(str(found[0][name]) for name in ("label", "manufacturer", "model", "serial"))
            )
            yield TokenSession(module, handle, facts, module.mechanisms(slot))
        finally:
            with contextlib.suppress(Pkcs11Error):
                module.close_session(handle)


@dataclass(frozen=True, slots=True)
class TokenSession:
    """The acts of a ceremony in one token."""

    module: Pkcs11Module
    handle: int
    facts: TokenFacts
    mechanisms: frozenset[int]

    # -- master keys ---------------------------------------------------------------------------

    def make_master(self, label: str) -> bytes:
        """A new AES-256 master key: sensitive, extractable (wrapped only), for encrypting and
        decrypting. Returns its id. FileExistsError if the label is taken."""
        self._absent(label)
        key_id, both = secrets.token_bytes(16), ("decrypt", "encrypt")
        rights = _root_rights(label, key_id, both, extractable=True)
        made = self.module.generate(self.handle, AES_GEN, [*rights, (VALUE_LEN, 32)])
        self._check_rights(made, both, extractable=True)
        return key_id

    def master(self, label: str) -> int:
        """The AES key of this label; CapabilityMissing unless there is exactly one."""
        found = self._find(label, SECRET, AES)
        if len(found) != 1:
            raise CapabilityMissing(
                f"token {self.facts.label!r} has {len(found) or 'no'} AES keys with label {label!r}"
            )
        return found[0]

    def key_id(self, key: int) -> bytes:
        return self.module.public(self.handle, key, ID)

    def check_value(self, key: int) -> bytes:
        """3 bytes, the same that the token shows as CKA_CHECK_VALUE."""
        return self.module.check_value(self.handle, key)

    def prove(self, key: int, statement: bytes) -> tuple[bytes, bytes]:
        """(IV, tag): AES-256-GMAC (SP 800-38D) of `statement` under the key, by the token."""
        iv = secrets.token_bytes(12)
        return iv, self.module.gcm_encrypt(self.handle, key, iv, b"", statement)

    def check_proof(
        self, key: int, iv: bytes, tag: bytes, statement: bytes, *, decrypts: bool = True
    ) -> None:
        """IntegrityError unless the key is the one that made the proof. A key that does not decrypt
        makes it once more."""
        try:
            if decrypts:
                self.module.gcm_decrypt(self.handle, key, iv, tag, statement)
                return
            again = self.module.gcm_encrypt(self.handle, key, iv, b"", statement)
        except (Pkcs11Error, ValueError) as error:
            raise IntegrityError(f"the key does not prove itself: {error}") from None
        if not native.ct_equal(again, tag):
            raise IntegrityError("the key does not prove itself")

    def import_key(self, secret: KeyHandle, label: str, key_id: bytes) -> None:
        """A root key from the arena into the token: sensitive, never extractable from now on.
        FileExistsError if the label is taken."""
        self._absent(label)
        template = _root_rights(label, key_id, ("decrypt", "encrypt"), extractable=False)
        made = self.module.create(self.handle, [*template, (VALUE, secret)])
        self._check_rights(made, ("decrypt", "encrypt"))

    # -- wrapping ------------------------------------------------------------------------------

    def make_wrapping_pair(self, label: str, bits: int) -> bytes:
        """A key pair whose private half only unwraps and never leaves; its SubjectPublicKeyInfo."""
        if not _MIN_BITS <= bits <= _MAX_BITS:
            raise ConfigError(f"a wrapping key has {_MIN_BITS} to {_MAX_BITS} bits")
        public, private = self.module.generate_pair(
            self.handle, RSA_PAIR,
            [
                (TOKEN, True), (LABEL, label.encode()), (ID, label.encode()), (WRAP, True),
                (ENCRYPT, False), (VERIFY, False), (MODULUS_BITS, bits), (EXPONENT, _F4),
            ],
            [
                (TOKEN, True), (PRIVACY, True), (LABEL, label.encode()), (ID, label.encode()),
                (SENSITIVE, True), (EXTRACTABLE, False), (UNWRAP, True), (DECRYPT, False),
                (SIGN, False),
            ],
        )  # fmt: skip
        try:
            self._expect(private, {SENSITIVE: True, EXTRACTABLE: False, UNWRAP: True,
                                   DECRYPT: False, SIGN: False})  # fmt: skip
            modulus, exponent = (
                int.from_bytes(self.module.public(self.handle, public, part), "big")
                for part in (MODULUS, EXPONENT)
            )
            return RSAPublicNumbers(exponent, modulus).public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )  # fmt: skip
        except BaseException:
            self._drop(private, public)
            raise

    def algorithms(self, label: str, spki: bytes) -> tuple[str, ...]:
        """Those that this token really unwraps, tried with a key made for it; best first."""
        private = self._wrapping_key(label)
        able = []
        for name in KEY_WRAPS:
            probe, blob = 0, b""
            try:
                probe = self._ephemeral()
                blob = self._oaep(spki, probe, HASHES[name])
                inner = self._unwrap_inner(private, blob, HASHES[name])
                self._drop(inner)
                able.append(name)
            except Pkcs11Error:
                continue
            finally:
                if probe:
                    self._drop(probe)
        if not able or not any(m in self.mechanisms for m in AES_KWP):
            raise CapabilityMissing("the token cannot unwrap by RSA-OAEP and AES-KWP")
        return tuple(able)

    def wrap_for(self, spki: bytes, key: int, algorithm: str) -> bytes:
        """`key` for the holder of this public key. Pkcs11Error if the token cannot."""
        if algorithm not in KEY_WRAPS:
            return self._oaep(spki, key, HASHES[algorithm])
        inner = self._ephemeral()
        try:
            head = self._oaep(spki, inner, HASHES[algorithm])
            tail = self.module.wrap(self.handle, self._kwp(), inner, key)
        finally:
            self._drop(inner)
        return head + tail

    def unwrap_master(
        self, wrapping: str, blob: bytes, algorithm: str, label: str, key_id: bytes,
        operations: tuple[str, ...],
    ) -> int:  # fmt: skip
        """The key in `blob` as a root key of this token, with just these rights. Destroyed again if
        the token gave it others."""
        self._absent(label)
        private = self._wrapping_key(wrapping)
        size = self._modulus_bytes(wrapping)
        inner = self._unwrap_inner(private, blob[:size], HASHES[algorithm])
        try:
            template = _root_rights(label, key_id, operations, extractable=False)
            key = self.module.unwrap(self.handle, self._kwp(), inner, blob[size:], template)
        finally:
            self._drop(inner)
        self._check_rights(key, operations)
        return key

    def destroy_wrapping_pair(self, label: str) -> None:
        """What was wrapped for it can never be unwrapped again. Idempotent."""
        for kind in (PRIVATE, PUBLIC):
            for found in self._find(label, kind, RSA):
                self.module.destroy(self.handle, found)

    def destroy(self, key: int) -> None:
        self.module.destroy(self.handle, key)

    # -- custodians ----------------------------------------------------------------------------

    def make_ed25519(self, label: str) -> None:
        """A signing key that never leaves the token. FileExistsError if the label is taken."""
        if self._find(label, PRIVATE, EDWARDS):
            raise FileExistsError(f"the token has a key with label {label!r} already")
        if EDDSA not in self.mechanisms:
            raise CapabilityMissing("the token has no Ed25519 (CKM_EDDSA)")
        name = label.encode()
        public, private = self.module.generate_pair(
            self.handle, EC_EDWARDS_PAIR,
            [(TOKEN, True), (LABEL, name), (EC_PARAMS, _EDWARDS25519), (VERIFY, True)],
            [
                (TOKEN, True), (PRIVACY, True), (LABEL, name), (SENSITIVE, True),
                (EXTRACTABLE, False), (SIGN, True),
            ],
        )  # fmt: skip
        try:
            self._expect(private, {SENSITIVE: True, EXTRACTABLE: False, SIGN: True})
        except BaseException:
            self._drop(private, public)
            raise

    def ed25519_public(self, label: str) -> bytes:
        point = self.module.public(self.handle, self._ed25519(label, PUBLIC), EC_POINT)
        # A DER OCTET STRING; some tokens leave the two bytes before it out.
        return point[2:] if len(point) == 34 and point[:2] == b"\x04\x20" else point

    def ed25519_sign(self, label: str, message: bytes) -> bytes:
        key = self._ed25519(label, PRIVATE)
        return self.module.sign(self.handle, EDDSA, key, message)

    # -- below here: parts ---------------------------------------------------------------------

    def _find(self, label: str, kind: int, key_type: int) -> list[int]:
        wanted: Attributes = [(CLASS, kind), (KEY_TYPE, key_type), (LABEL, label.encode())]
        return self.module.find(self.handle, wanted)

    def _absent(self, label: str) -> None:
        if self._find(label, SECRET, AES):
            raise FileExistsError(f"the token has a key with label {label!r} already")

    def _ed25519(self, label: str, kind: int) -> int:
        found = self._find(label, kind, EDWARDS)
        if len(found) != 1:
            raise CapabilityMissing(f"{len(found) or 'no'} Ed25519 keys with label {label!r}")
        return found[0]

    def _wrapping_key(self, label: str) -> int:
        found = self._find(label, PRIVATE, RSA)
        if len(found) != 1:
            raise Refused("the wrapping key of this ceremony is not in this token")
        return found[0]

    def _modulus_bytes(self, label: str) -> int:
        found = self._find(label, PUBLIC, RSA)
        if len(found) != 1:
            raise Refused("the wrapping key of this ceremony is not in this token")
        return len(self.module.public(self.handle, found[0], MODULUS).lstrip(b"\0"))

    def _kwp(self) -> int:
        able = [m for m in AES_KWP if m in self.mechanisms]
        if not able:
            raise CapabilityMissing("the token has no AES key wrap with padding (RFC 5649)")
        return able[0]

    def _ephemeral(self) -> int:
        """A session key for one wrap: it lives in the token until it is destroyed or we leave."""
        return self.module.generate(
            self.handle, AES_GEN,
            [
                (CLASS, SECRET), (KEY_TYPE, AES), (VALUE_LEN, 32), (TOKEN, False), (PRIVACY, True),
                (SENSITIVE, True), (EXTRACTABLE, True), (WRAP, True), (UNWRAP, False),
                (ENCRYPT, False), (DECRYPT, False),
            ],
        )  # fmt: skip

    def _oaep(self, spki: bytes, key: int, hash_mechanism: int) -> bytes:
        numbers = rsa_public(spki)
        public = self.module.create(
            self.handle,
            [
                (CLASS, PUBLIC), (KEY_TYPE, RSA), (TOKEN, False), (WRAP, True), (ENCRYPT, False),
                (VERIFY, False), (MODULUS, _unsigned(numbers.n)), (EXPONENT, _unsigned(numbers.e)),
            ],
        )  # fmt: skip
        try:
            return self.module.wrap(self.handle, RSA_OAEP, public, key, oaep_hash=hash_mechanism)
        finally:
            self._drop(public)

    def _unwrap_inner(self, private: int, blob: bytes, hash_mechanism: int) -> int:
        template: Attributes = [
            (CLASS, SECRET), (KEY_TYPE, AES), (TOKEN, False), (PRIVACY, True), (SENSITIVE, True),
            (EXTRACTABLE, False), (UNWRAP, True), (WRAP, False), (ENCRYPT, False), (DECRYPT, False),
        ]  # fmt: skip
        return self.module.unwrap(
            self.handle, RSA_OAEP, private, blob, template, oaep_hash=hash_mechanism
        )

    def _drop(self, *objects: int) -> None:
        """What must not be kept, as far as the token lets it go. It never stands in the way of what
        was to be done or told: an object of the session goes with the session anyway."""
        for each in objects:
            with contextlib.suppress(Pkcs11Error):
                self.module.destroy(self.handle, each)

    def _check_rights(
        self, key: int, operations: tuple[str, ...], *, extractable: bool = False
    ) -> None:
        """The token's own word on the key; without all of it, the key is destroyed."""
        wanted = {
            SENSITIVE: True, EXTRACTABLE: extractable, WRAP: False, UNWRAP: False, SIGN: False,
            VERIFY: False, DERIVE: False, ENCRYPT: "encrypt" in operations,
            DECRYPT: "decrypt" in operations,
        }  # fmt: skip
        try:
            self._expect(key, wanted)
        except BaseException:
            self._drop(key)
            raise

    def _expect(self, key: int, wanted: Mapping[int, bool]) -> None:
        for attribute, value in wanted.items():
            if self.module.public(self.handle, key, attribute) != bytes([value]):
                raise CapabilityMissing(
                    f"the token gave the key other rights than asked for (attribute 0x{attribute:X})"
                )


def rsa_public(spki: bytes) -> RSAPublicNumbers:
    """The RSA key in a SubjectPublicKeyInfo; Refused for anything else, or a weak one."""
    try:
        key = serialization.load_der_public_key(spki)
    except ValueError:
        key = None
    if not isinstance(key, RSAPublicKey) or not _MIN_BITS <= key.key_size <= _MAX_BITS:
        raise Refused(f"a wrapping key is an RSA key of {_MIN_BITS} to {_MAX_BITS} bits")
    if key.public_numbers().e != 65537:
        raise Refused("the exponent of a wrapping key is 65537")
    return key.public_numbers()


def _root_rights(
    label: str, key_id: bytes, operations: tuple[str, ...], *, extractable: bool
) -> Attributes:
    """A root key: private, sensitive, and good for nothing but what is named."""
    return [
        (CLASS, SECRET), (KEY_TYPE, AES), (TOKEN, True), (PRIVACY, True), (SENSITIVE, True),
        (EXTRACTABLE, extractable), (ENCRYPT, "encrypt" in operations),
        (DECRYPT, "decrypt" in operations), (WRAP, False), (UNWRAP, False), (SIGN, False),
        (VERIFY, False), (DERIVE, False), (LABEL, label.encode()), (ID, key_id),
    ]  # fmt: skip


def _unsigned(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _initialised(slot: Mapping[str, object]) -> bool:
    flags = slot["flags"]
    return isinstance(flags, int) and bool(flags & _CKF_TOKEN_INITIALIZED)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        with translated():
            yield
    except Pkcs11Error as error:
        raise IntegrityError(f"{error.function}: {ckr.name_of(error.code)}") from None
