"""Texts for every type, right and wrong ones, from a seed: what the differential tests feed.

No part in itself, but shared by them: each function draws one text for one type.
"""

import random
import struct
from collections.abc import Callable

Draw = Callable[[random.Random], str]

_MONTHS_WORDS = (
    "jan feb mar apr may jun jul aug sep sept oct nov dec january february march april june july "
    "august september october november december"
)
_MONTHS = _MONTHS_WORDS.split()
_ZONES_WORDS = (
    "UTC Z +00 -05 +05:30 -0330 +02:03:04 EST PST CEST MSK Europe/Warsaw America/New_York "
    "asia/kathmandu utc+3 Nowhere/City xyz +16 -1600 EST5EDT est5edt PDT dst"
)
_ZONES = _ZONES_WORDS.split()
_UNITS_WORDS = (
    "microsecond us usec ms msec second sec s secs minute min m mins hour h hr hrs day d days "
    "week w weeks month mon mons months year y yr years decade dec decades century c cent "
    "centuries millennium mil mils millennia quarter microseconds milliseconds useconds ago "
    "timezone decs mseconds msecond secs"
)
_UNITS = _UNITS_WORDS.split()


def mutate(r: random.Random, text: str, chance: float, alphabet: str) -> str:
    """The text, with this chance with a character or two put in, replaced or taken out."""
    if r.random() < chance and text:
        for _ in range(r.randrange(1, 3)):
            i, how = r.randrange(len(text) + 1), r.randrange(3)
            text = text[:i] + (r.choice(alphabet) if how < 2 else "") + text[i + (how != 0) :]
    return text


def _date(r: random.Random) -> str:
    year = r.choice(
        [r.randrange(1, 100), r.randrange(100, 1000), r.randrange(1900, 2100), r.randrange(1, 4000)]
    )
    if r.random() < 0.2:
        year = r.randrange(1000, 300000)
    month = r.randrange(0, 14) if r.random() < 0.1 else r.randrange(1, 13)
    day = r.randrange(0, 33) if r.random() < 0.2 else r.randrange(1, 29)
    name = r.choice(_MONTHS)
    name = r.choice([name, name.title(), name.upper()])
    shown = r.choice(["%d", "%02d", "%04d", "%04d", "%04d"]) % year
    mark = r.choice("-/. ")
    forms = [
        f"{shown}-{month:02d}-{day:02d}", f"{shown}-{month:02d}-{day:02d}",
        f"{month}{mark}{day}{mark}{shown}", f"{month}{mark}{day}{mark}{shown}",
        f"{shown}{mark}{month}{mark}{day}", f"{name} {day}, {shown}",
        f"{day}{mark}{name}{mark}{shown}", f"{shown}{mark}{name}{mark}{day}",
        f"{name}{mark}{day}{mark}{shown}", f"{year % 10000:04d}{month:02d}{day:02d}",
        f"J{r.randrange(0, 5000000)}", f"{year % 4000}.{r.randrange(1, 400)}",
        f"{r.choice(['Mon', 'tuesday,', 'wed'])} {name} {day} {shown}",
        f"{year % 100:02d}{month:02d}{day:02d}",
    ]  # fmt: skip
    return r.choice(forms)


def _clock(r: random.Random) -> str:
    hour = r.randrange(0, 26) if r.random() < 0.2 else r.randrange(24)
    minute = r.randrange(60) if r.random() < 0.9 else r.randrange(70)
    second = r.randrange(60) if r.random() < 0.85 else r.randrange(58, 63)
    part = r.choice(["", "", ".5", ".123456", ".1234565", ".9999999", ".0000005", "."])
    plain = f"{hour:02d}:{minute:02d}:{second:02d}{part}"
    forms = [
        plain, plain, plain, f"{hour}:{minute:02d}", f"{hour:02d}{minute:02d}{second:02d}{part}",
        f"{hour:02d}{minute:02d}", f"{minute}:{second}{part}",
        r.choice(["24:00:00", "24:00", "23:59:60", "23:59:60.5", "allballs", "12:00:00.0000001"]),
    ]  # fmt: skip
    return r.choice(forms) + (r.choice([" am", " PM", "am", " pm"]) if r.random() < 0.12 else "")


def _zone(r: random.Random) -> str:
    zone = r.choice(_ZONES)
    if zone[0] in "+-":
        return r.choice(["", " "]) + zone
    return " " + zone if r.random() < 0.9 else zone


def moment(r: random.Random) -> str:
    form = r.randrange(20)
    if form == 0:
        return r.choice(
            ["infinity", "-infinity", "epoch", " infinity ", "+infinity", "EPOCH", "inf",
             "infinity 00:00", "2000-01-01 infinity", "", " "]
        )  # fmt: skip
    text = _date(r)
    if form < 14:
        text += r.choice([" ", " ", "T", "t", " at "]) + _clock(r)
    if form < 7:
        text += _zone(r)
    if form == 15:
        text = _clock(r) + " " + text
    if r.random() < 0.12:
        text += r.choice([" BC", " AD", " bc", "BC"])
    return mutate(r, text, 0.12, "0123456789 :-+./,TzJadm_'")


def clock(r: random.Random) -> str:
    form, text = r.randrange(10), _clock(r)
    if form < 5:
        text += _zone(r)
    elif form < 7:
        text = _date(r) + " " + text + (_zone(r) if form == 5 else "")
    return mutate(r, text, 0.12, "0123456789 :-+./,TzJadm_'")


def interval(r: random.Random) -> str:
    def number() -> str:
        big = r.choice([r.randrange(10000), 2**31 - 1, 2**31, 2**63 - 1])
        value = big if r.random() < 0.15 else r.randrange(60)
        part = r.choice(["", "", "", ".5", ".25", ".123456789", "."])
        return r.choice(["", "", "", "-", "+"]) + str(value) + part

    def time() -> str:
        tail = r.choice(
            ["", f":{r.randrange(61):02d}", f":{r.randrange(61):02d}.{r.randrange(10**7)}"]
        )
        hour = r.choice([r.randrange(24), r.randrange(300)])
        return r.choice(["", "", "-", "+"]) + f"{hour}:{r.randrange(62):02d}" + tail

    form = r.randrange(12)
    if form < 6:
        text = " ".join(
            number() + r.choice([" ", ""]) + r.choice(_UNITS) for _ in range(r.randrange(1, 5))
        )
        text += " " + time() if r.random() < 0.3 else ""
        text = "@ " + text if r.random() < 0.15 else text
        text += " ago" if r.random() < 0.15 else ""
    elif form == 6:
        text = time()
    elif form == 7:
        text = f"{r.choice(['', '-', '+'])}{r.randrange(200)}-{r.randrange(14)}"
        text += r.choice(["", f" {number()}", f" {number()} {time()}"])
    elif form == 8:
        text = f"{number()} {time()}"
    elif form == 9:
        text = "P" + "".join(
            f"{r.choice(['', '-'])}{r.randrange(100)}{r.choice(['', '', '.5', '.3e1'])}{u}"
            for u in "YMWD" if r.random() < 0.5
        )  # fmt: skip
        if r.random() < 0.6:
            text += "T" + "".join(
                f"{r.choice(['', '-'])}{r.randrange(100)}{r.choice(['', '', '.5', '.123456789'])}{u}"
                for u in "HMS" if r.random() < 0.6
            )  # fmt: skip
    elif form == 10:
        shape = r.choice(["P%04d-%02d-%02d", "P%04d%02d%02d", "P%d-%d-%d"])
        text = shape % (r.randrange(3000), r.randrange(14), r.randrange(33))
        text += r.choice(["", "T01:02:03", "T010203", "T01:02", "T0102", "T1.5:2"])
    else:
        text = r.choice(
            ["infinity", "-infinity", "+infinity", "infinity ago", "1 infinity", "", "0", "-0", "1",
             "1.5", "1 day ago ago", "ago", "P", "PT", "P1", "P1Y2", "PT1", "178956970 years",
             "-178956970 years -8 mons", "178956971 years", "2147483647 days",
             "9223372036854775807 us", "-9223372036854775808 us", "-2147483648 days ago", "1e3 days",
             "2562047788:00:54.775807", "2562047788:00:54.775808", "0.5 mon", "1.5 years",
             "-1.5 weeks", "0.3 decades", "1 mon -1 day +00:00:01", "infinity infinity"]
        )  # fmt: skip
    return mutate(r, text, 0.1, "0123456789 :-+./,PTYMDdhm")


def inet(r: random.Random) -> str:
    if r.random() < 0.4:
        count = r.choice([4, 4, 4, 3, 2, 1, 5])
        text = ".".join(str(r.randrange(256 if r.random() < 0.95 else 400)) for _ in range(count))
        text += f"/{r.randrange(34)}" if r.random() < 0.5 else ""
    else:
        words = [f"{r.choice([0, 0, 0, 1, 0xFFFF, r.randrange(65536)]):x}" for _ in range(8)]
        first = r.randrange(8)
        last = r.randrange(first, 9)
        text = r.choice(
            [":".join(words), ":".join(words[:first]) + "::" + ":".join(words[last:]),
             r.choice(["::", "::ffff:", "::1:", "0:0:0:0:0:0:", "1:2:3:4:5:6:", "1::"]) + "1.2.3.4",
             r.choice(["::", "::1", "::ffff:0:0", "1::", "::1:0", "::ffff", "::102:304", "::0.0.0.1"])]
        )  # fmt: skip
        text += f"/{r.randrange(131)}" if r.random() < 0.4 else ""
    return mutate(r, text, 0.1, "0123456789abcdef:./% xX")


def cidr(r: random.Random) -> str:
    if r.random() < 0.3:
        return inet(r)
    bits = r.randrange(33)
    number = r.randrange(2**32) >> (32 - bits) << (32 - bits)
    octets = [str(number >> s & 255) for s in (24, 16, 8, 0)]
    if r.random() < 0.3:
        return ".".join(octets[: r.randrange(1, 5)]) + r.choice(["", f"/{bits}"])
    return ".".join(octets) + f"/{bits}"


_NUMBERS_WORDS = (
    "NaN nan inf -inf +infinity infinity -Infinity +nan -nan infi 1e131071 1e131072 1e-16383 "
    "1e-16384 9e131071 1.5e-16383 0e200000 1e2147483648 0x 0b 0o7 0x_1 1__0 _1 1_ 1e_1 1_.5 1._5 "
    "-0x1f +0b11 1e-20000 0e-20000 1e1000000000 0e1000000000 1e99999999999999999999 . - .5 5. -.5 "
    "00.10 1e5 1E-5 99.995 0.005 -0.00 999.995 99999"
)
_NUMBERS = _NUMBERS_WORDS.split()


def numeric(r: random.Random) -> str:
    form = r.randrange(10)
    text = r.choice(["", "-", "+"]) + str(r.randrange(10 ** r.randrange(1, 40)))
    if form < 5:
        text += "." + "".join(r.choice("0123456789") for _ in range(r.randrange(0, 30)))
    if form in (1, 6):
        text += r.choice("eE") + str(r.randrange(-40, 40))
    if form in (7, 9):
        text = r.choice([*_NUMBERS, "", " 1 ", "\t1\n", "1 2"])
    if form == 8:
        digits = "".join(r.choice("01234567") for _ in range(r.randrange(1, 20)))
        text = r.choice(["0x", "0X", "0b", "0o", "-0x"]) + digits
    return mutate(r, text, 0.06, "0123456789.eE+-_ x")


def integer(r: random.Random) -> str:
    if r.random() < 0.5:
        return numeric(r)
    edge = r.choice([2**15, 2**31, 2**63])
    text = str(r.choice([r.randrange(-edge - 3, edge + 3), edge + r.randrange(-2, 2), -edge - 1]))
    return mutate(r, text, 0.1, "0123456789.eE+-_ x")


_FLOATS_WORDS = (
    "1e400 -1e400 1e-400 0e-400 1e39 1e-46 1e-45 7e-46 0x1p3 0x10 1_0 1e e1 . .5 5. 3.4028235e38 "
    "3.4028236e38 1.7976931348623157e308 1.7976931348623159e308 5e-324 2e-324 4.9e-324 -0 0 -0.0 "
    "2.2250738585072011e-308 1e15 1e16 123456789012345680 1e6 1e5 100000 0.0001 0.00001 infin "
    "nana NaN -inf +Infinity"
)
_FLOATS = _FLOATS_WORDS.split()


def floating(r: random.Random) -> str:
    form = r.randrange(8)
    if form < 3:
        text = repr(r.uniform(-1, 1) * 10.0 ** r.randrange(-320, 309))
    elif form == 3:
        text = repr(struct.unpack("!d", r.randbytes(8))[0])
    elif form == 4:
        text = repr(struct.unpack("!f", r.randbytes(4))[0])
    elif form == 5:
        text = r.choice(_FLOATS)
    else:
        return numeric(r)
    return mutate(r, text, 0.06, "0123456789.eE+-_ x")


def text(r: random.Random) -> str:
    letters = "ab \u017c\u00fc\u4e2d\U0001f600'\"\\{},\t\n"
    return "".join(r.choice(letters) for _ in range(r.randrange(10))) + " " * r.choice(
        [0, 0, 0, 1, 5]
    )


def boolean(r: random.Random) -> str:
    words = "t tr tru true f fa fal fals false y ye yes n no on of off 1 0 TRUE False oN OFF 2 o"
    return mutate(r, r.choice(words.split()), 0.2, "tfyn01 ")


def uuid(r: random.Random) -> str:
    h = "".join(r.choice("0123456789abcdefABCDEF") for _ in range(32))
    dashed = f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"
    fours = "-".join(h[i : i + 4] for i in range(0, 32, 4))
    return mutate(r, r.choice([h, dashed, f"{{{dashed}}}", fours]), 0.2, "0123456789abcdef-{}g ")


def bytea(r: random.Random) -> str:
    raw = r.randbytes(r.randrange(10))
    pieces = ["a", "b", "\\\\", "\\000", "\\377", "\\101", " ", "'"]
    escaped = "".join(r.choice(pieces) for _ in range(r.randrange(8)))
    spaced = "\\x" + " ".join(f"{b:02X}" for b in raw)
    return mutate(r, r.choice(["\\x" + raw.hex(), spaced, escaped]), 0.2, "0123456789abcdef\\ xg\n")


_LETTERS = [
    "a", "b", "\u00fc", "\u4e2d", "\\n", "\\u0041", "\\u00e9", '\\"', "\\\\", "\\/", "/", "\\b", "\\f",
    "\\t", "\\r", "\\u001f", "\u007f", "\\ud83d\\ude00", "\U0001f600",
]  # fmt: skip
_WRONG_LETTERS = ["\\u0000", "\\ud83d", "\\ude00", "\\x", "\n"]


def _json(r: random.Random, depth: int) -> str:
    def blank() -> str:
        return r.choice(["", "", "", " ", "\n", "\t "])

    form = r.randrange(9 if depth < 4 else 6)
    if form == 0:
        return r.choice(["null", "null", "true", "false", "nul", "True"])
    if form < 3:
        text = r.choice(["", "", "-"]) + r.choice(
            ["0", str(r.randrange(1, 10 ** r.randrange(1, 25)))]
        )
        if r.random() < 0.4:
            text += "." + "".join(r.choice("0123456789") for _ in range(r.randrange(1, 12)))
        if r.random() < 0.3:
            text += r.choice("eE") + r.choice(["", "+", "-"]) + str(r.randrange(30))
        return text
    if form < 6:
        letters = _LETTERS + (_WRONG_LETTERS if r.random() < 0.05 else [])
        return '"' + "".join(r.choice(letters) for _ in range(r.randrange(6))) + '"'
    if form < 8:
        pairs = [
            blank() + '"' + "".join(r.choice("abc\u00fc") for _ in range(r.randrange(4))) + '"'
            + blank() + ":" + blank() + _json(r, depth + 1) + blank()
            for _ in range(r.randrange(4))
        ]  # fmt: skip
        return "{" + blank() + ",".join(pairs) + "}"
    items = [blank() + _json(r, depth + 1) + blank() for _ in range(r.randrange(4))]
    return "[" + ",".join(items) + blank() + "]"


def json(r: random.Random) -> str:
    return mutate(r, _json(r, 0), 0.1, '{}[]",: ntf\\')


def array(elem: Draw) -> Draw:
    def one(r: random.Random) -> str:
        items = []
        for _ in range(r.randrange(5)):
            item, form = elem(r), r.randrange(6)
            if form == 0:
                item = r.choice(["NULL", "null", '"NULL"', "n\\ull"])
            elif form < 4:
                item = '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'
            items.append(r.choice(["", " "]) + item + r.choice(["", " "]))
        out = "{" + ",".join(items) + "}"
        if r.random() < 0.25:
            low = r.randrange(-3, 4)
            high = low + len(items) - 1 + r.choice([0, 0, 0, 0, 1])
            out = r.choice([f"[{low}:{high}]=", f"[{len(items)}]="]) + out
        return mutate(r, out, 0.15, '{},"\\ 1a[]=:')

    return one


def enum(r: random.Random) -> str:
    return mutate(r, r.choice(["sad", "ok", "it's", "SAD"]), 0.1, "abc '")


MOOD = "enum mood ('sad','ok','it''s')"
KINDS: dict[str, Draw] = {
    "text": text, "varchar(3)": text, "char(3)": text, "bpchar": text,
    "int2": integer, "int4": integer, "int8": integer, "float4": floating, "float8": floating,
    "numeric": numeric, "numeric(5,2)": numeric, "numeric(3,-2)": numeric, "numeric(2,5)": numeric,
    "bool": boolean, "uuid": uuid, "bytea": bytea, "json": json, "jsonb": json,
    "date": moment, "timestamp": moment, "timestamptz": moment, "timestamp(2)": moment,
    "timestamp(0) with time zone": moment, "time": clock, "timetz": clock, "time(1)": clock,
    "interval": interval, "interval(2)": interval, "inet": inet, "cidr": cidr, MOOD: enum,
    "text[]": array(text), "int4[]": array(integer), "numeric(5,2)[]": array(numeric),
    "date[]": array(moment), "inet[]": array(inet), "varchar(3)[]": array(text),
    "jsonb[]": array(json), "bytea[]": array(bytea), "interval[]": array(interval),
    "bool[]": array(boolean), "uuid[]": array(uuid), "float8[]": array(floating),
    "timestamptz[]": array(moment), MOOD + "[]": array(enum),
}  # fmt: skip
