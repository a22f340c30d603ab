"""Is this the right key, and does the device work? A value sealed under the root says both.

IV ‖ sealed (44 bytes), the same for all members of a cluster: whoever opens it holds the root. The
value is public, and may be pinned in the configuration (`key_check`).
"""

import secrets

from proxy.keys.providers import ckr
from proxy.keys.providers.base import DeviceDown, WrongKey
from proxy.keys.providers.token import Session
from proxy.native import Pkcs11Error, Pkcs11Module

VALUE = b"sealgate canary!"
AAD = b"sealgate/v1 canary"


def make(module: Pkcs11Module, session: Session) -> bytes:
    """A canary of this token's key. Raises Pkcs11Error, and ValueError for a token that does not
    use the IV that it is given."""
    iv = secrets.token_bytes(12)
    return iv + module.gcm_encrypt(session.handle, session.key, iv, VALUE, AAD)


def opens(module: Pkcs11Module, session: Session, canary: bytes) -> bool:
    """Whether this key opens the canary. Raises Pkcs11Error that is not about data."""
    try:
        opened = module.gcm_decrypt(session.handle, session.key, canary[:12], canary[12:], AAD)
    except Pkcs11Error as error:
        if ckr.kind_of(error.code) in (ckr.Kind.DATA, ckr.Kind.AMBIGUOUS):
            return False
        raise
    return opened == VALUE


def check(module: Pkcs11Module, session: Session, canary: bytes) -> None:
    """The device works and holds the root. WrongKey: it works, with another key. DeviceDown: it
    does not work; also Pkcs11Error."""
    if opens(module, session, canary):
        return
    try:
        own = opens(module, session, make(module, session))
    except (Pkcs11Error, ValueError):
        own = False
    if not own:
        raise DeviceDown("the token opens no canary")
    raise WrongKey("the token holds another key than the root")
