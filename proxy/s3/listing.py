"""What do lists say about sealed objects? Plaintext sizes, from the listing alone, and shown ETags.

Every sealed object's stored size is one strictly rising function of its plaintext size
(`crypto.sizes`), so no request per entry is needed. A size outside the function's image can only be
a plaintext object, which a `mixed` place may hold. In a `mixed` place a plaintext object whose size
happens to lie in the image is shown too small; GET and HEAD tell the truth.
"""

from urllib.parse import unquote, unquote_plus
from xml.etree import ElementTree

from proxy.crypto.sizes import plain_size
from proxy.s3 import etag, xml
from proxy.s3.buckets import Buckets
from proxy.s3.message import Query

STASH_PREFIX = ".sealgate-stash/"
BEHIND_STASH = STASH_PREFIX + "~"  # what stands there is hexadecimal
_LISTED = {"Contents": "Key", "Version": "Key", "DeleteMarker": "Key"}
_PAGING = frozenset(
    {
        "continuation-token",
        "start-after",
        "marker",
        "key-marker",
        "version-id-marker",
        "max-keys",
    }
)
_ENDS = (
    "IsTruncated",
    "NextContinuationToken",
    "NextMarker",
    "NextKeyMarker",
    "NextVersionIdMarker",
)
_ENTRIES = {
    "ListBucketResult": "Contents",
    "ListVersionsResult": "Version",
}


def is_listing(root: ElementTree.Element) -> bool:
    """ListObjects (1 and 2) or ListObjectVersions."""
    return xml.local(root) in _ENTRIES


def edit_listing(root: ElementTree.Element, bucket: str, buckets: Buckets) -> None:
    """Every sealed entry shows what the plaintext is."""
    encoded = xml.text(root, "EncodingType") == "url"
    for entry in root:
        if xml.local(entry) == _ENTRIES[xml.local(root)]:
            _edit_entry(entry, bucket, buckets, encoded)


def hide_stash(root: ElementTree.Element) -> int:
    """Takes out parts that wait for their upload's completion; how many entries that were."""
    hidden = [e for e in root if _names_stash(e)]
    for entry in hidden:
        root.remove(entry)
    _add_to_count(root, -len(hidden))
    return len(hidden)


def _names_stash(entry: ElementTree.Element) -> bool:
    field = {**_LISTED, "CommonPrefixes": "Prefix"}.get(xml.local(entry))
    return field is not None and unquote(xml.text(entry, field)).startswith(STASH_PREFIX)


def query_for_next(page: ElementTree.Element, query: Query, count: int) -> Query:
    """Asks for `count` entries that follow `page`, which still has its stash, and follow the stash."""
    kept = [(n, v) for n, v in query if n not in _PAGING]
    versions, second = xml.local(page) == "ListVersionsResult", ("list-type", "2") in query
    last = last_of(page)
    if last.startswith(STASH_PREFIX):
        # SeaweedFS shows the stash's common prefix again unless the marker is just that.
        name = "key-marker" if versions else "start-after" if second else "marker"
        where = [(name, last if last == STASH_PREFIX else BEHIND_STASH)]
    elif versions:
        where = [("key-marker", xml.text(page, "NextKeyMarker"))]
        version = xml.text(page, "NextVersionIdMarker")
        where += [("version-id-marker", version)] if version else []
    elif second:
        where = [("continuation-token", xml.text(page, "NextContinuationToken"))]
    else:
        where = [("marker", last)]
    return [*kept, ("max-keys", str(count)), *where]


def last_of(root: ElementTree.Element) -> str:
    """The greatest name on a page, decoded; empty when it has none."""
    encoded = xml.text(root, "EncodingType") == "url"
    names = [
        xml.text(e, "Prefix" if xml.local(e) == "CommonPrefixes" else "Key")
        for e in root
        if xml.local(e) in _LISTED or xml.local(e) == "CommonPrefixes"
    ]
    return max((unquote_plus(n) if encoded else n for n in names), default="")


def append_page(root: ElementTree.Element, following: ElementTree.Element) -> None:
    """`root` goes on with the entries of `following` and ends where that ends."""
    for name in _ENDS:
        for old in [c for c in root if xml.local(c) == name]:
            root.remove(old)
        root.extend([c for c in following if xml.local(c) == name])
    added = [e for e in following if xml.local(e) in _LISTED or xml.local(e) == "CommonPrefixes"]
    root.extend(added)
    _add_to_count(root, len(added))


def _add_to_count(root: ElementTree.Element, change: int) -> None:
    count = xml.child(root, "KeyCount")
    if count is not None and (count.text or "").isdigit():
        count.text = str(max(0, int(count.text or "0") + change))


def _edit_entry(entry: ElementTree.Element, bucket: str, buckets: Buckets, encoded: bool) -> None:
    key = xml.text(entry, "Key")
    rule = buckets.find(bucket, unquote(key.replace("+", " ")) if encoded else key)
    if rule is None or rule.state == "plain":
        return
    size = xml.child(entry, "Size")
    if size is not None and (size.text or "").isdigit():
        plain = plain_size(int(size.text or "0"))
        if plain is None:
            return  # not sealed: size and ETag are those of the plaintext
        size.text = str(plain)
    tag = xml.child(entry, "ETag")
    if tag is not None and tag.text:
        tag.text = etag.shown(tag.text)
    for name in ("ChecksumAlgorithm", "ChecksumType"):
        for found in [c for c in entry if xml.local(c) == name]:
            entry.remove(found)


def edit_deletes(document: bytes) -> bytes:
    """DeleteObjects request: the shown ETags of conditional deletes become the origin's."""
    root = xml.parse_request(document)
    for element in root.iter():
        if xml.local(element) == "ETag" and element.text:
            element.text = etag.unsuffixed(element.text)
    return xml.serialise(root)


def edit_attributes(root: ElementTree.Element) -> ElementTree.Element:
    """GetObjectAttributes: size of the plaintext; checksums and parts of the ciphertext go."""
    for name in ("Checksum", "ObjectParts"):
        for found in [c for c in root if xml.local(c) == name]:
            root.remove(found)
    size = xml.child(root, "ObjectSize")
    if size is not None and (size.text or "").isdigit():
        plain = plain_size(int(size.text or "0"))
        size.text = str(plain) if plain is not None else size.text
    tag = xml.child(root, "ETag")
    if tag is not None and tag.text:
        tag.text = etag.shown(tag.text)
    return root
