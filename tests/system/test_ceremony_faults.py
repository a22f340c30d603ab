"""A ceremony at whose target the module fails, or lies about what it has answered."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.keys.ceremony import tokens
from proxy.keys.ceremony.tokens import session
from tests.parts.ceremony import Ceremony, prepared
from tests.parts.faulty_hsm import faulty, tell
from tests.parts.softhsm import SoftHsm

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not SoftHsm.available(), reason="needs SoftHSM"),
]


@pytest.fixture
def held(tmp_path: Path) -> Ceremony:
    made = prepared(tmp_path)
    module: dict[str, Any] = faulty(tmp_path / "faulty", {"module": made.target.module})
    return replace(made, target=replace(made.target, module=module["module"]))


def told(held: Ceremony, *lines: str) -> None:
    tell({"module": held.target.module}, *lines)


@pytest.mark.parametrize("more", [10_000, -1])
def test_an_answer_longer_than_there_was_room_for_is_not_read(held: Ceremony, more: int) -> None:
    """-1 makes nothing longer by itself: CK_UNAVAILABLE_INFORMATION is what a count of 0 becomes."""
    with session(held.target) as token:
        told(held, f"C_FindObjects more {more}")
        with pytest.raises(ValueError, match="room"):
            token._find("nothing of this name", tokens.SECRET, tokens.AES)
        told(held, f"C_GetMechanismList more {2**40}")
        slot = token.module.slots()[0]["slot"]
        with pytest.raises(ValueError, match="room"):
            token.module.mechanisms(slot)
        told(held, f"C_WrapKey more {2**40}")
        inner, outer = token._ephemeral(), token._ephemeral()
        with pytest.raises(ValueError, match="room"):
            token.module.wrap(token.handle, token._kwp(), outer, inner)
        told(held)
        assert len(token.module.wrap(token.handle, token._kwp(), outer, inner)) == 40
