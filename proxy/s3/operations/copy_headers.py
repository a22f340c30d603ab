"""What does a copy have besides its bytes? The client's headers, and what it lets come from the source.

`x-amz-metadata-directive` decides about metadata, `x-amz-tagging-directive` about tags; COPY where
they are missing. ACL, storage class, object lock and the redirect of a website are always the request's,
as with S3.
"""

from urllib.parse import quote

from proxy.crypto.envelope import METADATA_NAME
from proxy.s3 import xml
from proxy.s3.call import Call
from proxy.s3.message import Headers, header
from proxy.s3.operations.copy_source import Source
from proxy.s3.s3error import OriginFailed

_METADATA = frozenset(
    {
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-type",
        "expires",
    }
)
_OF_THE_COPY = frozenset(
    {"x-amz-metadata-directive", "x-amz-copy-source", "x-amz-copy-source-if-match"}
)


def replaces_metadata(call: Call) -> bool:
    return call.request.get("x-amz-metadata-directive").upper() == "REPLACE"


def is_metadata(name: str) -> bool:
    return name in _METADATA or name.startswith("x-amz-meta-")


def own(call: Call, name: str) -> bool:
    """Whether a header of the client's stays with the copy."""
    return name not in _OF_THE_COPY and (replaces_metadata(call) or not is_metadata(name))


def carried(call: Call, source: Headers) -> Headers:
    """Metadata that comes from the source; `source` are its headers."""
    if replaces_metadata(call):
        return []
    return [(n, v) for n, v in source if is_metadata(n) and n != METADATA_NAME]


async def tags(call: Call, source: Source, told: Headers) -> Headers:
    """x-amz-tagging of a copy that is written anew: the client's own, or the source's."""
    if call.request.get("x-amz-tagging-directive").upper() == "REPLACE":
        given = call.request.get("x-amz-tagging")
        return [("x-amz-tagging", given)] if given else []
    if (header(told, "x-amz-tagging-count") or "0") == "0":
        return []
    origin = call.services.origins[source.rule.origin]
    query = [("tagging", ""), *source.query]
    answer = await origin.call("GET", source.bucket, source.key, query, [])
    document = await answer.read(xml.MAX_XML_BYTES)
    if answer.status != 200:
        raise OriginFailed(f"the origin answered {answer.status} to the source's tags")
    found = [t for t in xml.parse(document).iter() if xml.local(t) == "Tag"]
    pairs = (f"{quote(xml.text(t, 'Key'))}={quote(xml.text(t, 'Value'))}" for t in found)
    return [("x-amz-tagging", "&".join(pairs))]
