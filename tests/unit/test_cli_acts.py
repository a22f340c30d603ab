"""proxy/cli/acts.py: what an operator's command leaves behind, also where there is no log yet."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.audit import chain
from proxy.audit.files import lines_of, listed
from proxy.audit.record import OperatorAct
from proxy.audit.sink import Sink
from proxy.cli.acts import act, first_act
from proxy.config.model import Config
from proxy.errors import AuditUnavailable, ConfigError
from proxy.keys import build
from proxy.keys.providers.base import CredentialRefused


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("PASS", "a passphrase of the tests")
    return Config.model_validate({
        "keys": {
            "provider": {"kind": "software", "file": str(tmp_path / "root"), "passphrase": {"env": "PASS"}},
            "store": {"kind": "file", "path": str(tmp_path / "rings")},
            "allow_unlocked_memory": True,
        },
        "audit": {"path": str(tmp_path / "audit")},
        "postgres": {
            "listen": {"port": 0}, "upstream": {"port": 5432}, "database": "shop",
            "catalog": {"user": "app"},
        },
    })  # fmt: skip


def events(config: Config) -> list[str]:
    assert config.audit is not None
    place = Path(config.audit.path)
    found = [chain.parse(line) for name in listed(place) for line, _ in lines_of(place / str(name))]
    return [
        e.event for e in found if e is not None and e.event.startswith(("admin", "ring", "root"))
    ]


async def noted(sink: Sink) -> None:
    sink.write(OperatorAct("ring.create", "app", 1))


def initialise(config: Config) -> None:
    async def work(sink: Sink) -> None:
        await build.init_root(config.keys, audit=sink)
        await build.create_ring(config.keys, "sealgate-audit", audit=sink)

    first_act(config, "keys init", "", work)


def test_what_made_the_log_possible_is_written_after_it(config: Config) -> None:
    initialise(config)
    assert events(config) == ["admin.begin", "root.create", "ring.create", "admin.end"]


def test_what_was_done_before_a_failure_is_not_lost_where_there_is_no_log(config: Config) -> None:
    async def fails(sink: Sink) -> None:
        await noted(sink)
        raise ZeroDivisionError

    with capture_logs() as logs, pytest.raises(ZeroDivisionError):
        first_act(config, "keys init", "", fails)
    assert [entry["event"] for entry in logs if entry.get("audit")] == ["ring.create"]
    with pytest.raises(ConfigError):
        act(config, "keys rotate", "", fails)


@pytest.mark.parametrize("how", [act, first_act])
def test_a_command_that_cannot_be_written_down_does_nothing(config: Config, how: object) -> None:
    assert callable(how)
    initialise(config)
    done: list[int] = []

    async def work(sink: Sink) -> None:
        done.append(1)

    audit = config.audit
    assert audit is not None
    elsewhere = Path(audit.path).parent / "a file"
    elsewhere.touch()
    broken = config.model_copy(update={"audit": audit.model_copy(update={"path": str(elsewhere)})})
    with pytest.raises(AuditUnavailable):
        how(broken, "keys rotate", "", work)
    assert not done


@pytest.mark.parametrize("how", [act, first_act])
def test_a_failure_is_written_down_with_its_reason(config: Config, how: object) -> None:
    assert callable(how)
    initialise(config)

    async def fails(sink: Sink) -> None:
        raise ConfigError("not so")

    with pytest.raises(ConfigError, match="not so"):
        how(config, "keys rotate", "", fails)
    assert events(config).count("admin.end") == 2
    assert config.audit is not None
    text = "".join(p.read_text() for p in Path(config.audit.path).glob("*.jsonl"))
    assert "ConfigError: not so" in text


@pytest.mark.parametrize("mode", ["refuse", "continue"])
def test_without_the_root_only_continue_goes_on(
    config: Config, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    initialise(config)
    monkeypatch.setenv("PASS", "not the passphrase")
    assert config.audit is not None
    audit = config.audit.model_copy(update={"on_failure": mode})
    changed = config.model_copy(update={"audit": audit})
    with capture_logs() as logs:
        if mode == "refuse":
            with pytest.raises(CredentialRefused):
                act(changed, "keys disable", "", noted)
        else:
            act(changed, "keys disable", "", noted)
    done = [entry["event"] for entry in logs if entry.get("audit")]
    assert done == ([] if mode == "refuse" else ["ring.create"])
