"""What does a PKCS #11 return code mean for us? One table: code → name and class (PKCS #11 v2.40,
section 2.2 of the base specification; classes: docs/reference/keys.md, "When the token fails").
"""

from collections.abc import Mapping
from enum import Enum


class Kind(Enum):
    DATA = "data"  # these bytes do not open; nothing is wrong with the device
    AMBIGUOUS = "ambiguous"  # data or device: a canary decides (only when decrypting)
    SESSION = "session"  # new session, log in, find the key again, one retry
    DEVICE = "device"  # counts for the breaker
    CREDENTIAL = "credential"  # latched, never retried
    CAPABILITY = "capability"  # a configuration error
    LOAD = "load"  # back off


CODES: Mapping[int, tuple[str, Kind]] = {
    0x002: ("CKR_HOST_MEMORY", Kind.DEVICE),
    0x003: ("CKR_SLOT_ID_INVALID", Kind.DEVICE),
    0x005: ("CKR_GENERAL_ERROR", Kind.AMBIGUOUS),
    0x006: ("CKR_FUNCTION_FAILED", Kind.AMBIGUOUS),
    0x007: ("CKR_ARGUMENTS_BAD", Kind.AMBIGUOUS),
    0x010: ("CKR_ATTRIBUTE_READ_ONLY", Kind.CAPABILITY),
    0x011: ("CKR_ATTRIBUTE_SENSITIVE", Kind.CAPABILITY),
    0x012: ("CKR_ATTRIBUTE_TYPE_INVALID", Kind.CAPABILITY),
    0x013: ("CKR_ATTRIBUTE_VALUE_INVALID", Kind.CAPABILITY),
    0x01B: ("CKR_ACTION_PROHIBITED", Kind.CAPABILITY),
    0x020: ("CKR_DATA_INVALID", Kind.DATA),
    0x021: ("CKR_DATA_LEN_RANGE", Kind.DATA),
    0x030: ("CKR_DEVICE_ERROR", Kind.DEVICE),
    0x031: ("CKR_DEVICE_MEMORY", Kind.DEVICE),
    0x032: ("CKR_DEVICE_REMOVED", Kind.DEVICE),
    0x040: ("CKR_ENCRYPTED_DATA_INVALID", Kind.DATA),
    0x041: ("CKR_ENCRYPTED_DATA_LEN_RANGE", Kind.DATA),
    0x042: ("CKR_AEAD_DECRYPT_FAILED", Kind.DATA),
    0x050: ("CKR_FUNCTION_CANCELED", Kind.LOAD),
    0x054: ("CKR_FUNCTION_NOT_SUPPORTED", Kind.CAPABILITY),
    0x060: ("CKR_KEY_HANDLE_INVALID", Kind.SESSION),
    0x062: ("CKR_KEY_SIZE_RANGE", Kind.CAPABILITY),
    0x063: ("CKR_KEY_TYPE_INCONSISTENT", Kind.CAPABILITY),
    0x068: ("CKR_KEY_FUNCTION_NOT_PERMITTED", Kind.CAPABILITY),
    0x070: ("CKR_MECHANISM_INVALID", Kind.CAPABILITY),
    0x071: ("CKR_MECHANISM_PARAM_INVALID", Kind.CAPABILITY),
    0x082: ("CKR_OBJECT_HANDLE_INVALID", Kind.SESSION),
    0x090: ("CKR_OPERATION_ACTIVE", Kind.SESSION),
    0x091: ("CKR_OPERATION_NOT_INITIALIZED", Kind.SESSION),
    0x0A0: ("CKR_PIN_INCORRECT", Kind.CREDENTIAL),
    0x0A1: ("CKR_PIN_INVALID", Kind.CREDENTIAL),
    0x0A2: ("CKR_PIN_LEN_RANGE", Kind.CREDENTIAL),
    0x0A3: ("CKR_PIN_EXPIRED", Kind.CREDENTIAL),
    0x0A4: ("CKR_PIN_LOCKED", Kind.CREDENTIAL),
    0x0B0: ("CKR_SESSION_CLOSED", Kind.SESSION),
    0x0B1: ("CKR_SESSION_COUNT", Kind.LOAD),
    0x0B3: ("CKR_SESSION_HANDLE_INVALID", Kind.SESSION),
    0x0C0: ("CKR_SIGNATURE_INVALID", Kind.DATA),
    0x0D0: ("CKR_TEMPLATE_INCOMPLETE", Kind.CAPABILITY),
    0x0D1: ("CKR_TEMPLATE_INCONSISTENT", Kind.CAPABILITY),
    0x0E0: ("CKR_TOKEN_NOT_PRESENT", Kind.DEVICE),
    0x0E1: ("CKR_TOKEN_NOT_RECOGNIZED", Kind.DEVICE),
    0x0E2: ("CKR_TOKEN_WRITE_PROTECTED", Kind.CAPABILITY),
    0x101: ("CKR_USER_NOT_LOGGED_IN", Kind.SESSION),
    # Nothing was compared with a PIN, so asking again locks nothing; a token being set up says so.
    0x102: ("CKR_USER_PIN_NOT_INITIALIZED", Kind.CAPABILITY),
    0x103: ("CKR_USER_TYPE_INVALID", Kind.CREDENTIAL),
    0x104: ("CKR_USER_ANOTHER_ALREADY_LOGGED_IN", Kind.CREDENTIAL),
    0x110: ("CKR_WRAPPED_KEY_INVALID", Kind.DATA),
    0x112: ("CKR_WRAPPED_KEY_LEN_RANGE", Kind.DATA),
    0x150: ("CKR_BUFFER_TOO_SMALL", Kind.SESSION),  # leaves the operation active
    0x190: ("CKR_CRYPTOKI_NOT_INITIALIZED", Kind.SESSION),
    0x200: ("CKR_FUNCTION_REJECTED", Kind.LOAD),
}

_UNKNOWN = "CKR_VENDOR_DEFINED or unknown"


def kind_of(code: int) -> Kind:
    """Unknown and vendor-defined codes count as the device's."""
    return CODES.get(code, (_UNKNOWN, Kind.DEVICE))[1]


def name_of(code: int) -> str:
    return f"{CODES.get(code, (_UNKNOWN, Kind.DEVICE))[0]} (0x{code:X})"
