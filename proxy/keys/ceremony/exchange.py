"""How do clouds want a key that is brought to them? Public formats, emitted and read. Pure.

Azure Key Vault and Managed HSM: the transfer blob of the BYOK specification (JSON, schema 1.0.0;
CKM_RSA_AES_KEY_WRAP with SHA-1). AWS KMS: the arguments of ImportKeyMaterial (JSON, base64;
RSA_AES_KEY_WRAP_SHA_* or RSAES_OAEP_SHA_*). Google Cloud KMS: the wrapped key itself, binary
(import methods rsa-oaep-*-aes-256).
"""

import base64
import binascii
import json
from collections.abc import Mapping
from types import MappingProxyType

from proxy.keys.ceremony.approvals import Refused
from proxy.keys.ceremony.documents import ALGORITHMS, KEY_WRAPS, Bundle, DocumentError

AZURE_ENC = "CKM_RSA_AES_KEY_WRAP"
GENERATOR = "Sealgate"

# What a service takes, by our name for it, and its own name for that.
SERVICES: Mapping[str, Mapping[str, str]] = MappingProxyType({
    "azure": {KEY_WRAPS[1]: AZURE_ENC},
    "aws": dict(zip(
        ALGORITHMS,
        ("RSA_AES_KEY_WRAP_SHA_256", "RSA_AES_KEY_WRAP_SHA_1", "RSAES_OAEP_SHA_256",
         "RSAES_OAEP_SHA_1"),
        strict=True,
    )),
    "gcp": {KEY_WRAPS[0]: "sha256-aes-256", KEY_WRAPS[1]: "sha1-aes-256"},
})  # fmt: skip


def azure_blob(bundle: Bundle, kid: str) -> bytes:
    """The `.byok` file; `kid`: identifier of the key exchange key in the vault."""
    _takes("azure", bundle)
    return _json({
        "schema_version": "1.0.0",
        "header": {"kid": kid, "alg": "dir", "enc": AZURE_ENC},
        "ciphertext": base64.urlsafe_b64encode(bundle.wrapped).rstrip(b"=").decode("ascii"),
        "generator": GENERATOR,
    })  # fmt: skip


def read_azure(raw: bytes) -> tuple[str, bytes]:
    """(kid, wrapped key) of a transfer blob; DocumentError for anything else."""
    top = _object(raw)
    header = top.get("header")
    if top.get("schema_version") != "1.0.0" or not isinstance(header, dict):
        raise DocumentError("not a transfer blob of schema 1.0.0")
    if header.get("alg") != "dir" or header.get("enc") != AZURE_ENC:
        raise DocumentError(f"a transfer blob is alg dir, enc {AZURE_ENC}")
    kid, text = header.get("kid"), top.get("ciphertext")
    if not isinstance(kid, str) or not isinstance(text, str):
        raise DocumentError("kid and ciphertext are strings")
    if set(text) - _URL_SAFE or len(text) % 4 == 1:
        raise DocumentError("ciphertext is base64url without padding")
    return kid, base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def aws_import(bundle: Bundle, key_id: str, import_token: bytes) -> bytes:
    """The arguments of `aws kms import-key-material --cli-input-json`, which never expires."""
    _takes("aws", bundle)
    return _json({
        "KeyId": key_id,
        "ImportToken": base64.b64encode(import_token).decode("ascii"),
        "EncryptedKeyMaterial": base64.b64encode(bundle.wrapped).decode("ascii"),
        "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
    })  # fmt: skip


def read_aws(raw: bytes) -> tuple[str, bytes, bytes]:
    """(key id, import token, wrapped key); DocumentError for anything else."""
    top = _object(raw)
    key_id = top.get("KeyId")
    if not isinstance(key_id, str):
        raise DocumentError("KeyId is a string")
    return key_id, _base64(top, "ImportToken"), _base64(top, "EncryptedKeyMaterial")


def gcp_wrapped(bundle: Bundle) -> bytes:
    """The file for `gcloud kms keys versions import --wrapped-key-file`."""
    _takes("gcp", bundle)
    return bundle.wrapped


_URL_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def _takes(service: str, bundle: Bundle) -> None:
    if bundle.algorithm not in SERVICES[service]:
        raise Refused(f"{service} does not take a key wrapped by {bundle.algorithm}")


def _object(raw: bytes) -> dict[str, object]:
    try:
        top = json.loads(raw)
    except (ValueError, RecursionError):
        top = None
    if not isinstance(top, dict):
        raise DocumentError("not a JSON object")
    return top


def _base64(top: Mapping[str, object], name: str) -> bytes:
    value = top.get(name)
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else _bad(name)
    except binascii.Error:
        return _bad(name)


def _bad(name: str) -> bytes:
    raise DocumentError(f"{name} is base64")


def _json(top: dict[str, object]) -> bytes:
    return json.dumps(top, indent=1).encode() + b"\n"
