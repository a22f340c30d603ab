"""What do lists say about sealed objects? Plaintext sizes, from the listing alone, and shown ETags.

Every sealed object's stored size is one strictly rising function of its plaintext size
(`crypto.sizes`), so no request per entry is needed. A size outside the function's image can only be
a plaintext object, which a `mixed` place may hold. In a `mixed` place a plaintext object whose size
happens to lie in the image is shown too small; GET and HEAD tell the truth.
"""

from urllib.parse import unquote
from xml.etree import ElementTree

from proxy.crypto.sizes import plain_size
from proxy.s3 import etag, xml
from proxy.s3.buckets import Buckets

STASH_PREFIX = ".sealgate-stash/"
_ENTRIES = {
    "ListBucketResult": "Contents",
    "ListVersionsResult": "Version",
}


def edit_listing(document: bytes, bucket: str, buckets: Buckets) -> bytes:
    """ListObjects (1 and 2) and ListObjectVersions; any other document comes back as it is."""
    root = xml.parse(document)
    entry_name = _ENTRIES.get(xml.local(root))
    if entry_name is None:
        return document
    encoded = xml.text(root, "EncodingType") == "url"
    _hide_stash(root, entry_name)
    for entry in root:
        if xml.local(entry) == entry_name:
            _edit_entry(entry, bucket, buckets, encoded)
    return xml.serialise(root)


def _hide_stash(root: ElementTree.Element, entry_name: str) -> None:
    """Parts that wait for their upload's completion are no objects yet."""
    hidden = [
        entry
        for entry in root
        if (
            xml.local(entry) in (entry_name, "DeleteMarker")
            and unquote(xml.text(entry, "Key")).startswith(STASH_PREFIX)
        )
        or (
            xml.local(entry) == "CommonPrefixes"
            and unquote(xml.text(entry, "Prefix")).startswith(STASH_PREFIX)
        )
    ]
    for entry in hidden:
        root.remove(entry)
    count = xml.child(root, "KeyCount")
    if count is not None and (count.text or "").isdigit():
        count.text = str(max(0, int(count.text or "0") - len(hidden)))


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
