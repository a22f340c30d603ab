"""A certificate authority of a test, with certificates of every kind that TLS tests need."""

from __future__ import annotations

import datetime
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID


class Certificates:
    """Files in `folder`: `ca` is the authority's certificate; each method gives (cert, key)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def server(self, *names: str, label: str = "server") -> tuple[Path, Path]:
        issued = self._authority.issue_cert(*(names or ("localhost", "127.0.0.1")))
        return self._write(issued, label)

    def client(self, common_name: str, label: str = "") -> tuple[Path, Path]:
        issued = self._authority.issue_cert(f"{common_name}.example", common_name=common_name)
        return self._write(issued, label or f"client-{common_name}")

    def expired(self, *names: str) -> tuple[Path, Path]:
        past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
        issued = self._authority.issue_cert(*(names or ("localhost", "127.0.0.1")), not_after=past)
        return self._write(issued, "expired")

    def signed_with(self, algorithm: hashes.HashAlgorithm | None, label: str) -> tuple[Path, Path]:
        """A self-signed certificate for localhost: ECDSA with this hash, or Ed25519 for None."""
        key = ed25519.Ed25519PrivateKey.generate() if algorithm is None else _ec()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
            .sign(key, algorithm)  # type: ignore[arg-type]
        )
        cert, private = self._paths(label)
        cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        private.chmod(0o600)
        return cert, private

    def revocations(self, *revoked: Path) -> Path:
        """A CRL of the authority that names these certificates."""
        authority = x509.load_pem_x509_certificate(self._authority.cert_pem.bytes())
        key = serialization.load_pem_private_key(
            self._authority.private_key_pem.bytes(), password=None
        )
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(authority.subject)
            .last_update(now - datetime.timedelta(hours=1))
            .next_update(now + datetime.timedelta(days=1))
        )
        for path in revoked:
            serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(serial)
                .revocation_date(now - datetime.timedelta(minutes=1))
                .build()
            )
        path = self.folder / "crl.pem"
        crl = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
        path.write_bytes(crl.public_bytes(serialization.Encoding.PEM))
        return path

    def _write(self, issued: trustme.LeafCert, label: str) -> tuple[Path, Path]:
        cert, key = self._paths(label)
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        key.chmod(0o600)
        return cert, key

    def _paths(self, label: str) -> tuple[Path, Path]:
        return self.folder / f"{label}.pem", self.folder / f"{label}.key"


def _ec() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())
