"""Settings of the audit log (docs/reference/audit.md). Leaf module."""

from typing import Literal

from pydantic import Field

from proxy.config.base import Section


class AuditConfig(Section):
    """The audit log: a keyed chain of lines in files, which are the truth; other places lag."""

    path: str  # a directory of its own
    ring: str = "sealgate-audit"  # whose key the chains start from
    on_failure: Literal["refuse", "continue"] = "refuse"  # when no line can be written
    sync_milliseconds: int = Field(50, ge=0, le=10_000)  # until a key fetch is on the disk
    rotate_bytes: int = Field(64 * 1024 * 1024, ge=4096)
    summary_seconds: float = Field(60.0, gt=0)  # repeated denials are counted for this long
    checkpoint_seconds: float = Field(10.0, gt=0)  # writers note each other's last lines
    sign_seconds: float = Field(600.0, gt=0)  # the root key (in the token) signs the state
