"""docs/reference/audit.md lists the events as the table has them, and every kind of finding."""

from pathlib import Path

from proxy.audit.events import EVENTS
from proxy.audit.findings import Kind

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "audit.md").read_text()


def test_every_event_is_described_as_it_is() -> None:
    for name, event in EVENTS.items():
        counted = ", counted" if event.counted else ""
        row = (
            f"| `{name}` | {event.meaning} | {', '.join(event.fields)} "
            f"| {event.durability.value}{counted} |"
        )
        assert row in PAGE, row
    assert PAGE.count("\n| `") - PAGE.count("\n| `n`") >= len(EVENTS)


def test_every_finding_is_described() -> None:
    for kind in Kind:
        assert f"\n| {kind.value} | " in PAGE, kind
