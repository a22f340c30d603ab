"""The documents of a ceremony: one canonical form, and no byte of it can be changed unseen."""

import json
from dataclasses import replace

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import native
from proxy.errors import SealgateError
from proxy.keys.ceremony import (
    acceptance,
    acts,
    approvals,
    canonical,
    custodian,
    documents,
    exchange,
    shares,
)
from proxy.keys.ceremony.acceptance import Authority, accept_bundle
from proxy.keys.ceremony.approvals import Signed
from proxy.keys.ceremony.custodian import FileSigner
from proxy.keys.ceremony.documents import Bundle, Request, TokenFacts

NOW = 1_800_000_000
SIGNERS = {n: FileSigner(native.key_random(), native.key_random()) for n in ("a", "b", "c")}
ROSTER = custodian.make_roster(
    "Example AG", 2, [custodian.parse_enrolment(custodian.enrol(n, s)) for n, s in SIGNERS.items()]
)
FACTS = TokenFacts("t", "m", "", "1")
REQUEST = Request(
    bytes(16), "Example AG", FACTS, b"spki", documents.KEY_WRAPS, ("decrypt", "encrypt"),
    ROSTER.fingerprint, 2, NOW, NOW + 1,
)  # fmt: skip
BUNDLE = Bundle(
    bytes(16), "Bank ✓ \"quoted\"", "Example AG", FACTS, REQUEST.fingerprint,
    acceptance.request_hash(REQUEST), documents.KEY_WRAPS[0], bytes(16), bytes(3), ("decrypt",),
    ROSTER.fingerprint, 2, NOW, NOW + 60, bytes(range(200)), bytes(12), bytes(16),
)  # fmt: skip

words = st.text(st.characters(codec="utf-8"), max_size=12)
names = st.text(st.characters(codec="ascii"), max_size=8)
values = st.recursive(
    st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)


def approved() -> bytes:
    raw = Signed(BUNDLE).encode()
    for name in ("a", "c"):
        raw = acts.approve(raw, ROSTER, name, SIGNERS[name])
    return raw


def accepted(raw: bytes) -> Bundle:
    return accept_bundle(approvals.parse(raw), Authority(ROSTER), REQUEST, (), NOW)[0]


@given(values)
@settings(deadline=None)
def test_the_canonical_form_is_that_of_rfc_8785(value: object) -> None:
    try:
        ours = canonical.encode(value)
    except canonical.NotCanonical as error:
        assert "deeply" in str(error)
        return
    assert ours == rfc8785.dumps(value)  # type: ignore[arg-type]
    assert canonical.decode(ours) == value


@pytest.mark.parametrize(
    "raw",
    [b'{"a":1,"a":2}', b'{"a":1.5}', b'{"a":1e3}', b"NaN", b"-0", b'"\\ud800"', b"null",
     b'{"\xc3\xa4":1}', b"9007199254740992", b"[" * 50 + b"]" * 50, b"\xff", b""],
)  # fmt: skip
def test_what_could_mean_two_things_is_refused(raw: bytes) -> None:
    with pytest.raises(canonical.NotCanonical):
        canonical.decode(raw)


def test_documents_are_read_as_they_were_written() -> None:
    assert documents.parse_request(REQUEST.document()) == REQUEST
    assert documents.parse_bundle(BUNDLE.document()) == BUNDLE
    assert documents.parse_roster(ROSTER.document()) == ROSTER
    assert accepted(approved()) == BUNDLE


def test_blanks_and_order_do_not_matter_since_the_canonical_form_is_signed() -> None:
    loose = json.dumps(json.loads(approved()), indent=3).encode()
    assert accepted(loose) == BUNDLE


def test_no_byte_of_an_approved_bundle_can_be_changed() -> None:
    raw = approved()
    for at in range(len(raw) - 1):  # the last one is the line end
        for flip in (0x01, 0x20, 0x80):
            changed = raw[:at] + bytes([raw[at] ^ flip]) + raw[at + 1 :]
            with pytest.raises(SealgateError):
                accepted(changed)


@given(st.integers(0, 10_000), st.binary(max_size=4))
@settings(deadline=None, max_examples=300)
def test_nothing_put_in_or_cut_out_passes(at: int, put: bytes) -> None:
    raw = approved().rstrip()
    at %= len(raw)
    changed = raw[:at] + put + raw[at + 1 :]
    try:
        same = accepted(changed) == BUNDLE and json.loads(changed) == json.loads(raw)
    except SealgateError:
        return
    assert same


@pytest.mark.parametrize("path", ["", "key", "rights", "proof", "source"])
def test_every_field_is_needed_and_no_other_is_taken(path: str) -> None:
    whole = BUNDLE.document()
    inner = whole[path] if path else whole
    assert isinstance(inner, dict)
    for name in list(inner):
        changed = json.loads(json.dumps(whole))
        del (changed[path] if path else changed)[name]
        with pytest.raises(documents.DocumentError):
            documents.parse_bundle(changed)
    changed = json.loads(json.dumps(whole))
    (changed[path] if path else changed)["more"] = 1
    with pytest.raises(documents.DocumentError):
        documents.parse_bundle(changed)


@pytest.mark.parametrize(
    "text",
    ["", "x" * 201, "a\nwrapping key 00", "\x1b[2K", "\x9b2K", "a\u202eb", "a\u2028b", "a\u200bb"],
)
def test_nothing_that_is_shown_can_rewrite_the_line_that_is_compared(text: str) -> None:
    for field in ("issuer", "customer"):
        with pytest.raises(documents.DocumentError, match=field):
            documents.parse_bundle({**BUNDLE.document(), field: text})
    signed = json.loads(approved())
    signed["signatures"][0]["custodian"] = text
    with pytest.raises(documents.DocumentError, match="custodian"):
        approvals.parse(json.dumps(signed).encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [("algorithm", "Ed448"), ("value", "00" * 63), ("value", "AB" * 64), ("more", "x"),
     ("custodian", 1)],
)  # fmt: skip
def test_signatures_have_one_form(name: str, value: object) -> None:
    signed = json.loads(approved())
    signed["signatures"][0][name] = value
    with pytest.raises(documents.DocumentError):
        approvals.parse(json.dumps(signed).encode())


def test_a_bundle_never_grants_extraction() -> None:
    changed = json.loads(json.dumps(BUNDLE.document()))
    changed["rights"]["extractable"] = True
    with pytest.raises(documents.DocumentError, match="extraction"):
        documents.parse_bundle(changed)


def test_rosters_that_make_no_sense_are_refused() -> None:
    people = list(ROSTER.custodians)
    twin = replace(people[0], name="z")
    for threshold, chosen in ((0, people), (4, people), (2, [*people, twin]), (1, [])):
        with pytest.raises(documents.DocumentError):
            custodian.make_roster("Example AG", threshold, chosen)


def test_an_enrolment_under_a_key_one_does_not_have_is_refused() -> None:
    raw = json.loads(custodian.enrol("a", SIGNERS["a"]))
    raw["custodian"]["sign"] = SIGNERS["b"].public[0].hex()
    with pytest.raises(SealgateError, match="own key"):
        custodian.parse_enrolment(json.dumps(raw).encode())


def test_no_share_is_sealed_to_a_point_of_small_order() -> None:
    people = [replace(ROSTER.custodians[0], seal=bytes(32)), *ROSTER.custodians[1:]]
    roster = custodian.make_roster("Example AG", 2, people)
    with pytest.raises(approvals.Refused, match="sealed to the key of a"):
        shares.split(native.key_random(), bytes(16), roster, NOW)


def test_cloud_formats_are_read_as_they_were_written() -> None:
    azure = replace(BUNDLE, algorithm=documents.KEY_WRAPS[1])
    assert exchange.read_azure(exchange.azure_blob(azure, "kid")) == ("kid", BUNDLE.wrapped)
    written = exchange.aws_import(BUNDLE, "key", b"token")
    assert exchange.read_aws(written) == ("key", b"token", BUNDLE.wrapped)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"schema_version":"2.0.0","header":{}}',
    b'{"schema_version":"1.0.0","header":{"kid":"k","alg":"dir","enc":"A256KW"},"ciphertext":""}',
    b'{"schema_version":"1.0.0","header":{"kid":"k","alg":"dir","enc":"CKM_RSA_AES_KEY_WRAP"},'
    b'"ciphertext":"+/=="}'])  # fmt: skip
def test_other_blobs_are_refused(raw: bytes) -> None:
    with pytest.raises(documents.DocumentError):
        exchange.read_azure(raw)
