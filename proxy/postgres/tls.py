"""TLS of both legs: contexts from the configuration, who a client's certificate is, and the data
to which SCRAM binds.

PostgreSQL documentation, "SSL Session Encryption" and "Certificate Authentication"; RFC 5929
section 4 (tls-server-end-point). Reads files; knows no sockets. The `mode`s of the server leg are
libpq's sslmode without its opportunistic ones.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from proxy.config.model import ClientCertificates, PostgresTls, TlsClient
from proxy.errors import ConfigError

ALPN = "postgresql"
_PEM_BEGIN, _PEM_END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, slots=True)
class Chosen:
    """A certificate that clients may see: its context, its DER, and what SCRAM binds to."""

    context: ssl.SSLContext
    certificate: bytes
    binding: bytes | None


class ClientTls:
    """TLS towards clients. Raises ConfigError where a file cannot be used.

    Read once; a reload makes a new one, and connections that are open keep theirs.
    """

    def __init__(self, config: PostgresTls) -> None:
        self.config = config
        self._default = _chosen(config, config.cert_file, config.key_file, "postgres.tls")
        self._named = {
            c.name.lower(): _chosen(config, c.cert_file, c.key_file, "postgres.tls.by_name")
            for c in config.by_name
        }
        self._by_context = {id(c.context): c for c in (self._default, *self._named.values())}
        self.context = self._default.context
        self.context.sni_callback = self._by_server_name

    def chosen(self, tls: ssl.SSLObject) -> Chosen:
        """What this connection's client was shown."""
        return self._by_context[id(tls.context)]

    def _by_server_name(self, tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if not name or not self._named:
            return
        name = name.lower()
        found = self._named.get(name) or self._named.get("*." + name.partition(".")[2])
        if found is not None:
            tls.context = found.context


def _chosen(config: PostgresTls, cert_file: str, key_file: str, where: str) -> Chosen:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[config.min_version]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols([ALPN])
    try:
        context.load_cert_chain(cert_file, key_file)
        if config.clients is not None:
            # a missing certificate is told apart after the handshake, as PostgreSQL does, with an
            # error that the client can read; one that does not verify ends the handshake
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(config.clients.ca_file)
            _revocation(context, config.clients.crl_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{where}: {error}") from None
    certificate = leaf_certificate(cert_file)
    return Chosen(context, certificate, channel_binding(certificate))


def server_context(tls: TlsClient) -> ssl.SSLContext | None:
    """TLS towards the server; None: disabled by configuration. Raises ConfigError."""
    if tls.mode == "disable":
        return None
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        context.check_hostname = tls.mode == "verify-full"
        if tls.mode == "require":
            context.verify_mode = ssl.CERT_NONE
        context.minimum_version = _VERSIONS[tls.min_version]
        _revocation(context, tls.crl_file)
        if tls.cert_file is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"postgres.upstream_tls: {error}") from None
    context.set_alpn_protocols([ALPN])
    return context


def _revocation(context: ssl.SSLContext, crl_file: str | None) -> None:
    if crl_file is not None:
        context.load_verify_locations(crl_file)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF


def leaf_certificate(path: str) -> bytes:
    """DER of the first certificate of a PEM file. Raises ConfigError."""
    try:
        with open(path, encoding="ascii") as file:
            text = file.read()
        end = text.index(_PEM_END) + len(_PEM_END)
        return ssl.PEM_cert_to_DER_cert(text[text.index(_PEM_BEGIN) : end])
    except (OSError, ValueError) as error:
        raise ConfigError(f"postgres.tls: {path}: {error}") from None


def channel_binding(certificate: bytes) -> bytes | None:
    """The data of tls-server-end-point for this certificate (DER), as PostgreSQL makes it.

    The hash is that of the certificate's signature, SHA-256 in place of MD5 and SHA-1. None: the
    signature has no hash of its own (Ed25519), for which RFC 5929 defines no binding.
    """
    try:
        algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        return None
    if algorithm is None:
        return None
    if algorithm.name in ("md5", "sha1"):
        algorithm = hashes.SHA256()
    digest = hashes.Hash(algorithm)
    digest.update(certificate)
    return digest.finalize()


class NoIdentity(Exception):
    """The certificate has no name of the configured kind."""


def identity_of(certificate: bytes, kind: str) -> str:
    """The name that a client's certificate (DER, verified) carries. Raises NoIdentity.

    A common name that is there twice, or with a zero byte in it, is no name: which of two an
    attacker could choose is not for us to guess (PostgreSQL refuses the zero byte, too).
    """
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        if kind == "dn":
            return parsed.subject.rfc4514_string()
        if kind == "cn":
            names = [
                str(a.value)
                for a in parsed.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
            ]
        else:
            extension = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            alternative = extension.value
            if kind == "dns":
                names = alternative.get_values_for_type(x509.DNSName)
            elif kind == "uri":
                names = alternative.get_values_for_type(x509.UniformResourceIdentifier)
            else:
                names = alternative.get_values_for_type(x509.RFC822Name)
    except (ValueError, x509.ExtensionNotFound) as error:
        raise NoIdentity(f"the client certificate has no name ({kind})") from error
    if len(names) != 1 or not names[0] or "\0" in names[0]:
        raise NoIdentity(f"the client certificate has no single name ({kind})")
    return names[0]


def may_be(config: ClientCertificates, identity: str, user: str) -> bool:
    """Whether a certificate of this identity may be used by this role."""
    if not config.must_match_user:
        return True
    return user in config.roles.get(identity, (identity,))
