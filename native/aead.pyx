# AES-256-GCM (SP 800-38D) and XAES-256-GCM (C2SP) over libcrypto. A context holds a copy of a key
# outside the arena, so it lives for one batch: `end()` cleanses it.

cdef EVP_CIPHER* _gcm = NULL
cdef EVP_CIPHER* _ecb = NULL
cdef str _engine_name = "libcrypto"


cdef int _ciphers() except -1:
    global _gcm, _ecb
    if _gcm == NULL:
        _gcm = EVP_CIPHER_fetch(NULL, b"AES-256-GCM", NULL)
        _ecb = EVP_CIPHER_fetch(NULL, b"AES-256-ECB", NULL)
        if _gcm == NULL or _ecb == NULL:
            ERR_clear_error()
            raise NativeError("this libcrypto has no AES-256")
    return 0


def engines():
    """Engines that can be used, best first."""
    return ["libcrypto"]


def use_engine(str name not None):
    """Chooses the engine for all that follows. ValueError: not one of `engines()`."""
    if name not in engines():
        raise ValueError(f"no engine {name} here")


cdef class _Gcm:
    """One reusable AES-256-GCM context for each direction."""
    cdef EVP_CIPHER_CTX* ctx
    cdef int way            # 0: no key inside, 1: seals, 2: opens

    def __cinit__(self):
        global _live_contexts
        _ciphers()
        self.ctx = EVP_CIPHER_CTX_new()
        self.way = 0
        if self.ctx == NULL:
            raise MemoryError()
        _live_contexts += SEALGATE_DEBUG

    def __dealloc__(self):
        global _live_contexts
        if self.ctx != NULL:
            EVP_CIPHER_CTX_free(self.ctx)
            _live_contexts -= SEALGATE_DEBUG

    cdef void end(self) noexcept nogil:
        """The key leaves the context."""
        if self.way:
            EVP_CIPHER_CTX_reset(self.ctx)
            self.way = 0

    cdef int start(self, const uint8_t* key, int way) noexcept nogil:
        """The context holds this key for `way` from now on. 0 on failure."""
        cdef int ok
        if way == 1:
            ok = EVP_EncryptInit_ex(self.ctx, _gcm, NULL, key, NULL)
        else:
            ok = EVP_DecryptInit_ex(self.ctx, _gcm, NULL, key, NULL)
        self.way = way if ok else 0
        return ok

    cdef int seal(self, const uint8_t* nonce, const uint8_t* aad, int an, const uint8_t* plain, int n,
                  uint8_t* out) noexcept nogil:
        """out gets n + 16 bytes. 0 on failure (never by data)."""
        cdef int got = 0
        if EVP_EncryptInit_ex(self.ctx, NULL, NULL, NULL, nonce) != 1:
            return 0
        if an and EVP_EncryptUpdate(self.ctx, NULL, &got, aad, an) != 1:
            return 0
        if n and EVP_EncryptUpdate(self.ctx, out, &got, plain, n) != 1:
            return 0
        if EVP_EncryptFinal_ex(self.ctx, out + n, &got) != 1:
            return 0
        return EVP_CIPHER_CTX_ctrl(self.ctx, EVP_CTRL_AEAD_GET_TAG, 16, out + n)

    cdef int open(self, const uint8_t* nonce, const uint8_t* aad, int an, const uint8_t* sealed, int n,
                  uint8_t* out) noexcept nogil:
        """n counts the tag (n >= 16); out gets n - 16 bytes. 0: does not authenticate, out is wiped."""
        cdef int got = 0, plain = n - 16, ok
        ok = EVP_DecryptInit_ex(self.ctx, NULL, NULL, NULL, nonce) == 1
        if ok and an:
            ok = EVP_DecryptUpdate(self.ctx, NULL, &got, aad, an) == 1
        if ok and plain:
            ok = EVP_DecryptUpdate(self.ctx, out, &got, sealed, plain) == 1
        ok = ok and EVP_CIPHER_CTX_ctrl(self.ctx, EVP_CTRL_AEAD_SET_TAG, 16, <void*>(sealed + plain)) == 1
        ok = ok and EVP_DecryptFinal_ex(self.ctx, out + plain, &got) == 1
        if not ok:
            if plain:
                OPENSSL_cleanse(out, plain)
            ERR_clear_error()
        return ok


cdef int _xaes_key(const uint8_t* key, const uint8_t* nonce12, uint8_t* out) except -1:
    """XAES-256-GCM's message key: CMAC-based KDF of SP 800-108r1 in counter mode, two blocks."""
    cdef EVP_CIPHER_CTX* ctx = EVP_CIPHER_CTX_new()
    cdef uint8_t block[32]
    cdef uint8_t k1[16]
    cdef int got = 0, i, ok
    cdef uint8_t carry
    memset(k1, 0, 16)
    _ciphers()
    ok = ctx != NULL and EVP_EncryptInit_ex(ctx, _ecb, NULL, key, NULL) == 1
    ok = ok and EVP_CIPHER_CTX_set_padding(ctx, 0) == 1
    ok = ok and EVP_EncryptUpdate(ctx, block, &got, k1, 16) == 1
    carry = (0 - (block[0] >> 7)) & 0x87        # doubling in GF(2^128), without a branch
    for i in range(15):
        k1[i] = <uint8_t>(((<int>block[i] << 1) | (block[i + 1] >> 7)) & 0xFF)
    k1[15] = <uint8_t>((<int>block[15] << 1) & 0xFF) ^ carry
    memset(block, 0, 32)
    block[1] = 1
    block[2] = 0x58                               # 'X'
    memcpy(block + 4, nonce12, 12)
    memcpy(block + 16, block, 16)
    block[17] = 2
    for i in range(32):
        block[i] ^= k1[i & 15]
    ok = ok and EVP_EncryptUpdate(ctx, out, &got, block, 32) == 1
    OPENSSL_cleanse(k1, 16)
    OPENSSL_cleanse(block, 32)
    EVP_CIPHER_CTX_free(ctx)
    if not ok:
        ERR_clear_error()
        raise NativeError("AES failed")
    return 0


cdef bytes _seal(const uint8_t* key, const uint8_t* nonce, const uint8_t* plain, Py_ssize_t n, bytes aad):
    cdef _Gcm gcm = _Gcm.__new__(_Gcm)
    if n > 1 << 30 or PyBytes_GET_SIZE(aad) > 1 << 30:
        raise ValueError("too long")
    out = PyBytes_FromStringAndSize(NULL, n + 16)
    ok = gcm.start(key, 1) and gcm.seal(
        nonce, <const uint8_t*>PyBytes_AS_STRING(aad), PyBytes_GET_SIZE(aad), plain, n,
        <uint8_t*>PyBytes_AS_STRING(out))
    gcm.end()
    sg_scrub_stack()
    if not ok:
        ERR_clear_error()
        raise NativeError("AES-GCM failed")
    return out


cdef int _open(const uint8_t* key, const uint8_t* nonce, bytes sealed, bytes aad, uint8_t* out) except -1:
    cdef _Gcm gcm = _Gcm.__new__(_Gcm)
    cdef int ok
    if PyBytes_GET_SIZE(sealed) > 1 << 30 or PyBytes_GET_SIZE(aad) > 1 << 30:
        raise ValueError("too long")
    ok = gcm.start(key, 2) and gcm.open(
        nonce, <const uint8_t*>PyBytes_AS_STRING(aad), PyBytes_GET_SIZE(aad),
        <const uint8_t*>PyBytes_AS_STRING(sealed), PyBytes_GET_SIZE(sealed), out)
    gcm.end()
    sg_scrub_stack()
    if not ok:
        ERR_clear_error()
        raise OpenFailed("sealed bytes do not open")
    return 0


def gcm_seal(KeyHandle key not None, bytes nonce not None, bytes plaintext not None, bytes aad not None):
    """AES-256-GCM (SP 800-38D), 12-byte nonce: ciphertext and 16-byte tag."""
    if len(nonce) != 12:
        raise ValueError("the nonce has 12 bytes")
    return _seal(key.ptr(), <const uint8_t*>PyBytes_AS_STRING(nonce),
                 <const uint8_t*>PyBytes_AS_STRING(plaintext), len(plaintext), aad)


def gcm_open(KeyHandle key not None, bytes nonce not None, bytes sealed not None, bytes aad not None):
    """Inverse of gcm_seal. OpenFailed if anything differs."""
    if len(nonce) != 12:
        raise ValueError("the nonce has 12 bytes")
    if len(sealed) < 16:
        raise OpenFailed("sealed bytes do not open")
    out = PyBytes_FromStringAndSize(NULL, len(sealed) - 16)
    _open(key.ptr(), <const uint8_t*>PyBytes_AS_STRING(nonce), sealed, aad, <uint8_t*>PyBytes_AS_STRING(out))
    return out


def xaes_seal(KeyHandle key not None, bytes nonce not None, bytes plaintext not None, bytes aad not None):
    """XAES-256-GCM (C2SP), 24-byte nonce."""
    cdef KeyHandle derived
    if len(nonce) != 24:
        raise ValueError("the nonce has 24 bytes")
    derived = _new_slot()
    _xaes_key(key.ptr(), <const uint8_t*>PyBytes_AS_STRING(nonce), derived.ptr())
    return _seal(derived.ptr(), <const uint8_t*>PyBytes_AS_STRING(nonce) + 12,
                 <const uint8_t*>PyBytes_AS_STRING(plaintext), len(plaintext), aad)


def xaes_open(KeyHandle key not None, bytes nonce not None, bytes sealed not None, bytes aad not None):
    """Inverse of xaes_seal. OpenFailed if anything differs."""
    cdef KeyHandle derived
    if len(nonce) != 24:
        raise ValueError("the nonce has 24 bytes")
    if len(sealed) < 16:
        raise OpenFailed("sealed bytes do not open")
    derived = _new_slot()
    _xaes_key(key.ptr(), <const uint8_t*>PyBytes_AS_STRING(nonce), derived.ptr())
    out = PyBytes_FromStringAndSize(NULL, len(sealed) - 16)
    _open(derived.ptr(), <const uint8_t*>PyBytes_AS_STRING(nonce) + 12, sealed, aad,
          <uint8_t*>PyBytes_AS_STRING(out))
    return out


def wrap_key(KeyHandle kek not None, KeyHandle key not None, bytes nonce not None, bytes aad not None):
    """The key sealed under kek by AES-256-GCM: 48 bytes. 12-byte nonce, never used twice with a kek."""
    if len(nonce) != 12:
        raise ValueError("the nonce has 12 bytes")
    return _seal(kek.ptr(), <const uint8_t*>PyBytes_AS_STRING(nonce), key.ptr(), KEY, aad)


def unwrap_key(KeyHandle kek not None, bytes nonce not None, bytes wrapped not None, bytes aad not None):
    """Inverse of wrap_key, straight into the arena. OpenFailed if anything differs."""
    cdef KeyHandle out
    if len(nonce) != 12:
        raise ValueError("the nonce has 12 bytes")
    if len(wrapped) != KEY + 16:
        raise OpenFailed("sealed bytes do not open")
    out = _new_slot()
    _open(kek.ptr(), <const uint8_t*>PyBytes_AS_STRING(nonce), wrapped, aad, out.ptr())
    return out
