"""Is the plaintext what the client says it sent? Every checksum it gives, as header or trailer.

`BodyChecks.update` sees each plaintext slice once; `finish` raises on any mismatch and must be
called before the upload is allowed to complete. MD5 and SHA are computed only when asked for: they
cost more than sealing. Source: Amazon S3 "Checking object integrity"; RFC 1864.
"""

import base64
import binascii
import hashlib
import hmac
import zlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from awscrt import checksums as _crt

from proxy.s3.message import Request
from proxy.s3.s3error import S3Error
from proxy.s3.sigv4 import STREAMING, UNSIGNED


class _Digest(Protocol):
    def update(self, data: memoryview) -> None: ...
    def digest(self) -> bytes: ...


class _Crc:
    """A CRC function `f(data, previous)` in the shape of hashlib."""

    def __init__(self, function: Callable[[Any, int], int], size: int) -> None:
        self._function = function
        self._size = size
        self._value = 0

    def update(self, data: memoryview) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


class _XxHash:
    """awscrt's, which gives its digest once."""

    def __init__(self, begun: Any) -> None:
        self._state = begun

    def update(self, data: memoryview) -> None:
        self._state.update(bytes(data))

    def digest(self) -> bytes:
        return bytes(self._state.finalize())


def _md5() -> _Digest:
    return hashlib.md5(usedforsecurity=False)


def _sha1() -> _Digest:
    return hashlib.sha1(usedforsecurity=False)


# header suffix -> (digest bytes, factory). Names as in x-amz-checksum-algorithm, lower-case.
ALGORITHMS: dict[str, tuple[int, Callable[[], _Digest]]] = {
    "crc32": (4, lambda: _Crc(zlib.crc32, 4)),
    "crc32c": (4, lambda: _Crc(_crt.crc32c, 4)),
    "crc64nvme": (8, lambda: _Crc(_crt.crc64nvme, 8)),
    "sha1": (20, _sha1),
    "sha256": (32, hashlib.sha256),
    "sha512": (64, hashlib.sha512),
    "md5": (16, _md5),
    "xxhash64": (8, lambda: _XxHash(_crt.XXHash.new_xxhash64())),
    "xxhash3": (8, lambda: _XxHash(_crt.XXHash.new_xxhash3_64())),
    "xxhash128": (16, lambda: _XxHash(_crt.XXHash.new_xxhash3_128())),
}
_PREFIX = "x-amz-checksum-"
_NOT_VALUES = frozenset({"algorithm", "mode", "type"})


def _decode(header: str, text: str, size: int, error: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != size:
        raise S3Error(error, f"Value for {header} header is invalid.")
    return raw


class BodyChecks:
    """The checks that one request asks for. `trailer_names` are those it announces."""

    def __init__(self, request: Request, payload: str) -> None:
        self._digests: list[tuple[str, _Digest]] = []
        self._expected: dict[str, bytes] = {}
        self.trailer_names: frozenset[str] = frozenset()
        self.announced: list[tuple[str, str]] = []
        named: set[str] = set()
        for name, value in request.headers:
            if name.startswith(_PREFIX) and name[len(_PREFIX) :] not in _NOT_VALUES:
                self._add_checksum(name, value)
                named.add(name)
                self.announced.append((name, value))
        if payload in STREAMING and payload.endswith("-TRAILER"):
            listed = request.get("x-amz-trailer").split(",")
            names = [n.strip().lower() for n in listed if n.strip()]
            for name in names:
                if name.startswith(_PREFIX):
                    self._add_checksum(name, None)
                    named.add(name)
            self.trailer_names = frozenset(names)
        if len(named) > 1:
            raise S3Error(
                "InvalidRequest",
                "Expecting a single x-amz-checksum- header. "
                "Multiple checksum Types are not allowed.",
            )
        if request.has("content-md5"):
            raw = _decode("Content-MD5", request.get("content-md5"), 16, "InvalidDigest")
            self._digests.append(("content-md5", _md5()))
            self._expected["content-md5"] = raw
        if payload != UNSIGNED and payload not in STREAMING:
            self._digests.append(("x-amz-content-sha256", hashlib.sha256()))
            self._expected["x-amz-content-sha256"] = bytes.fromhex(payload)

    def _add_checksum(self, name: str, value: str | None) -> None:
        known = ALGORITHMS.get(name[len(_PREFIX) :])
        if known is None:
            raise S3Error("NotImplemented", f"{name} is not supported.")
        size, factory = known
        if value is not None:
            self._expected[name] = _decode(name, value, size, "InvalidRequest")
        self._digests.append((name, factory()))

    def update(self, data: memoryview) -> None:
        for _, digest in self._digests:
            digest.update(data)

    def finish(self, trailers: Iterable[tuple[str, str]] = ()) -> list[tuple[str, str]]:
        """Headers that confirm the client's checksum; raises BadDigest or its kin."""
        for name, value in trailers:
            if name.startswith(_PREFIX) and name in self.trailer_names:
                size, _ = ALGORITHMS[name[len(_PREFIX) :]]
                self._expected[name] = _decode(name, value, size, "InvalidRequest")
        confirmed: list[tuple[str, str]] = []
        for name, digest in self._digests:
            expected = self._expected.get(name)
            if expected is None:
                raise S3Error("InvalidRequest", f"The announced trailer {name} was not sent.")
            actual = digest.digest()
            if not hmac.compare_digest(actual, expected):
                if name == "x-amz-content-sha256":
                    raise S3Error(
                        "XAmzContentSHA256Mismatch",
                        ClientComputedContentSHA256=expected.hex(),
                        S3ComputedContentSHA256=actual.hex(),
                    )
                raise S3Error(
                    "BadDigest", f"The {name} you specified did not match the calculated checksum."
                )
            if name.startswith(_PREFIX):
                confirmed.append((name, base64.b64encode(actual).decode()))
        if confirmed:
            confirmed.append(("x-amz-checksum-type", "FULL_OBJECT"))
        return confirmed
