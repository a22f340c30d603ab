"""Every setting of the product, as frozen types. The type is the manual; `load.py` reads the file.

Leaf module: no I/O. Units are in the names. A secret is never a value here, only where it is:
`SecretRef` names an environment variable, a file or a command.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SecretRef(_Model):
    """Where a secret is. Exactly one of the three."""

    env: str | None = None
    file: str | None = None
    command: str | None = None


class Address(_Model):
    """`host:port` (port 0: the system chooses) or `unix:/path`."""

    host: str = "127.0.0.1"
    port: int = 0
    unix: str | None = None


class Pkcs11Provider(_Model):
    kind: Literal["pkcs11"]
    module: str
    token_label: str
    key_label: str = "sealgate-root"
    key_id_hex: str | None = None
    pin: SecretRef
    environment: dict[str, str] = Field(default_factory=dict)  # e.g. SOFTHSM2_CONF
    sessions: int = Field(4, ge=1, le=64)
    call_timeout_seconds: float = Field(5.0, gt=0)


class SoftwareProvider(_Model):
    kind: Literal["software"]
    file: str  # sealed root file
    passphrase: SecretRef


class CacheLimits(_Model):
    max_age_seconds: float = Field(300.0, gt=0)
    max_idle_seconds: float = Field(60.0, gt=0)
    max_uses: int = Field(2**32, ge=1)
    max_bytes: int = Field(2**38, ge=1)
    entries: int = Field(1024, ge=1)


class FileStore(_Model):
    kind: Literal["file"]
    path: str


class KeysConfig(_Model):
    provider: Pkcs11Provider | SoftwareProvider = Field(discriminator="kind")
    store: FileStore
    cache: CacheLimits = CacheLimits()
    arena_slots: int = Field(4096, ge=64, le=65536)
    allow_unlocked_memory: bool = False


class TlsServer(_Model):
    """TLS towards clients."""

    cert_file: str
    key_file: str
    require: bool = False  # refuse clients that do not ask for TLS


class TlsClient(_Model):
    """TLS towards the server or origin. Verification is on; there is no silent downgrade."""

    mode: Literal["disable", "require", "verify-ca", "verify-full"] = "verify-full"
    ca_file: str | None = None
    server_name: str | None = None


class ColumnConfig(_Model):
    column: str  # schema.table.column
    type: str  # declared PostgreSQL type: text, int4, numeric(12,2), date, ...
    ring: str
    domain: str | None = None  # default "<database>.<schema>.<table>.<column>"
    equality: bool = False
    transform: Literal["none"] = "none"
    pad_to_bytes: int = Field(0, ge=0, le=65536)  # 0: none
    acknowledge: tuple[str, ...] = ()  # leakage accepted, e.g. "equality-low-cardinality"


class PostgresLimits(_Model):
    max_message_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    max_startup_bytes: int = Field(10_000, ge=256)
    max_statements_per_session: int = Field(4096, ge=1)
    plan_cache_bytes: int = Field(32 * 1024 * 1024, ge=0)
    startup_timeout_seconds: float = Field(30.0, gt=0)
    connect_timeout_seconds: float = Field(10.0, gt=0)


class CatalogAccess(_Model):
    """The control connection that reads the catalogue (names and types only)."""

    user: str
    password: SecretRef | None = None


class PostgresConfig(_Model):
    listen: Address
    upstream: Address
    database: str  # the one whose columns are listed; others are forwarded untouched
    tls: TlsServer | None = None
    upstream_tls: TlsClient = TlsClient()
    catalog: CatalogAccess
    columns: tuple[ColumnConfig, ...] = ()
    limits: PostgresLimits = PostgresLimits()


class S3Credential(_Model):
    access_key: str
    secret: SecretRef
    principal: str


class OriginConfig(_Model):
    name: str
    endpoint: str  # https://host[:port] or http://
    region: str = "us-east-1"
    addressing: Literal["path", "virtual"] = "path"
    access_key: SecretRef | None = None  # None: botocore's provider chain
    secret_key: SecretRef | None = None
    ca_file: str | None = None


class BucketConfig(_Model):
    """First match wins. `bucket` may end in `*`; `prefix` restricts to keys below it."""

    bucket: str
    prefix: str = ""
    origin: str
    state: Literal["sealed", "mixed", "plain"] = "sealed"
    ring: str | None = None  # required unless plain


class S3Limits(_Model):
    max_header_bytes: int = Field(64 * 1024, ge=4096)
    max_requests: int = Field(1024, ge=1)
    stall_timeout_seconds: float = Field(60.0, gt=0)
    clock_skew_seconds: int = Field(900, ge=1)


class S3Config(_Model):
    listen: Address
    region: str = "us-east-1"
    host_suffix: str | None = None  # enables virtual-host style: <bucket>.<suffix>
    tls: TlsServer | None = None
    credentials: tuple[S3Credential, ...]
    origins: tuple[OriginConfig, ...]
    buckets: tuple[BucketConfig, ...]
    limits: S3Limits = S3Limits()


class PolicyRule(_Model):
    """`principals` are like "postgres:app", "s3:reader" or "*"; `resources` like
    "column:shop.public.*" or "bucket:docs/*". Without any rule, every authenticated principal may
    seal and open; with rules, what no rule allows is denied, and a deny wins."""

    principals: tuple[str, ...]
    resources: tuple[str, ...]
    actions: tuple[Literal["seal", "open"], ...] = ("seal", "open")
    effect: Literal["allow", "deny"] = "allow"


class AdminConfig(_Model):
    listen: Address = Address(port=9932)


class LogConfig(_Model):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class Config(_Model):
    keys: KeysConfig
    postgres: PostgresConfig | None = None
    s3: S3Config | None = None
    policy: tuple[PolicyRule, ...] = ()
    admin: AdminConfig = AdminConfig()
    log: LogConfig = LogConfig()
    workers: int = Field(0, ge=0, le=64)  # 0: one per core
    drain_seconds: float = Field(30.0, ge=0)
