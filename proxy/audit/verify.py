"""Is the log whole, and if not, where not? I/O module: reads the directory, nothing else.

What one writer's lines say by themselves is in `order.py`. Here are the files: which belong to whom,
and what other writers, the auditor's own notes and the root's signatures say of how long each was.
An end that is cut off behind the last line that anybody has seen cannot be told from a crash: it is
a note, not a finding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from proxy.audit import chain
from proxy.audit.events import Field
from proxy.audit.files import FileName, lines_of, listed, parse_name
from proxy.audit.findings import Kind, Report
from proxy.audit.ladder import Ladder
from proxy.audit.order import Row, check
from proxy.crypto import kdf
from proxy.native import KeyHandle

Masters = Mapping[str, KeyHandle]  # by version id, hexadecimal
CheckSignature = Callable[[str, int, str, bytes, bytes], bool]  # writer, n, MAC, root, signature
Heads = Mapping[str, list[str | int]]  # writer -> file, n, MAC


@dataclass(slots=True)
class _File:
    name: FileName
    rows: list[Row] = field(default_factory=list)
    belongs: FileName | None = None  # what its first line says, if that is genuine
    after: FileName | None = None  # and which was before it
    torn: bool = False


@dataclass(slots=True)
class _Seen:
    """What was said of a writer, and by whom."""

    file: str
    n: int
    mac: str
    where: str
    kind: Kind


class Verifier:
    """`run` once. `since`: a day (YYYYMMDD); files of days before may have been taken away."""

    def __init__(
        self,
        directory: Path,
        masters: Masters,
        *,
        against: Heads | None = None,
        check_signature: CheckSignature | None = None,
        since: str = "",
    ) -> None:
        self._directory = directory
        self._masters = masters
        self._against = against or {}
        self._check = check_signature
        self._since = since
        self._ladders: dict[str, Ladder | None] = {}
        self._seen: list[_Seen] = []
        self._signed: list[tuple[Row, Mapping[str, Field], str]] = []
        self._last_event: dict[str, str] = {}
        self.report = Report()

    def run(self) -> Report:
        report = self.report
        names = [n for n in listed(self._directory) if n.day >= self._since]
        try:
            files = [self._read(name) for name in names]
        finally:
            for ladder in self._ladders.values():
                if ladder is not None:
                    ladder.wipe()
        report.files = len(files)
        writers = self._by_writer(files)
        macs: dict[str, dict[int, str]] = {}
        for writer, own in sorted(writers.items()):
            macs[writer] = self._writer(writer, own)
        report.writers = len(writers)
        for writer, (name, n, mac) in self._against.items():
            seen = _Seen(str(name), int(n), str(mac), "an earlier verification", Kind.ROLLBACK)
            self._weigh(writer, seen, macs)
        for seen in self._seen:
            found = parse_name(seen.file)
            if found is not None:
                self._weigh(found.writer, seen, macs)
        self._signatures(macs)
        report.findings = list(dict.fromkeys(report.findings))
        return report

    # -- files ---------------------------------------------------------------------------------

    def _read(self, name: FileName) -> _File:
        found = _File(name)
        for number, (line, whole) in enumerate(lines_of(self._directory / str(name)), 1):
            if not whole and chain.parse(line) is None:
                found.torn = True
                break
            self.report.lines += 1
            entry = chain.parse(line)
            if entry is None:
                found.rows.append(Row(str(name), number, 0, False))
                continue
            if number == 1:
                self._ladder_of(entry)
            genuine = self._genuine(entry, name.writer)
            ends = entry.event == "process.stop"
            row = Row(str(name), number, entry.n, genuine, entry.mac, entry.previous, ends)
            if genuine and number == 1 and entry.event == "file.open":
                found.belongs = parse_name(str(entry.fields.get("file")))
                found.after = parse_name(str(entry.fields.get("previous")))
            if genuine:
                self._collect(row, entry)
            found.rows.append(row)
        return found

    def _ladder_of(self, entry: chain.Entry) -> None:
        """The writer's keys, by what the first line of a file says; a lie gives keys that fit
        nothing."""
        version = entry.fields.get("version_id")
        known = self._ladders.get(entry.writer)
        if entry.event != "file.open" or not isinstance(version, str) or known is not None:
            return
        master = self._masters.get(version)
        try:
            writer = bytes.fromhex(entry.writer)
        except ValueError:
            return
        if master is None or len(writer) != 16:
            self._ladders[entry.writer] = None
            return
        ladder = Ladder(kdf.audit_writer_key(master, writer))
        key = ladder.key(entry.n)
        if key is not None and chain.genuine(entry, key):
            self._ladders[entry.writer] = ladder
        else:
            ladder.wipe()

    def _genuine(self, entry: chain.Entry, named: str) -> bool:
        ladder = self._ladders.get(entry.writer)
        if ladder is None and entry.writer == named and named not in self._ladders:
            ladder = self._guess(named)  # its first line was deleted or altered
        key = ladder.key(entry.n) if ladder is not None else None
        if ladder is None or key is None or not chain.genuine(entry, key):
            return False
        ladder.prove(entry.n)
        return True

    def _guess(self, writer: str) -> Ladder | None:
        """The keys of a writer whose first line does not tell: of the masters, the one that fits a
        line of its."""
        for name in listed(self._directory):
            if name.writer != writer:
                continue
            entries = (chain.parse(line) for line, _ in lines_of(self._directory / str(name)))
            sample = [e for _, e in zip(range(50), entries, strict=False) if e is not None]
            for master in self._masters.values():
                ladder = Ladder(kdf.audit_writer_key(master, bytes.fromhex(writer)))
                for entry in sample:
                    key = ladder.key(entry.n)
                    if key is not None and chain.genuine(entry, key):
                        self._ladders[writer] = ladder
                        return ladder
                ladder.wipe()
        self._ladders[writer] = None
        return None

    def _collect(self, row: Row, entry: chain.Entry) -> None:
        self._last_event[entry.writer] = entry.event
        heads = entry.fields.get("heads")
        where = f"{row.file}:{row.line}"
        for head in heads if isinstance(heads, list) else []:
            if isinstance(head, list) and len(head) == 3 and type(head[1]) is int:
                seen = _Seen(str(head[0]), head[1], str(head[2]), where, Kind.TRUNCATED)
                self._seen.append(seen)
        if entry.event == "checkpoint.signed":
            self._signed.append((row, entry.fields, entry.writer))

    def _by_writer(self, files: list[_File]) -> dict[str, list[_File]]:
        """Each file under the writer that it belongs to, in the order of that writer."""
        right = {str(f.name) for f in files if f.belongs == f.name}
        writers: dict[str, list[_File]] = {}
        for file in files:
            place = file.name
            if file.belongs is not None and file.belongs != file.name:
                other = str(file.belongs)
                if other in right:
                    self.report.add(Kind.INSERTED, str(file.name), 0, f"a copy of {other}")
                    continue
                self.report.add(Kind.SWAPPED, str(file.name), 0, f"holds {other}")
                place = file.belongs
            if len(file.rows) > 1 and not any(row.genuine for row in file.rows):
                self._strange_file(file, self._ladders.get(file.name.writer) is not None)
                writers.setdefault(file.name.writer, [])
                continue
            file.name = place
            writers.setdefault(place.writer, []).append(file)
        for own in writers.values():
            own.sort(key=lambda f: f.name.index)
        return writers

    def _strange_file(self, file: _File, known: bool) -> None:
        first = next(lines_of(self._directory / str(file.name)))[0]
        entry = chain.parse(first)
        version = entry.fields.get("version_id") if entry is not None else None
        if not known and isinstance(version, str) and version not in self._masters:
            self.report.add(
                Kind.UNKNOWN, str(file.name), 0, f"version {version}; cannot be verified"
            )
        else:
            self.report.add(Kind.REPLACED, str(file.name), 0, "no line of it is the writer's")

    # -- one writer ----------------------------------------------------------------------------

    def _writer(self, writer: str, files: list[_File]) -> dict[int, str]:
        """Checks its lines; gives the MACs of those that are genuine."""
        if not files:
            return {}
        rows = [row for file in files for row in file.rows]
        indices = {row.file: file.name.index for file in files for row in file.rows}
        first, before = files[0], None
        if first.belongs is not None and first.after is not None and first.after.day < self._since:
            start = first.rows[0]  # what was before it was taken away by right
            before = Row("", 0, start.n - 1, True, start.previous)
            indices[""] = first.name.index - 1
        check(rows, indices, self.report, before)
        for file in files[:-1]:
            if file.torn:
                self.report.add(Kind.TRUNCATED, str(file.name), len(file.rows), "its end is torn")
        macs = {row.n: row.mac for row in rows if row.genuine}
        last = str(files[-1].name)
        if macs:
            top = max(macs)
            self.report.heads[writer] = [last, top, macs[top]]
        if files[-1].torn:
            self.report.notes.append(f"{last}: the last line is torn, as by a crash")
        elif self._last_event.get(writer) != "process.stop":
            self.report.notes.append(f"{last}: the end is not marked: running, or ended by force")
        return macs

    # -- what others saw -----------------------------------------------------------------------

    def _weigh(self, writer: str, seen: _Seen, macs: dict[str, dict[int, str]]) -> None:
        name = parse_name(seen.file)
        if name is None or name.day < self._since:
            return
        own = macs.get(writer, {})
        there = (self._directory / seen.file).exists()
        if seen.n in own:
            if not own[seen.n].startswith(seen.mac):
                self.report.add(
                    Kind.REPLACED, seen.file, 0, f"its line {seen.n} is not the one in {seen.where}"
                )
            return
        if any(n > seen.n for n in own):
            return  # a gap, and found as such
        missing = f"line {seen.n} was there by {seen.where}"
        if own or there:
            at = max(own, default=0)
            if seen.kind is Kind.TRUNCATED and not there:
                self.report.add(Kind.MISSING, seen.file, 0, missing)
            else:
                self.report.add(seen.kind, seen.file, 0, f"ends with line {at}; {missing}")
        elif seen.kind is Kind.ROLLBACK:
            self.report.add(Kind.ROLLBACK, seen.file, 0, missing)
        else:
            self.report.add(Kind.MISSING, seen.file, 0, missing)

    def _signatures(self, macs: dict[str, dict[int, str]]) -> None:
        for row, fields, writer in self._signed:
            n, mac = fields.get("at"), fields.get("at_mac")
            if type(n) is not int or not isinstance(mac, str):
                self.report.add(Kind.SIGNATURE, row.file, row.line, "it signs nothing")
                continue
            if macs.get(writer, {}).get(n, mac) != mac:
                self.report.add(Kind.SIGNATURE, row.file, row.line, f"signs another line {n}")
            if self._check is None:
                continue
            self.report.signatures += 1
            root, signature = str(fields.get("root")), str(fields.get("signature"))
            try:
                good = self._check(writer, n, mac, bytes.fromhex(root), bytes.fromhex(signature))
            except ValueError:
                good = False
            if not good:
                self.report.add(Kind.SIGNATURE, row.file, row.line, "not the root's signature")
