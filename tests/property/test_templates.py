"""A plan by template is the plan that the grammar would have given; the scanner finds its literals."""

import postgast
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.native import strip_literals
from proxy.postgres.plan import Plan, Refusal
from proxy.postgres.rewrite import Planner
from proxy.postgres.templates import Templates
from tests.unit.test_rewrite import CTX, SNAP

_STRING = st.text(st.characters(min_codepoint=9, max_codepoint=0x2FFF), max_size=12).map(
    lambda s: "'" + s.replace("'", "''") + "'"
)
_NUMBER = st.one_of(
    st.integers(0, 2**70).map(str),
    st.decimals(0, 10**9, places=3).map(str),
    st.sampled_from(["0", "007", "1.", "1e5", "1.5E-3", "2147483648"]),
)
# S and N are slots for a string and a number
_SHAPES = [
    "SELECT id FROM users WHERE email = S AND id = N",
    "SELECT * FROM users u /* 'c' 4 */ WHERE u.email IN (S, S) OR id < -N -- 7",
    "SELECT id, N, S AS x FROM users WHERE email = S::text ORDER BY N LIMIT N",
    "INSERT INTO users (id, email, note) VALUES (N, S, S), (N + N, S, NULL)",
    "INSERT INTO users VALUES (N, S, S) ON CONFLICT (email) DO UPDATE SET note = S RETURNING *",
    "UPDATE users SET email = S, note = S WHERE email = S AND id BETWEEN N AND N",
    "DELETE FROM users WHERE email <> S AND length(S) > N",
    "SELECT email, count(*) FROM users WHERE note IS NOT NULL AND id = N GROUP BY email",
    "UPDATE plain SET id = N WHERE email = S",
    "SELECT id FROM users WHERE email = CAST(S AS varchar(N))",
    "SELECT id FROM users WHERE email = -N",
    "SELECT id FROM plain WHERE email LIKE S AND id = N",
    "INSERT INTO users (email, note) VALUES (-N, -N), (N, N)",
]


def _filled(shape: str, values: st.DataObject) -> bytes:
    out = ""
    for i, c in enumerate(shape):
        alone = not (shape[i - 1 : i].isalpha() or shape[i + 1 : i + 2].isalpha()) or i == 0
        if c == "S" and alone and not shape[i + 1 : i + 2].isalpha():
            out += values.draw(_STRING)
        elif c == "N" and alone:
            out += values.draw(_NUMBER)
        else:
            out += c
    return out.encode()


def _planned(sql: bytes) -> Plan | str:
    try:
        return Planner().plan(sql, (), CTX, SNAP)
    except Refusal as refusal:
        return refusal.message


@pytest.mark.parametrize("shape", _SHAPES)
@given(st.data())
def test_a_template_gives_the_plan_of_the_grammar(shape: str, data: st.DataObject) -> None:
    first, second = _filled(shape, data), _filled(shape, data)
    templates = Templates(1 << 20)
    one = strip_literals(first)
    plan = _planned(first)
    if one is None or isinstance(plan, str) or not templates.learn(first, *one, None, plan):
        return
    other = strip_literals(second)
    if other is None:
        return
    by_template = templates.look(second, *other, None)
    if by_template is None:
        return
    direct = _planned(second)
    assert isinstance(direct, Plan), direct
    for mine, its in zip(by_template.statements, direct.statements, strict=True):
        assert mine.segments == its.segments
        assert (mine.params, mine.client_params, mine.outputs) == (
            its.params,
            its.client_params,
            its.outputs,
        )


@pytest.mark.parametrize("shape", _SHAPES)
def test_every_shape_with_free_literals_is_served_by_its_template(shape: str) -> None:
    """Else the property above would hold for nothing."""
    first = shape.replace("varchar(N)", "text").encode()
    first = _sample(first, b"'a'", b"1")
    second = _sample(shape.replace("varchar(N)", "text").encode(), b"'it''s'", b"1")
    templates = Templates(1 << 20)
    plan = _planned(first)
    assert isinstance(plan, Plan), plan
    one, other = strip_literals(first), strip_literals(second)
    assert one is not None
    assert other is not None
    assert one[0] == other[0]
    if "plain" in shape and "UPDATE" not in shape:  # no watched word: never planned at all
        assert plan.statements[0].free is None
        return
    assert templates.learn(first, *one, None, plan)
    assert templates.look(second, *other, None) is not None


def _sample(shape: bytes, string: bytes, number: bytes) -> bytes:
    out = b""
    for word in shape.replace(b"(", b"( ").replace(b")", b" )").replace(b",", b" ,").split(b" "):
        sign = word[:1] == b"-" and word[1:] == b"N"
        if word == b"S" or word == b"S::text":
            out += word.replace(b"S", string, 1)
        elif word == b"N" or sign:
            out += word.replace(b"N", number)
        else:
            out += word
        out += b" "
    return out


def test_a_limit_is_pinned_by_its_value() -> None:
    first = b"SELECT id FROM users WHERE email = 'a' LIMIT 5"
    templates = Templates(1 << 20)
    plan = _planned(first)
    spans = strip_literals(first)
    assert isinstance(plan, Plan)
    assert spans is not None
    templates.learn(first, *spans, None, plan)
    for text, known in ((b"SELECT id FROM users WHERE email = 'b' LIMIT 5", True),
                        (b"SELECT id FROM users WHERE email = 'b' LIMIT 6", False)):  # fmt: skip
        other = strip_literals(text)
        assert other is not None
        assert (templates.look(text, *other, None) is not None) is known


def test_templates_stay_within_their_bytes() -> None:
    templates = Templates(10_000)
    for i in range(200):
        sql = f"SELECT id AS a{i} FROM users WHERE email = 'x'".encode()
        plan, spans = _planned(sql), strip_literals(sql)
        assert isinstance(plan, Plan)
        assert spans is not None
        templates.learn(sql, *spans, None, plan)
    assert 0 < templates._bytes <= 10_000
    assert len(templates._known) < 12


_LITERALS = {"SCONST", "ICONST", "FCONST"}
_PIECES = st.one_of(
    _STRING,
    _NUMBER,
    st.sampled_from(
        ["select", "a", "b2", '"q""x 1"', "$1", "(", ")", ",", "=", "<>", "-", "+", "*", "::", "[",
         "]", "/* 'c' 1 */", "/* a /* b */ 'x' */", "-- 7 'x\n", ";", "e'a\\'b'", "U&'d'", "$$x$$",
         "x'1f'", ".5", "0x1F", "1_000", "'a'\n'b'", "N'n'", "é", "a$1"]
    ),
)  # fmt: skip


@given(
    st.lists(_PIECES, max_size=12), st.lists(st.sampled_from([" ", "\n", "\t", ""]), max_size=12)
)
def test_the_scanner_sees_the_literals_that_the_grammar_sees(
    pieces: list[str], gaps: list[str]
) -> None:
    text = "".join(p + g for p, g in zip(pieces, gaps + [" "] * len(pieces), strict=False))
    sql = text.encode()
    try:
        tokens = postgast.scan(text).tokens
    except postgast.PgQueryError:
        return
    found = strip_literals(sql)
    if found is None:
        return
    names = postgast.pg_query_pb2.Token
    its = [n for t in tokens if names.Name(t.token) in _LITERALS for n in (t.start, t.end)]
    assert found[1] == its
    stripped = found[0]
    assert stripped.count(b"\x01") + stripped.count(b"\x02") == len(its) // 2
