"""How are lines shown to people and other programs? Text, CSV, JSON, CEF; and which of them. Pure."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass

from proxy.audit.chain import Entry

COLUMNS = (
    "time", "writer", "n", "event", "principal", "action", "resource", "ring", "version", "result",
    "count", "detail", "other",
)  # fmt: skip
_SEVERITY = {"key.deny": 6, "agent.deny": 9, "auth.fail": 6, "open.fail": 9, "audit.gap": 8}


@dataclass(frozen=True, slots=True)
class Filter:
    """Empty: all. Times as in the lines (any prefix of one); `principal` and `resource` may end
    in `*`."""

    since: str = ""
    until: str = ""  # exclusive
    principal: str = ""
    resource: str = ""
    action: str = ""
    event: str = ""

    def takes(self, entry: Entry) -> bool:
        fields = entry.fields
        return (
            entry.time >= self.since
            and (not self.until or entry.time < self.until)
            and _like(self.principal, fields.get("principal"))
            and _like(self.resource, fields.get("resource", fields.get("ring")))
            and _like(self.action, fields.get("action"))
            and _like(self.event, entry.event)
        )


def _like(pattern: str, value: object) -> bool:
    if not pattern:
        return True
    text = "" if value is None else str(value)
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def text(entry: Entry) -> str:
    """One line for a terminal; what clients chose is quoted."""
    words = [f"{k}={_plain(v)}" for k, v in entry.fields.items() if k != "heads"]
    if isinstance(heads := entry.fields.get("heads"), list):
        words.append(f"heads={len(heads)}")
    return f"{entry.time} {entry.writer[:8]}:{entry.n} {entry.event} " + " ".join(words)


def _plain(value: object) -> str:
    shown = str(value)
    harmless = shown and all(c.isalnum() or c in "-_.:/*@+," for c in shown)
    return shown if harmless else json.dumps(shown)


def csv_lines(entries: Iterator[Entry]) -> Iterator[str]:
    """RFC 4180, a heading first; a text that a spreadsheet would compute gets an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for entry in entries:
        row = dict(entry.fields)
        known = [row.pop(name, "") for name in COLUMNS[4:-1]]
        other = json.dumps(row) if row else ""
        cells = [entry.time, entry.writer, entry.n, entry.event, *known, other]
        writer.writerow([_cell(c) for c in cells])
        yield out.getvalue()
        out.seek(0)
        out.truncate()


def _cell(value: object) -> object:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value


def json_line(entry: Entry) -> str:
    document = {"time": entry.time, "writer": entry.writer, "n": entry.n, "event": entry.event}
    return json.dumps({**document, **entry.fields, "mac": entry.mac}) + "\n"


def cef(entry: Entry, release: str) -> str:
    """ArcSight Common Event Format, version 0."""
    severity = _SEVERITY.get(entry.event, 3)
    pairs = [("rt", entry.time), ("externalId", f"{entry.writer}:{entry.n}")]
    names = {"principal": "suser", "action": "act", "result": "outcome", "count": "cnt",
             "resource": "request", "detail": "msg"}  # fmt: skip
    rest = {}
    for name, value in entry.fields.items():
        if name in names:
            pairs.append((names[name], str(value)))
        else:
            rest[name] = value
    if rest:
        pairs += [("cs1Label", "fields"), ("cs1", json.dumps(rest))]
    shown = " ".join(f"{k}={_cef_value(v)}" for k, v in pairs)
    return f"CEF:0|Sealgate|sealgate|{release}|{entry.event}|{entry.event}|{severity}|{shown}\n"


def _cef_value(value: str) -> str:
    for raw, escaped in (("\\", "\\\\"), ("=", "\\="), ("\n", "\\n"), ("\r", "\\r")):
        value = value.replace(raw, escaped)
    return value
