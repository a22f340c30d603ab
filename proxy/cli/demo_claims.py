"""What the demo claims, each one tried on the running stand through ordinary clients. I/O module.

A claim is a function that returns what it saw; it fails by raising `Broken` or any error. Nothing
here is printed: `demo.py` shows it.
"""

import datetime
import hashlib
import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from proxy.cli.demo_stand import BUCKET, Stand

_FIRST = ("Ada", "Bela", "Chen", "Dora", "Emil", "Fatima", "Goran", "Hana", "Ivo", "Jun")
_LAST = ("Abara", "Berg", "Costa", "Dahl", "Endo", "Fox", "Gupta", "Haas", "Ito", "Jensen")
_SIZES = (0, 1, 16_384, 100_000, 1 << 20, 5_000_001, 32 << 20)
_INTEGRITY_FAILURES = {"XX001"}  # data_corrupted


class Broken(Exception):
    """A claim that does not hold; the text says what was seen instead."""


@dataclass
class Seen:
    """What a claim shows: one line, and tables as rows of text (the first row is the heading)."""

    line: str
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)


def expect(true: bool, otherwise: str) -> None:
    if not true:
        raise Broken(otherwise)


def people(count: int, seed: int = 7) -> list[tuple[int, str, str, datetime.date, str]]:
    rng = random.Random(seed)  # noqa: S311 - made-up people, the same in every run
    made = []
    for i in range(1, count + 1):
        first, last = rng.choice(_FIRST), rng.choice(_LAST)
        born = datetime.date(1940, 1, 1) + datetime.timedelta(days=rng.randrange(25_000))
        card = " ".join(f"{rng.randrange(10_000):04d}" for _ in range(4))
        made.append((i, f"{first} {last}", f"{first}.{last}.{i}@example.org".lower(), born, card))
    return made


def document(size: int) -> bytes:
    line = b"Confidential: the quick brown fox signs contract 4711. "
    return (line * (size // len(line) + 1))[:size]


_WINDOW = 6  # the shortest name is longer


def _stands_in(value: str, windows: set[str], dump: str) -> bool:
    """Whether `value`, or its bytes in hex, is a part of `dump`; `windows`: all that begins there."""
    forms = (value, value.encode().hex())
    return any(form[:_WINDOW] in windows and form in dump for form in forms)


class Show:
    """The claims over one stand, in the order in which they are shown."""

    def __init__(self, stand: Stand, rows: int = 3000) -> None:
        self.stand = stand
        self.people = people(rows)

    def claims(self) -> list[tuple[str, Callable[[], Seen]]]:
        return [
            ("rows written and read back by psycopg", self.load_people),
            ("files written and read back by boto3", self.load_files),
            ("the database holds sealed bytes only", self.side_by_side),
            ("the store holds sealed bytes only", self.raw_object),
            ("a search by e-mail uses an index", self.search),
            ("a ranged GET is the slice of the file", self.ranges),
            ("a tampered value is refused", self.tampered_value),
            ("a value moved to another column is refused", self.moved_value),
            ("a tampered object is refused", self.tampered_object),
            ("the key ring is under the root key", self.key_ring),
            ("throughput", self.throughput),
        ]

    def load_people(self) -> Seen:
        with psycopg.connect(self.stand.dsn(True), autocommit=True) as c:
            c.execute("DROP TABLE IF EXISTS people")
            c.execute(
                "CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL, email text NOT NULL,"
                " born date, card text)"
            )
            c.execute("CREATE INDEX people_email ON people (email)")
            with c.transaction(), c.cursor() as cursor:
                cursor.executemany("INSERT INTO people VALUES (%s, %s, %s, %s, %s)", self.people)
            back = c.execute(
                "SELECT id, name, email, born, card FROM people ORDER BY id"
            ).fetchall()
        expect(back == self.people, f"{len(back)} rows came back, and not the same")
        with psycopg.connect(self.stand.dsn(False), autocommit=True) as c:
            c.execute("ANALYZE people")
        return Seen(f"{len(back)} rows, each the same")

    def load_files(self) -> Seen:
        s3 = self.stand.s3(True)
        known = {b["Name"] for b in s3.list_buckets()["Buckets"]}
        if BUCKET not in known:
            s3.create_bucket(Bucket=BUCKET)
        for size in _SIZES:
            s3.put_object(Bucket=BUCKET, Key=f"file-{size}.txt", Body=document(size))
        listed = {o["Key"]: o["Size"] for o in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
        for size in _SIZES:
            key = f"file-{size}.txt"
            expect(listed.get(key) == size, f"{key} is listed with {listed.get(key)} bytes")
            body = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            same = hashlib.sha256(body).digest() == hashlib.sha256(document(size)).digest()
            expect(same, f"{key} came back changed")
        return Seen(
            f"{len(_SIZES)} files up to {max(_SIZES) >> 20} MiB, each the same, sizes exact"
        )

    def side_by_side(self) -> Seen:
        query = "SELECT id, name, email, born, card FROM people WHERE id <= 3 ORDER BY id"
        app = self._psql(query, True)
        raw = self._psql(query, False)
        with psycopg.connect(self.stand.dsn(False)) as c:
            dump = "\n".join(r[0] for r in c.execute("SELECT people::text FROM people"))
        shown = [value for row in self.people for value in (row[1], row[2], row[4])]
        windows = {dump[i : i + _WINDOW] for i in range(len(dump))}
        found = [v for v in shown if _stands_in(v, windows, dump)]
        expect(not found, f"{len(found)} plaintexts stand in the table")
        heading = ["id", "name", "email", "born", "card"]
        short = [[v if len(v) < 24 else f"{v[:14]}… ({len(v) // 2 - 1} B)" for v in r] for r in raw]
        return Seen(
            f"{len(shown)} plaintexts looked for in the server's rows, 0 found",
            {"what the application sees": [heading, *app],
             "psql straight to the server": [heading, *short]},
        )  # fmt: skip

    def _psql(self, query: str, proxied: bool) -> list[list[str]]:
        """Rows by psql where there is one, by psycopg where not."""
        tool = self.stand.postgres.tool("psql")
        if tool is None:
            with psycopg.connect(self.stand.dsn(proxied)) as c:
                cursor = c.execute(query.encode())
                return [[_text(v) for v in row] for row in cursor]
        done = subprocess.run(
            [tool, "-X", "-q", "-A", "-t", "-F", "\t", "-c", query, self.stand.dsn(proxied)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        expect(done.returncode == 0, f"psql: {done.stderr.strip()}")
        return [line.split("\t") for line in done.stdout.splitlines()]

    def raw_object(self) -> Seen:
        key = "file-100000.txt"
        raw = self.stand.s3(False).get_object(Bucket=BUCKET, Key=key)["Body"].read()
        plain = document(100_000)
        expect(b"Confidential" not in raw, "a plaintext stands in the stored object")
        dump = [["offset", "the file", "the stored object"]]
        for at in range(0, 48, 16):
            text = plain[at : at + 16].decode()
            dump.append([f"{at:04x}", text, raw[at : at + 16].hex(" ")])
        return Seen(f"{key}: {len(plain)} bytes, stored as {len(raw)}", {key: dump})

    def search(self) -> Seen:
        who = self.people[len(self.people) // 2]
        with psycopg.connect(self.stand.dsn(True), autocommit=True) as c:
            found = c.execute("SELECT id FROM people WHERE email = %s", [who[2]]).fetchall()
            expect(found == [(who[0],)], f"the search found {found}")
        with psycopg.connect(self.stand.dsn(False), autocommit=True) as c:
            # the statement that the server gets: the tag in place of the e-mail
            tag = c.execute("SELECT email__bx FROM people WHERE id = %s", [who[0]]).fetchone()
            expect(tag is not None, "no such row on the server")
            assert tag is not None
            plan = [
                str(r[0])
                for r in c.execute(
                    "EXPLAIN SELECT id FROM people WHERE email__bx = %s", [tag[0]], binary=True
                )
            ]
        expect(any("Index" in p for p in plan), f"the plan is {plan}")
        short = [p if len(p) < 90 else p[:87] + "…" for p in plan]
        return Seen(
            f"{who[2]}: 1 row", {"EXPLAIN on the server": [["plan"], *([p] for p in short)]}
        )

    def ranges(self) -> Seen:
        s3, size = self.stand.s3(True), 5_000_001
        plain = document(size)
        for first, last in ((0, 0), (16_383, 16_384), (1_000_000, 2_000_000), (size - 5, size - 1)):
            answer = s3.get_object(
                Bucket=BUCKET, Key=f"file-{size}.txt", Range=f"bytes={first}-{last}"
            )
            same = answer["Body"].read() == plain[first : last + 1]
            expect(same, f"bytes {first} to {last} differ")
        return Seen("4 ranges, at borders of chunks and at the end")

    def tampered_value(self) -> Seen:
        flip = "UPDATE people SET card = set_byte(card, {0}, get_byte(card, {0}) # 1) WHERE id = 1"
        with psycopg.connect(self.stand.dsn(False), autocommit=True) as c:
            c.execute(flip.format(60).encode())
            try:
                code = self._refused("SELECT card FROM people WHERE id = 1")
            finally:
                c.execute(flip.format(60).encode())
        return Seen(f"one bit flipped on the server: SQLSTATE {code}")

    def moved_value(self) -> Seen:
        swap = "UPDATE people SET name = card, card = name WHERE id = 2"
        with psycopg.connect(self.stand.dsn(False), autocommit=True) as c:
            c.execute(swap)
            try:
                code = self._refused("SELECT name FROM people WHERE id = 2")
            finally:
                c.execute(swap)
        return Seen(f"name and card of a row swapped on the server: SQLSTATE {code}")

    def _refused(self, query: str) -> str:
        with psycopg.connect(self.stand.dsn(True)) as c:
            try:
                c.execute(query.encode()).fetchall()
            except psycopg.Error as error:
                code = error.sqlstate or "none"
                expect(code in _INTEGRITY_FAILURES, f"SQLSTATE {code}: {error}")
                return code
        raise Broken("it was served")

    def tampered_object(self) -> Seen:
        import botocore.exceptions

        raw, key = self.stand.s3(False), "file-16384.txt"
        kept = raw.get_object(Bucket=BUCKET, Key=key)
        body = bytearray(kept["Body"].read())
        body[5000] ^= 1
        raw.put_object(Bucket=BUCKET, Key=key, Body=bytes(body), Metadata=kept["Metadata"])
        body[5000] ^= 1
        try:
            self.stand.s3(True).get_object(Bucket=BUCKET, Key=key)["Body"].read()
        except botocore.exceptions.ClientError as error:
            return Seen(f"one bit flipped in the store: {error.response['Error']['Code']}")
        except botocore.exceptions.BotoCoreError as error:
            return Seen(f"one bit flipped in the store: {type(error).__name__}")
        finally:
            raw.put_object(Bucket=BUCKET, Key=key, Body=bytes(body), Metadata=kept["Metadata"])
        raise Broken("it was served")

    def key_ring(self) -> Seen:
        rings = json.loads(
            self.stand.command("keys", "list", "--config", str(self.stand.config), "--json")
        )
        expect("demo" in json.dumps(rings), "the ring is not listed")
        hsm = self.stand.hsm
        if hsm is None:
            return Seen("ring demo, wrapped by the software root (no HSM here)")
        import pkcs11

        os.environ.update(hsm.env)
        token = pkcs11.lib(hsm.module).get_token(token_label=hsm.token_label)
        with token.open(user_pin=hsm.pin) as session:
            key = session.get_key(label="sealgate-root")
            sensitive = bool(key[pkcs11.Attribute.SENSITIVE])
            extractable = bool(key[pkcs11.Attribute.EXTRACTABLE])
        expect(sensitive and not extractable, f"{sensitive=} {extractable=}")
        return Seen("ring demo, wrapped by an AES root in the token: sensitive, not extractable")

    def throughput(self) -> Seen:
        rates: dict[str, float] = {}
        for name, proxied in (("direct", False), ("proxied", True)):
            with psycopg.connect(self.stand.dsn(proxied), autocommit=True) as c:
                c.prepare_threshold = 1
                rates[f"point_select_per_second_{name}"] = _rate(
                    lambda c=c: c.execute(  # type: ignore[misc]
                        "SELECT name, email FROM people WHERE id = %s", [17]
                    ).fetchall()
                )
            s3 = self.stand.s3(proxied)
            rates[f"get_1mib_per_second_{name}"] = _rate(
                lambda s3=s3: s3.get_object(  # type: ignore[misc]
                    Bucket=BUCKET, Key="file-1048576.txt"
                )["Body"].read()
            )
        table = [["per second", "direct", "proxied", "ratio"]]
        for what in ("point_select_per_second", "get_1mib_per_second"):
            direct, ours = rates[f"{what}_direct"], rates[f"{what}_proxied"]
            label = what.removesuffix("_per_second").replace("_", " ")
            table.append([label, f"{direct:,.0f}", f"{ours:,.0f}", f"{ours / direct:.2f}"])
        return Seen("one Python client, one second each", {"throughput": table}, rates)


def _text(value: object) -> str:
    return "\\x" + value.hex() if isinstance(value, bytes) else str(value)


def _rate(work: Callable[[], Any], seconds: float = 1.0) -> float:
    work()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        work()
        done += 1
    return done / (time.perf_counter() - start)
