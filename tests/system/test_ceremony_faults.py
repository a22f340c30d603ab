"""A ceremony at whose target the module fails, or lies about what it has answered."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.audit.record import OperatorAct
from proxy.errors import SealgateError
from proxy.keys.ceremony import acts, approvals, tokens
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


def objects(held: Ceremony, kind: int, key_type: int) -> list[int]:
    told(held)
    with session(held.target) as token:
        return token.module.find(token.handle, [(tokens.CLASS, kind), (tokens.KEY_TYPE, key_type)])


def test_a_key_whose_rights_the_token_does_not_tell_is_not_kept(held: Ceremony) -> None:
    told(held, "C_GetAttributeValue code 0x30")
    with pytest.raises(SealgateError):
        held.request()
    with session(held.target) as token:
        told(held, "C_GetAttributeValue code 0x30")
        for make in (token.make_master, token.make_ed25519):
            with pytest.raises(tokens.Pkcs11Error):
                make("new")
    assert objects(held, tokens.PRIVATE, tokens.RSA) == []
    assert objects(held, tokens.PUBLIC, tokens.RSA) == []
    assert objects(held, tokens.PRIVATE, tokens.EDWARDS) == []
    assert objects(held, tokens.SECRET, tokens.AES) == []


def test_an_import_that_cannot_clean_up_is_done_and_noted(held: Ceremony) -> None:
    class Sink:
        seen: list[Any] = []  # noqa: RUF012 - of this test alone

        def write(self, record: Any) -> None:
            self.seen.append(record)

    bundle = held.bundle()
    ceremony = approvals.parse(bundle).content.ceremony
    told(held, "C_DestroyObject code 0x30")
    with pytest.raises(SealgateError, match="C_DestroyObject"):
        acts.import_(
            bundle, held.target, held.at_target, held.now, key_label="root", audit=Sink()
        )  # fmt: skip
    (act,) = Sink.seen
    assert isinstance(act, OperatorAct)
    assert held.at_target.imported() == {ceremony}
    told(held)
    with session(held.source) as source, session(held.target) as target:
        key = target.check_value(target.master("root"))
        assert key == source.check_value(source.master("master"))
