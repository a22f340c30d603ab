"""Text input and output of every type against a real server, thousands of texts under many settings.

For each text, right or wrong, the server is asked for the binary form, its own text and its error, in
one query for a batch. Ours has to be the same byte for byte, SQLSTATE and message included; refusing
with 0A000 what the proxy does not take is allowed, and counted.
"""

import os
import random
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import pq

from proxy.postgres.types.base import DataError, TextContext
from proxy.postgres.types.registry import codec_of, resolve
from tests.parts import type_values
from tests.parts.postgres import Postgres

pytestmark = pytest.mark.system

SEED = os.environ.get("SEED", "20261124")
COUNT = int(os.environ.get("TYPE_VALUES", "2400"))
STYLES = ["ISO, MDY", "ISO, DMY", "ISO, YMD", "SQL, MDY", "SQL, DMY", "SQL, YMD", "Postgres, MDY",
          "Postgres, DMY", "Postgres, YMD", "German, MDY", "German, DMY", "German, YMD"]  # fmt: skip
ZONES = ["UTC", "Europe/Warsaw", "America/New_York", "Asia/Kathmandu", "<-07>+07", "Africa/Monrovia",
         "Australia/Lord_Howe", "EST5EDT"]  # fmt: skip
OLD_ZONES = ["Europe/Amsterdam", "Europe/Dublin", "Africa/Casablanca", "America/Sao_Paulo",
             "Pacific/Apia", "Asia/Tehran", "Antarctica/Troll", "Europe/London",
             "<+0530>-5:30"]  # fmt: skip
INTERVALS = ["postgres", "postgres_verbose", "sql_standard", "iso_8601"]
PROBE = """
CREATE FUNCTION probe(texts text[], send text) RETURNS TABLE (b text, s text, e text, m text)
LANGUAGE plpgsql AS $$
DECLARE v text;
BEGIN
  FOREACH v IN ARRAY texts LOOP
    BEGIN
      EXECUTE format('INSERT INTO probed VALUES (%L) RETURNING encode(%s(v), ''hex''), format(''%%s'', v)',
                     v, send) INTO b, s;
      e := NULL; m := NULL;
    EXCEPTION WHEN others THEN b := NULL; s := NULL; e := SQLSTATE; m := SQLERRM;
    END;
    RETURN NEXT;
  END LOOP;
END $$
"""
SEND = {
    "text": "textsend", "character varying": "varcharsend", "character": "bpcharsend",
    "bpchar": "bpcharsend", "smallint": "int2send", "integer": "int4send", "bigint": "int8send",
    "real": "float4send", "double precision": "float8send", "boolean": "boolsend", "bytea": "byteasend",
    "time with time zone": "timetz_send", "timestamp with time zone": "timestamptz_send",
}  # fmt: skip

Connection = psycopg.Connection[tuple[object, ...]]
Row = tuple[str | None, str | None, str | None, str | None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    folder = tmp_path_factory.mktemp("types")
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o755)
    postgres = Postgres(folder)
    postgres.start()
    with psycopg.connect(postgres.dsn(), autocommit=True, prepare_threshold=None) as c:
        c.execute("CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s')")
        c.execute(PROBE)
        yield c
    postgres.stop()


def contexts(r: random.Random) -> list[TextContext]:
    """Twelve combinations: every DateStyle, and the other settings drawn."""
    return [
        TextContext(
            date_style=style,
            time_zone=r.choice(ZONES),
            interval_style=INTERVALS[i % 4],
            extra_float_digits=r.choice([1, 0, -3, 3, -15]),
            bytea_output=r.choice(["hex", "escape"]),
        )
        for i, style in enumerate(STYLES)
    ]


def settle(c: Connection, ctx: TextContext) -> None:
    for name, value in (
        ("DateStyle", ctx.date_style), ("TimeZone", ctx.time_zone),
        ("IntervalStyle", ctx.interval_style), ("bytea_output", ctx.bytea_output),
        ("extra_float_digits", str(ctx.extra_float_digits)),
    ):  # fmt: skip
        c.execute("SELECT set_config(%s, %s, false)", [name, value])


def ask(c: Connection, kind: str, texts: list[str], ctx: TextContext) -> list[Row]:
    settle(c, ctx)
    sql = kind.replace(type_values.MOOD, "mood")
    name = resolve(kind).name.split("(")[0] + resolve(kind).name.partition(")")[2]
    send = "array_send" if kind.endswith("[]") else "enum_send" if sql == "mood" else SEND.get(name)
    c.execute("DROP TABLE IF EXISTS probed")
    c.execute(f"CREATE TEMP TABLE probed (v {sql})")  # an assignment, not a cast that would cut
    found = c.execute("SELECT b, s, e, m FROM probe(%s, %s)", [texts, send or f"{name}_send"])
    return found.fetchall()  # type: ignore[return-value]


def differs(kind: str, text: str, row: Row, ctx: TextContext) -> str | None:
    """How ours differs from the server's answer; "" where we refuse what the proxy does not take."""
    declared = resolve(kind)
    codec = codec_of(declared)
    binary, shown, state, message = row
    try:
        ours = codec.parse(text.encode(), ctx, declared.typmod)
    except DataError as error:
        if error.sqlstate == "0A000":
            return ""
        if (error.sqlstate, error.message) == (state, message):
            return None
        return f"{error.sqlstate} {error.message}, the server {state} {message} {shown}"
    if binary is None:
        return f"{ours.hex()}, the server {state} {message}"
    expected = bytes.fromhex(binary)
    if declared.labels and kind.endswith("[]"):  # the enum's own OID is the server's
        expected = expected[:8] + ours[8:12] + expected[12:]
    if ours != expected:
        return f"{ours.hex()}, the server {binary} {shown}"
    if codec.render(ours, ctx).decode() != shown:
        return f"{codec.render(ours, ctx).decode()!r}, the server {shown!r}"
    return None


@pytest.mark.parametrize("kind", type_values.KINDS)
def test_texts_are_read_and_shown_as_on_the_server(server: Connection, kind: str) -> None:
    r = random.Random(f"{SEED} {kind}")
    draw = type_values.KINDS[kind]
    settings = contexts(r)
    found, refused, valid = [], 0, 0
    for ctx in settings:
        texts = [draw(r).replace("\0", "") for _ in range(COUNT // len(settings))]
        for text, row in zip(texts, ask(server, kind, texts, ctx), strict=True):
            why = differs(kind, text, row, ctx)
            refused += why == ""
            valid += why is None and row[0] is not None
            if why:
                found.append(f"{kind} {text!r} [{ctx}]: {why}")
    assert not found, f"seed {SEED}: {len(found)} of {COUNT} differ\n" + "\n".join(found[:10])
    assert valid > COUNT // 20, "the generator makes too few valid texts to prove anything"
    assert refused < COUNT // 2


@pytest.mark.parametrize("kind", type_values.KINDS)
def test_the_servers_binary_is_taken_as_it_is(server: Connection, kind: str) -> None:
    """What the server sends in binary, a client may send back."""
    r = random.Random(f"{SEED} binary {kind}")
    draw = type_values.KINDS[kind]
    declared, ctx = resolve(kind), TextContext()
    codec = codec_of(declared)
    texts = [draw(r).replace("\0", "") for _ in range(200)]
    for text, (binary, _, _, _) in zip(texts, ask(server, kind, texts, ctx), strict=True):
        if binary is None or kind == "timetz":  # which the server itself may send beyond its limits
            continue
        raw = bytes.fromhex(binary)
        if kind.endswith("[]") and (len(raw) < 12 or raw[3] > 1):
            continue
        checked = codec.check(raw, declared.typmod)
        if not (declared.labels and kind.endswith("[]")):
            assert checked == raw, f"{kind} {text!r}"


def test_zones_have_the_servers_offsets(server: Connection) -> None:
    """Moments of four centuries in zones with seconds, gaps, overlaps and negative savings."""
    r = random.Random(SEED)
    codec, declared = codec_of(resolve("timestamptz")), resolve("timestamptz")
    for zone in OLD_ZONES:
        ctx = TextContext(time_zone=zone, date_style="SQL, DMY")
        texts = [
            f"{r.randrange(1800, 2200)}-{r.randrange(1, 13):02d}-{r.randrange(1, 29):02d}"
            f" {r.randrange(24):02d}:{r.randrange(60):02d}" for _ in range(200)
        ]  # fmt: skip
        for text, row in zip(texts, ask(server, "timestamptz", texts, ctx), strict=True):
            assert differs("timestamptz", text, row, ctx) is None, f"{zone} {text}"
            assert codec.parse(text.encode(), ctx, declared.typmod).hex() == row[0]


@pytest.mark.parametrize("kind", [k for k in type_values.KINDS if type_values.MOOD not in k])
def test_no_binary_is_taken_that_the_server_refuses(server: Connection, kind: str) -> None:
    """Damaged binary parameters: what we take, the server takes, and as the same value."""
    r = random.Random(f"{SEED} damaged {kind}")
    draw, declared = type_values.KINDS[kind], resolve(kind)
    codec, ctx = codec_of(declared), TextContext()
    settle(server, ctx)
    server.execute("DROP TABLE IF EXISTS probed")
    server.execute(f"CREATE TEMP TABLE probed (v {kind})")
    for _ in range(100):
        try:
            raw = codec.parse(draw(r).replace("\0", "").encode(), ctx, declared.typmod)
            raw = damaged(r, raw)
            ours = codec.check(raw, declared.typmod)
        except DataError:
            continue
        answer = server.pgconn.exec_params(
            b"INSERT INTO probed VALUES ($1) RETURNING v", [raw], [declared.oid], [1], 1
        )
        assert answer.status == pq.ExecStatus.TUPLES_OK, (
            f"{kind} {raw.hex()}: {answer.error_message!r}"
        )
        assert answer.get_value(0, 0) == ours, f"{kind} {raw.hex()}"


def damaged(r: random.Random, raw: bytes) -> bytes:
    out = bytearray(raw)
    for _ in range(r.randrange(1, 3)):
        how = r.randrange(4)
        if how == 0 and out:
            out[r.randrange(len(out))] = r.randrange(256)
        elif how == 1 and out:
            out[r.randrange(len(out))] ^= 1 << r.randrange(8)
        elif how == 2 and out:
            del out[r.randrange(len(out)) :]
        else:
            out += r.randbytes(r.randrange(1, 5))
    return bytes(out)
