"""Where does the file of a browser's form begin and end? multipart/form-data as S3's POST takes it.

Sans-I/O: `feed` yields slices of the file; the fields before it are in `fields`, names lower-case.
The file has to be the last field, as S3 demands, so its length is known as soon as it begins: it is
what is left of Content-Length but the closing boundary. Source: RFC 7578; Amazon S3, "POST Object".
"""

import re
from collections.abc import Iterator

from proxy.s3.s3error import S3Error

MAX_FIELDS_BYTES = 64 * 1024
_BOUNDARY = re.compile(
    r'multipart/form-data\s*;\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))\s*\Z', re.I
)
_NAME = re.compile(r'[;\s]name="([^"]*)"', re.I)
_FILENAME = re.compile(r'[;\s]filename="([^"]*)"', re.I)

_FIELDS, _FILE, _DONE = range(3)


def boundary_of(content_type: str) -> bytes | None:
    """The boundary; None when this is no form."""
    match = _BOUNDARY.match(content_type.strip())
    return (match[1] or match[2]).encode("latin-1") if match else None


class FormDecoder:
    """One form of `length` bytes. S3Error for whatever is not such a form."""

    def __init__(self, boundary: bytes, length: int) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._closing = self._delimiter + b"--\r\n"
        self._left = length
        # With the line end that the first boundary lacks, every boundary looks the same.
        self._head = bytearray(b"\r\n")
        self._seen_bytes = -2
        self._tail = bytearray()
        self._state = _FIELDS
        self.fields: dict[str, str] = {}
        self.file_name = ""
        self.file_length = 0
        self._file_left = 0

    @property
    def at_file(self) -> bool:
        """The fields are complete and the file has begun."""
        return self._state != _FIELDS

    @property
    def done(self) -> bool:
        return self._state == _DONE

    def feed(self, data: memoryview) -> Iterator[memoryview]:
        """Slices of the file in `data`, and after the fields what came with them."""
        self._left -= len(data)
        if self._state == _FIELDS:
            self._head += data
            if not self._read_fields():
                if len(self._head) > MAX_FIELDS_BYTES:
                    raise S3Error("MaxPostPreDataLengthExceededError")
                return
            rest = memoryview(bytes(self._head))
            self._head.clear()
            self.file_length = len(rest) + self._left - len(self._closing)
            if self.file_length < 0:
                raise _malformed()
            self._file_left = self.file_length
            data = rest
        take = min(self._file_left, len(data))
        self._file_left -= take
        if take:
            yield data[:take]
        self._tail += data[take:]
        if not self._file_left and self._left == 0:
            if bytes(self._tail) != self._closing:
                raise _malformed()
            self._state = _DONE

    def _read_fields(self) -> bool:
        """Takes whole fields off the front; True when the file's own head has been taken."""
        while True:
            if not self._head.startswith(self._delimiter[: len(self._head)]):
                raise _malformed()
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return False
            head = self._head[:end].decode("utf-8", "replace")
            name = _NAME.search(head)
            if name is None or not self._head.startswith(self._delimiter + b"\r\n"):
                raise _malformed()
            if name[1].lower() == "file":
                filename = _FILENAME.search(head)
                self.file_name = filename[1].rpartition("\\")[2] if filename else ""
                kind = re.search(r"\ncontent-type:\s*([^\r\n]+)", head, re.I)
                if kind:
                    self.fields.setdefault("content-type", kind[1].strip())
                del self._head[: end + 4]
                self._state = _FILE
                return True
            stop = self._head.find(self._delimiter, end + 4)
            if stop < 0:
                return False
            try:
                value = self._head[end + 4 : stop].decode()
            except UnicodeDecodeError:
                raise _malformed() from None
            if name[1].lower() in self.fields:
                raise S3Error("InvalidArgument", "A field of the form is given twice.")
            self.fields[name[1].lower()] = value
            del self._head[:stop]


def _malformed() -> S3Error:
    return S3Error("MalformedPOSTRequest")
