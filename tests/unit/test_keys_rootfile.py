"""proxy/keys/rootfile.py and providers/software.py: a root under a passphrase."""

import json
import os
import stat
from pathlib import Path

import pytest

from proxy import native
from proxy.errors import ConfigError, IntegrityError, KeyUnavailable
from proxy.keys import record as records
from proxy.keys import rootfile
from proxy.keys.providers.base import CredentialRefused
from proxy.keys.providers.software import SoftwareProvider
from proxy.keys.record import Subject


@pytest.fixture
def root_file(tmp_path: Path) -> Path:
    native.arena_init(1024, True)
    path = tmp_path / "keys" / "root.json"
    rootfile.create(path, bytearray(b"correct horse"))
    return path


def test_the_right_passphrase_opens_the_same_root_each_time(root_file: Path) -> None:
    first = rootfile.load(root_file, bytearray(b"correct horse"))
    second = rootfile.load(root_file, bytearray(b"correct horse"))
    assert first.key.same(second.key)
    assert first.root_id == second.root_id
    assert stat.S_IMODE(os.stat(root_file).st_mode) == 0o600


def test_a_root_is_never_overwritten(root_file: Path) -> None:
    before = root_file.read_bytes()
    with pytest.raises(FileExistsError):
        rootfile.create(root_file, bytearray(b"other"))
    assert root_file.read_bytes() == before


def test_a_wrong_passphrase_is_refused(root_file: Path) -> None:
    with pytest.raises(CredentialRefused):
        rootfile.load(root_file, bytearray(b"correct hors"))


@pytest.mark.parametrize(
    "change",
    [
        {"id": "00" * 16},
        {"salt": "AAAAAAAAAAAAAAAAAAAAAA=="},
        {"parameters": {"iterations": 2, "lanes": 4, "memory_kib": 65536}},
        {"kdf": "scrypt", "parameters": {"n": 16384, "r": 8, "p": 1}},
    ],
    ids=str,
)
def test_altered_parameters_do_not_open(root_file: Path, change: dict[str, object]) -> None:
    document = json.loads(root_file.read_bytes())
    root_file.write_text(json.dumps({**document, **change}))
    with pytest.raises(CredentialRefused):
        rootfile.load(root_file, bytearray(b"correct horse"))


@pytest.mark.parametrize(
    "change",
    [
        {"format": "sealgate-root/2"},
        {"kdf": "md5"},
        {"parameters": {"iterations": 3, "lanes": 4, "memory_kib": 2**30}},
        {"parameters": {"iterations": 3, "lanes": 4}},
        {"parameters": {"iterations": 3, "lanes": 4, "memory_kib": 65536, "x": 1}},
        {"parameters": {"iterations": True, "lanes": 4, "memory_kib": 65536}},
        {"parameters": None},
        {"salt": "AAAA"},
        {"salt": "%%%%"},
        {"nonce": ""},
        {"sealed": "AAAA"},
        {"id": "zz"},
        {"id": 7},
    ],
    ids=str,
)
def test_a_file_that_is_not_of_the_format_is_a_configuration_error(
    root_file: Path, change: dict[str, object]
) -> None:
    document = json.loads(root_file.read_bytes())
    root_file.write_text(json.dumps({**document, **change}))
    with pytest.raises(ConfigError):
        rootfile.load(root_file, bytearray(b"correct horse"))


async def test_a_refused_passphrase_is_latched(root_file: Path) -> None:
    asked: list[int] = []

    def passphrase() -> bytearray:
        asked.append(1)
        return bytearray(b"wrong")

    provider = SoftwareProvider(root_file, passphrase)
    for _ in range(3):
        with pytest.raises(CredentialRefused):
            await provider.open()
    assert len(asked) == 1
    assert not (await provider.health()).up


async def test_a_wrapped_key_opens_only_in_its_own_place(root_file: Path) -> None:
    given = bytearray(b"correct horse")
    provider = SoftwareProvider(root_file, lambda: given)
    await provider.open()
    assert not any(given), "the passphrase is wiped after use"
    key = native.key_random()
    context = records.ring_context("shop")
    record = await provider.wrap(key, Subject(b"K" * 16, 1), context)
    opened = await provider.unwrap(records.parse(record.encode()), context)
    assert opened.same(key)
    with pytest.raises(IntegrityError):
        await provider.unwrap(record, records.ring_context("docs"))
    for offset in range(6, len(record.encode())):
        raw = bytearray(record.encode())
        raw[offset] ^= 1
        try:
            altered = records.parse(bytes(raw))
        except records.RecordError:
            continue
        with pytest.raises(IntegrityError):
            await provider.unwrap(altered, context)
    await provider.close()
    with pytest.raises(KeyUnavailable):
        await provider.unwrap(record, context)
