"""What does an origin really honour? Asked in a scratch prefix of a bucket, never believed by its name.

Each probe is one question with a yes or a no; what it writes is removed again. The result is a
capability set: `rotate` and in-place `migrate` need `put-if-match`, `copy-source-if-match` and
`copy-if-match`, or a bucket that nobody writes to.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy.s3 import xml
from proxy.s3.listing import STASH_PREFIX
from proxy.s3.message import Headers, Query, encode_path
from proxy.s3.origin import Origin, Response
from proxy.s3.s3error import OriginFailed

PREFIX = (
    STASH_PREFIX + "probe/"
)  # no list shows it, no job takes it for an object, `gc` collects it
_WRONG = '"00000000000000000000000000000000"'
_PART = bytes(5 * 1024 * 1024)


@dataclass(frozen=True, slots=True)
class Capability:
    """`good`: the origin does it. `needed`: the gateway or a job relies on it."""

    name: str
    good: bool
    needed: str
    detail: str = ""


class Probe:
    """Questions to one bucket of one origin."""

    def __init__(self, origin: Origin, bucket: str, name: str) -> None:
        self._origin = origin
        self._bucket = bucket
        self._base = f"{PREFIX}{name}/"

    async def run(self) -> list[Capability]:
        """All answers. OriginFailed where not even a plain object can be written."""
        key = self._base + "object"
        status, _ = await self._ask("PUT", key, [], [("x-amz-meta-probe", "1")], b"0123456789")
        if status != 200:
            raise OriginFailed(f"the origin answered {status} to a plain PUT into {self._bucket}")
        found = []
        try:
            for name, needed, question in self._questions(key):
                try:
                    good, detail = await question()
                except OriginFailed as error:
                    good, detail = False, str(error)
                found.append(Capability(name, good, needed, detail))
        finally:
            for left in ("object", "copy", "empty", "a//b", "room", "upload"):
                await self._ask("DELETE", self._base + left, [], [])
        return found

    def _questions(
        self, key: str
    ) -> list[tuple[str, str, Callable[[], Awaitable[tuple[bool, str]]]]]:
        def status(
            wanted: int, method: str, headers: Headers, body: bytes = b"", at: str = key
        ) -> Callable[[], Awaitable[tuple[bool, str]]]:
            async def ask() -> tuple[bool, str]:
                got, _ = await self._ask(method, at, [], headers, body)
                return got == wanted, f"answered {got}"

            return ask

        source = ("x-amz-copy-source", encode_path(f"/{self._bucket}/{key}".encode()))
        again: Headers = [source, ("x-amz-metadata-directive", "REPLACE")]
        copy = self._base + "copy"
        reads, jobs, clients = "reads", "migrate, rotate", "clients' conditions"
        return [
            ("range", reads, self._range("bytes=2-4", b"234")),
            ("suffix-range", reads, self._range("bytes=-3", b"789")),
            ("suffix-range-beyond-size", reads, self._range("bytes=-100", b"0123456789")),
            (
                "range-if-match",
                reads,
                status(412, "GET", [("range", "bytes=0-1"), ("if-match", _WRONG)]),
            ),
            ("metadata", "everything", self._metadata),
            ("metadata-room-2k", "300 bytes", self._room),
            ("empty-object", clients, status(200, "PUT", [], b"", self._base + "empty")),
            ("double-slash-keys", clients, status(200, "PUT", [], b"x", self._base + "a//b")),
            ("put-if-none-match", clients, status(412, "PUT", [("if-none-match", "*")], b"x")),
            ("put-if-match", jobs, status(412, "PUT", [("if-match", _WRONG)], b"x")),
            (
                "copy-source-if-match",
                jobs,
                status(412, "PUT", [*again, ("x-amz-copy-source-if-match", _WRONG)], at=copy),
            ),
            ("copy-if-match", jobs, status(412, "PUT", [*again, ("if-match", _WRONG)])),
            ("delete-if-match", clients, status(412, "DELETE", [("if-match", _WRONG)])),
            ("copy-replaces-metadata", "copies", self._copy_replaces(key, again)),
            ("multipart", "uploads", self._multipart),
        ]

    def _range(self, value: str, wanted: bytes) -> Callable[[], Awaitable[tuple[bool, str]]]:
        async def ask() -> tuple[bool, str]:
            status, body = await self._ask("GET", self._base + "object", [], [("range", value)])
            return status in (200, 206) and body == wanted, f"answered {status}"

        return ask

    async def _metadata(self) -> tuple[bool, str]:
        head = await self._head("object")
        return head.get("x-amz-meta-probe") == "1", f"answered {head.status}"

    async def _room(self) -> tuple[bool, str]:
        value = "x" * 1900
        await self._ask("PUT", self._base + "room", [], [("x-amz-meta-probe", value)], b"x")
        head = await self._head("room")
        return head.get("x-amz-meta-probe") == value, f"answered {head.status}"

    def _copy_replaces(self, key: str, again: Headers) -> Callable[[], Awaitable[tuple[bool, str]]]:
        async def ask() -> tuple[bool, str]:
            status, _ = await self._ask("PUT", key, [], [*again, ("x-amz-meta-probe", "2")])
            head = await self._head("object")
            return head.get("x-amz-meta-probe") == "2", f"answered {status}"

        return ask

    async def _multipart(self) -> tuple[bool, str]:
        """Unequal parts with gaps in their numbers, as the footer needs them."""
        key = self._base + "upload"
        _, body = await self._ask("POST", key, [("uploads", "")], [])
        upload = xml.text(xml.parse(body), "UploadId")
        named = ""
        for number, data in ((2, _PART + b"xyz"), (7, _PART), (9, b"footer")):
            query: Query = [("partNumber", str(number)), ("uploadId", upload)]
            response = await self._origin.call("PUT", self._bucket, key, query, [], data)
            await response.read(1 << 20)
            tag = response.get("etag").strip('"')
            named += f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"
        document = f"<CompleteMultipartUpload>{named}</CompleteMultipartUpload>".encode()
        status, body = await self._ask("POST", key, [("uploadId", upload)], [], document)
        if status != 200 or b"<Error" in body:
            await self._ask("DELETE", key, [("uploadId", upload)], [])
            return False, f"answered {status}"
        head = await self._head("upload")
        return head.get("content-length") == str(2 * len(_PART) + 9), f"answered {status}"

    async def _head(self, name: str) -> Response:
        return await self._origin.call("HEAD", self._bucket, self._base + name, [], [])

    async def _ask(
        self, method: str, key: str, query: Query, headers: Headers, body: bytes = b""
    ) -> tuple[int, bytes]:
        response = await self._origin.call(method, self._bucket, key, query, headers, body)
        return response.status, await response.read(1 << 20)
