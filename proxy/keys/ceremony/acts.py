"""The acts of a ceremony, in their order: request (target), approve, export (source), approve,
import (target). Each takes and gives whole files; docs/how-to/bring-your-own-key.md tells the story.

Both documents need M signatures before the other side acts on them: the request, so that nobody
has the master wrapped for a key of his own, and the bundle, so that nobody slips in a key of his.
Blocking: each act opens the token for as long as it lasts.
"""

import secrets
from dataclasses import dataclass, replace

from proxy.audit.record import OperatorAct
from proxy.audit.sink import LogSink, Sink
from proxy.errors import IntegrityError
from proxy.keys.ceremony import acceptance, approvals, documents, tokens
from proxy.keys.ceremony.acceptance import accept_bundle, accept_request
from proxy.keys.ceremony.approvals import Refused, Signed
from proxy.keys.ceremony.custodian import Signer
from proxy.keys.ceremony.documents import Bundle, Request, Roster, TokenFacts
from proxy.keys.ceremony.state import CeremonyState
from proxy.keys.ceremony.tokens import TokenPlace
from proxy.native import Pkcs11Error

REQUEST_SECONDS = 24 * 3600
BUNDLE_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Imported:
    ceremony: bytes
    key_id: bytes
    check_value: bytes
    operations: tuple[str, ...]


def request(
    place: TokenPlace, state: CeremonyState, now: int, *,
    operations: tuple[str, ...] = ("decrypt", "encrypt"), bits: int = tokens.WRAPPING_BITS,
    lifetime: int = REQUEST_SECONDS, audit: Sink | None = None,
) -> bytes:  # fmt: skip
    """At the target: a wrapping key pair in the token, and the request to have signed."""
    authority = state.authority()
    ceremony = secrets.token_bytes(16)
    label = wrapping_label(ceremony)
    with state.locked(), tokens.session(place) as token:
        spki = token.make_wrapping_pair(label, bits)
        try:
            made = Request(
                ceremony, authority.roster.customer, token.facts, spki,
                token.algorithms(label, spki), operations, authority.roster.fingerprint,
                authority.roster.threshold, now, now + lifetime,
            )  # fmt: skip
            state.remember_request(documents.parse_request(made.document()))
        except BaseException:
            token.destroy_wrapping_pair(label)
            raise
    _note(audit, "ceremony.request", ceremony, made.fingerprint.hex())
    return Signed(made).encode()


def request_for_cloud(
    spki: bytes, service: str, state: CeremonyState, now: int, *, algorithms: tuple[str, ...],
    lifetime: int = REQUEST_SECONDS, audit: Sink | None = None,
) -> bytes:  # fmt: skip
    """A request on behalf of a cloud's key service that gave out its own wrapping key (`spki`).
    It is approved and answered like any other; `exchange` writes the answer as the cloud wants it."""
    authority = state.authority()
    tokens.rsa_public(spki)
    made = Request(
        secrets.token_bytes(16), authority.roster.customer, TokenFacts(service, "", "", ""), spki,
        algorithms, ("decrypt", "encrypt"), authority.roster.fingerprint,
        authority.roster.threshold, now, now + lifetime,
    )  # fmt: skip
    state.remember_request(documents.parse_request(made.document()))
    _note(audit, "ceremony.request", made.ceremony, made.fingerprint.hex())
    return Signed(made).encode()


def approved_bundle(raw: bytes, state: CeremonyState, now: int) -> Bundle:
    """The bundle of a request for a cloud, if it may be handed over; Refused as for an import."""
    signed = approvals.parse(raw)
    pending = state.pending(signed.content.ceremony)
    return accept_bundle(signed, state.authority(), pending, state.imported(), now)[0]


def approve(raw: bytes, roster: Roster, name: str, signer: Signer) -> bytes:
    """By a custodian: the file with his signature. Refused: not of this roster, or signed already."""
    signed = approvals.parse(raw)
    if signed.content.roster != roster.fingerprint:
        raise Refused("this document is of another roster")
    return approvals.add(signed, roster, name, signer.sign(signed.message)).encode()


def export(
    raw: bytes, place: TokenPlace, state: CeremonyState, now: int, *, key_label: str, issuer: str,
    operations: tuple[str, ...] | None = None, lifetime: int = BUNDLE_SECONDS,
    audit: Sink | None = None,
) -> bytes:  # fmt: skip
    """At the source: the master wrapped for the target of an approved request, to have signed."""
    asked = accept_request(approvals.parse(raw), state.authority(), now)
    granted = asked.operations if operations is None else operations
    if not set(granted) <= set(asked.operations):
        raise Refused("rights are granted that were not asked for")
    with tokens.session(place) as token:
        key = token.master(key_label)
        algorithm, wrapped = _wrapped(token, key, asked)
        bundle = Bundle(
            ceremony=asked.ceremony, issuer=issuer, customer=asked.customer, source=token.facts,
            target=asked.fingerprint, request=acceptance.request_hash(asked), algorithm=algorithm,
            key_id=token.key_id(key), check_value=token.check_value(key), operations=granted,
            roster=asked.roster, threshold=asked.threshold, valid_from=now,
            valid_until=now + lifetime, wrapped=wrapped,
        )  # fmt: skip
        iv, tag = token.prove(key, bundle.statement())
    _note(audit, "ceremony.export", asked.ceremony, bundle.key_id.hex())
    return Signed(replace(bundle, proof_iv=iv, proof=tag)).encode()


def import_(
    raw: bytes, place: TokenPlace, state: CeremonyState, now: int, *, key_label: str,
    audit: Sink | None = None,
) -> Imported:  # fmt: skip
    """At the target: the key is a root key of the token, and this ceremony is over.

    Refused or IntegrityError: nothing is left in the token, and the request may be used still.
    """
    signed = approvals.parse(raw)
    with state.locked():
        content = signed.content
        bundle, _ = accept_bundle(
            signed, state.authority(), state.pending(content.ceremony), state.imported(), now
        )
        wrapping = wrapping_label(bundle.ceremony)
        with tokens.session(place) as token:
            key = token.unwrap_master(
                wrapping, bundle.wrapped, bundle.algorithm, key_label, bundle.key_id,
                bundle.operations,
            )  # fmt: skip
            try:
                _prove(token, key, bundle)
                state.remember_import(bundle.ceremony, raw)
            except BaseException:
                token.destroy(key)
                raise
            try:
                token.destroy_wrapping_pair(wrapping)
            finally:  # it is done, whether the token can clean up or not
                _note(audit, "ceremony.import", bundle.ceremony, bundle.key_id.hex())
    return Imported(bundle.ceremony, bundle.key_id, bundle.check_value, bundle.operations)


def wrapping_label(ceremony: bytes) -> str:
    """Label and id of the wrapping key pair of one ceremony."""
    return f"sealgate-wrapping-{ceremony.hex()}"


def _wrapped(token: tokens.TokenSession, key: int, asked: Request) -> tuple[str, bytes]:
    """By the first algorithm of the request that the source's token can do."""
    for algorithm in asked.algorithms:
        try:
            return algorithm, token.wrap_for(asked.wrapping_key, key, algorithm)
        except Pkcs11Error as error:
            last = error
    raise Refused(f"the source cannot wrap by {' or '.join(asked.algorithms)}: {last}")


def _prove(token: tokens.TokenSession, key: int, bundle: Bundle) -> None:
    """The check value, and the key's own word on the whole bundle."""
    if "encrypt" in bundle.operations and token.check_value(key) != bundle.check_value:
        raise IntegrityError("the key that was unwrapped has another check value")
    token.check_proof(
        key, bundle.proof_iv, bundle.proof, bundle.statement(),
        decrypts="decrypt" in bundle.operations,
    )  # fmt: skip


def _note(audit: Sink | None, event: str, ceremony: bytes, detail: str) -> None:
    (audit if audit is not None else LogSink()).write(
        OperatorAct(event, "", 0, f"{ceremony.hex()} {detail}")
    )
