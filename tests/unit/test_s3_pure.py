"""Ranges, ETags, routes, bucket rules, lists: what needs no connection."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.model import BucketConfig
from proxy.crypto.sizes import stored_size
from proxy.s3 import etag, xml
from proxy.s3.buckets import Buckets, resource_of
from proxy.s3.listing import (
    BEHIND_STASH,
    append_page,
    edit_attributes,
    edit_deletes,
    edit_listing,
    hide_stash,
    is_listing,
    query_for_next,
)
from proxy.s3.message import Query, Request
from proxy.s3.ranges import RangeSpec, parse_range, resolve, total_of
from proxy.s3.router import Target, route, target_of
from proxy.s3.s3error import CODES, OriginFailed, S3Error

MD5 = "d41d8cd98f00b204e9800998ecf8427e"
RULES = (
    BucketConfig(bucket="docs", prefix="public/", origin="a", state="plain"),
    BucketConfig(bucket="docs", origin="a", ring="r"),
    BucketConfig(bucket="move-*", origin="b", state="mixed", ring="r"),
)


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("bytes=0-4", 10, (0, 4)),
        ("bytes=6-", 10, (6, 9)),
        ("bytes=-3", 10, (7, 9)),
        ("bytes=-30", 10, (0, 9)),
        ("bytes=0-999", 10, (0, 9)),
        ("bytes=9-9", 10, (9, 9)),
    ],
)
def test_satisfiable_ranges(text: str, size: int, expected: tuple[int, int]) -> None:
    spec = parse_range(text)
    assert spec is not None and resolve(spec, size) == expected


@pytest.mark.parametrize(
    "text", ["bytes=0-1,3-4", "bytes=4-2", "bytes=", "bytes=-", "items=0-1", "bytes=a-b", "0-1", ""]
)
def test_what_is_no_single_range_means_the_whole_object(text: str) -> None:
    assert parse_range(text) is None


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (RangeSpec(10, None), 10),
        (RangeSpec(10, 12), 10),
        (RangeSpec(None, 0), 10),
        (RangeSpec(None, 5), 0),
        (RangeSpec(0, 0), 0),
    ],
)
def test_unsatisfiable_ranges_are_416_with_the_size(spec: RangeSpec, size: int) -> None:
    with pytest.raises(S3Error) as caught:
        resolve(spec, size)
    assert caught.value.status == 416
    assert ("content-range", f"bytes */{size}") in caught.value.headers


def test_the_total_of_a_content_range() -> None:
    assert [total_of(t) for t in ("bytes 0-1/20", "bytes 0-1/*", "", "bytes */7")] == [
        20,
        None,
        None,
        7,
    ]


def test_only_md5_shaped_etags_get_the_suffix_and_it_comes_off_again() -> None:
    assert etag.shown(f'"{MD5}"') == f'"{MD5}-0"'
    assert etag.shown(MD5) == f"{MD5}-0"
    for other in (f'"{MD5}-3"', '"abc"', f'W/"{MD5}"', ""):
        assert etag.shown(other) == other
    assert etag.unsuffixed(f'"{MD5}-0"') == f'"{MD5}"'
    assert etag.unsuffixed(f'"{MD5}-0", W/"{MD5}-0","x", "{MD5}-3", *') == (
        f'"{MD5}", W/"{MD5}","x", "{MD5}-3", *'
    )


@given(st.from_regex(r'"?[0-9a-f]{32}"?\Z'))
def test_the_suffix_is_reversible(tag: str) -> None:
    assert etag.unsuffixed(etag.shown(tag)) == tag


def test_the_first_rule_that_matches_counts() -> None:
    buckets = Buckets(RULES)
    assert buckets.for_key("docs", "public/x").state == "plain"
    assert buckets.for_key("docs", "private").state == "sealed"
    assert buckets.for_bucket("move-1").origin == "b"
    assert resource_of(RULES[1], "docs").name == "docs/"
    with pytest.raises(S3Error) as caught:
        buckets.for_key("else", "x")
    assert caught.value.code == "NoSuchBucket"


def request(method: str, target: str, *headers: tuple[str, str]) -> Request:
    path, _, query = target.partition("?")
    return Request(method, path, query, [("host", "b.s3.local:9000"), *headers])


@pytest.mark.parametrize(
    ("method", "target", "operation"),
    [
        ("GET", "/", "ListBuckets"),
        ("GET", "/b", "ListBucket"),
        ("GET", "/b/", "ListBucket"),
        ("GET", "/b/k", "GetObject"),
        ("GET", "/b/k?x-id=GetObject", "GetObject"),
        ("GET", "/b/k?unknown", "GetObject"),
        ("HEAD", "/b/k", "HeadObject"),
        ("PUT", "/b/k", "PutObject"),
        ("PUT", "/b/k?x-id=PutObject", "PutObject"),
        ("PUT", "/b/k?x-amz-checksum-crc32=AAAAAA%3D%3D", "PutObject"),
        ("PUT", "/b/k?tagging", "PutObjectTagging"),
        ("PUT", "/b/k?acl=", "PutObjectAcl"),
        ("PUT", "/b/k?partNumber=1&uploadId=u", "UploadPart"),
        ("PUT", "/b/k?partNumber=1", "UploadPart"),
        ("POST", "/b/k?uploads", "CreateMultipartUpload"),
        ("POST", "/b/k?uploadId=u", "CompleteMultipartUpload"),
        ("POST", "/b?delete", "DeleteObjects"),
        ("DELETE", "/b/k", "DeleteObject"),
        ("DELETE", "/b/k?uploadId=u", "AbortMultipartUpload"),
        ("GET", "/b/k?attributes", "GetObjectAttributes"),
    ],
)
def test_method_and_target_give_the_operation(method: str, target: str, operation: str) -> None:
    asked = request(method, target)
    found = route(asked, target_of(asked, None))
    assert (found.operation, found.refuse) == (operation, None)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PUT", "/b/k?unknown"),
        ("PUT", "/b/k?renameObject"),
        ("PUT", "/b/k?annotation=x"),
        ("POST", "/b/k"),
        ("POST", "/b/k?select&select-type=2"),
        ("POST", "/b/k?what"),
        ("GET", "/b/k?torrent"),
        ("PATCH", "/b/k"),
        ("POST", "/b"),
    ],
)
def test_what_may_carry_bytes_unknown_to_us_is_refused_on_protected_places(
    method: str, target: str
) -> None:
    asked = request(method, target)
    assert route(asked, target_of(asked, None)).refuse


def test_targets_in_both_styles_keep_every_byte_of_the_key() -> None:
    raw = "a//b/../c%20d%2Be%252F~%C3%BC%3F%23.txt"
    expected = "a//b/../c d+e%2F~ü?#.txt"
    assert target_of(request("GET", f"/b/{raw}"), None) == Target("b", expected)
    assert target_of(request("GET", f"/{raw}"), "s3.local") == Target("b", expected)
    for bad in ("/b/%ff", "/b/a%00", "b/k", "/b/" + "k" * 1025):
        with pytest.raises(S3Error):
            target_of(request("GET", bad), None)


LIST = """<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<Name>docs</Name><KeyCount>4</KeyCount>
<Contents><Key>a</Key><Size>{sealed}</Size><ETag>"{md5}"</ETag><ChecksumAlgorithm>CRC64NVME
</ChecksumAlgorithm></Contents>
<Contents><Key>public/b</Key><Size>{sealed}</Size><ETag>"{md5}"</ETag></Contents>
<Contents><Key>odd</Key><Size>7</Size><ETag>"{md5}"</ETag></Contents>
<Contents><Key>.sealgate-stash/00/00001</Key><Size>7</Size></Contents></ListBucketResult>"""


def page(kind: str, keys: list[str], **ends: str) -> ElementTree.Element:
    entry = "Version" if kind == "ListVersionsResult" else "Contents"
    root = ElementTree.Element(kind)
    for name, value in {"IsTruncated": "true", "KeyCount": str(len(keys)), **ends}.items():
        xml.add(root, name, value)
    for key in keys:
        xml.add(xml.add(root, entry, ""), "Key", key)
    return root


STASHED = ".sealgate-stash/0/1"
V1: Query = [("marker", "m"), ("max-keys", "2"), ("prefix", "p")]
V2: Query = [("list-type", "2"), ("continuation-token", "t"), ("start-after", "s")]
VERSIONS: Query = [("versions", ""), ("version-id-marker", "v"), ("key-marker", "k")]


@pytest.mark.parametrize(
    "found, query, expected",
    [
        (page("ListBucketResult", ["-", STASHED]), V2, {"start-after": BEHIND_STASH}),
        (page("ListBucketResult", ["-", STASHED]), V1, {"marker": BEHIND_STASH, "prefix": "p"}),
        (page("ListBucketResult", [STASHED, "a"]), V1, {"marker": "a", "prefix": "p"}),
        (
            page("ListBucketResult", [STASHED, "a"], NextContinuationToken="n"),
            V2,
            {"continuation-token": "n"},
        ),
        (
            page("ListVersionsResult", [STASHED, "a"], NextKeyMarker="a", NextVersionIdMarker="w"),
            VERSIONS,
            {"key-marker": "a", "version-id-marker": "w", "versions": ""},
        ),
        (
            page("ListVersionsResult", [STASHED]),
            VERSIONS,
            {"key-marker": BEHIND_STASH, "versions": ""},
        ),
    ],
)
def test_the_page_after_one_with_stashed_parts_goes_on_where_it_ended(
    found: ElementTree.Element, query: Query, expected: dict[str, str]
) -> None:
    asked = dict(query_for_next(found, query, 1))
    asked.pop("list-type", None)
    assert asked == {"max-keys": "1", **expected}


def test_a_page_takes_over_the_end_of_the_one_that_fills_it_up() -> None:
    first = page("ListBucketResult", ["-", STASHED], NextMarker="s")
    assert hide_stash(first) == 1
    append_page(first, page("ListBucketResult", ["a"], IsTruncated="false"))
    assert [xml.text(e, "Key") for e in first if xml.local(e) == "Contents"] == ["-", "a"]
    assert xml.text(first, "IsTruncated") == "false" and xml.child(first, "NextMarker") is None
    assert xml.text(first, "KeyCount") == "2"


def test_a_list_shows_plaintext_sizes_where_sealed_and_hides_the_stash() -> None:
    document = LIST.format(sealed=stored_size(12345), md5=MD5).encode()
    root = xml.parse(document)
    assert is_listing(root) and hide_stash(root) == 1
    edit_listing(root, "docs", Buckets(RULES))
    entries = {xml.text(e, "Key"): e for e in root if xml.local(e) == "Contents"}
    assert {k: xml.text(e, "Size") for k, e in entries.items()} == {
        "a": "12345",
        "public/b": str(stored_size(12345)),
        "odd": "7",
    }
    assert xml.text(entries["a"], "ETag") == f'"{MD5}-0"'
    assert xml.text(entries["public/b"], "ETag") == f'"{MD5}"'
    assert xml.child(entries["a"], "ChecksumAlgorithm") is None
    assert xml.text(root, "KeyCount") == "3"


def test_documents_with_a_dtd_or_no_xml_are_refused() -> None:
    for bad in (b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", b"nothing", b"<a><b></a>"):
        with pytest.raises(OriginFailed):
            xml.parse(bad)
        with pytest.raises(S3Error):
            xml.parse_request(bad)


def test_etags_in_deletes_and_attributes_are_translated() -> None:
    deletes = f'<Delete><Object><Key>k</Key><ETag>"{MD5}-0"</ETag></Object></Delete>'
    assert f'"{MD5}"<' in edit_deletes(deletes.encode()).decode()
    told = (
        f"<R><ETag>{MD5}</ETag><Checksum/><ObjectParts/><ObjectSize>{stored_size(9)}</ObjectSize>"
        "</R>"
    )
    answer = xml.serialise(edit_attributes(xml.parse(told.encode())))
    assert answer.endswith(f"<R><ETag>{MD5}-0</ETag><ObjectSize>9</ObjectSize></R>".encode())


def test_an_error_document_is_xml_whatever_the_path_holds() -> None:
    error = S3Error("NoSuchBucket", BucketName="a<b>&\x01")
    root = xml.parse(error.to_xml("/a&b<c>\x00\x1f", "ID"))
    assert xml.text(root, "Code") == "NoSuchBucket"
    assert all(300 <= status < 600 for status, _ in CODES.values())
