"""Which lines are in place, and what explains the others? One writer's lines in, findings out. Pure.

`rows` are all lines of a writer in the order of its files. A genuine row has the number that it was
written with: its key proves it. The longest run of growing numbers is taken to be in place.
"""

from bisect import bisect_left
from dataclasses import dataclass

from proxy.audit.findings import Kind, Report


@dataclass(frozen=True, slots=True)
class Row:
    file: str
    line: int
    n: int  # genuine: its number; else what it claims, 0 if nothing
    genuine: bool
    mac: str = ""
    previous: str = ""
    ends: bool = False  # the line with which a process says that it ends


def check(
    rows: list[Row], indices: dict[str, int], report: Report, before: Row | None = None
) -> None:
    """Adds what is wrong. `indices`: the number of each file among its writer's. `before`: a line
    that comes before these, if the first of them is not the writer's first."""
    kept = _in_place(rows)
    placed = {rows[i].n for i in kept}
    moved = {}
    for i, row in enumerate(rows):
        if row.genuine and i not in kept:
            if row.n in placed or row.n in moved:
                report.add(Kind.INSERTED, row.file, row.line, f"a copy of line {row.n}")
            else:
                moved[row.n] = row
                report.add(
                    Kind.REORDERED, row.file, row.line, f"line {row.n} of this writer stands here"
                )
    strange: list[Row] = []
    for i, row in enumerate(rows):
        if i in kept:
            _gap(before, row, strange, moved, indices, report)
            before, strange = row, []
        elif not row.genuine:
            strange.append(row)
    _tail(before, strange, report)


def _in_place(rows: list[Row]) -> set[int]:
    """Places of the longest strictly growing run of numbers of genuine rows."""
    tops: list[int] = []  # smallest last number of a run of each length
    ends: list[int] = []
    back: dict[int, int] = {}
    for i, row in enumerate(rows):
        if not row.genuine:
            continue
        at = bisect_left(tops, row.n)
        back[i] = ends[at - 1] if at else -1
        if at == len(tops):
            tops.append(row.n)
            ends.append(i)
        else:
            tops[at], ends[at] = row.n, i
    kept, i = set(), ends[-1] if ends else -1
    while i >= 0:
        kept.add(i)
        i = back[i]
    return kept


def _gap(
    before: Row | None, row: Row, strange: list[Row], moved: dict[int, Row],
    indices: dict[str, int], report: Report,
) -> None:  # fmt: skip
    """What stands between two lines in place, and what should."""
    first = before.n + 1 if before else 1
    if first == row.n and not strange:
        if before is not None and row.previous != before.mac:
            report.add(Kind.ALTERED, row.file, row.line, "it follows another line than it says")
        return
    missing = [n for n in range(first, row.n) if n not in moved]
    by_claim = {s.n: s for s in strange if s.n in missing} if len(strange) else {}
    matched = set(map(id, by_claim.values()))
    left = [s for s in strange if id(s) not in matched]
    absent = [n for n in missing if n not in by_claim]
    altered = [*by_claim.values(), *left[: len(absent)]]
    for item in altered:
        report.add(Kind.ALTERED, item.file, item.line, "not what the writer wrote")
    for item in left[len(absent) :]:
        report.add(Kind.INSERTED, item.file, item.line, "no line of the writer")
    gone = absent[len(left) :]
    if gone:
        _missing(before, row, gone, indices, report)


def _missing(
    before: Row | None, row: Row, gone: list[int], indices: dict[str, int], report: Report
) -> None:
    count = f"{len(gone)} line(s), {gone[0]} to {gone[-1]}"
    last = indices[before.file] if before else 0
    if indices[row.file] - last > 1:
        which = ", ".join(str(i) for i in range(last + 1, indices[row.file]))
        report.add(
            Kind.MISSING, row.file, row.line, f"before it: file {which} of the writer, {count}"
        )
    elif before is not None and before.file == row.file:
        report.add(Kind.DELETED, before.file, before.line, f"after it: {count}")
    elif before is not None and row.line > 1:
        report.add(Kind.DELETED, row.file, 0, f"at its beginning: {count}")
    elif before is not None:
        report.add(Kind.DELETED, before.file, before.line, f"after it: {count}")
    else:
        report.add(Kind.DELETED, row.file, 0, f"at its beginning: {count}")


def _tail(before: Row | None, strange: list[Row], report: Report) -> None:
    """After the last line in place: what was there is not known, unless the writer had ended."""
    for row in strange:
        if before is not None and before.ends:
            report.add(Kind.INSERTED, row.file, row.line, "the writer had ended before")
        else:
            report.add(Kind.ALTERED, row.file, row.line, "not what the writer wrote")
