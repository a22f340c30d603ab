"""Settings of the key agent, the process that holds the root (docs/explanation/architecture.md)."""

from pydantic import Field

from proxy.config.base import Section


class AgentConfig(Section):
    """The process that alone loads the HSM's module, knows its PIN and hands ring keys to workers.

    `socket` is for commands beside a running proxy: they ask the agent instead of opening the token
    themselves. Without it the socket is in a private directory that only the workers know.
    """

    # its own user (a name or a uid), where `serve` is started as root; the token's files and the
    # source of the PIN have to be readable to it, and its group is let into the audit directory
    user: str | None = None
    socket: str | None = None  # a path in a directory that nobody else can write to
    # how long a request waits for a key, a restart of the agent included
    wait_seconds: float = Field(5.0, gt=0)
    # a call into the HSM's module that is given up and still has not come back after this long is
    # cured by ending the agent, which is started again
    hang_seconds: float = Field(10.0, gt=0)
