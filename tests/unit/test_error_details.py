"""The DETAIL of a violated constraint without sealed bytes."""

import pytest

from proxy.postgres.error_details import without_sealed
from proxy.postgres.messages import error_fields

TAG = b"\\x" + b"58b155adffcb3f1180d40a7838f166c0"


def error(detail: bytes, table: bytes = b"people") -> bytes:
    fields = (b"SERROR", b"C23505", b"Mduplicate key", b"D" + detail, b"spublic", b"t" + table)
    return b"\0".join(fields) + b"\0\0"


@pytest.mark.parametrize(
    ("detail", "told"),
    [
        (b"Key (email__bx)=(" + TAG + b") already exists.", "Key (email)=(…) already exists."),
        (b"Key (id, email__bx)=(1, " + TAG + b") is.", "Key (id, email)=(1, …) is."),
        (b"Key (email__bx, __bx)=(" + TAG + b", 2) is.", "Key (email, __bx)=(…, 2) is."),
        (b"Failing row contains (7, \\xc50101ff03703975714a2c8e..., null, x).",
         "Failing row contains (7, …, null, x)."),
    ],
)  # fmt: skip
def test_sealed_bytes_and_tags_are_not_told(detail: bytes, told: str) -> None:
    shown = without_sealed(error(detail), lambda: {("public", "people")})
    assert shown is not None
    assert int.from_bytes(shown[1:5], "big") == len(shown) - 1
    fields = error_fields(shown[5:])
    assert (fields["D"], fields["C"], fields["t"]) == (told, "23505", "people")


@pytest.mark.parametrize(
    "payload",
    [
        error(b"Key (id)=(1) already exists."),
        error(b"Key (blob)=(\\x00112233445566778899) already exists.", b"plain"),
        error(b"Key (blob)=(\\x0011) already exists."),
        b"",
    ],
)
def test_other_errors_stay(payload: bytes) -> None:
    assert without_sealed(payload, lambda: {("public", "people")}) is None
