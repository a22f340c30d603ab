"""Text input and output of every type against a real server, in both formats, under many settings."""

import os
import random
from collections.abc import Iterator

import psycopg
import pytest

from proxy.postgres.types.base import DataError, TextContext
from proxy.postgres.types.registry import codec_for, resolve
from tests.parts.postgres import Postgres

pytestmark = pytest.mark.system

STYLES = [
    "ISO, MDY",
    "ISO, DMY",
    "SQL, MDY",
    "SQL, DMY",
    "Postgres, MDY",
    "Postgres, DMY",
    "German, DMY",
]
ZONES = ["UTC", "Europe/Warsaw", "America/New_York", "Asia/Kathmandu"]

GOOD: dict[str, list[str]] = {
    "text": ["", "a", "ü ", "it's", "\\x41"],
    "varchar(5)": ["abcde", "abcde   ", "żółty", ""],
    "char(4)": ["ab", "abcd", "ab  ", "żó"],
    "smallint": ["0", "-32768", " 32767 ", "+5"],
    "integer": ["0", "-2147483648", "2147483647", "0012"],
    "bigint": ["9223372036854775807", "-9223372036854775808"],
    "real": ["0", "1.5", "-0", "1e10", "1000000", "999999", "0.0001", "0.00001", "NaN", "-infinity",
             "3.4028235e38", "1.17549435e-38", "16777216", "0.1",
             "1.00000017881393432617187499", "1.00000005960464477539062501", "3.4028235677973366e38"],
    "double precision": ["0", "0.1", "1e15", "1e14", "123456789012345678", "1e-5", "0.0001", "-0",
                         "1.7976931348623157e308", "5e-324", "NaN", "inf", "1e300", "2.5"],
    "numeric": ["0", "1.50", "-0.000", "1e3", "1.5e-3", "NaN", "Infinity", "123456789.987654321",
                "0x1F", "1_000", "1e1_0",
                "10000", "0.0001", ".5", "5.", "1e20"],
    "numeric(12,2)": ["1.005", "-1.005", "9999999999.99", "0", "1234567.8", "NaN"],
    "numeric(3,-2)": ["12345", "-150", "50"],
    "boolean": ["t", "tr", "TRUE", "yes", "on", "1", "f", "no", "off", "of", " 0 "],
    "date": ["2026-11-24", "0001-01-01", "0044-03-15 BC", "infinity", "-infinity", "epoch",
             "Jan 8, 1999", "8 January 1999", "19990108", "1999-Jan-08", "8.1.1999",
             "1999/01/08", "9999-12-31", "12345-01-01"],
    "time": ["00:00", "23:59:59.999999", "24:00:00", "1:02:03.5", "04:05 PM", "12:00 am"],
    "timestamp": ["2026-11-24 02:15:52.123456", "1999-01-08", "0044-03-15 12:00:00 BC", "infinity",
                  "2026-11-24T02:15:52", "20261124 021552" if False else "2026-11-24 02:15",
                  "Jan 8 1999 04:05:06", "294276-12-31 23:59:59"],
    "timestamp(3)": ["2026-11-24 02:15:52.123456", "2026-11-24 02:15:52.9996"],
    "timestamp with time zone": [
        "2026-11-24 02:15:52.123456+00", "2026-07-01 12:00", "2026-03-29 02:30", "2026-10-25 02:30",
        "2026-03-08 02:30", "2026-11-01 01:30", "2026-11-24 02:15:52Z", "2026-11-24 02:15-05:30",
        "2026-11-24T02:15:52+01:00", "2026-07-01 12:00 Asia/Tokyo", "infinity", "1900-01-01 00:00",
        "1999-07-08 04:05:06 europe/paris", "15000-07-01 12:00",
    ],
    "uuid": ["6d1cbb41-2f1c-4f7e-9a4b-3b0d3e6b8f11", "{6D1CBB41-2f1c-4f7e-9a4b-3b0d3e6b8f11}",
             "6d1cbb412f1c4f7e9a4b3b0d3e6b8f11", "6d1c-bb41-2f1c-4f7e-9a4b-3b0d-3e6b-8f11"],
    "bytea": ["\\x00ff41", "\\x", "abc\\000\\377\\\\", "plain"],
    "json": ['{"b": 1,  "a": [1, 2.50, null]}', '"x"', "1e2"],
    "jsonb": ['{"bb": 1, "a": [1, 2.50, null, -0.0], "a": 2}', '"\\u00fc\\n"', "1e2", "[]", "{}", "true"],
}  # fmt: skip
BAD: dict[str, list[str]] = {
    "varchar(5)": ["abcdef"],
    "char(4)": ["abcde"],
    "smallint": ["32768", "x", "", "1.5", "1 2"],
    "integer": ["2147483648", "--1", "1e3"],
    "bigint": ["9223372036854775808"],
    "real": ["1e39", "1e-60", "x", "1_0"],
    "double precision": ["1e309", "1e-400", "0x", ""],
    "numeric": ["1.2.3", "x", "", "1e"],
    "numeric(12,2)": ["10000000000", "Infinity"],
    "boolean": ["", "maybe", "2", "o", "tru e"],
    "date": ["2026-02-30", "2026-13-01", "not a day", "", "0000-01-01"],
    "time": ["25:00", "10:60", "x"],
    "timestamp": ["2026-02-30 00:00", "x", "2026-11-24 25:00"],
    "timestamp with time zone": ["2026-11-24 02:15 Nowhere/City", "2026-11-24 02:15+16", "x"],
    "uuid": ["zz", "6d1cbb41", "6d1cbb41-2f1c-4f7e-9a4b-3b0d3e6b8f1"],
    "bytea": ["\\x4", "\\xd ead", "\\xzz", "\\9"],
    "json": ["{", "{'a': 1}", "NaN", ""],
    "jsonb": ["{", '"\\u0000"', "1e400000"],
}


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    folder = tmp_path_factory.mktemp("types")
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o755)
    postgres = Postgres(folder)
    postgres.start()
    with psycopg.connect(postgres.dsn(), autocommit=True, prepare_threshold=None) as c:
        yield c
    postgres.stop()


def ask(c: psycopg.Connection[tuple[object, ...]], kind: str, text: str) -> tuple[bytes, bytes]:
    """(binary, text) of a value as the server sees it."""
    out = []
    for binary in (True, False):
        cur = c.cursor(binary=binary)
        quoted = "'" + text.replace("'", "''") + "'"
        cur.execute(f"SELECT {quoted}::{kind}")
        assert cur.pgresult is not None
        out.append(cur.pgresult.get_value(0, 0) or b"")
    return out[0], out[1]


def settle(c: psycopg.Connection[tuple[object, ...]], ctx: TextContext) -> None:
    c.execute(f"SET DateStyle = '{ctx.date_style}'")
    c.execute(f"SET TimeZone = '{ctx.time_zone}'")
    c.execute(f"SET bytea_output = '{ctx.bytea_output}'")
    c.execute(f"SET extra_float_digits = {ctx.extra_float_digits}")


def check(
    c: psycopg.Connection[tuple[object, ...]], kind: str, text: str, ctx: TextContext
) -> None:
    declared = resolve(kind)
    codec = codec_for(declared.oid)
    binary, shown = ask(c, kind, text)
    ours = codec.parse(text.encode(), ctx, declared.typmod)
    assert ours == binary, f"{kind} {text!r} under {ctx}: {ours.hex()} not {binary.hex()}"
    assert codec.render(binary, ctx) == shown, f"{kind} {text!r} under {ctx}"
    assert codec.check(binary, declared.typmod) == binary


@pytest.mark.parametrize("kind", GOOD)
def test_values_read_and_show_as_on_the_server(
    server: psycopg.Connection[tuple[object, ...]], kind: str
) -> None:
    contexts = [TextContext(date_style=s, time_zone=z) for s in STYLES for z in ZONES]
    if not kind.startswith(("date", "time")):
        contexts = [
            TextContext(extra_float_digits=d, bytea_output=b)
            for d in (1, 0, -3) for b in ("hex", "escape")
        ]  # fmt: skip
    for ctx in contexts:
        settle(server, ctx)
        for text in GOOD[kind]:
            check(server, kind, text, ctx)


@pytest.mark.parametrize("kind", BAD)
def test_bad_values_get_the_servers_sqlstate(
    server: psycopg.Connection[tuple[object, ...]], kind: str
) -> None:
    settle(server, TextContext())
    declared = resolve(kind)
    for text in BAD[kind]:
        if kind in ("varchar(5)", "char(4)"):  # an explicit cast cuts; an assignment does not
            server.execute("DROP TABLE IF EXISTS bad")
            server.execute(f"CREATE TEMP TABLE bad (v {kind})")
            with pytest.raises(psycopg.Error) as theirs:
                server.execute("INSERT INTO bad VALUES (%s)", [text])
        else:
            with pytest.raises(psycopg.Error) as theirs:
                ask(server, kind, text)
        with pytest.raises(DataError) as ours:
            codec_for(declared.oid).parse(text.encode(), TextContext(), declared.typmod)
        assert ours.value.sqlstate == theirs.value.sqlstate, f"{kind} {text!r}"


def test_random_values(server: psycopg.Connection[tuple[object, ...]]) -> None:
    seed = int(os.environ.get("SEED", "20261124"))
    source = random.Random(seed)
    ctx = TextContext(time_zone="Europe/Warsaw")
    settle(server, ctx)
    for _ in range(600):
        moment = (
            f"{source.randrange(1, 9999):04d}-{source.randrange(1, 13):02d}-{source.randrange(1, 29):02d} "
            f"{source.randrange(24):02d}:{source.randrange(60):02d}:{source.randrange(60):02d}"
            f".{source.randrange(10**6):06d}"
        )
        number = f"{source.choice(['', '-'])}{source.randrange(10 ** source.randrange(1, 25))}"
        number += f".{source.randrange(10 ** source.randrange(1, 12))}"
        for kind, text in (
            ("timestamp", moment),
            ("timestamp with time zone", moment),
            ("date", moment[:10]),
            ("numeric", number),
            ("double precision", repr(source.uniform(-1, 1) * 10 ** source.randrange(-30, 30))),
            ("real", f"{source.uniform(-1, 1) * 10 ** source.randrange(-30, 30):.6g}"),
            ("bigint", str(source.randrange(-(2**63), 2**63))),
        ):
            check(server, kind, text, ctx)
