"""What a session believes of the server's settings."""

import json

import pytest

from proxy.postgres.messages import Malformed
from proxy.postgres.settings import Settings


def read(path: str = "public", temporary: object = ()) -> Settings:
    settings = Settings({"user": "app"})
    settings.read(f"app\n1\nhex\nDefault\n{json.dumps(temporary)}\n{path}".encode())
    return settings


def test_a_reported_search_path_is_asked_for_again() -> None:
    """PostgreSQL 18 reports it, whoever changed it: a function, or the end of a transaction."""
    settings = read()
    assert settings.known
    settings.report(b"TimeZone\0UTC\0")
    assert settings.known
    settings.report(b"search_path\0other\0")
    assert not settings.known
    assert settings.search_path == ("public",), "names are resolved by what was asked for"


def test_names_of_temporary_tables_may_be_any() -> None:
    assert read(temporary=["a\nb", '"', "ä"]).temporary == {"a\nb", '"', "ä"}
    assert read('"a\nb", c').search_path == ("a\nb", "c")


@pytest.mark.parametrize("answer", [b"app\n1\nhex\nDefault\npublic", b"app\n1\nhex\nDefault\n[\npublic",
                                    b"app\n1\nhex\nDefault\n1\npublic"])  # fmt: skip
def test_another_answer_is_malformed(answer: bytes) -> None:
    with pytest.raises(Malformed):
        Settings({"user": "app"}).read(answer)
