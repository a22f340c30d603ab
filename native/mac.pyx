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


def hmac_tags(KeyHandle key not None, list messages not None, int n) -> list[bytes]:
    """The first n (1 to 32) bytes of HMAC-SHA-256 of each message, under one key set-up."""
    cdef uint8_t states[64]
    cdef uint8_t mac[32]
    cdef list found = []
    cdef bytes message
    if not 1 <= n <= 32:
        raise ValueError("1 to 32 bytes")
    sg_hmac_key(states, key.ptr(), 32)
    try:
        for message in messages:
            sg_hmac(states, <const uint8_t*>PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message),
                    NULL, 0, NULL, 0, mac)
            found.append(PyBytes_FromStringAndSize(<const char*>mac, n))
    finally:
        OPENSSL_cleanse(states, 64)
        OPENSSL_cleanse(mac, 32)
        sg_scrub()
    return found


def order_digits(KeyHandle key not None, bytes number not None, int bits) -> bytes:
    """Two bytes for each bit of `number` (big-endian, its low `bits` bits count), most significant
    first; memcmp of two results is the order of the two numbers, for all pairs.

    Chenette, Lewi, Weis, Wu 2016, section 3, in the order-preserving form: digit i is the PRF of
    the bits before i, modulo 65535, plus bit i. Without a modulus behind the sum, so no digit
    wraps, and equal prefixes give digits that differ by the bit alone.
    """
    cdef Py_ssize_t n = PyBytes_GET_SIZE(number), i, first = n * 8 - bits, at
    cdef uint8_t states[64]
    cdef uint8_t mac[32]
    cdef uint8_t message[18]          # u16(i), then the bits before i, the others zero
    cdef uint64_t draw
    cdef uint32_t digit
    cdef uint8_t bit
    cdef int j
    if not 1 <= bits <= 128 or n != (bits + 7) // 8:
        raise ValueError("1 to 128 bits, in as few bytes as hold them")
    cdef bytes out = PyBytes_FromStringAndSize(NULL, 2 * bits)
    cdef uint8_t* p = <uint8_t*>PyBytes_AS_STRING(out)
    cdef const uint8_t* q = <const uint8_t*>PyBytes_AS_STRING(number)
    if first and q[0] >> (8 - first):
        raise ValueError("the number has more bits")
    memset(message, 0, 18)
    sg_hmac_key(states, key.ptr(), 32)
    for i in range(bits):
        at = first + i
        message[0] = <uint8_t>(i >> 8)
        message[1] = <uint8_t>(i & 0xFF)
        sg_hmac(states, message, 2 + n, NULL, 0, NULL, 0, mac)
        draw = 0
        for j in range(8):
            draw = draw << 8 | mac[j]
        bit = (q[at >> 3] >> (7 - (at & 7))) & 1
        digit = <uint32_t>(draw % 65535) + bit
        p[2 * i] = <uint8_t>(digit >> 8)
        p[2 * i + 1] = <uint8_t>(digit & 0xFF)
        message[2 + (at >> 3)] |= bit << (7 - (at & 7))
    OPENSSL_cleanse(states, 64)
    OPENSSL_cleanse(mac, 32)
    OPENSSL_cleanse(message, 18)
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
