"""Looks through another process's memory for secrets. Never in-process: its needles would count.

Needs root (or the same uid and a dumpable target). Mappings that cannot be read, such as
memfd_secret's, are counted and returned: they are where keys are meant to be.
"""

import os
import signal
import time
from base64 import b64encode
from dataclasses import dataclass, field


@dataclass
class Findings:
    hits: list[tuple[str, str]] = field(default_factory=list)  # (needle's name, mapping)
    unreadable: list[str] = field(default_factory=list)
    scanned_bytes: int = 0


def forms(name: str, secret: bytes) -> dict[str, bytes]:
    """A secret as it could lie about: whole, halves, hexadecimal, base64."""
    return {
        f"{name}/whole": secret,
        f"{name}/first half": secret[: len(secret) // 2],
        f"{name}/second half": secret[len(secret) // 2 :],
        f"{name}/hex": secret.hex().encode(),
        f"{name}/base64": b64encode(secret)[:-4],
    }


def scan(pid: int, needles: dict[str, bytes]) -> Findings:
    """Stops the process, reads every mapping, lets it go on."""
    found = Findings()
    os.kill(pid, signal.SIGSTOP)
    try:
        _wait_stopped(pid)
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in maps:
                where, access, *rest = line.split(maxsplit=5)
                name = rest[-1].strip() if len(rest) == 4 else "anonymous"
                if name in ("[vvar]", "[vsyscall]", "[vvar_vclock]") or "r" not in access:
                    continue
                start, end = (int(x, 16) for x in where.split("-"))
                try:
                    memory.seek(start)
                    data = memory.read(end - start)
                except OSError:
                    found.unreadable.append(f"{name} {end - start}")
                    continue
                found.scanned_bytes += len(data)
                found.hits += [(n, f"{name} {where}") for n, v in needles.items() if v in data]
    finally:
        os.kill(pid, signal.SIGCONT)
    return found


def _wait_stopped(pid: int) -> None:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        with open(f"/proc/{pid}/stat") as f:
            if f.read().rsplit(")", 1)[1].split()[0] in "Tt":
                return
        time.sleep(0.005)
    raise TimeoutError(f"process {pid} does not stop")
