"""Writes column_values.json: good values, and bad ones with exactly one failure each.

python -m tests.vectors.make_column_values
"""

import json
from pathlib import Path
from typing import Any

from tests.vectors.column_oracle import column_seal

RING = bytes(range(32))
OTHER_RING = bytes(range(1, 33))
NONCE = bytes(range(100, 124))
DOMAIN, OID = "app.public.users.email", 25


def good() -> list[dict[str, Any]]:
    cases: list[tuple[str, bytes, int, dict[str, Any]]] = [
        ("text without search", b"ada@example.org", 25, {"equality": False}),
        ("text with equality", b"ada@example.org", 25, {"equality": True}),
        ("empty text with equality", b"", 25, {"equality": True}),
        ("transform number is bound", b"x", 25, {"equality": True, "transform": 259}),
        ("padded to 16, length 15", b"p" * 15, 25, {"equality": False, "unit": 16}),
        ("padded to 16, length 16", b"p" * 16, 25, {"equality": True, "unit": 16}),
        ("padded, ends in 80 00", b"q\x80\x00", 17, {"equality": False, "unit": 8}),
        ("int4 minus two", b"\xff\xff\xff\xfe", 23,
         {"equality": True, "canonical": b"\xff" * 7 + b"\xfe"}),
        ("int8", bytes(7) + b"\x2a", 20, {"equality": True, "canonical": bytes(7) + b"\x2a"}),
        ("300 bytes", bytes(i % 251 for i in range(300)), 17, {"equality": False}),
        ("transformed", b"Ada@Example.org", 25,
         {"equality": True, "search": {"transform": "lower"}}),
        ("order of int4 -2", b"\xff\xff\xff\xfe", 23,
         {"equality": False, "search": {"order": 32}, "rank": 2**31 - 2}),
        ("order behind a bucket", b"\0\0\0\7", 23,
         {"equality": False, "search": {"range": [2**31, 10, 5], "order": 32}, "rank": 2**31 + 7}),
        ("bucket below, padded", b"\xff\xff\xff\xff", 23,
         {"equality": False, "search": {"range": [2**31, 10, 5]}, "rank": 2**31 - 1, "unit": 8}),
        ("bucket above", b"\0\0\1\0", 23,
         {"equality": False, "search": {"range": [2**31, 10, 5]}, "rank": 2**31 + 256}),
        ("n-grams and prefixes", b"Banana Split", 25,
         {"equality": True, "search": {"match": [3, 2, 20]}}),
        ("prefixes alone", b"Banana", 25, {"equality": False, "search": {"match": [0, 1, 3]}}),
        ("empty text with n-grams", b"", 25, {"equality": False, "search": {"match": [3]}}),
        ("all searches of a text", b"Ab", 25,
         {"equality": True, "search": {"transform": "lower", "match": [2]}, "unit": 16}),
    ]  # fmt: skip
    found = []
    for name, plain, oid, how in cases:
        value = column_seal(RING, DOMAIN, oid, plain, NONCE, **how)
        found.append({
            "name": name, "oid": oid, "plain": plain.hex(), "equality": how["equality"],
            "transform": how.get("transform", 0), "pad_to": how.get("unit", 0),
            "canonical": "int" if "canonical" in how else "identity", "value": value.hex(),
            **({"search": how["search"]} if "search" in how else {}),
        })  # fmt: skip
    return found


def bad() -> list[dict[str, Any]]:
    """Each is to be refused by a codec of DOMAIN, OID, equality as said, key RING."""
    tagged = column_seal(RING, DOMAIN, OID, b"secret", NONCE, equality=True)
    bare = column_seal(RING, DOMAIN, OID, b"secret", NONCE, equality=False)

    lower = {"transform": "lower"}
    tokened = column_seal(RING, DOMAIN, OID, b"secret", NONCE, equality=False, search=lower)

    def flip(value: bytes, at: int, bit: int = 1) -> bytes:
        return value[:at] + bytes((value[at] ^ bit,)) + value[at + 1 :]

    cases = [
        ("empty", b"", False), ("one byte short of the least", bytes(66), False),
        ("cut by a byte", bare[:-1], False), ("a byte longer", bare + b"\0", False),
        ("magic", flip(bare, 0), False), ("version 2", flip(bare, 1, 3), False),
        ("unknown flag", flip(bare, 2, 8), False),
        ("tokens claimed in a column without", flip(bare, 2, 4), False),
        ("padded flag set", flip(bare, 2, 2), False),
        ("tag claimed in a column without equality", tagged, False),
        ("no tag in an equality column", bare, True),
        ("tag altered", flip(tagged, 3), True), ("tag field not zero", flip(bare, 18), False),
        ("key id", flip(bare, 19), False), ("nonce prefix", flip(bare, 27), False),
        ("nonce suffix", flip(bare, 50), False), ("ciphertext", flip(bare, 51), False),
        ("authentication tag", flip(bare, len(bare) - 1), False),
        ("another column", column_seal(RING, DOMAIN + "2", OID, b"secret", NONCE, equality=False), False),
        ("another type", column_seal(RING, DOMAIN, 17, b"secret", NONCE, equality=False), False),
        ("another ring", column_seal(OTHER_RING, DOMAIN, OID, b"secret", NONCE, equality=False), False),
        ("tag of another plaintext, authenticated",
         column_seal(RING, DOMAIN, OID, b"secret", NONCE, equality=True, canonical=b"public"), True),
        ("tag of another transform, authenticated",
         column_seal(RING, DOMAIN, OID, b"secret", NONCE, equality=True, transform=1), True),
    ]  # fmt: skip
    searching = [
        ("no tokens in a column that has them", bare), ("token altered", flip(tokened, 21)),
        ("region one byte longer than it is", flip(tokened, 20)),
        ("region longer than the value", flip(tokened, 19, 0x80)),
        ("tokens of another search setting",
         column_seal(RING, DOMAIN, OID, b"secret", NONCE, equality=False,
                     search={"match": [3]})),
    ]  # fmt: skip
    found: list[dict[str, Any]] = [
        {"name": n, "value": v.hex(), "equality": e} for n, v, e in cases
    ]
    for name, value in searching:
        found.append({"name": name, "value": value.hex(), "equality": False, "search": lower})
    return found


def build() -> str:
    document = {"ring": RING.hex(), "domain": DOMAIN, "oid": OID, "good": good(), "bad": bad()}
    return json.dumps(document, indent=1) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("column_values.json").write_text(build())
