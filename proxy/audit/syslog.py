"""Lines as RFC 5424 messages: by datagram, or octet-counted (RFC 6587, 5425) over TCP or TLS. I/O module."""

import asyncio
import os
import socket
import ssl

from proxy.audit.chain import Entry
from proxy.audit.events import EVENTS
from proxy.audit.forward import Batch, Place
from proxy.config.audit import AuditSyslog

_WARNING, _INFO = 4, 6
_SEND_SECONDS = 10.0


def message(entry: Entry, line: bytes, facility: int, host: str) -> bytes:
    """One message; the line itself is its text, so that it verifies there too."""
    kind = EVENTS.get(entry.event)
    severity = _WARNING if entry.event == "audit.gap" or (kind and kind.counted) else _INFO
    head = (
        f"<{facility * 8 + severity}>1 {entry.time} {host} sealgate {os.getpid()} {entry.event} - "
    )
    return head.encode() + line


class Datagrams:
    """A Unix socket, or UDP."""

    def __init__(self, sock: socket.socket, config: AuditSyslog) -> None:
        self._sock = sock
        self._facility = config.facility
        self._host = socket.gethostname()

    async def take(self, batch: Batch) -> None:
        loop = asyncio.get_running_loop()
        for entry, line in batch:
            text = message(entry, line, self._facility, self._host)
            await asyncio.wait_for(loop.sock_sendall(self._sock, text), _SEND_SECONDS)

    async def close(self) -> None:
        self._sock.close()


class Stream:
    """TCP or TLS."""

    def __init__(self, writer: asyncio.StreamWriter, config: AuditSyslog) -> None:
        self._writer = writer
        self._facility = config.facility
        self._host = socket.gethostname()

    async def take(self, batch: Batch) -> None:
        for entry, line in batch:
            text = message(entry, line, self._facility, self._host)
            self._writer.write(b"%d %s" % (len(text), text))
        await asyncio.wait_for(self._writer.drain(), _SEND_SECONDS)

    async def close(self) -> None:
        self._writer.close()


async def connect(config: AuditSyslog) -> Place:
    """Raises OSError, ssl.SSLError."""
    if config.unix is not None or config.protocol == "udp":
        return Datagrams(await _datagram(config), config)
    tls = None
    if config.protocol == "tls":
        tls = ssl.create_default_context(cafile=config.ca_file)
        tls.minimum_version = ssl.TLSVersion.TLSv1_2
    opened = asyncio.open_connection(config.host, config.port, ssl=tls)
    _, writer = await asyncio.wait_for(opened, _SEND_SECONDS)
    return Stream(writer, config)


async def _datagram(config: AuditSyslog) -> socket.socket:
    loop = asyncio.get_running_loop()
    if config.unix is not None:
        family, address = socket.AF_UNIX, config.unix
    else:
        found = await loop.getaddrinfo(config.host, config.port, type=socket.SOCK_DGRAM)
        family, address = found[0][0], found[0][4]  # type: ignore[assignment]
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock
