"""What a client's value becomes in the form of its column's type, array and cast included."""

from proxy.postgres.conversions import items_of
from proxy.postgres.plan import Cast, Literal, Use
from proxy.postgres.snapshot import INT4, TEXT, ProtectedColumn
from proxy.postgres.types.base import DEFAULT
from proxy.postgres.types.registry import codec_of, resolve
from proxy.postgres.values import seal_text


def column(kind: str) -> ProtectedColumn:
    return ProtectedColumn("public", "t", "c", "shop.public.t.c", resolve(kind), "app", True)


class Tags:
    """A codec that shows what it is given."""

    index_keys = 1

    def tag(self, plain: bytes) -> bytes:
        return plain

    def seal(self, plain: bytes) -> bytes:
        return plain


def test_a_literal_array_with_a_cast_is_one_of_the_column_s_type() -> None:
    from proxy.policy.model import Action

    target = column("int4")
    literal = Literal(target, Use.TAG_ARRAY, b'{"+1",NULL}', INT4)
    sealed = seal_text(literal, {(target, Action.OPEN): Tags()}, DEFAULT)  # type: ignore[dict-item]
    assert sealed.endswith(b"\0\0\0\4\0\0\0\1\xff\xff\xff\xff")


def test_blanks_count_where_the_value_is_a_text() -> None:
    char = column("char(6)")
    assert items_of(char, Use.TAG, b"ab ", 0, 0, None, DEFAULT) == [(b"ab ",)]
    assert items_of(char, Use.TAG, b"ab ", 0, TEXT, None, DEFAULT) == [(None,)]


def test_a_cast_cuts_before_the_value_is_stored() -> None:
    cast = Cast(resolve("varchar(3)"))
    found = items_of(column("varchar(3)"), Use.STORE, b"abcdef", 0, 0, cast, DEFAULT)
    assert found == [(b"abc",)]


def test_an_array_that_is_cast_may_be_one_of_smaller_integers() -> None:
    small = resolve("int2[]")
    raw = codec_of(small).parse(b"{7,NULL}", DEFAULT, -1)
    wanted = codec_of(resolve("int4[]")).parse(b"{7,NULL}", DEFAULT, -1)
    for use in (Use.STORE, Use.TAG, Use.SEARCH):
        found = items_of(column("int4[]"), use, raw, 1, small.oid, Cast(resolve("int4[]")), DEFAULT)
        assert found == [(wanted,)]
