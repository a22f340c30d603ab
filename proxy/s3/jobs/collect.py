"""What did uploads leave behind that nobody will finish? Stashed parts without upload, old uploads.

A stashed part belongs to the upload whose id hashes to its folder's name. It is an orphan when that
upload is gone, and older than the limit, so that an upload being completed now is never touched.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from proxy.crypto import object_keys
from proxy.s3 import xml
from proxy.s3.jobs.engine import Engine
from proxy.s3.listing import STASH_PREFIX
from proxy.s3.message import Query
from proxy.s3.s3error import OriginFailed


@dataclass(frozen=True, slots=True)
class Left:
    """One thing to remove: an upload, or a stashed part (then `upload_id` is empty)."""

    key: str
    upload_id: str
    since: datetime


async def find(engine: Engine, bucket: str, older_than: timedelta, now: datetime) -> list[Left]:
    """Uploads begun, and orphaned parts stashed, before `now - older_than`."""
    uploads = await _uploads(engine, bucket)
    old = [u for u in uploads if u.since < now - older_than]
    alive = {object_keys.upload_hash(u.upload_id).hex() for u in uploads if u not in old}
    stashed = [
        s
        for s in await _stashed(engine, bucket)
        if s.since < now - older_than and s.key[len(STASH_PREFIX) :].partition("/")[0] not in alive
    ]
    return old + stashed


async def remove(engine: Engine, bucket: str, left: Left) -> None:
    """Gone, or OriginFailed."""
    query: Query = [("uploadId", left.upload_id)] if left.upload_id else []
    response = await engine.origin(bucket).call("DELETE", bucket, left.key, query, [])
    await response.read(1 << 20)
    if response.status not in (200, 204, 404):
        raise OriginFailed(f"the origin answered {response.status} to a DELETE")


async def _uploads(engine: Engine, bucket: str) -> list[Left]:
    found: list[Left] = []
    more: Query = []
    while True:
        query: Query = [("uploads", ""), ("encoding-type", "url"), *more]
        root = await _list(engine, bucket, query)
        encoded = xml.text(root, "EncodingType") == "url"
        for element in root:
            if xml.local(element) == "Upload":
                key = xml.text(element, "Key")
                key = unquote_plus(key) if encoded else key
                since = _moment(xml.text(element, "Initiated"))
                found.append(Left(key, xml.text(element, "UploadId"), since))
        marker = xml.text(root, "NextKeyMarker")
        if xml.text(root, "IsTruncated") != "true" or not marker:
            return found
        more = [
            ("key-marker", unquote_plus(marker) if encoded else marker),
            ("upload-id-marker", xml.text(root, "NextUploadIdMarker")),
        ]


async def _stashed(engine: Engine, bucket: str) -> list[Left]:
    found: list[Left] = []
    more: Query = []
    while True:
        root = await _list(engine, bucket, [("list-type", "2"), ("prefix", STASH_PREFIX), *more])
        for element in root:
            if xml.local(element) == "Contents":
                since = _moment(xml.text(element, "LastModified"))
                found.append(Left(xml.text(element, "Key"), "", since))
        token = xml.text(root, "NextContinuationToken")
        if xml.text(root, "IsTruncated") != "true" or not token:
            return found
        more = [("continuation-token", token)]


async def _list(engine: Engine, bucket: str, query: Query) -> ElementTree.Element:
    response = await engine.origin(bucket).call("GET", bucket, "", query, [])
    document = await response.read(xml.MAX_XML_BYTES)
    if response.status != 200:
        raise OriginFailed(f"the origin answered {response.status} to a list")
    return xml.parse(document)


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return datetime.now(UTC)  # of unknown age: kept
    return found if found.tzinfo else found.replace(tzinfo=UTC)
