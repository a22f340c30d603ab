"""Where does a part below 5 MiB wait until its upload is completed? In the same bucket, sealed.

Such a part can only be an upload's last one, and the footer has to follow it in the same part of
the origin's, so it is kept as an object of its own under a reserved prefix, named by the SHA-256 of
the UploadId and the part number. Complete reads it back; Complete and Abort remove it. It never
shows in lists. docs: facts behind it in s3.md 5.3 ("Footer").
"""

from dataclasses import dataclass

from proxy.crypto.parts import stream_plain_size
from proxy.s3 import xml
from proxy.s3.call import Call
from proxy.s3.listing import STASH_PREFIX
from proxy.s3.s3error import OriginFailed

PREFIX = STASH_PREFIX


@dataclass(frozen=True, slots=True)
class Stashed:
    """One waiting part as the origin lists it."""

    number: int
    etag: str
    plain_bytes: int
    last_modified: str


def folder(hashed: bytes) -> str:
    """Prefix of all stashed parts of one upload."""
    return f"{PREFIX}{hashed.hex()}/"


def name(hashed: bytes, number: int) -> str:
    return f"{folder(hashed)}{number:05d}"


async def listed(call: Call, hashed: bytes) -> dict[int, Stashed]:
    """The parts that wait for this upload; at most a thousand, of which one is any use."""
    prefix = folder(hashed)
    response = await call.origin.call(
        "GET", call.target.bucket, "", [("list-type", "2"), ("prefix", prefix)], []
    )
    document = await response.read(xml.MAX_XML_BYTES)
    if response.status != 200:
        raise OriginFailed(f"the origin answered {response.status} to a list")
    found: dict[int, Stashed] = {}
    for entry in xml.parse(document):
        key, size = xml.text(entry, "Key"), xml.text(entry, "Size")
        number = key.removeprefix(prefix)
        if xml.local(entry) != "Contents" or not key.startswith(prefix) or not number.isdigit():
            continue
        plain = stream_plain_size(int(size)) if size.isdigit() else None
        if plain is not None:
            found[int(number)] = Stashed(
                int(number), xml.text(entry, "ETag"), plain, xml.text(entry, "LastModified")
            )
    return found


async def fetch(call: Call, hashed: bytes, part: Stashed, limit: int) -> bytes:
    """The sealed stream of a stashed part."""
    response = await call.origin.call(
        "GET", call.target.bucket, name(hashed, part.number), [], [("if-match", part.etag)]
    )
    if response.status != 200:
        response.wire.abort()
        raise OriginFailed("a stashed part is gone")
    return await response.read(limit)


async def remove(call: Call, hashed: bytes) -> None:
    """No part of this upload waits any more."""
    for number in await listed(call, hashed):
        response = await call.origin.call(
            "DELETE", call.target.bucket, name(hashed, number), [], []
        )
        await response.read(1 << 20)
