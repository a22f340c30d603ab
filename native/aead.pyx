# cython: language_level=3
# AES-256-GCM and XAES-256-GCM for callers in Python, and GcmContext for the streams of
# chunks.pyx. The work and its two engines are in sg_aead.h (SP 800-38D, C2SP XAES-256-GCM).

if sg_aead_load() != 0:
    raise ImportError("libcrypto has no AES-256-GCM")

cdef dict _ENGINE_NUMBERS = {"libcrypto": SG_LIBCRYPTO}
if sg_have_ipsec:
    _ENGINE_NUMBERS["ipsec-mb"] = SG_IPSEC_MB


cdef str engines_in_use():
    return "ipsec-mb" if sg_engine == SG_IPSEC_MB else "libcrypto"


def engines() -> list[str]:
    """Engines that work here (each passed a known-answer test), best first."""
    return ["ipsec-mb", "libcrypto"] if sg_have_ipsec else ["libcrypto"]


def use_engine(name: str) -> None:
    """Keys set up from now on use this engine; NativeError when it is not available."""
    global sg_engine
    if name not in _ENGINE_NUMBERS:
        raise NativeError(f"no such engine here: {name}; there are {', '.join(engines())}")
    sg_engine = _ENGINE_NUMBERS[name]


cdef class GcmContext:
    """One keyed AES-256-GCM context of a longer-lived user (an object stream).

    The schedule is in the arena (ipsec-mb) or a libcrypto context freed by stop(). It is a copy:
    wiping the key it came from does not end it, its owner must. seal and open are nogil; one
    thread at a time per context, and stop() only when no call is running.
    """

    cdef sg_gcm _g
    cdef bint _on

    cdef int start(self, const uint8_t* key32) except -1:
        _need_arena()
        self.stop()
        if sg_gcm_start(&self._g, key32) != 0:
            raise NativeError("AES-256-GCM set-up failed")
        self._on = True
        return 0

    cdef void stop(self) noexcept:
        if self._on:
            sg_gcm_stop(&self._g)
            self._on = False
            sg_scrub()

    cdef bint usable(self) noexcept nogil:
        return self._on and sg_gcm_usable(&self._g) != 0

    cdef int seal(self, const uint8_t* nonce12, const uint8_t* aad, size_t aad_len,
                  const uint8_t* src, size_t n, uint8_t* dst) noexcept nogil:
        """dst gets n + 16 bytes; 1 on success, 0 when the context is not usable."""
        if not self.usable():
            return 0
        return sg_gcm_seal(&self._g, nonce12, aad, aad_len, src, n, dst)

    cdef int open(self, const uint8_t* nonce12, const uint8_t* aad, size_t aad_len,
                  const uint8_t* src, size_t n, uint8_t* dst) noexcept nogil:
        """src is n + 16 bytes, dst gets n; 1 on success, 0 when it does not open (dst wiped)."""
        if not self.usable():
            return 0
        return sg_gcm_open(&self._g, nonce12, aad, aad_len, src, n, dst)

    def __dealloc__(self):
        self.stop()


cdef int _check_nonce(bytes nonce, Py_ssize_t size) except -1:
    if PyBytes_GET_SIZE(nonce) != size:
        raise ValueError(f"the nonce is {size} bytes")
    return 0


cdef bytes _gcm_seal(const uint8_t* key, const uint8_t* nonce, const uint8_t* src, Py_ssize_t n,
                     bytes aad):
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n + 16)
    cdef GcmContext g = GcmContext.__new__(GcmContext)
    g.start(key)
    cdef int ok = g.seal(nonce, <const uint8_t*>PyBytes_AS_STRING(aad), PyBytes_GET_SIZE(aad),
                         src, n, <uint8_t*>PyBytes_AS_STRING(out))
    g.stop()
    if not ok:
        raise NativeError("AES-256-GCM failed")
    return out


cdef int _gcm_open(const uint8_t* key, const uint8_t* nonce, bytes sealed, bytes aad,
                   uint8_t* out) except -1:
    cdef GcmContext g = GcmContext.__new__(GcmContext)
    g.start(key)
    cdef int ok = g.open(nonce, <const uint8_t*>PyBytes_AS_STRING(aad), PyBytes_GET_SIZE(aad),
                         <const uint8_t*>PyBytes_AS_STRING(sealed), PyBytes_GET_SIZE(sealed) - 16,
                         out)
    g.stop()
    if not ok:
        raise OpenFailed("does not open")
    return 0


def gcm_seal(KeyHandle key not None, bytes nonce not None, bytes plaintext not None,
             bytes aad not None) -> bytes:
    """ciphertext ‖ 16-byte tag. The caller answers for a nonce (12 bytes) used once per key."""
    _check_nonce(nonce, 12)
    return _gcm_seal(key.ptr(), <const uint8_t*>PyBytes_AS_STRING(nonce),
                     <const uint8_t*>PyBytes_AS_STRING(plaintext), PyBytes_GET_SIZE(plaintext), aad)


def gcm_open(KeyHandle key not None, bytes nonce not None, bytes sealed not None,
             bytes aad not None) -> bytes:
    """The plaintext, or OpenFailed; nothing is released before the tag is checked."""
    _check_nonce(nonce, 12)
    if PyBytes_GET_SIZE(sealed) < 16:
        raise OpenFailed("does not open")
    cdef bytes out = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(sealed) - 16)
    _gcm_open(key.ptr(), <const uint8_t*>PyBytes_AS_STRING(nonce), sealed, aad,
              <uint8_t*>PyBytes_AS_STRING(out))
    return out


def xaes_seal(KeyHandle key not None, bytes nonce not None, bytes plaintext not None,
              bytes aad not None) -> bytes:
    """XAES-256-GCM: ciphertext ‖ 16-byte tag; 24-byte nonces may be random for 2^80 messages."""
    cdef uint8_t derived[32]
    _check_nonce(nonce, 24)
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(nonce)
    if not sg_xaes_derive(key.ptr(), at, derived):
        raise NativeError("AES-256 failed")
    try:
        return _gcm_seal(derived, at + 12, <const uint8_t*>PyBytes_AS_STRING(plaintext),
                         PyBytes_GET_SIZE(plaintext), aad)
    finally:
        OPENSSL_cleanse(derived, 32)


def xaes_open(KeyHandle key not None, bytes nonce not None, bytes sealed not None,
              bytes aad not None) -> bytes:
    """The plaintext, or OpenFailed."""
    cdef uint8_t derived[32]
    _check_nonce(nonce, 24)
    if PyBytes_GET_SIZE(sealed) < 16:
        raise OpenFailed("does not open")
    cdef bytes out = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(sealed) - 16)
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(nonce)
    if not sg_xaes_derive(key.ptr(), at, derived):
        raise NativeError("AES-256 failed")
    try:
        _gcm_open(derived, at + 12, sealed, aad, <uint8_t*>PyBytes_AS_STRING(out))
    finally:
        OPENSSL_cleanse(derived, 32)
    return out


def wrap_key(KeyHandle kek not None, KeyHandle key not None, bytes nonce not None,
             bytes aad not None) -> bytes:
    """The 32 bytes of `key` under `kek`, AES-256-GCM: 48 bytes. 12-byte nonce."""
    _check_nonce(nonce, 12)
    return _gcm_seal(kek.ptr(), <const uint8_t*>PyBytes_AS_STRING(nonce), key.ptr(), 32, aad)


def unwrap_key(KeyHandle kek not None, bytes nonce not None, bytes wrapped not None,
               bytes aad not None) -> KeyHandle:
    """The wrapped key, opened straight into the arena; OpenFailed when it does not open."""
    _check_nonce(nonce, 12)
    if PyBytes_GET_SIZE(wrapped) != 48:
        raise OpenFailed("does not open")
    cdef KeyHandle h = _new_slot()
    try:
        _gcm_open(kek.ptr(), <const uint8_t*>PyBytes_AS_STRING(nonce), wrapped, aad, h.ptr())
    except BaseException:
        h.wipe()
        raise
    return h
