"""Taking a listening address: a TCP port, or a Unix socket that no living process uses. I/O module."""

import os
import socket
import stat

from proxy.config.model import Address
from proxy.errors import ConfigError


def bound(address: Address) -> socket.socket:
    """A socket at this address that does not listen yet. Raises ConfigError.

    A TCP address is taken with SO_REUSEPORT, one socket for each worker; a Unix socket replaces
    what a dead process left, never one that somebody listens on.
    """
    try:
        if address.unix:
            return _bound_unix(address.unix, int(address.unix_mode, 8))
        made = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((address.host, address.port))
    except OSError as error:
        raise ConfigError(
            f"{address}: {error.strerror}; stop what is there or listen elsewhere"
        ) from None
    return made


def _bound_unix(path: str, mode: int) -> socket.socket:
    probe = socket.socket(socket.AF_UNIX)
    try:
        probe.connect(path)
    except ConnectionRefusedError:  # also from what is no socket at all
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ConfigError(f"unix:{path}: is there and is no socket; listen elsewhere") from None
        os.unlink(path)
    except FileNotFoundError:
        pass
    else:
        raise ConfigError(f"unix:{path}: somebody listens there; stop it or listen elsewhere")
    finally:
        probe.close()
    made = socket.socket(socket.AF_UNIX)
    # nobody connects before listen(), so the mode is right before anybody can
    made.bind(path)
    os.chmod(path, mode)
    return made
