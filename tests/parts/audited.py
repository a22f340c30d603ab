"""A writer of the audit log with a key of the test's, on a clock of the test's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxy import native
from proxy.audit.findings import Report
from proxy.audit.log import AuditLog, WriterKey
from proxy.audit.record import Happening
from proxy.audit.verify import Verifier
from proxy.config.audit import AuditConfig
from proxy.crypto import kdf

RING = bytes(range(32))  # a known ring key
VERSION = b"V" * 16


def master() -> native.KeyHandle:
    native.arena_init(1024, True)
    ring = native.key_import(bytearray(RING))
    try:
        return kdf.audit_master(ring)
    finally:
        ring.wipe()


class Clock:
    """Wall and boot time, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_764_000_000.0

    def __call__(self) -> float:
        return self.now


class Log(AuditLog):
    """Started, and known by a small number."""

    def __init__(self, path: Path, number: int, clock: Clock, **settings: Any) -> None:
        config = AuditConfig.model_validate({"path": str(path), **settings})
        super().__init__(config, "worker", "c" * 64, wall=clock, boot=clock)
        self.writer = bytes([number]) * 16
        key = master()
        try:
            first = kdf.audit_writer_key(key, self.writer)
        finally:
            key.wipe()
        self.start(WriterKey(self.writer, first, VERSION), "sealgate-audit", None)

    def say(self, i: int) -> None:
        self.write(Happening("ring.rotate", {"ring": f"ring{i}", "version": i}))


def verify(path: Path, against: Mapping[str, list[str | int]] | None = None, **more: Any) -> Report:
    key = master()
    try:
        return Verifier(path, {VERSION.hex(): key}, against=against, **more).run()
    finally:
        key.wipe()
