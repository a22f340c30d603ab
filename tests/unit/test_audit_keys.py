"""The key service under the audit log: what cannot be written down is not done."""

import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.audit.log import AuditLog
from proxy.config.audit import AuditConfig
from proxy.config.model import Config
from proxy.config.policy import PolicyConfig, PolicyRule
from proxy.errors import AccessDenied, AuditUnavailable, ConfigError
from proxy.keys import auditing
from proxy.keys.agent.guard import Guard
from proxy.keys.build import create_ring, init_root, open_keys, provider_of, store_of
from proxy.keys.service import KeyService
from proxy.policy.model import Action, Principal, Resource
from tests.parts.keyring import _config

APP, EVE = Principal("postgres", "app"), Principal("postgres", "eve")
EMAIL = Resource("column", "shop.public.users.email", "app")
RULES = (
    PolicyRule(principals=("postgres:app",), resources=("*",)),
    PolicyRule(principals=("postgres:eve",), resources=("*",), effect="deny"),
)


class Setting:
    def __init__(self, folder: Path, service: KeyService, log: AuditLog) -> None:
        self.folder, self.service, self.log = folder, service, log

    def events(self) -> list[str]:
        text = "".join(p.read_text() for p in sorted((self.folder / "audit").glob("*.jsonl")))
        return [line.split('"e":"')[1].split('"')[0] for line in text.splitlines()]


async def setting_of(folder: Path, on_failure: str) -> Setting:
    config = _config(folder, {})
    await init_root(config)
    for ring in ("app", "sealgate-audit"):
        await create_ring(config, ring)
    log = AuditLog(
        AuditConfig.model_validate({"path": f"{folder}/audit", "on_failure": on_failure}), "worker"
    )
    service = await open_keys(config, PolicyConfig(rules=RULES), audit=log)
    return Setting(folder, service, log)


@pytest.fixture
async def setting(tmp_path: Path) -> AsyncIterator[Setting]:
    made = await setting_of(tmp_path, "refuse")
    yield made
    await made.service.close()


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("proxy.audit.files.os.write", fails)


async def test_a_cached_use_writes_nothing(setting: Setting) -> None:
    await setting.service.ring_keys(APP, EMAIL, Action.OPEN)
    before = setting.events()
    for _ in range(10_000):
        assert setting.service.ring_keys_now(APP, EMAIL, Action.OPEN) is not None
    assert setting.events() == before
    await setting.service.close()
    assert setting.events()[-3:] == ["key.uses", "checkpoint.signed", "process.stop"]


async def test_a_log_that_cannot_be_written_takes_the_keys_away(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = await setting.service.ring_keys(APP, EMAIL, Action.OPEN)
    full(monkeypatch)
    with pytest.raises(AuditUnavailable):
        setting.service.ring_keys_now(EVE, EMAIL, Action.OPEN)
    assert not keys.alive
    assert setting.service.ring_keys_now(APP, EMAIL, Action.OPEN) is None
    with pytest.raises(AuditUnavailable):
        await setting.service.ring_keys(APP, EMAIL, Action.OPEN)


async def test_with_continue_the_keys_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = await setting_of(tmp_path, "continue")
    keys = await setting.service.ring_keys(APP, EMAIL, Action.OPEN)
    full(monkeypatch)
    with pytest.raises(AccessDenied):
        setting.service.ring_keys_now(EVE, EMAIL, Action.OPEN)
    assert keys.alive
    await setting.service.close()


async def test_without_its_ring_the_log_does_not_start(tmp_path: Path) -> None:
    config = _config(tmp_path, {})
    await init_root(config)
    await create_ring(config, "app")
    log = AuditLog(AuditConfig(path=f"{tmp_path}/audit"), "worker")
    with pytest.raises(ConfigError, match="keys init"):
        await open_keys(config, PolicyConfig(), audit=log)


async def test_a_signature_is_of_one_line_of_one_writer(setting: Setting) -> None:
    config = _config(setting.folder, {})
    provider = provider_of(config)
    await provider.open()
    writer, mac = "ab" * 16, "cd" * 32
    _, signature = await auditing.signer(provider)(writer, 7, mac)
    assert await auditing.signed(provider, writer, 7, mac, signature)
    for other in (("ac" * 16, 7, mac), (writer, 8, mac), (writer, 7, "ce" * 32)):
        assert not await auditing.signed(provider, *other, signature)
    spoilt = signature[:-1] + bytes([signature[-1] ^ 1])
    assert not await auditing.signed(provider, writer, 7, mac, spoilt)
    assert not await auditing.signed(provider, writer, 7, mac, b"nothing")
    await provider.close()


async def test_each_writer_has_a_key_of_its_own(setting: Setting) -> None:
    config = _config(setting.folder, {})
    provider = provider_of(config)
    await provider.open()
    ring = await store_of(config).get("sealgate-audit")
    assert ring is not None
    assert ring.active is not None
    assert ring.active.wrapped is not None
    one, key_one = await provider.audit_key(ring.active.wrapped, ring.name)
    two, key_two = await provider.audit_key(ring.active.wrapped, ring.name)
    assert one != two
    assert not key_one.same(key_two)
    key_one.wipe()
    key_two.wipe()
    await provider.close()


def test_a_worker_gets_no_key_of_the_audit_ring_by_itself(tmp_path: Path) -> None:
    keys = _config(tmp_path, {})
    audit = AuditConfig(path=f"{tmp_path}/audit")
    guard = Guard(Config(keys=keys, audit=audit))
    with pytest.raises(AccessDenied):
        guard.check("sealgate-audit", None)
    with pytest.raises(AccessDenied):
        guard.check_audit("app")
    guard.check_audit("sealgate-audit")
    with pytest.raises(AccessDenied):
        Guard(Config(keys=keys)).check_audit("sealgate-audit")
