"""What the differential runs against PostgreSQL 17 once found, each with the server's own answer."""

import pytest

from proxy.postgres.types.base import DataError, TextContext
from proxy.postgres.types.registry import codec_of, resolve


@pytest.mark.parametrize(
    ("kind", "style", "text", "answer"),
    [
        ("timestamp", "ISO, MDY", "1999-jan-18", "1999-01-18 00:00:00"),
        ("date", "ISO, YMD", "Mar 12, 006-", "2012-03-06"),
        ("date", "ISO, DMY", "1010 51.233", "22007"),
        ("date", "ISO, YMD", "-0:27:59 am 1987-06-23", "22007"),
        ("date", "SQL, DMY", "AUG-6-15721Jat 3:0", "22007"),
        ("timestamp", "ISO, MDY", "20200101 996199", "2020-01-05 04:02:39"),
        ("timestamp", "ISO, MDY", "J2451187", "1999-01-08 00:00:00"),
        ("timestamptz", "ISO, MDY", "J2451187-0530", "1999-01-08 05:30:00+00"),
        ("timestamp", "ISO, MDY", "1999.008 12::30", "1999-01-08 12:00:30"),
        ("timestamp", "ISO, MDY", "2020-02-29T040506.789-08", "2020-02-29 04:05:06.789"),
        ("timestamp", "ISO, MDY", "4 oct 99 at 10:20 pm", "1999-10-04 22:20:00"),
        ("timestamp", "ISO, MDY", "1999-01-08 04:05:06 dst", "22007"),
        ("timestamptz", "ISO, MDY", "1999-01-08 04:05:06 MET DST", "1999-01-08 02:05:06+00"),
        ("timestamp", "ISO, MDY", "1999-01-08 24:00:00", "1999-01-09 00:00:00"),
        ("timestamp", "ISO, MDY", "1999-01-08 23:59:60", "1999-01-09 00:00:00"),
        ("timestamp", "ISO, MDY", "1999-01-08 23:59:60.5", "22008"),
        ("timestamp", "ISO, MDY", "1999-01-08 13:00 am", "22008"),
        ("date", "ISO, MDY", "4714-11-24 BC", "4714-11-24 BC"),
        ("date", "ISO, MDY", "4714-11-23 BC", "22008"),
        ("date", "ISO, MDY", "5874897-12-31", "5874897-12-31"),
        ("date", "ISO, MDY", "5874898-01-01", "22008"),
        ("time", "ISO, MDY", "040506.789+08", "04:05:06.789"),
        ("time", "ISO, MDY", "2003-04-12 04:05:06 America/New_York", "04:05:06"),
        ("time", "ISO, MDY", "04:05 America/New_York", "22007"),
        ("timetz", "ISO, MDY", "04:05:06 PST", "04:05:06-08"),
        ("timetz", "ISO, MDY", "12:00:00.0000001 utc+3", "12:00:00-03"),
        ("timetz", "ISO, MDY", "24:00+00", "24:00:00+00"),
        ("interval", "ISO, MDY", "1 msecond", "00:00:00.001"),
        ("interval", "ISO, MDY", "20]on 3. months", "3 mons 00:00:20"),
        ("interval", "ISO, MDY", "-93:-4", "22007"),
        ("interval", "ISO, MDY", "1 day ago ago", "22007"),
        ("interval", "ISO, MDY", "P0001-02-03T040506", "1 year 2 mons 3 days 04:05:06"),
        ("interval", "ISO, MDY", "178956971 years", "22008"),
        ("interval", "ISO, MDY", "2 quarter", "22007"),
        ("interval", "ISO, MDY", "3 mm 2 mons", "2 mons 00:03:00"),
        ("interval", "ISO, MDY", "3 doy", "22007"),
        ("interval", "ISO, MDY", "1.5 mon 1.25 weeks", "1 mon 23 days 18:00:00"),
        ("interval", "ISO, MDY", "-1-2 +3 -4:05", "-1 years -2 mons +3 days -04:05:00"),
        ("inet", "ISO, MDY", "::21/27", "::21/27"),
        ("inet", "ISO, MDY", "::ffff:1.2.3.4", "::ffff:1.2.3.4"),
        ("inet", "ISO, MDY", "1:2:3:4:5:6:12.3.4", "1:2:3:4:5:6:c03:400"),
        ("inet", "ISO, MDY", "10.1.2.3./21", "10.1.2.3/21"),
        ("inet", "ISO, MDY", "10.1/16", "10.1.0.0/16"),
        ("inet", "ISO, MDY", "10.1/25", "22P02"),
        ("inet", "ISO, MDY", "::3618:0:ffff:0:/122", "::3618:0:ffff:0/122"),
        ("cidr", "ISO, MDY", "224.1", "224.1.0.0/16"),
        ("cidr", "ISO, MDY", "224", "224.0.0.0/4"),
        ("cidr", "ISO, MDY", "4.", "22P02"),
        ("cidr", "ISO, MDY", "10.0.0.1/8", "22P02"),
        ("numeric", "ISO, MDY", "0e1000000000", "0"),
        ("numeric(5,2)", "ISO, MDY", "0e-20000", "22003"),
        ("numeric", "ISO, MDY", "1e2164748364e", "22003"),
        ("numeric(2,5)", "ISO, MDY", "0.00099", "0.00099"),
        ("numeric(2,5)", "ISO, MDY", "0.001", "22003"),
        ("int2", "ISO, MDY", "865190.73", "22003"),
        ("int2", "ISO, MDY", "3276x", "22P02"),
        ("int4", "ISO, MDY", "0x_f", "15"),
        ("float8", "ISO, MDY", "0x1p3", "8"),
        ("float4", "ISO, MDY", "0x1.0000010000001p0", "1.0000001"),
        ("float8", "ISO, MDY", "8.25e1437e+243", "22003"),
        ("float8", "ISO, MDY", "0e99999999", "0"),
        ("bytea", "ISO, MDY", "\\xD1x", "22023"),
        ("bytea", "ISO, MDY", "\\xD", "22023"),
        ("jsonb", "ISO, MDY", '{"a": "\\ude00", "a": 1}', "22P02"),
        ("jsonb", "ISO, MDY", '["\\u0000", f]', "22P05"),
        ("jsonb", "ISO, MDY", '["\\ude00\\u0000"]', "22P02"),
        ("jsonb", "ISO, MDY", '"\\u0000', "22P05"),
        ("jsonb", "ISO, MDY", '{"bb": 1, "a": -0.0, "c": 1e2}', '{"a": 0.0, "c": 100, "bb": 1}'),
        ("text[]", "ISO, MDY", "[2:3]={a,NULL}", "[2:3]={a,NULL}"),
        ("text[]", "ISO, MDY", "[2 ]={a,b}", "22P02"),
        ("text[]", "ISO, MDY", '{a\\ , "b}" ,"null"}', '{"a ","b}","null"}'),
        ("text[]", "ISO, MDY", "[2:1]={}", "2202E"),
        ("numeric(5,2)[]", "ISO, MDY", "{9999,x}", "22P02"),
        ("interval[]", "ISO, MDY", '{""', "22P02"),
    ],
)
def test_the_answer_is_the_servers(kind: str, style: str, text: str, answer: str) -> None:
    """`answer`: the text that the server shows, or its SQLSTATE."""
    declared, ctx = resolve(kind), TextContext(date_style=style)
    codec = codec_of(declared)
    try:
        shown = codec.render(codec.parse(text.encode(), ctx, declared.typmod), ctx).decode()
    except DataError as error:
        shown = error.sqlstate
    assert shown == answer


@pytest.mark.parametrize(
    ("style", "shown"),
    [
        ("postgres", "-1 years -2 mons +3 days -04:05:06.5"),
        ("postgres_verbose", "@ 1 year 2 mons -3 days 4 hours 5 mins 6.5 secs ago"),
        ("sql_standard", "-1-2 +3 -4:05:06.5"),
        ("iso_8601", "P-1Y-2M3DT-4H-5M-6.5S"),
    ],
)
def test_an_interval_is_shown_in_every_style(style: str, shown: str) -> None:
    codec = codec_of(resolve("interval"))
    raw = codec.parse(b"-1 year -2 mons +3 days -4:05:06.5", TextContext(), -1)
    assert codec.render(raw, TextContext(interval_style=style)).decode() == shown


def test_what_depends_on_the_moment_or_a_zones_history_is_refused() -> None:
    warsaw = TextContext(time_zone="Europe/Warsaw")
    for kind, text in (
        ("date", "today"), ("timestamp", "tomorrow 12:00"), ("time", "now"),
        ("timetz", "12:00"), ("timestamptz", "2020-01-01 00:00 MSK"),
        ("timestamptz", "2020-01-01 00:00 foo5bar"),
    ):  # fmt: skip
        with pytest.raises(DataError) as refused:
            codec_of(resolve(kind)).parse(text.encode(), warsaw, -1)
        assert refused.value.sqlstate == "0A000", text


def test_other_abbreviations_than_the_default_ones_are_refused() -> None:
    ctx = TextContext(default_abbreviations=False)
    codec = codec_of(resolve("timestamptz"))
    with pytest.raises(DataError) as refused:
        codec.parse(b"2020-01-01 00:00 EST", ctx, -1)
    assert refused.value.sqlstate == "0A000"
    assert codec.parse(b"2020-01-01 00:00 UTC", ctx, -1) == codec.parse(
        b"2020-01-01 00:00Z", ctx, -1
    )
