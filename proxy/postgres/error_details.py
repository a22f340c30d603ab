"""What the server says of a row that it refuses: without sealed bytes and the names of tags. Pure.

PostgreSQL puts the key or the row into the DETAIL of a constraint's violation. Of a protected table these
hold sealed values and tags. Nobody can read them, but a role that writes without being shown the column
could compare them: with `hash` masks, and with what it wrote before.
"""

import re
from collections.abc import Callable, Container

from proxy.postgres.indexing import SUFFIXES
from proxy.postgres.messages import ERROR_RESPONSE, frame

_HEX = re.compile(rb"\\x[0-9a-f]{16,}(\.\.\.)?")  # rows are shown with 64 bytes of each value
_TAGS = re.compile(rb"(?<=[^ (,])(%s)(?=[,)])" % b"|".join(s.encode() for s in SUFFIXES.values()))
_SHOWN = "…".encode()


def without_sealed(
    payload: bytes, tables: Callable[[], Container[tuple[str, str]]]
) -> bytes | None:
    """The whole ErrorResponse that takes the place of this one (its payload); None: it may stay.
    `tables`: (schema, name) of the protected ones."""
    if b"\\x" not in payload:
        return None
    parts = payload.split(b"\0")
    fields = {part[:1]: part[1:] for part in parts if part}
    detail = fields.get(b"D", b"")
    schema, name = (fields.get(code, b"").decode("utf-8", "replace") for code in (b"s", b"t"))
    if not _HEX.search(detail) or (schema, name) not in tables():
        return None
    told = b"D" + _HEX.sub(_SHOWN, _TAGS.sub(b"", detail))
    parts = [told if part == b"D" + detail else part for part in parts]
    return frame(ERROR_RESPONSE, b"\0".join(parts))
