"""Does the checksum of a whole follow from its parts', as if it had been computed at once?"""

import base64
import hashlib
import zlib

import pytest
from awscrt import checksums as crt
from hypothesis import given
from hypothesis import strategies as st

from proxy.s3 import object_checksums
from proxy.s3.s3error import S3Error

CRCS = {"CRC32": (zlib.crc32, 4), "CRC32C": (crt.crc32c, 4), "CRC64NVME": (crt.crc64nvme, 8)}


@pytest.mark.parametrize("algorithm", CRCS)
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=6))
def test_crcs_of_parts_combine_to_the_wholes(algorithm: str, parts: list[bytes]) -> None:
    function, size = CRCS[algorithm]
    digests = [(function(p).to_bytes(size, "big"), len(p)) for p in parts]
    combined = object_checksums.of_parts(algorithm, digests, whole=True)
    assert combined is not None and not combined.composite
    assert combined.value == function(b"".join(parts)).to_bytes(size, "big")


def test_a_composite_is_the_digest_of_the_digests() -> None:
    digests = [(hashlib.sha256(p).digest(), len(p)) for p in (b"a", b"bc")]
    found = object_checksums.of_parts("SHA256", digests, whole=False)
    assert found is not None and found.composite
    expected = hashlib.sha256(b"".join(d for d, _ in digests)).digest()
    assert object_checksums.shown(found, 2) == base64.b64encode(expected).decode() + "-2"
    assert object_checksums.of_parts("SHA256", digests, whole=True) is None
    right = [("x-amz-checksum-sha256", object_checksums.shown(found, 2))]
    object_checksums.check_announced(right, found, 2)
    wrong = [("x-amz-checksum-sha256", base64.b64encode(bytes(32)).decode() + "-2")]
    with pytest.raises(S3Error, match="did not match"):
        object_checksums.check_announced(wrong, found, 2)
