"""Writes audit.json: a log of two files whose keys and lines are fixed. Run: python -m tests.vectors.audit"""

import asyncio
import json
import os
import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from tests.parts.audited import RING, VERSION, Clock, Log

FILE = Path(__file__).with_name("audit.json")


def made() -> dict[str, object]:
    with TemporaryDirectory() as folder, mock.patch.object(os, "getpid", lambda: 42), \
            mock.patch.object(socket, "gethostname", lambda: "host"), \
            mock.patch("proxy.audit.log.__version__", "1"):  # fmt: skip
        clock = Clock()
        log = Log(Path(folder), 7, clock)
        log.say(1)
        clock.now += 86_400
        log.say(2)
        asyncio.run(log.stop("done"))
        files = {p.name: p.read_text().splitlines() for p in sorted(Path(folder).iterdir())}
    return {"ring_key": RING.hex(), "version_id": VERSION.hex(), "files": files}


if __name__ == "__main__":
    FILE.write_text(json.dumps(made(), indent=1) + "\n")
