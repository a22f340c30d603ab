"""Two SoftHSM tokens and five custodians, with everything that a ceremony needs between them."""

import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from proxy import native
from proxy.keys.ceremony import acts, custodian
from proxy.keys.ceremony.custodian import FileSigner
from proxy.keys.ceremony.documents import Roster
from proxy.keys.ceremony.state import CeremonyState
from proxy.keys.ceremony.tokens import TokenPlace, session
from tests.parts.softhsm import SoftHsm

NAMES = ("ada", "ben", "cleo", "dan", "eve")
PIN = "246810"


@dataclass
class Ceremony:
    """`source` and `target` are tokens of one module; `states` the folder of either side."""

    folder: Path
    source: TokenPlace
    target: TokenPlace
    roster: Roster
    signers: dict[str, FileSigner]
    at_source: CeremonyState
    at_target: CeremonyState
    bits: int = 2048
    now: int = field(default_factory=lambda: int(time.time()))

    def request(self) -> bytes:
        return acts.request(self.target, self.at_target, self.now, bits=self.bits)

    def approve(self, raw: bytes, *names: str) -> bytes:
        for name in names:
            raw = acts.approve(raw, self.roster, name, self.signers[name])
        return raw

    def export(self, request: bytes) -> bytes:
        return acts.export(
            request, self.source, self.at_source, self.now, key_label="master", issuer="Bank"
        )

    def import_(self, bundle: bytes, label: str = "sealgate-root") -> acts.Imported:
        return acts.import_(bundle, self.target, self.at_target, self.now, key_label=label)

    def bundle(self, *names: str) -> bytes:
        """A whole ceremony up to the import."""
        request = self.approve(self.request(), "ada", "ben", "cleo")
        return self.approve(self.export(request), *(names or ("ada", "cleo", "eve")))


def tokens(folder: Path, *labels: str) -> dict[str, TokenPlace]:
    """SoftHSM tokens in one configuration, which is the environment's from now on."""
    hsm = SoftHsm(folder)  # one token of its own: `sealgate`
    os.environ.update(hsm.env)
    for label in labels:
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN,
             "--so-pin", "13579-so"],
            check=True, capture_output=True,
        )  # fmt: skip
    # The module may be open already, on tokens of an earlier test: it looks again now.
    native.Pkcs11Module(hsm.module).reinitialize()
    return {
        label: TokenPlace(hsm.module, label, lambda: bytearray(PIN.encode()), hsm.env)
        for label in labels
    }


def prepared(folder: Path, threshold: int = 3) -> Ceremony:
    """Everything up to the request: tokens, a master at the source, five custodians, trust."""
    placed = tokens(folder / "hsm", "onpremise", "cloud")
    signers = {
        name: FileSigner(native.key_random(), native.key_random()) for name in NAMES
    }  # fmt: skip
    people = [
        custodian.parse_enrolment(custodian.enrol(name, signer)) for name, signer in signers.items()
    ]
    roster = custodian.make_roster("Example AG", threshold, people)
    with session(placed["onpremise"]) as token:
        token.make_master("master")
    sides = [CeremonyState(folder / side) for side in ("at-source", "at-target")]
    for side in sides:
        side.trust(roster)
    return Ceremony(folder, placed["onpremise"], placed["cloud"], roster, signers, *sides)
