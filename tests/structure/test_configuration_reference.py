"""Does the manual of the configuration say what the types say?"""

import json

import pytest

from proxy.config import reference
from proxy.config.model import Config

HOW = "run `python -m proxy.config.reference` and commit what it wrote"


def test_manual_is_what_the_types_say() -> None:
    assert reference.MANUAL.read_text(encoding="utf-8") == reference.manual(), HOW


def test_schema_is_what_the_types_say() -> None:
    assert reference.SCHEMA.read_text(encoding="utf-8") == reference.schema(), HOW


def test_schema_is_json_and_names_every_section() -> None:
    document = json.loads(reference.schema())
    assert set(document["properties"]) == set(Config.model_fields)


@pytest.mark.parametrize(
    "setting", ["`target_session_attrs`", "`max_unauthenticated`", "`cert_file`"]
)
def test_settings_are_in_the_manual(setting: str) -> None:
    assert setting in reference.manual()
