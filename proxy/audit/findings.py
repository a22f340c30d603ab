"""What can be wrong with an audit log, and where? Pure; docs/reference/audit.md has the table."""

from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    ALTERED = "altered"  # a line is not what was written
    DELETED = "deleted"  # lines are missing; `line` is the one before the gap
    INSERTED = "inserted"  # a line that the writer did not write here, or wrote elsewhere too
    REORDERED = "reordered"  # a line that stands in another place than it was written
    TRUNCATED = "truncated"  # lines are missing at the end of a writer
    REPLACED = "replaced file"  # no line of the file is genuine
    MISSING = "missing file"
    SWAPPED = "swapped file"  # the file holds what belongs to another name
    ROLLBACK = "rollback"  # the log ends before a state that was seen earlier
    SIGNATURE = "signature"  # a signed checkpoint is not the root's
    UNKNOWN = "unknown key"  # the writer's ring version is not among the keys given


@dataclass(frozen=True, slots=True)
class Finding:
    kind: Kind
    file: str
    line: int  # from 1; 0: the file as a whole
    detail: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.kind.value}: {self.detail}"


@dataclass(slots=True)
class Report:
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # ends that are not marked, torn last lines
    files: int = 0
    lines: int = 0
    writers: int = 0
    signatures: int = 0  # that were checked with the root
    heads: dict[str, list[str | int]] = field(default_factory=dict)  # writer -> file, n, MAC

    def add(self, kind: Kind, file: str, line: int, detail: str) -> None:
        self.findings.append(Finding(kind, file, line, detail))
