"""The codec of one protected column under all versions of its ring that may open it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proxy import native
from proxy.crypto import kdf
from proxy.crypto.tokens import Search, Tokens
from proxy.errors import KeyUnavailable
from proxy.native import ColumnCodec, KeyHandle


@dataclass(frozen=True, slots=True)
class Canonical:
    """How a canonical form is had: `kind` is a native.CANON_*, `call` goes with CANON_CALL."""

    kind: int = native.CANON_IDENTITY
    call: Callable[[bytes], bytes] | None = None


@dataclass(frozen=True, slots=True)
class Readers:
    """How search tokens read a plaintext: as a number, or as text; each only where needed."""

    rank: Callable[[bytes], int] | None = None
    text: Callable[[bytes], str] | None = None


def column_codec(
    versions: Sequence[tuple[KeyHandle, bool]],
    domain: str,
    type_oid: int,
    equality: bool,
    transform_id: int,
    pad_to: int,
    canonical: Canonical,
    *,
    index: KeyHandle | None,
    search: Search = Search(),
    readers: Readers = Readers(),
) -> ColumnCodec:
    """The codec. Its `handles` were derived for it: wipe them when the ring's key goes.

    `versions` are (ring key, whether it is the active version). `index` is the ring's first version,
    from which all index keys come, so that a rotation changes no tag; None when it is not to be
    had: then values open, and none is sealed or searched for (KeyUnavailable or NativeError).
    ArenaFull when no slot is left.
    """
    codec = ColumnCodec(
        domain.encode(), type_oid, equality, transform_id, pad_to, canonical.kind, canonical.call
    )
    if search:
        tokens = NoTokens() if index is None else Tokens(search, index, domain, *_pair(readers))
        codec.set_tokens(tokens, search.descriptor())
    tags = kdf.column_key(index, domain, "equality") if equality and index is not None else None
    for ring, active in versions:
        seal = kdf.column_key(ring, domain, "seal")
        codec.add_key(kdf.column_key_id(seal), seal, tags, active)
    return codec


def _pair(readers: Readers) -> tuple[Callable[[bytes], int] | None, Callable[[bytes], str] | None]:
    return readers.rank, readers.text


class NoTokens:
    """Stands for the tokens of a column whose index keys are not to be had."""

    handles: tuple[KeyHandle, ...] = ()

    def most_bytes(self, n: int) -> int:
        raise KeyUnavailable(
            "the first version of the ring, which makes search tokens, is not usable"
        )

    region = most_bytes
