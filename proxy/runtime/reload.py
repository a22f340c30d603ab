"""What does a changed configuration need: nothing but a message, new workers, or a restart? Pure.

Running workers take over who may do what, certificates, authentication, servers, limits and
time-outs while every connection stays. What plans and keys are made of (columns, rings, the token),
and all of S3, is the business of new workers. Addresses are bound once.
"""

from typing import Any

from proxy.config.model import Config

_LIVE = ("policy", "drain_seconds")
_LIVE_POSTGRES = (
    "tls",
    "upstream",
    "upstream_tls",
    "target_session_attrs",
    "load_balance_hosts",
    "host_check_seconds",
    "host_retry_seconds",
    "auth",
    "replication",
    "keepalive",
    "limits",
    "catalog",
)


def in_place(old: Config, new: Config) -> bool:
    """Whether running workers can take `new` in place of `old` and keep their connections."""
    return _fixed(old) == _fixed(new)


def _fixed(config: Config) -> dict[str, Any]:
    found = config.model_dump()
    for name in _LIVE:
        del found[name]
    for name in _LIVE_POSTGRES if config.postgres is not None else ():
        del found["postgres"][name]
    return found


def keep_addresses(old: Config, new: Config) -> tuple[Config, list[str]]:
    """`new` with the addresses that are bound already, and the settings that a restart would take.

    A whole protocol that comes or goes is such a setting, too.
    """
    waiting = []
    changes: dict[str, Any] = {}
    for name in ("postgres", "s3", "admin"):
        was, wants = getattr(old, name), getattr(new, name)
        if (was is None) != (wants is None):
            waiting.append(name)
            changes[name] = was
        elif was is not None and was.listen != wants.listen:
            waiting.append(f"{name}.listen")
            changes[name] = wants.model_copy(update={"listen": was.listen})
    return new.model_copy(update=changes), waiting
