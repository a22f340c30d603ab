"""A key ceremony between two real tokens, and every way of cheating in it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy import native
from proxy.errors import ConfigError, IntegrityError, SealgateError
from proxy.keys.ceremony import acts, approvals, custodian, documents, tokens
from proxy.keys.ceremony.acceptance import request_hash
from proxy.keys.ceremony.approvals import Refused, Signature, Signed
from proxy.keys.ceremony.custodian import FileSigner
from proxy.keys.ceremony.documents import Bundle, Request
from proxy.keys.ceremony.state import CeremonyState
from proxy.keys.ceremony.tokens import TokenPlace, session
from tests.parts.ceremony import NAMES, Ceremony, prepared
from tests.parts.softhsm import SoftHsm

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not SoftHsm.available(), reason="needs SoftHSM"),
]
FIRST_THREE = ("ada", "ben", "cleo")


@pytest.fixture
def held(tmp_path: Path) -> Ceremony:
    return prepared(tmp_path)


def altered(raw: bytes, held: Ceremony, **changes: Any) -> bytes:
    """The document with other content, signed anew by everybody: signatures alone do not save it."""
    content = replace(approvals.parse(raw).content, **changes)
    unsigned = Signed(content)
    return held.approve(unsigned.encode(), *NAMES)


def nothing_is_left(held: Ceremony) -> bool:
    with session(held.target) as token:
        return token._find("sealgate-root", tokens.SECRET, tokens.AES) == []


def refuses_import(held: Ceremony, bundle: bytes, why: str) -> None:
    with pytest.raises(SealgateError, match=why):
        held.import_(bundle)
    assert nothing_is_left(held)


def test_the_key_arrives_with_the_rights_granted_and_no_others(held: Ceremony) -> None:
    done = held.import_(held.bundle())
    with session(held.source) as source, session(held.target) as target:
        master, root = source.master("master"), target.master("sealgate-root")
        assert source.key_id(master) == target.key_id(root) == done.key_id
        assert source.check_value(master) == target.check_value(root) == done.check_value
        for attribute, value in (
            (tokens.SENSITIVE, 1), (tokens.EXTRACTABLE, 0), (tokens.WRAP, 0), (tokens.UNWRAP, 0),
            (tokens.SIGN, 0), (tokens.DERIVE, 0), (tokens.ENCRYPT, 1), (tokens.DECRYPT, 1),
        ):  # fmt: skip
            got = target.module.public(target.handle, root, attribute)
            assert got == bytes([value]), hex(attribute)
        iv = bytes(12)
        sealed = source.module.gcm_encrypt(source.handle, master, iv, b"words", b"aad")
        assert target.module.gcm_decrypt(target.handle, root, iv, sealed, b"aad") == b"words"


def test_the_wrapping_key_only_unwraps_and_is_gone_after_the_import(held: Ceremony) -> None:
    bundle = held.bundle()
    label = acts.wrapping_label(approvals.parse(bundle).content.ceremony)
    with session(held.target) as token:
        private = token._wrapping_key(label)
        with pytest.raises(ValueError, match="secret"):
            token.module.public(token.handle, private, 0x123)
    held.import_(bundle)
    with session(held.target) as token, pytest.raises(Refused, match="not in this token"):
        token._wrapping_key(label)


def test_fewer_rights_can_be_granted(held: Ceremony) -> None:
    request = held.approve(held.request(), *FIRST_THREE)
    bundle = acts.export(
        request, held.source, held.at_source, held.now, key_label="master", issuer="Bank",
        operations=("decrypt",),
    )  # fmt: skip
    held.import_(held.approve(bundle, *FIRST_THREE))
    with session(held.target) as token:
        root = token.master("sealgate-root")
        assert token.module.public(token.handle, root, tokens.ENCRYPT) == b"\0"
        assert token.module.public(token.handle, root, tokens.DECRYPT) == b"\1"


def test_a_key_that_may_only_encrypt_proves_itself_as_well(held: Ceremony) -> None:
    request = held.approve(held.request(), *FIRST_THREE)
    raw = acts.export(
        request, held.source, held.at_source, held.now, key_label="master", issuer="Bank",
        operations=("encrypt",),
    )  # fmt: skip
    bundle = held.approve(raw, *FIRST_THREE)
    refuses_import(held, altered(bundle, held, issuer="Mallory"), "prove itself")
    refuses_import(held, altered(bundle, held, proof=bytes(16)), "prove itself")
    held.import_(bundle)
    with session(held.target) as token:
        root = token.master("sealgate-root")
        assert token.module.public(token.handle, root, tokens.ENCRYPT) == b"\1"
        assert token.module.public(token.handle, root, tokens.DECRYPT) == b"\0"


# -- cheating with the request -------------------------------------------------------------------


def test_a_request_short_of_signatures_is_not_answered(held: Ceremony) -> None:
    with pytest.raises(Refused, match="2 of 3"):
        held.export(held.approve(held.request(), "ada", "ben"))


def test_a_wrapping_key_put_into_an_approved_request_is_refused(held: Ceremony) -> None:
    request = held.approve(held.request(), *FIRST_THREE)
    other = approvals.parse(held.request()).content
    assert isinstance(other, Request)
    signed = approvals.parse(request)
    forged = replace(signed, content=replace(signed.content, wrapping_key=other.wrapping_key))
    with pytest.raises(Refused, match="does not verify"):
        held.export(forged.encode())


def test_an_old_request_is_not_answered(held: Ceremony) -> None:
    request = held.approve(held.request(), *FIRST_THREE)
    held.now += acts.REQUEST_SECONDS + 1
    with pytest.raises(Refused, match="not valid at this time"):
        held.export(request)


def test_a_request_with_a_weak_wrapping_key_is_refused(held: Ceremony) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    weak = rsa.generate_private_key(65537, 1024).public_key()
    spki = weak.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    request = altered(held.request(), held, wrapping_key=spki)
    with pytest.raises(Refused, match="2048"):
        held.export(request)


def test_a_bundle_is_no_request(held: Ceremony) -> None:
    with pytest.raises(Refused, match="not a request"):
        held.export(held.bundle())


def test_more_rights_than_were_asked_for_are_not_exported(held: Ceremony) -> None:
    request = acts.request(
        held.target, held.at_target, held.now, bits=held.bits, operations=("decrypt",)
    )
    with pytest.raises(Refused, match="not asked for"):
        acts.export(
            held.approve(request, *FIRST_THREE), held.source, held.at_source, held.now,
            key_label="master", issuer="Bank", operations=("decrypt", "encrypt"),
        )  # fmt: skip


# -- cheating with the bundle --------------------------------------------------------------------


def test_a_bundle_for_another_target_is_refused(held: Ceremony) -> None:
    bundle = held.bundle()
    elsewhere = CeremonyState(held.folder / "elsewhere")
    elsewhere.trust(held.roster)
    with pytest.raises(Refused, match="made no such request"):
        acts.import_(bundle, held.target, elsewhere, held.now, key_label="sealgate-root")
    assert nothing_is_left(held)


def test_a_bundle_moved_to_another_request_of_this_target_is_refused(held: Ceremony) -> None:
    bundle = held.bundle()
    other = approvals.parse(held.request()).content
    refuses_import(held, altered(bundle, held, ceremony=other.ceremony), "another target")
    assert isinstance(other, Request)
    moved = altered(bundle, held, ceremony=other.ceremony, target=other.fingerprint)
    refuses_import(held, moved, "another request")
    moved = altered(
        bundle, held, ceremony=other.ceremony, target=other.fingerprint, request=request_hash(other)
    )
    refuses_import(held, moved, "CKR|check value|prove")  # it does not unwrap


def test_an_expired_bundle_is_refused(held: Ceremony) -> None:
    bundle = held.bundle()
    held.now += acts.BUNDLE_SECONDS + 1
    refuses_import(held, bundle, "expired")


def test_a_bundle_of_the_future_is_refused(held: Ceremony) -> None:
    bundle = held.bundle()
    held.now -= 3600
    refuses_import(held, bundle, "not valid yet")


def test_a_bundle_short_of_signatures_is_refused(held: Ceremony) -> None:
    refuses_import(held, held.bundle("ada", "ben"), "2 of 3")


def test_signatures_of_one_custodian_count_once(held: Ceremony) -> None:
    signed = approvals.parse(held.bundle("ada", "ben"))
    twice = replace(signed, signatures=(*signed.signatures, signed.signatures[0]))
    refuses_import(held, twice.encode(), "signed twice")
    with pytest.raises(Refused, match="already"):
        held.approve(signed.encode(), "ada")


def test_one_custodian_cannot_sign_under_the_name_of_another(held: Ceremony) -> None:
    signed = approvals.parse(held.bundle("ada", "ben"))
    value = held.signers["ada"].sign(signed.message)
    forged = replace(signed, signatures=(*signed.signatures, Signature("eve", value)))
    refuses_import(held, forged.encode(), "signature of eve does not verify")


def test_a_strangers_signature_is_refused(held: Ceremony) -> None:
    signed = approvals.parse(held.bundle())
    stranger = FileSigner(native.key_random(), native.key_random())
    value = stranger.sign(signed.message)
    forged = replace(signed, signatures=(*signed.signatures, Signature("mallory", value)))
    refuses_import(held, forged.encode(), "mallory is not a custodian")


def test_a_revoked_custodian_does_not_count(held: Ceremony) -> None:
    bundle = held.bundle("ada", "cleo", "eve")
    held.at_target.revoke("cleo")
    refuses_import(held, bundle, "2 of 3")
    held.import_(held.approve(bundle, "ben"))


def test_a_ceremony_is_imported_once(held: Ceremony) -> None:
    bundle = held.bundle()
    held.import_(bundle)
    with session(held.target) as token:
        token.destroy(token.master("sealgate-root"))
    refuses_import(held, bundle, "imported already")


def test_rights_that_were_not_asked_for_are_refused(held: Ceremony) -> None:
    request = acts.request(
        held.target, held.at_target, held.now, bits=held.bits, operations=("decrypt",)
    )
    bundle = held.approve(held.export(held.approve(request, *FIRST_THREE)), *FIRST_THREE)
    more = altered(bundle, held, operations=("decrypt", "encrypt"))
    refuses_import(held, more, "rights that were not asked for")


def test_a_lowered_threshold_is_refused(held: Ceremony) -> None:
    refuses_import(held, altered(held.bundle(), held, threshold=1), "threshold was lowered")


def test_other_custodians_are_refused(held: Ceremony) -> None:
    signers = {n: FileSigner(native.key_random(), native.key_random()) for n in NAMES}
    people = [custodian.parse_enrolment(custodian.enrol(n, s)) for n, s in signers.items()]
    swapped = custodian.make_roster("Example AG", 3, people)
    content = replace(approvals.parse(held.bundle()).content, roster=swapped.fingerprint)
    forged = Signed(content).encode()
    for name, signer in signers.items():
        forged = acts.approve(forged, swapped, name, signer)
    refuses_import(held, forged, "not those known here")
    with pytest.raises(Refused, match="another roster"):
        held.at_target.trust(swapped)


def test_signatures_over_a_request_do_not_pass_for_ones_over_a_bundle(held: Ceremony) -> None:
    request = held.approve(held.request(), *FIRST_THREE)
    bundle = approvals.parse(held.export(request))
    forged = replace(bundle, signatures=approvals.parse(request).signatures)
    refuses_import(held, forged.encode(), "does not verify")


@pytest.mark.parametrize(
    ("field", "change", "why"),
    [
        ("check_value", lambda b: bytes([b.check_value[0] ^ 1, *b.check_value[1:]]), "check value"),
        ("key_id", lambda b: bytes(16), "prove itself"),
        ("issuer", lambda b: "Mallory", "prove itself"),
        ("proof", lambda b: bytes(16), "prove itself"),
        ("proof_iv", lambda b: bytes(12), "prove itself"),
        ("valid_until", lambda b: b.valid_until + 1, "prove itself"),
        ("wrapped", lambda b: bytes([b.wrapped[0] ^ 1]) + b.wrapped[1:], "CKR"),
        ("wrapped", lambda b: b.wrapped[:-1] + bytes([b.wrapped[-1] ^ 1]), "CKR"),
        ("wrapped", lambda b: b.wrapped[:-8], "CKR"),
        ("wrapped", lambda b: b.wrapped[:100], "CKR"),
    ],
)
def test_the_key_itself_refuses_a_bundle_that_all_custodians_signed(
    held: Ceremony, field: str, change: Callable[[Bundle], Any], why: str
) -> None:
    """Even if everybody is in league, what the source said of its key stands."""
    bundle = held.bundle()
    content = approvals.parse(bundle).content
    assert isinstance(content, Bundle)
    refuses_import(held, altered(bundle, held, **{field: change(content)}), why)
    held.import_(bundle)  # the request is not used up by an attempt


def test_a_key_that_somebody_else_wrapped_for_the_target_is_refused(held: Ceremony) -> None:
    """The wrapping key is public: whoever has it can wrap, but not have it signed."""
    bundle = held.bundle()
    request = held.at_target.pending(approvals.parse(bundle).content.ceremony)
    assert request is not None
    with session(held.source) as token:
        token.make_master("mine")
        mine = token.wrap_for(request.wrapping_key, token.master("mine"), request.algorithms[0])
    signed = approvals.parse(bundle)
    swapped = replace(signed, content=replace(signed.content, wrapped=mine))
    refuses_import(held, swapped.encode(), "does not verify")
    refuses_import(held, altered(bundle, held, wrapped=mine), "check value")


def test_a_label_that_is_taken_is_not_overwritten(held: Ceremony) -> None:
    held.import_(held.bundle())
    with pytest.raises(FileExistsError):
        held.import_(held.bundle())


def test_a_custodian_signs_with_a_key_in_a_token(held: Ceremony) -> None:
    with session(held.source) as token:
        token.make_ed25519("officer")
        signer = custodian.TokenSigner(token, "officer")
        person = custodian.parse_enrolment(custodian.enrol("officer", signer))
        roster = custodian.make_roster("Example AG", 1, [person])
        state = CeremonyState(held.folder / "one")
        state.trust(roster)
        raw = acts.request(held.target, state, held.now, bits=held.bits)
        signed = approvals.parse(acts.approve(raw, roster, "officer", signer))
    assert approvals.count(signed, roster, ()) == 1


def test_without_a_trusted_roster_nothing_is_done(held: Ceremony) -> None:
    with pytest.raises(ConfigError, match="no roster"):
        acts.request(held.target, CeremonyState(held.folder / "none"), held.now)


def test_the_key_is_never_in_this_process(held: Ceremony) -> None:
    """What goes through memory is wrapped: the arena holds no key at any time of the ceremony."""
    for signer in held.signers.values():
        assert signer.sign_key.alive
    before = native.arena_report()["used"]
    held.import_(held.bundle())
    assert native.arena_report()["used"] == before
    with session(held.target) as token, pytest.raises(ValueError, match="secret"):
        token.module.public(token.handle, token.master("sealgate-root"), tokens.VALUE)


def test_a_wrong_pin_is_said(held: Ceremony) -> None:
    wrong = TokenPlace(held.target.module, held.target.label, lambda: bytearray(b"000000"))
    with pytest.raises(SealgateError, match="PIN"), session(wrong):
        pass


def test_the_documents_of_one_ceremony_say_the_same(held: Ceremony) -> None:
    bundle = approvals.parse(held.bundle()).content
    assert isinstance(bundle, Bundle)
    request = held.at_target.pending(bundle.ceremony)
    assert request is not None
    assert bundle.target == request.fingerprint
    assert bundle.algorithm in documents.ALGORITHMS
    with pytest.raises(IntegrityError), session(held.source) as token:
        token.check_proof(token.master("master"), bundle.proof_iv, bundle.proof, b"other")
