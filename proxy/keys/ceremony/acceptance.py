"""Is this request, or this bundle, acceptable here and now? The rules, one by one. Pure.

What is compared with is what this side knows by itself: its own roster, its own revocations, the
request it has made itself. Nothing that a document says about its own conditions is believed.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from proxy.keys.ceremony import approvals, documents
from proxy.keys.ceremony.approvals import Refused, Signed
from proxy.keys.ceremony.documents import Bundle, Request, Roster

_SKEW_SECONDS = 300  # between the clocks of two sites


@dataclass(frozen=True, slots=True)
class Authority:
    """What a side of the ceremony has of its own."""

    roster: Roster
    revoked: frozenset[str] = frozenset()


def accept_request(signed: Signed, authority: Authority, now: int) -> Request:
    """The request, approved, for the source to answer. Refused: which rule it breaks."""
    request = signed.content
    if not isinstance(request, Request):
        raise Refused("this is not a request")
    _same_roster(request.roster, request.threshold, request.customer, authority.roster)
    if not request.created - _SKEW_SECONDS <= now <= request.expires:
        raise Refused("the request is not valid at this time")
    approvals.require(signed, authority.roster, authority.revoked)
    return request


def accept_bundle(
    signed: Signed,
    authority: Authority,
    pending: Request | None,
    imported: Collection[bytes],
    now: int,
) -> tuple[Bundle, Request]:
    """The bundle, approved, for the target to import, and the request that it answers.

    `pending`: the request of this ceremony that this target has made and not yet used.
    """  # fmt: skip
    bundle = signed.content
    if not isinstance(bundle, Bundle):
        raise Refused("this is not a bundle")
    if bundle.ceremony in imported:
        raise Refused("this ceremony was imported already")
    if pending is None or pending.ceremony != bundle.ceremony:
        raise Refused("this target has made no such request: the bundle is for another one")
    if bundle.target != pending.fingerprint:
        raise Refused("the bundle is wrapped for another target")
    if bundle.request != request_hash(pending):
        raise Refused("the bundle answers another request than the one made here")
    _same_roster(bundle.roster, bundle.threshold, bundle.customer, authority.roster)
    if bundle.algorithm not in pending.algorithms:
        raise Refused("the bundle is wrapped by an algorithm that was not asked for")
    if not set(bundle.operations) <= set(pending.operations):
        raise Refused("the bundle grants rights that were not asked for")
    if now < bundle.valid_from - _SKEW_SECONDS:
        raise Refused("the bundle is not valid yet")
    if now > bundle.valid_until:
        raise Refused("the bundle has expired")
    approvals.require(signed, authority.roster, authority.revoked)
    return bundle, pending


def request_hash(request: Request) -> bytes:
    """SHA-256 of what is signed of a request: the bundle names it, so that it answers one only."""
    return hashlib.sha256(documents.signed_bytes("request", request.document())).digest()


def _same_roster(fingerprint: bytes, threshold: int, customer: str, own: Roster) -> None:
    if threshold < own.threshold:
        raise Refused(f"the threshold was lowered from {own.threshold} to {threshold}")
    if fingerprint != own.fingerprint or threshold != own.threshold or customer != own.customer:
        raise Refused("the custodians, their threshold or the customer are not those known here")
