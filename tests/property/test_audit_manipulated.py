"""proxy/audit/verify.py: whatever is done to a log is found, where it was done."""

import asyncio
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.audit.findings import Kind, Report
from tests.parts.audited import Clock, Log, verify

LINES = 40


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two writers over two days, each in several files; the second one saw the first."""
    path = tmp_path_factory.mktemp("whole")
    clock = Clock()
    first = Log(path, 1, clock, rotate_bytes=4096)
    for i in range(LINES // 2):
        first.say(i)
    clock.now += 86_400
    for i in range(LINES // 2, LINES):
        first.say(i)
    second = Log(path, 2, clock, rotate_bytes=4096)
    for i in range(LINES):
        second.say(i)
    first.say(LINES)
    second.checkpoint()
    for log in (first, second):
        asyncio.run(log.stop("done"))
    third = Log(path, 3, clock)  # saw how they ended
    asyncio.run(third.stop("done"))
    report = verify(path)
    assert not report.findings
    assert not report.notes
    assert report.writers == 3
    assert report.files >= 8
    return path


class Copy:
    """A log that may be spoilt."""

    def __init__(self, whole: Path, folder: str) -> None:
        self.path = Path(folder) / "log"
        shutil.copytree(whole, self.path)
        self.names = sorted(p.name for p in self.path.iterdir())

    def lines(self, name: str) -> list[bytes]:
        return (self.path / name).read_bytes().splitlines(keepends=True)

    def put(self, name: str, lines: list[bytes]) -> None:
        (self.path / name).write_bytes(b"".join(lines))

    def found(self) -> Report:
        return verify(self.path)


places = st.tuples(st.integers(0, 10_000), st.integers(0, 10_000))


def _place(copy: Copy, place: tuple[int, int], spare: int = 0) -> tuple[str, list[bytes], int]:
    name = copy.names[place[0] % len(copy.names)]
    lines = copy.lines(name)
    return name, lines, place[1] % max(1, len(lines) - spare)


@settings(max_examples=60, deadline=None)
@given(places, st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_found_in_its_line(
    whole: Path, place: tuple[int, int], offset: int, change: int
) -> None:
    with TemporaryDirectory() as folder:
        copy = Copy(whole, folder)
        name, lines, at = _place(copy, place)
        line = bytearray(lines[at])
        offset %= len(line) - 1
        line[offset] ^= change
        if line[offset] == 0x0A:
            line[offset] ^= 1
        lines[at] = bytes(line)
        copy.put(name, lines)
        found = copy.found().findings
        assert [(f.kind, f.file, f.line) for f in found if f.kind is Kind.ALTERED] == [
            (Kind.ALTERED, name, at + 1)
        ], found


@settings(max_examples=60, deadline=None)
@given(places)
def test_a_deleted_line_is_missed_behind_the_line_before(
    whole: Path, place: tuple[int, int]
) -> None:
    with TemporaryDirectory() as folder:
        copy = Copy(whole, folder)
        name, lines, at = _place(copy, place, spare=1)
        if at == len(lines) - 1:
            return  # the only one of its file
        del lines[at]
        copy.put(name, lines)
        found = copy.found().findings
        assert found
        first = found[0]
        assert first.kind is Kind.DELETED, found
        if at:
            assert (first.file, first.line) == (name, at)


@settings(max_examples=40, deadline=None)
@given(places)
def test_neighbours_that_change_places_are_found(whole: Path, place: tuple[int, int]) -> None:
    with TemporaryDirectory() as folder:
        copy = Copy(whole, folder)
        name, lines, at = _place(copy, place, spare=1)
        if at + 1 >= len(lines):
            return
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
        copy.put(name, lines)
        found = [f for f in copy.found().findings if f.kind is Kind.REORDERED]
        assert len(found) == 1
        assert found[0].file == name
        assert found[0].line in (at + 1, at + 2)


@settings(max_examples=40, deadline=None)
@given(places, places)
def test_a_copied_line_is_found_where_it_was_put(
    whole: Path, source: tuple[int, int], target: tuple[int, int]
) -> None:
    with TemporaryDirectory() as folder:
        copy = Copy(whole, folder)
        _, from_lines, at = _place(copy, source)
        name, lines, there = _place(copy, target, spare=1)
        if there == 0:
            return  # before the first line of a file: another test
        lines.insert(there, from_lines[at])
        copy.put(name, lines)
        found = copy.found().findings
        assert found
        # a copy beside the original may be taken for the original
        assert any(
            f.kind in (Kind.INSERTED, Kind.REORDERED)
            and f.file == name
            and abs(f.line - (there + 1)) <= 1
            for f in found
        ), found


@pytest.mark.parametrize("which", range(9))
def test_a_file_that_is_gone_is_missed(whole: Path, tmp_path: Path, which: int) -> None:
    copy = Copy(whole, str(tmp_path))
    # nobody came after the last writer: the auditor's own note is for that
    names = [n for n in copy.names if "03" * 16 not in n]
    name = names[which % len(names)]
    (copy.path / name).unlink()
    found = copy.found().findings
    assert found
    assert {f.kind for f in found} <= {Kind.MISSING, Kind.TRUNCATED, Kind.DELETED}
    assert any(f.kind in (Kind.MISSING, Kind.TRUNCATED) for f in found), found


def test_a_cut_end_is_told_from_a_crash_by_who_saw_more(whole: Path, tmp_path: Path) -> None:
    copy = Copy(whole, str(tmp_path))
    name = [n for n in copy.names if "01" * 16 in n][-1]
    copy.put(name, copy.lines(name)[:-1])
    (found,) = copy.found().findings
    assert (found.kind, found.file) == (Kind.TRUNCATED, name)


def test_an_end_that_nobody_saw_is_a_note(whole: Path, tmp_path: Path) -> None:
    copy = Copy(whole, str(tmp_path))
    name = [n for n in copy.names if "03" * 16 in n][-1]
    lines = copy.lines(name)
    copy.put(name, [*lines[:-1], lines[-1][:20]])
    report = copy.found()
    assert not report.findings
    assert len(report.notes) == 1
    assert "torn" in report.notes[0]


def test_two_days_that_changed_names_are_named(whole: Path, tmp_path: Path) -> None:
    copy = Copy(whole, str(tmp_path))
    own = [n for n in copy.names if "01" * 16 in n]
    one, other = own[0], own[-1]
    texts = copy.lines(one), copy.lines(other)
    copy.put(one, texts[1])
    copy.put(other, texts[0])
    found = copy.found().findings
    assert [(f.kind, f.file) for f in found] == [(Kind.SWAPPED, one), (Kind.SWAPPED, other)]


def test_a_forged_file_is_called_so(whole: Path, tmp_path: Path) -> None:
    copy = Copy(whole, str(tmp_path))
    name = next(n for n in copy.names if "02" * 16 in n)
    copy.put(name, [line.replace(b"ring.rotate", b"ring.create") for line in copy.lines(name)])
    copy.put(name, [line[:-10] + b"0123456" + line[-3:] for line in copy.lines(name)])
    found = copy.found().findings
    assert (Kind.REPLACED, name) in {(f.kind, f.file) for f in found}


def test_a_log_put_back_to_an_earlier_state_is_known_by_the_auditors_note(
    tmp_path: Path,
) -> None:
    clock, path = Clock(), tmp_path / "log"
    log = Log(path, 1, clock)
    log.say(1)
    shutil.copytree(path, tmp_path / "earlier")
    for i in range(5):
        log.say(i)
    noted = verify(path).heads
    assert not verify(path, against=noted).findings
    assert not verify(tmp_path / "earlier").findings  # in itself it is whole
    (found,) = verify(tmp_path / "earlier", against=noted).findings
    assert found.kind is Kind.ROLLBACK
    asyncio.run(log.stop("done"))


def test_a_writer_without_a_known_key_is_said_to_be_unknown(whole: Path) -> None:
    from proxy.audit.verify import Verifier

    found = Verifier(whole, {}).run().findings
    assert {f.kind for f in found} == {Kind.UNKNOWN}


def test_days_that_were_taken_away_by_right_are_not_missed(whole: Path, tmp_path: Path) -> None:
    copy = Copy(whole, str(tmp_path))
    days = sorted({n[:8] for n in copy.names})
    for name in copy.names:
        if name.startswith(days[0]):
            (copy.path / name).unlink()
    assert copy.found().findings
    assert not verify(copy.path, since=days[1]).findings
