# cython: language_level=3
# Key derivation and MACs on handles: HMAC-SHA-256 (RFC 2104), HKDF-SHA-256 (RFC 5869), scrypt
# (RFC 7914). Results that are keys go straight into the arena.


def hkdf_sha256(KeyHandle key not None, bytes salt not None, bytes info not None) -> KeyHandle:
    """HKDF with `key` as input keying material; 32 bytes out, as a new key."""
    cdef KeyHandle h = _new_slot()
    sg_hkdf(key.ptr(), 32, <const uint8_t*>PyBytes_AS_STRING(salt), PyBytes_GET_SIZE(salt),
            <const uint8_t*>PyBytes_AS_STRING(info), PyBytes_GET_SIZE(info), h.ptr(), 32)
    sg_scrub()
    return h


def hkdf_sha256_public(KeyHandle key not None, bytes salt not None, bytes info not None,
                       int n) -> bytes:
    """HKDF for identifiers, which are public: n (1 to 64) bytes. Never for a key."""
    if not 1 <= n <= 64:
        raise ValueError("1 to 64 bytes")
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n)
    sg_hkdf(key.ptr(), 32, <const uint8_t*>PyBytes_AS_STRING(salt), PyBytes_GET_SIZE(salt),
            <const uint8_t*>PyBytes_AS_STRING(info), PyBytes_GET_SIZE(info),
            <uint8_t*>PyBytes_AS_STRING(out), n)
    sg_scrub()
    return out


def hmac_sha256(KeyHandle key not None, bytes data not None) -> bytes:
    """HMAC-SHA-256 of `data`, 32 bytes."""
    cdef uint8_t states[64]
    cdef bytes out = PyBytes_FromStringAndSize(NULL, 32)
    sg_hmac_key(states, key.ptr(), 32)
    sg_hmac(states, <const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), NULL, 0,
            NULL, 0, <uint8_t*>PyBytes_AS_STRING(out))
    OPENSSL_cleanse(states, 64)
    sg_scrub()
    return out


def scrypt_key(bytearray passphrase not None, bytes salt not None, n: int, r: int, p: int) -> KeyHandle:
    """scrypt of a passphrase, straight into the arena. The caller wipes `passphrase`.

    n is a power of two above 1; 128·n·r bytes are used for the time of the call, up to 1 GiB.
    ValueError for parameters that RFC 7914 or that bound rule out. The GIL is released.
    """
    cdef uint64_t cost = n, block = r, lanes = p, need
    cdef size_t plen = len(passphrase), slen = PyBytes_GET_SIZE(salt)
    if cost < 2 or cost & (cost - 1) or not 1 <= block <= 1024 or not 1 <= lanes <= 1024 \
            or cost > 1 << 30 or 128 * cost * block > 1 << 30:
        raise ValueError("scrypt parameters out of range")
    need = 128 * block * (cost + lanes + 4) + (1 << 20)
    cdef KeyHandle h = _new_slot()
    cdef uint8_t* out = h.ptr()
    cdef Py_buffer b
    cdef const uint8_t* s = <const uint8_t*>PyBytes_AS_STRING(salt)
    cdef int ok
    PyObject_GetBuffer(passphrase, &b, PyBUF_SIMPLE)      # holds it against resizing
    with nogil:
        ok = EVP_PBE_scrypt(<const char*>b.buf, plen, s, slen, cost, block, lanes, need, out, 32)
        sg_scrub()
    PyBuffer_Release(&b)
    if ok != 1:
        ERR_clear_error()
        h.wipe()
        raise NativeError("scrypt failed")
    return h
