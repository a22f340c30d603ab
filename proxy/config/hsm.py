"""Settings of a root key in one HSM token, or in several that hold the same key."""

from typing import Literal

from pydantic import Field, model_validator

from proxy.config.base import SecretRef, Section


class Pkcs11Token(Section):
    """One token of one PKCS #11 module, found by what is written of label, serial and slot."""

    module: str  # absolute path of the module
    token_label: str | None = None
    token_serial: str | None = None
    slot: int | None = None  # the slot's id; may change when tokens come and go
    key_label: str = "sealgate-root"
    key_id_hex: str | None = None
    wrap_key_label: str = "sealgate-wrap"  # wraps data keys that are made in the token (hsm mode)
    pin: SecretRef
    environment: dict[str, str] = Field(default_factory=dict)  # e.g. SOFTHSM2_CONF
    module_parameters: str | None = None  # text for C_Initialize, e.g. NSS: "configdir='sql:/…' …"
    sessions: int = Field(4, ge=1, le=64)  # calls at the same time
    call_timeout_seconds: float = Field(5.0, gt=0)  # a call that takes longer is left behind

    @model_validator(mode="after")
    def _names_a_token(self) -> "Pkcs11Token":
        if self.token_label is None and self.token_serial is None and self.slot is None:
            raise ValueError("write token_label, token_serial or slot")
        return self


class Pkcs11Provider(Pkcs11Token):
    kind: Literal["pkcs11"]


class Pkcs11Member(Pkcs11Token):
    """A token of a cluster; the same root key is in every one of them."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")  # of health, log and metrics


class Pkcs11Cluster(Section):
    """Several tokens as one root: calls are shared, a member that fails is passed over."""

    kind: Literal["pkcs11-cluster"]
    members: tuple[Pkcs11Member, ...] = Field(min_length=1, max_length=32)
    # what `sealgate hsm check` prints for the right key: a member that does not open it is never
    # used. Without it, the members that are there at start have to agree, or nothing starts
    key_check: str | None = Field(None, pattern="^[0-9a-f]{88}$")
    failover_after_seconds: float = Field(0.3, gt=0)  # then the next member is asked as well
    check_seconds: float = Field(2.0, gt=0)  # how often a member that is not well is tried

    @model_validator(mode="after")
    def _names_differ(self) -> "Pkcs11Cluster":
        names = [m.name for m in self.members]
        if len(set(names)) != len(names):
            raise ValueError("two members have the same name")
        return self
