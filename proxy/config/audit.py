"""Settings of the audit log (docs/reference/audit.md). Leaf module."""

from typing import Literal

from pydantic import Field, model_validator

from proxy.config.base import SecretRef, Section


class AuditSyslog(Section):
    """Lines also go to a syslog server, as RFC 5424. Exactly one of `unix` and `host`."""

    unix: str | None = None  # path of a datagram socket, e.g. /dev/log
    host: str | None = None
    port: int = Field(6514, ge=1, le=65535)
    protocol: Literal["udp", "tcp", "tls"] = "tls"  # with `host`
    ca_file: str | None = None  # for tls; none: the system's
    facility: int = Field(13, ge=0, le=23)  # 13: log audit

    @model_validator(mode="after")
    def _one_place(self) -> "AuditSyslog":
        if (self.unix is None) == (self.host is None):
            raise ValueError("write exactly one of `unix` and `host`")
        return self


class AuditPostgres(Section):
    """Lines also go to a table; the user needs nothing but INSERT on it."""

    # a connection string, as postgresql://audit@db.internal/logs?sslmode=verify-full
    dsn: SecretRef
    table: str = Field("sealgate_audit", pattern=r"^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$")


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
    syslog: AuditSyslog | None = None
    postgres: AuditPostgres | None = None
