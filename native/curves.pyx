# cython: language_level=3
# What can a custodian do with a key of his own? Sign (Ed25519, RFC 8032) and take a sealed share
# (HPKE, RFC 9180: base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, one message).
# Private keys are 32 bytes in the arena. libcrypto's copy lives for one call and is cleansed by it.

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_PKEY:
        pass
    ctypedef struct EVP_PKEY_CTX:
        pass
    ctypedef struct EVP_MD_CTX:
        pass
    int EVP_PKEY_ED25519
    int EVP_PKEY_X25519
    EVP_PKEY* EVP_PKEY_new_raw_private_key(int kind, void* engine, const uint8_t* key, size_t n)
    EVP_PKEY* EVP_PKEY_new_raw_public_key(int kind, void* engine, const uint8_t* key, size_t n)
    int EVP_PKEY_get_raw_public_key(const EVP_PKEY* key, uint8_t* out, size_t* n)
    void EVP_PKEY_free(EVP_PKEY* key)
    EVP_MD_CTX* EVP_MD_CTX_new()
    void EVP_MD_CTX_free(EVP_MD_CTX* ctx)
    int EVP_DigestSignInit(EVP_MD_CTX* ctx, void* p, void* md, void* engine, EVP_PKEY* key)
    int EVP_DigestSign(EVP_MD_CTX* ctx, uint8_t* out, size_t* n, const uint8_t* data, size_t size)
    EVP_PKEY_CTX* EVP_PKEY_CTX_new(EVP_PKEY* key, void* engine)
    void EVP_PKEY_CTX_free(EVP_PKEY_CTX* ctx)
    int EVP_PKEY_derive_init(EVP_PKEY_CTX* ctx)
    int EVP_PKEY_derive_set_peer(EVP_PKEY_CTX* ctx, EVP_PKEY* peer)
    int EVP_PKEY_derive(EVP_PKEY_CTX* ctx, uint8_t* out, size_t* n)

cdef enum:
    _CURVE_KEY = 32
    _CURVE_SIGNATURE = 64
    _HPKE_NONCE = 12
    _HPKE_SEALED = 48

cdef bytes _HPKE_KEM = b"KEM\x00\x20"
cdef bytes _HPKE_SUITE = b"HPKE\x00\x20\x00\x01\x00\x02"
cdef bytes _HPKE_VERSION = b"HPKE-v1"


cdef bytes _curve_public(KeyHandle key, int kind):
    cdef bytes out = PyBytes_FromStringAndSize(NULL, _CURVE_KEY)
    cdef size_t n = _CURVE_KEY
    cdef EVP_PKEY* private = EVP_PKEY_new_raw_private_key(kind, NULL, key.ptr(), _CURVE_KEY)
    cdef int ok = 0
    if private != NULL:
        ok = EVP_PKEY_get_raw_public_key(private, <uint8_t*>PyBytes_AS_STRING(out), &n)
        EVP_PKEY_free(private)
    sg_scrub()
    if ok != 1 or n != _CURVE_KEY:
        ERR_clear_error()
        raise NativeError("the public key was not computed")
    return out


def ed25519_public(KeyHandle seed not None) -> bytes:
    """The 32-byte public key of an Ed25519 seed."""
    return _curve_public(seed, EVP_PKEY_ED25519)


def x25519_public(KeyHandle private not None) -> bytes:
    """The 32-byte public key of an X25519 private key (RFC 7748)."""
    return _curve_public(private, EVP_PKEY_X25519)


def ed25519_sign(KeyHandle seed not None, bytes message not None) -> bytes:
    """The 64-byte signature of `message`."""
    cdef bytes out = PyBytes_FromStringAndSize(NULL, _CURVE_SIGNATURE)
    cdef size_t n = _CURVE_SIGNATURE
    cdef EVP_PKEY* private = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed.ptr(),
                                                          _CURVE_KEY)
    cdef EVP_MD_CTX* ctx = EVP_MD_CTX_new()
    cdef int ok = 0
    if private != NULL and ctx != NULL and \
            EVP_DigestSignInit(ctx, NULL, NULL, NULL, private) == 1:
        ok = EVP_DigestSign(ctx, <uint8_t*>PyBytes_AS_STRING(out), &n,
                            <const uint8_t*>PyBytes_AS_STRING(message), len(message))
    EVP_MD_CTX_free(ctx)
    EVP_PKEY_free(private)
    sg_scrub()
    if ok != 1 or n != _CURVE_SIGNATURE:
        ERR_clear_error()
        raise NativeError("Ed25519 failed")
    return out


cdef KeyHandle _x25519(KeyHandle private, bytes peer):
    """The shared secret (RFC 7748, 6.1); OpenFailed for a peer of small order (all zeros)."""
    cdef KeyHandle shared = _new_slot()
    cdef size_t n = _CURVE_KEY
    cdef EVP_PKEY* mine = NULL
    cdef EVP_PKEY* theirs = NULL
    cdef EVP_PKEY_CTX* ctx = NULL
    cdef int ok = 0
    if len(peer) == _CURVE_KEY:
        mine = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, private.ptr(), _CURVE_KEY)
        theirs = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL,
                                             <const uint8_t*>PyBytes_AS_STRING(peer), _CURVE_KEY)
    if mine != NULL and theirs != NULL:
        ctx = EVP_PKEY_CTX_new(mine, NULL)
    if ctx != NULL and EVP_PKEY_derive_init(ctx) == 1 \
            and EVP_PKEY_derive_set_peer(ctx, theirs) == 1:
        ok = EVP_PKEY_derive(ctx, shared.ptr(), &n)
    EVP_PKEY_CTX_free(ctx)
    EVP_PKEY_free(mine)
    EVP_PKEY_free(theirs)
    sg_scrub()
    if ok != 1 or n != _CURVE_KEY:
        ERR_clear_error()
        shared.wipe()
        raise OpenFailed("does not open")
    return shared


cdef void _hpke_hmac(const uint8_t* key, size_t nkey, bytes before, const uint8_t* secret,
                     size_t nsecret, bytes after, uint8_t* out32) noexcept:
    """HMAC-SHA-256 under `key` of before ‖ secret ‖ after."""
    cdef uint8_t states[64]
    sg_hmac_key(states, key, nkey)
    sg_hmac(states, <const uint8_t*>PyBytes_AS_STRING(before), PyBytes_GET_SIZE(before), secret,
            nsecret, <const uint8_t*>PyBytes_AS_STRING(after), PyBytes_GET_SIZE(after), out32)
    OPENSSL_cleanse(states, 64)


cdef bytes _hpke_public_extract(bytes label, bytes ikm):
    """LabeledExtract of public values, with an empty salt."""
    cdef bytes out = PyBytes_FromStringAndSize(NULL, 32)
    _hpke_hmac(NULL, 0, _HPKE_VERSION + _HPKE_SUITE + label + ikm, NULL, 0, b"",
               <uint8_t*>PyBytes_AS_STRING(out))
    return out


cdef bytes _hpke_expand_info(bytes suite, bytes label, bytes info, int n):
    """The message of LabeledExpand's one HMAC block."""
    return bytes((n >> 8, n & 0xFF)) + _HPKE_VERSION + suite + label + info + b"\x01"


cdef KeyHandle _hpke_key(KeyHandle dh, bytes enc, bytes recipient, bytes info, uint8_t* nonce12):
    """The AEAD key and base nonce of a base-mode context (RFC 9180, 4.1 and 5.1)."""
    cdef uint8_t prk[32]
    cdef uint8_t shared[32]
    cdef uint8_t secret[32]
    cdef KeyHandle key = _new_slot()
    cdef bytes context = b"\x00" + _hpke_public_extract(b"psk_id_hash", b"") \
        + _hpke_public_extract(b"info_hash", info)
    _hpke_hmac(NULL, 0, _HPKE_VERSION + _HPKE_KEM + b"eae_prk", dh.ptr(), 32, b"", prk)
    _hpke_hmac(prk, 32, _hpke_expand_info(_HPKE_KEM, b"shared_secret", enc + recipient, 32),
               NULL, 0, b"", shared)
    _hpke_hmac(shared, 32, _HPKE_VERSION + _HPKE_SUITE + b"secret", NULL, 0, b"", secret)
    _hpke_hmac(secret, 32, _hpke_expand_info(_HPKE_SUITE, b"key", context, 32), NULL, 0, b"",
               key.ptr())
    _hpke_hmac(secret, 32, _hpke_expand_info(_HPKE_SUITE, b"base_nonce", context, _HPKE_NONCE),
               NULL, 0, b"", prk)
    memcpy(nonce12, prk, _HPKE_NONCE)
    OPENSSL_cleanse(prk, 32)
    OPENSSL_cleanse(shared, 32)
    OPENSSL_cleanse(secret, 32)
    sg_scrub()
    return key


def hpke_seal(bytes recipient not None, bytes info not None, bytes aad not None,
              KeyHandle secret not None) -> tuple[bytes, bytes]:
    """(enc, 48 bytes): the 32 bytes of `secret` for the holder of the X25519 key `recipient`."""
    cdef KeyHandle ephemeral = key_random()
    cdef KeyHandle dh = None, key = None
    cdef uint8_t nonce[_HPKE_NONCE]
    try:
        enc = x25519_public(ephemeral)
        dh = _x25519(ephemeral, recipient)
        key = _hpke_key(dh, enc, recipient, info, nonce)
        return enc, _gcm_seal(key.ptr(), nonce, secret.ptr(), 32, aad)
    finally:
        for each in (ephemeral, dh, key):
            if each is not None:
                each.wipe()
        OPENSSL_cleanse(nonce, _HPKE_NONCE)


def hpke_open(KeyHandle private not None, bytes enc not None, bytes info not None,
              bytes aad not None, bytes sealed not None) -> KeyHandle:
    """The secret that `hpke_seal` sealed, in the arena; OpenFailed for anything else."""
    cdef KeyHandle dh = None, key = None, secret = None
    cdef uint8_t nonce[_HPKE_NONCE]
    if len(sealed) != _HPKE_SEALED:
        raise OpenFailed("does not open")
    try:
        dh = _x25519(private, enc)
        key = _hpke_key(dh, enc, x25519_public(private), info, nonce)
        secret = _new_slot()
        _gcm_open(key.ptr(), nonce, sealed, aad, secret.ptr())
    except BaseException:
        if secret is not None:
            secret.wipe()
        raise
    finally:
        for each in (dh, key):
            if each is not None:
                each.wipe()
        OPENSSL_cleanse(nonce, _HPKE_NONCE)
    return secret
