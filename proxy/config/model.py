"""Every setting of the product, as frozen types. The type is the manual; `load.py` reads the file.

Leaf module: no I/O. Units are in the names. A secret is never a value here, only where it is:
`SecretRef` names an environment variable, a file or a command.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from proxy.config.agent import AgentConfig
from proxy.config.audit import AuditConfig
from proxy.config.base import SecretRef as SecretRef
from proxy.config.base import Section
from proxy.config.hsm import Pkcs11Cluster, Pkcs11Provider
from proxy.config.policy import PolicyConfig
from proxy.config.policy import PolicyRule as PolicyRule


class Address(Section):
    """`host:port` (port 0: the system chooses) or `unix:/path`, as one text or as a mapping."""

    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, le=65535)
    unix: str | None = None  # path of a socket; clients of PostgreSQL expect DIR/.s.PGSQL.PORT
    unix_mode: str = Field("0777", pattern="^0?[0-7]{3}$")  # who may connect; when listening

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.startswith("unix:"):
            return {"unix": value.removeprefix("unix:")}
        host, colon, port = value.rpartition(":")
        return {"host": host.strip("[]"), "port": port} if colon else {"host": value}

    def __str__(self) -> str:
        if self.unix:
            return f"unix:{self.unix}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _one_or_more(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


Addresses = Annotated[tuple[Address, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
TlsVersion = Literal["1.2", "1.3"]


class SoftwareProvider(Section):
    kind: Literal["software"]
    file: str  # sealed root file
    passphrase: SecretRef


class CacheLimits(Section):
    max_age_seconds: float = Field(300.0, gt=0)
    max_idle_seconds: float = Field(60.0, gt=0)
    max_uses: int = Field(2**32, ge=1)
    max_bytes: int = Field(2**38, ge=1)
    entries: int = Field(1024, ge=1)


class FileStore(Section):
    kind: Literal["file"]
    path: str


class KeysConfig(Section):
    provider: Pkcs11Provider | Pkcs11Cluster | SoftwareProvider = Field(discriminator="kind")
    store: FileStore
    cache: CacheLimits = CacheLimits()
    agent: AgentConfig = AgentConfig()
    arena_slots: int = Field(4096, ge=64, le=65536)
    allow_unlocked_memory: bool = False


class TlsServer(Section):
    """TLS towards clients."""

    cert_file: str
    key_file: str
    require: bool = False  # refuse clients that do not ask for TLS


class NamedCertificate(Section):
    """A certificate for clients that ask for this host name (SNI); `*.example.com` covers a level."""

    name: str
    cert_file: str
    key_file: str


class ClientCertificates(Section):
    """Certificates that clients show (mTLS). One that is shown is always verified.

    The identity is a name in the certificate: its common name, its whole subject (RFC 4514), or
    the one alternative name of a kind. With `must_match_user` it has to be the role that the
    client asks for, or one of those that `roles` lists for it. `principal` says who policy sees:
    the role, as `postgres:NAME`, or the certificate, as `mtls:IDENTITY`.
    """

    ca_file: str
    crl_file: str | None = None
    required: bool = True
    identity: Literal["cn", "dn", "dns", "uri", "email"] = "cn"
    must_match_user: bool = True
    roles: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    principal: Literal["role", "certificate"] = "role"


class PostgresTls(TlsServer):
    """TLS towards PostgreSQL clients, asked for by SSLRequest or begun directly (`direct`)."""

    min_version: TlsVersion = "1.2"
    direct: bool = True  # sslnegotiation=direct, with ALPN `postgresql`
    by_name: tuple[NamedCertificate, ...] = ()
    clients: ClientCertificates | None = None


class TlsClient(Section):
    """TLS towards the server. Verification is on; there is no silent downgrade."""

    mode: Literal["disable", "require", "verify-ca", "verify-full"] = "verify-full"
    ca_file: str | None = None  # none: the system's
    crl_file: str | None = None
    server_name: str | None = None  # what the certificate must name, and SNI; default: the host
    cert_file: str | None = None  # what the proxy shows to the server
    key_file: str | None = None
    min_version: TlsVersion = "1.2"
    negotiation: Literal["request", "direct"] = "request"  # direct: PostgreSQL 17 and later


class RangeConfig(Section):
    """Range search by keyed buckets: what lies between `low` and `high` is cut into buckets of `width`.

    `low` and `high` are values of the column's type; `width` is a number of the type's unit: days for
    date, seconds for time and timestamps, the value itself for numbers.
    """

    low: str
    high: str
    width: str
    max_buckets: int = Field(256, ge=1, le=4096)  # a search that needs more is refused


class MatchConfig(Section):
    """LIKE and ILIKE by tokens of the text: every run of `ngram` characters (0: none), and the first
    characters in the lengths of `prefixes`."""

    ngram: int = Field(3, ge=0, le=8)
    prefixes: tuple[int, ...] = ()
    case: Literal["unicode", "ascii"] = "unicode"  # how ILIKE compares; "ascii" for a "C" database


class ColumnConfig(Section):
    column: str  # schema.table.column
    type: str  # declared PostgreSQL type: text, int4, numeric(12,2), date, ...
    ring: str
    domain: str | None = None  # default "<database>.<schema>.<table>.<column>"
    equality: bool = False
    # a second tag, over what this function makes of the value: lower(c) = lower($1), ...
    transform: Literal["none", "lower", "upper", "ascii-lower", "ascii-upper", "nfc", "trim"] = (
        "none"
    )
    order: bool = False  # <, BETWEEN, ORDER BY, min, max by an index; the order becomes visible
    range: RangeConfig | None = None  # <, BETWEEN by buckets; the bucket becomes visible
    match: MatchConfig | None = None  # LIKE, ILIKE; common pieces of text become visible
    layout: Literal["generated", "expression"] = "generated"  # where the tags are indexed
    # migrating: while `sealgate migrate` works on it, the server's catalogue says whether the column is
    # sealed, so that who runs the server could have it written in clear; set it back afterwards
    state: Literal["sealed", "migrating"] = "sealed"
    pad_to_bytes: int = Field(0, ge=0, le=65536)  # hides lengths below multiples of it; 0: none
    pad: Literal["none", "max"] = "none"  # max: to the longest value that the type allows
    # what a reader gets for a value that does not open: the error XX001, or NULL (an attacker at the
    # server can then make values vanish without an error)
    on_error: Literal["error", "null"] = "error"
    acknowledge: tuple[str, ...] = ()  # leakage accepted, e.g. "equality-low-cardinality"


class PostgresLimits(Section):
    max_message_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    max_startup_bytes: int = Field(10_000, ge=256)
    max_statements_per_session: int = Field(4096, ge=1)
    plan_cache_bytes: int = Field(32 * 1024 * 1024, ge=0)
    startup_timeout_seconds: float = Field(30.0, gt=0)  # from accept to the end of authentication
    connect_timeout_seconds: float = Field(10.0, gt=0)
    # Time-outs of this proxy; 0: none. The server's own settings of these names stay in force.
    statement_timeout_seconds: float = Field(0.0, ge=0)  # then cancelled on the server
    idle_session_timeout_seconds: float = Field(0.0, ge=0)
    idle_in_transaction_timeout_seconds: float = Field(0.0, ge=0)
    # Counts are for each worker process; 0: no limit.
    max_connections: int = Field(0, ge=0)
    max_connections_per_user: int = Field(0, ge=0)
    max_unauthenticated: int = Field(1024, ge=1)  # connections that are still in start-up


class Keepalive(Section):
    """TCP keepalive of both legs. 0: the system's default; `idle_seconds` 0: none at all."""

    idle_seconds: int = Field(60, ge=0)
    interval_seconds: int = Field(10, ge=0)
    count: int = Field(6, ge=0)
    user_timeout_seconds: int = Field(0, ge=0)  # unacknowledged data for this long ends it


class ServerLogin(Section):
    """Who the proxy is towards the server, where it authenticates clients itself."""

    user: str | None = None  # none: the client's own name
    password: SecretRef | None = None  # none: the server asks for none (certificate, peer, trust)


class PostgresUser(Section):
    """A client that the proxy knows. `secret` is a SCRAM secret as in pg_authid.rolpassword:
    `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`; without one, only a certificate
    lets this user in."""

    user: str
    secret: SecretRef | None = None
    server: ServerLogin | None = None  # default: auth.server


class PostgresAuth(Section):
    """Who authenticates clients: the server (`passthrough`), or the proxy by a SCRAM secret
    (`scram`), by a certificate (`certificate`, needs tls.clients), or by either of the two.

    `server_methods` are what the proxy agrees to towards the server. `md5` and `password` are
    given only inside TLS, and only if they are listed here.
    """

    mode: Literal["passthrough", "scram", "certificate", "certificate-or-scram"] = "passthrough"
    users: tuple[PostgresUser, ...] = ()
    users_file: str | None = None  # lines of "user" "SCRAM secret", as PgBouncer's auth_file
    channel_binding: Literal["disable", "offer", "require"] = "offer"  # towards clients
    server: ServerLogin = ServerLogin()
    server_methods: tuple[
        Literal["scram-sha-256-plus", "scram-sha-256", "md5", "password"], ...
    ] = ("scram-sha-256-plus", "scram-sha-256")
    mock_secret: SecretRef | None = None  # makes unknown users look alike on all instances


class CatalogAccess(Section):
    """The control connection that reads the catalogue (names and types only)."""

    user: str
    password: SecretRef | None = None


class PostgresConfig(Section):
    listen: Addresses  # one, or a list: TCP and a Unix socket for a sidecar
    upstream: Addresses  # one, or a list that is tried in this order
    database: str  # the one whose columns are listed; others are forwarded untouched
    tls: PostgresTls | None = None  # not on Unix sockets, as with PostgreSQL itself
    upstream_tls: TlsClient = TlsClient()
    target_session_attrs: Literal[
        "any", "read-write", "read-only", "primary", "standby", "prefer-standby"
    ] = "any"
    load_balance_hosts: Literal["disable", "random"] = "disable"
    host_check_seconds: float = Field(1.0, ge=0)  # how old what is known of a host's role may be
    host_retry_seconds: float = Field(5.0, ge=0)  # a host that failed is tried last for this long
    auth: PostgresAuth = PostgresAuth()
    replication: Literal["refuse", "allow"] = "refuse"
    keepalive: Keepalive = Keepalive()
    catalog: CatalogAccess
    columns: tuple[ColumnConfig, ...] = ()
    # queries of the catalogue show protected columns as declared, to all or to these roles
    catalog_masking: bool | tuple[str, ...] = False
    # fast-path function calls (libpq's PQfn, large objects of some drivers) in that database: their
    # arguments are not looked at
    fast_path_calls: bool = False
    limits: PostgresLimits = PostgresLimits()


class S3Credential(Section):
    access_key: str
    secret: SecretRef
    principal: str
    session_token: SecretRef | None = None  # then every request has to bring this very token


class OriginConfig(Section):
    name: str
    endpoint: str  # https://host[:port] or http://
    region: str = "us-east-1"
    addressing: Literal["path", "virtual"] = "path"
    access_key: SecretRef | None = None  # None: botocore's provider chain
    secret_key: SecretRef | None = None
    ca_file: str | None = None


class BucketConfig(Section):
    """First match wins. `bucket` may end in `*`; `prefix` restricts to keys below it."""

    bucket: str
    prefix: str = ""
    origin: str
    state: Literal["sealed", "mixed", "plain"] = "sealed"
    ring: str | None = None  # required unless plain
    # "read": GET and HEAD of objects need no signature; the policy sees principal s3:anonymous
    anonymous: Literal["none", "read"] = "none"


class S3Limits(Section):
    max_header_bytes: int = Field(64 * 1024, ge=4096)
    max_requests: int = Field(1024, ge=1)
    stall_timeout_seconds: float = Field(60.0, gt=0)
    clock_skew_seconds: int = Field(900, ge=1)


class S3Config(Section):
    listen: Address
    region: str = "us-east-1"
    host_suffix: str | None = None  # enables virtual-host style: <bucket>.<suffix>
    tls: TlsServer | None = None
    credentials: tuple[S3Credential, ...]
    origins: tuple[OriginConfig, ...]
    buckets: tuple[BucketConfig, ...]
    limits: S3Limits = S3Limits()


class AdminConfig(Section):
    listen: Address = Address(port=9932)


class LogConfig(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class Config(Section):
    keys: KeysConfig
    postgres: PostgresConfig | None = None
    s3: S3Config | None = None
    policy: PolicyConfig = PolicyConfig()
    admin: AdminConfig = AdminConfig()
    log: LogConfig = LogConfig()
    audit: AuditConfig | None = None  # none: lines go to the log only, and prove nothing
    workers: int = Field(0, ge=0, le=64)  # 0: one per core
    drain_seconds: float = Field(30.0, ge=0)
