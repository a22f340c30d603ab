"""Names in client certificates, and what SCRAM binds to."""

import datetime
import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proxy.config.model import ClientCertificates
from proxy.postgres.tls import NoIdentity, channel_binding, identity_of, leaf_certificate, may_be
from tests.parts.certificates import Certificates


def certificate(names: list[str], alternative: list[x509.GeneralName] | None = None) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Shop, Inc.")]
        + [x509.NameAttribute(NameOID.COMMON_NAME, n) for n in names]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    if alternative:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def test_each_kind_of_name():
    der = certificate(
        ["alice"],
        [
            x509.DNSName("alice.example"),
            x509.UniformResourceIdentifier("spiffe://example/alice"),
            x509.RFC822Name("alice@example.org"),
        ],
    )
    assert identity_of(der, "cn") == "alice"
    assert identity_of(der, "dn") == "CN=alice,O=Shop\\, Inc."
    assert identity_of(der, "dns") == "alice.example"
    assert identity_of(der, "uri") == "spiffe://example/alice"
    assert identity_of(der, "email") == "alice@example.org"


@pytest.mark.parametrize(
    ("names", "alternative", "kind"),
    [
        ([], None, "cn"),
        (["alice", "root"], None, "cn"),
        (["alice\0root"], None, "cn"),
        (["alice"], None, "dns"),
        (["alice"], [x509.DNSName("a"), x509.DNSName("b")], "dns"),
    ],
)
def test_no_name_or_several_are_no_identity(names, alternative, kind):
    with pytest.raises(NoIdentity):
        identity_of(certificate(names, alternative), kind)


def test_identity_is_the_role_or_one_that_is_listed_for_it():
    config = ClientCertificates(ca_file="x", roles={"billing": ("app", "report")})
    assert may_be(config, "alice", "alice")
    assert not may_be(config, "alice", "bob")
    assert may_be(config, "billing", "report")
    assert not may_be(config, "billing", "billing")
    assert may_be(config.model_copy(update={"must_match_user": False}), "alice", "bob")


@pytest.mark.parametrize(
    ("algorithm", "digest"),
    [(hashes.SHA256(), hashlib.sha256), (hashes.SHA384(), hashlib.sha384)],
)
def test_binding_is_hashed_as_the_certificate_is_signed(tmp_path: Path, algorithm, digest):
    cert, _ = Certificates(tmp_path).signed_with(algorithm, "c")
    der = leaf_certificate(str(cert))
    assert channel_binding(der) == digest(der).digest()


def test_signature_without_a_hash_has_no_binding(tmp_path: Path):
    cert, _ = Certificates(tmp_path).signed_with(None, "ed25519")
    assert channel_binding(leaf_certificate(str(cert))) is None
