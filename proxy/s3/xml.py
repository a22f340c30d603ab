"""Edits of the XML that origins answer: sizes and ETags of listed objects. Namespace kept.

Parsed with expat through ElementTree after a check that the document brings no DTD, so that no
entity of an untrusted origin is ever expanded. Listings are at most a thousand entries, and the
caller caps the bytes.
"""

import re
from xml.etree import ElementTree

from proxy.s3.s3error import OriginFailed, S3Error

MAX_XML_BYTES = 16 * 1024 * 1024
_NAMESPACE = re.compile(r"\{([^}]*)\}")


def parse(document: bytes) -> ElementTree.Element:
    """The root of an origin's answer; OriginFailed when it is no XML or brings a DTD."""
    if b"<!DOCTYPE" in document or b"<!ENTITY" in document:
        raise OriginFailed("the origin's XML brings a DTD")
    try:
        return ElementTree.fromstring(document)  # noqa: S314 - DTDs are refused above
    except ElementTree.ParseError as error:
        raise OriginFailed("the origin's answer is not XML") from error


def error_of(document: bytes) -> tuple[str, str]:
    """Code and message of an S3 error document; empty where it is none."""
    try:
        root = parse(document)
    except OriginFailed:
        return "", ""
    return (text(root, "Code"), text(root, "Message")) if local(root) == "Error" else ("", "")


def parse_request(document: bytes) -> ElementTree.Element:
    """The root of a client's document; S3Error MalformedXML."""
    try:
        return parse(document)
    except OriginFailed:
        raise S3Error("MalformedXML") from None


def local(element: ElementTree.Element) -> str:
    """The tag without its namespace."""
    return str(element.tag).rpartition("}")[2]


def child(element: ElementTree.Element, name: str) -> ElementTree.Element | None:
    return next((c for c in element if local(c) == name), None)


def text(element: ElementTree.Element, name: str) -> str:
    found = child(element, name)
    return (found.text or "") if found is not None else ""


def add(parent: ElementTree.Element, name: str, value: str) -> ElementTree.Element:
    """A new last child in the parent's namespace."""
    child = ElementTree.SubElement(parent, str(parent.tag).rpartition("}")[0] + "}" + name)
    if not str(parent.tag).startswith("{"):
        child.tag = name
    child.text = value
    return child


def serialise(root: ElementTree.Element) -> bytes:
    """With the root's namespace as the default one, as every S3 server writes it."""
    match = _NAMESPACE.match(str(root.tag))
    if match:
        for element in root.iter():
            element.tag = local(element)
        root.set("xmlns", match[1])
    body: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=False)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + body
