"""What an operator types: the whole ceremony, 3 of 5, and shares; each custodian by his own files."""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding

from tests.parts.ceremony import NAMES, PIN, tokens
from tests.parts.softhsm import SoftHsm

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not SoftHsm.available(), reason="needs SoftHSM"),
]


class Desk:
    """A folder, an environment, and `sealgate` in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        places = tokens(folder / "hsm", "onpremise", "cloud")
        self.module = places["cloud"].module
        self.environment = dict(places["cloud"].environment)
        self.env = {
            **os.environ, **self.environment, "PIN": PIN, "PYTHONPATH": str(Path(__file__).parents[2])
        }  # fmt: skip
        for name in NAMES:
            (folder / f"{name}.pass").write_text(f"passphrase of {name}\n")

    def run(self, *words: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "proxy.cli.main", *words],
            cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr

    def ceremony(self, *words: str, status: int = 0) -> str:
        return self.run("ceremony", *words, status=status)

    def token(self, label: str) -> tuple[str, ...]:
        return ("--module", self.module, "--token", label, "--pin-env", "PIN")

    def key(self, name: str) -> tuple[str, ...]:
        return ("--key", f"{name}.key", "--passphrase-file", f"{name}.pass")

    def enrol(self) -> str:
        """The five, their roster, trusted at both sides; its fingerprint."""
        for name in NAMES:
            self.ceremony("enrol", name, *self.key(name), "-o", f"{name}.json")
        said = self.ceremony(
            "roster", *(f"{n}.json" for n in NAMES), "-m", "3", "--customer", "Example AG",
            "-o", "roster.json",
        )  # fmt: skip
        found = re.search(r"[0-9a-f]{64}", said)
        assert found is not None
        for side in ("source", "target"):
            self.ceremony("trust", "roster.json", "--fingerprint", found[0], "--state", side)
        return found[0]

    def approve(self, document: str, *names: str) -> None:
        for name in names:
            self.ceremony("approve", document, "--name", name, "--roster", "roster.json",
                          *self.key(name), "--yes")  # fmt: skip

    def config(self, name: str, label: str, key_label: str, store: str) -> str:
        provider = {
            "kind": "pkcs11", "module": self.module, "token_label": label, "key_label": key_label,
            "pin": {"env": "PIN"}, "environment": self.environment,
        }  # fmt: skip
        keys = {"provider": provider, "store": {"kind": "file", "path": store},
                "allow_unlocked_memory": True}  # fmt: skip
        postgres = {"listen": {"port": 0}, "upstream": {"port": 5432}, "database": "shop",
                    "catalog": {"user": "sealgate"}}  # fmt: skip
        (self.folder / name).write_text(json.dumps({"keys": keys, "postgres": postgres}))
        return name


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_ceremony_of_three_of_five_and_the_source_alone_recovers(desk: Desk) -> None:
    desk.enrol()
    desk.ceremony("master", *desk.token("onpremise"), "--key-label", "master")
    desk.ceremony("request", "--state", "target", *desk.token("cloud"), "--bits", "2048",
                  "-o", "request.json")  # fmt: skip
    export = ("export", "request.json", "--state", "source", *desk.token("onpremise"),
              "--key-label", "master", "--issuer", "Bank", "-o", "bundle.json")  # fmt: skip
    desk.approve("request.json", "ada", "ben")
    assert "2 of 3" in desk.ceremony(*export, status=1)
    desk.approve("request.json", "cleo")
    desk.ceremony(*export)
    take = ("import", "bundle.json", "--state", "target", *desk.token("cloud"))
    assert "0 of 3" in desk.ceremony(*take, status=1)
    desk.approve("bundle.json", "eve", "dan", "ada")
    assert "signed by    eve, dan, ada" in desk.ceremony("show", "bundle.json")
    desk.ceremony(*take)
    assert "imported already" in desk.ceremony(*take, status=1)

    # The imported key is the root that rings are wrapped under …
    live = desk.config("live.yaml", "cloud", "sealgate-root", "rings")
    desk.run("keys", "create", "app", "-c", live)
    desk.run("keys", "rotate", "app", "-c", live)
    assert "every ring version opens" in desk.ceremony("drill", "-c", live)
    # … and the master on premise opens them without the cloud's token.
    subprocess.run(
        ["softhsm2-util", "--delete-token", "--token", "cloud"], env=desk.env, check=True,
        capture_output=True,
    )  # fmt: skip
    assert "no token" in desk.ceremony("drill", "-c", live, status=5)
    spare = desk.config("spare.yaml", "onpremise", "master", "rings")
    assert desk.ceremony("drill", "-c", spare).splitlines() == [
        "app 1: opens", "app 2: opens", "every ring version opens",
    ]  # fmt: skip
    # Another master does not.
    desk.ceremony("master", *desk.token("onpremise"), "--key-label", "other")
    wrong = desk.config("wrong.yaml", "onpremise", "other", "rings")
    assert "2 of 2" in desk.ceremony("drill", "-c", wrong, status=5)


@pytest.mark.parametrize(
    ("service", "algorithm"),
    [("azure", "CKM_RSA_AES_KEY_WRAP"), ("aws", "RSA_AES_KEY_WRAP_SHA_1"),
     ("aws", "RSAES_OAEP_SHA_1"), ("gcp", "sha1-aes-256")],
)  # fmt: skip
def test_a_cloud_unwraps_what_it_is_given(desk: Desk, service: str, algorithm: str) -> None:
    """`cryptography` plays the cloud: its own key pair, its own decoder."""
    cloud = rsa.generate_private_key(65537, 2048)
    (desk.folder / "kek.pem").write_bytes(cloud.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))  # fmt: skip
    (desk.folder / "import.token").write_bytes(b"\x00\x01token")
    desk.enrol()
    said = desk.ceremony("master", *desk.token("onpremise"), "--key-label", "master")
    desk.ceremony("request", "--state", "target", "--cloud", service, "--public-key", "kek.pem",
                  "--algorithm", algorithm, "-o", "request.json")  # fmt: skip
    desk.approve("request.json", "ada", "ben", "cleo")
    desk.ceremony("export", "request.json", "--state", "source", *desk.token("onpremise"),
                  "--key-label", "master", "--issuer", "Bank", "-o", "bundle.json")  # fmt: skip
    blob = ("blob", "bundle.json", "--state", "target", "--service", service, "--key-id", "key-1",
            "--import-token", "import.token", "-o", "out")  # fmt: skip
    assert "0 of 3" in desk.ceremony(*blob, status=1)
    desk.approve("bundle.json", "ada", "ben", "cleo")
    assert algorithm in desk.ceremony(*blob)
    raw = (desk.folder / "out").read_bytes()
    if service == "azure":
        sent = json.loads(raw)
        assert sent["header"] == {"kid": "key-1", "alg": "dir", "enc": "CKM_RSA_AES_KEY_WRAP"}
        wrapped = base64.urlsafe_b64decode(sent["ciphertext"] + "==")
    elif service == "aws":
        sent = json.loads(raw)
        assert base64.b64decode(sent["ImportToken"]) == b"\x00\x01token"
        wrapped = base64.b64decode(sent["EncryptedKeyMaterial"])
    else:
        wrapped = raw
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303
    key = cloud.decrypt(wrapped[:256], oaep)
    if not algorithm.startswith("RSAES"):
        key = aes_key_unwrap_with_padding(key, wrapped[256:])
    zeros = Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(bytes(16))
    assert f"check value {zeros[:3].hex()}" in said


def test_shares_give_the_root_again_as_file_and_in_a_token(desk: Desk) -> None:
    desk.enrol()
    (desk.folder / "root.pass").write_text("root passphrase\n")
    said = desk.ceremony("split", "--roster", "roster.json", "-o", "shares")
    found = re.search(r"root ([0-9a-f]{32})", said)
    assert found is not None
    root_id = found[1]

    def shares(*names: str) -> list[str]:
        return [w for n in names for w in ("--share", f"shares/{n}.share.json", "--key", f"{n}.key",
                                           "--key-passphrase-file", f"{n}.pass")]  # fmt: skip

    to_file = ("--root-file", "root.json", "--passphrase-file", "root.pass")
    assert "2 of 3" in desk.ceremony("combine", *shares("ada", "ben"), *to_file, status=1)
    twice = desk.ceremony("combine", *shares("ada", "ben", "ada"), *to_file, status=1)
    assert "twice" in twice
    stolen = ("--share", "shares/cleo.share.json", "--key", "eve.key", "--key-passphrase-file",
              "eve.pass")  # fmt: skip
    refused = desk.ceremony("combine", *shares("ada", "ben"), *stolen, *to_file, status=1)
    assert "does not open with this key" in refused
    assert root_id in desk.ceremony("combine", *shares("ada", "ben", "cleo"), *to_file)

    # Under the software root a ring; then the same root, from other shares, in a token opens it.
    provider = {"kind": "software", "file": "root.json", "passphrase": {"file": "root.pass"}}
    config = json.loads((desk.folder / desk.config("a.yaml", "x", "x", "rings")).read_text())
    config["keys"]["provider"] = provider
    (desk.folder / "soft.yaml").write_text(json.dumps(config))
    desk.run("keys", "create", "app", "-c", "soft.yaml")
    assert "app 1: opens" in desk.ceremony("drill", "-c", "soft.yaml")
    text = desk.ceremony("words", "shares/eve.share.json", *desk.key("eve"))
    assert len(text.split()) == 33
    (desk.folder / "eve.words").write_text(text)
    desk.ceremony("combine", *shares("cleo", "dan"), "--words-file", "eve.words",
                  *desk.token("cloud"))  # fmt: skip
    check = desk.ceremony("combine", *shares("cleo", "dan", "eve"), *desk.token("cloud"), status=4)
    assert "already" in check


def test_a_custodian_in_a_token_and_a_wrong_passphrase(desk: Desk) -> None:
    desk.enrol()
    desk.ceremony("enrol", "officer", *desk.token("onpremise"), "-o", "officer.json")
    desk.ceremony("roster", "officer.json", "-m", "1", "--customer", "Example AG", "-o", "r1.json")
    assert "already" in desk.ceremony(
        "enrol", "officer", *desk.token("onpremise"), "-o", "again.json", status=4
    )
    desk.ceremony("request", "--state", "target", *desk.token("cloud"), "--bits", "2048",
                  "-o", "request.json")  # fmt: skip
    wrong = ("--key", "ada.key", "--passphrase-file", "ben.pass")
    said = desk.ceremony("approve", "request.json", "--name", "ada", "--roster", "roster.json",
                         *wrong, "--yes", status=5)  # fmt: skip
    assert "wrong passphrase" in said


def test_a_ceremony_stands_in_the_audit_log_of_the_configuration(desk: Desk) -> None:
    def audited(name: str, label: str, key_label: str) -> str:
        path = desk.folder / desk.config(name, label, key_label, f"{name}.rings")
        document = json.loads(path.read_text())
        path.write_text(json.dumps(document | {"audit": {"path": f"{name}.audit"}}))
        return name

    def told(name: str) -> list[str]:
        files = (desk.folder / f"{name}.audit").glob("*.jsonl")
        lines = [json.loads(line) for file in files for line in file.open()]
        assert "whole" in desk.run("audit", "verify", "-c", name, "--strict")
        lines.sort(key=lambda line: line["t"])
        return [x["e"] for x in lines if x["e"].startswith(("ceremony.", "admin.", "root."))]

    source, target = audited("source.yaml", "onpremise", "master"), audited(
        "target.yaml", "cloud", "sealgate-root"
    )  # fmt: skip
    desk.ceremony("enrol", "ada", *desk.key("ada"), "-o", "ada.json")
    fingerprint = re.search(r"[0-9a-f]{64}", desk.ceremony(
        "roster", "ada.json", "-m", "1", "--customer", "Example AG", "-o", "roster.json"
    ))  # fmt: skip
    assert fingerprint is not None
    for side in ("source", "target"):
        desk.ceremony("trust", "roster.json", "--fingerprint", fingerprint[0], "--state", side)
    desk.ceremony("master", "-c", source, "--key-label", "master")

    # The target has no root: what is done there stands in the structured log only.
    request = ("request", "--state", "target", "-c", target, "--bits", "2048", "-o")
    desk.ceremony(*request, "request.json")
    assert not (desk.folder / "target.yaml.audit").exists()
    desk.approve("request.json", "ada")
    export = ("export", "request.json", "--state", "source", "-c", source, "--key-label", "master",
              "--issuer", "Bank", "-o", "bundle.json")  # fmt: skip
    # The source has no audit ring, and `refuse` is the default: nothing is exported.
    assert "ring store source.yaml.rings is not there" in desk.ceremony(*export, status=5)
    assert not (desk.folder / "bundle.json").exists()
    desk.run("keys", "init", "-c", source)
    desk.ceremony(*export)
    begun = ["admin.begin", "admin.end"]
    assert told(source) == [*begun, "admin.begin", "ceremony.export", "admin.end"]
    desk.approve("bundle.json", "ada")
    desk.ceremony("import", "bundle.json", "--state", "target", "-c", target)
    # Now it has one, and its log begins.
    assert "was there" in desk.run("keys", "init", "-c", target)
    desk.ceremony(*request, "another.json")
    assert told(target) == [*begun, "admin.begin", "ceremony.request", "admin.end"]
