"""The codec of one protected column under all versions of its ring that may open it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proxy import native
from proxy.crypto import kdf
from proxy.native import ColumnCodec, KeyHandle


@dataclass(frozen=True, slots=True)
class Canonical:
    """How a canonical form is had: `kind` is a native.CANON_*, `call` goes with CANON_CALL."""

    kind: int = native.CANON_IDENTITY
    call: Callable[[bytes], bytes] | None = None


def column_codec(
    versions: Sequence[tuple[KeyHandle, bool]],
    domain: str,
    type_oid: int,
    equality: bool,
    transform_id: int,
    pad_to: int,
    canonical: Canonical,
) -> ColumnCodec:
    """The codec. Its `handles` were derived for it: wipe them when the ring's key goes.

    `versions` are (ring key, whether it is the active version). ArenaFull when no slot is left.
    """
    codec = ColumnCodec(
        domain.encode(), type_oid, equality, transform_id, pad_to, canonical.kind, canonical.call
    )
    for ring, active in versions:
        seal = kdf.column_key(ring, domain, "seal")
        index = kdf.column_key(ring, domain, "equality") if equality else None
        codec.add_key(kdf.column_key_id(seal), seal, index, active)
    return codec
