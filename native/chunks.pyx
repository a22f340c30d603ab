# cython: language_level=3
# One part of an object: a Cobblestone-256 stream (C2SP chunked-encryption with HKDF-Expand-SHA-512
# and AES-256-GCM), sealed or opened in runs of chunks. docs/reference/format-objects.md, "Part".
#
#   message key(32) ‖ base nonce(12) ‖ commitment(32) =
#       HKDF-Expand-SHA-512(input key, "c2sp.org/chunked-encryption@v1+" ‖ "AEAD_AES_256_GCM"
#                                      ‖ 0x00 ‖ salt(24) ‖ context)
#   stream = salt ‖ commitment ‖ chunk 0 ‖ … ‖ chunk n; chunk = ciphertext ‖ tag(16), no AAD
#
# Every chunk holds 16384 bytes of plaintext but the last, which holds fewer (also none). So a
# short chunk is the end, and no full chunk is ever held back. The nonce of chunk k is the base
# nonce with k, big-endian, XORed into its last five bytes.
#
# The message key lives in an arena slot until finish. An AEAD context is a copy of it (with libcrypto
# outside the arena), so it lives for one call.

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from "openssl/evp.h" nogil:
    const void* _chunk_sha512 "EVP_sha512"()

cdef extern from "openssl/hmac.h" nogil:
    uint8_t* _chunk_hmac "HMAC"(const void* md, const void* key, int key_len, const uint8_t* data,
                                size_t n, uint8_t* out, unsigned int* out_len)

cdef extern from "openssl/crypto.h" nogil:
    void _chunk_cleanse "OPENSSL_cleanse"(void* p, size_t n)
    int _chunk_differ "CRYPTO_memcmp"(const void* a, const void* b, size_t n)

cdef extern from "openssl/rand.h" nogil:
    int _chunk_rand "RAND_bytes"(uint8_t* out, int n)

cdef extern from "openssl/err.h" nogil:
    void _chunk_clear_errors "ERR_clear_error"()

cdef enum:
    _CHUNK_PLAIN = 16384
    _CHUNK_TAG = 16
    _CHUNK_SEALED = 16400
    _CHUNK_SALT = 24
    _CHUNK_HEADER = 56
    # Below this many bytes, releasing the GIL costs more than it gives to others.
    _CHUNK_NOGIL = 65536

cdef uint64_t _CHUNK_COUNT_LIMIT = <uint64_t>1 << 38  # 4 PiB, the specification's bound

cdef bytes _CHUNK_INFO = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00"


cdef int _chunk_one(GcmContext gcm, const uint8_t* base_nonce, uint64_t number, const uint8_t* inp,
                    int n, uint8_t* out, bint sealing) noexcept nogil:
    """Seal or open one chunk of n plaintext bytes; 1, or 0 when it does not authenticate."""
    cdef uint8_t nonce[12]
    cdef int i
    memcpy(nonce, base_nonce, 12)
    for i in range(5):
        nonce[11 - i] ^= <uint8_t>((number >> (8 * i)) & 0xFF)
    if sealing:
        return gcm.seal(nonce, NULL, 0, inp, n, out)
    return gcm.open(nonce, NULL, 0, inp, n, out)


cdef class _PartStream:
    """What sealing and opening share: key derivation, the carry buffer and the run of chunks."""

    cdef KeyHandle _key          # message key; its slot is wiped at finish
    cdef GcmContext _gcm         # holds a copy of it only while a call runs
    cdef uint8_t _nonce[12]
    cdef uint8_t _header[_CHUNK_HEADER]
    cdef uint8_t* _carry         # less than one chunk that has come in and waits for its rest
    cdef Py_ssize_t _held
    cdef uint64_t _next          # number of the next chunk
    cdef bint _sealing
    cdef bint _busy, _finished, _failed

    def __dealloc__(self):
        if self._carry != NULL:
            _chunk_cleanse(self._carry, _CHUNK_SEALED)
            PyMem_Free(self._carry)

    def __reduce__(self):
        raise TypeError("a stream holds a key and is not copied")

    cdef int _derive(self, KeyHandle key, const uint8_t* salt, bytes context,
                     uint8_t* commitment) except -1:
        """Fill message key and base nonce, and write the 32-byte commitment."""
        cdef bytes info = _CHUNK_INFO + salt[:_CHUNK_SALT] + context
        cdef Py_ssize_t n = len(info)
        cdef uint8_t* block = <uint8_t*>PyMem_Malloc(64 + n + 1)
        cdef uint8_t okm[128]
        cdef bint good
        if block == NULL:
            raise MemoryError
        try:
            memcpy(block + 64, PyBytes_AS_STRING(info), n)
            block[64 + n] = 1  # T(1) = HMAC(info ‖ 1)
            good = _chunk_hmac(_chunk_sha512(), key.ptr(), 32, block + 64, n + 1, okm, NULL) != NULL
            memcpy(block, okm, 64)
            block[64 + n] = 2  # T(2) = HMAC(T(1) ‖ info ‖ 2)
            good = good and _chunk_hmac(_chunk_sha512(), key.ptr(), 32, block, 64 + n + 1,
                                        okm + 64, NULL) != NULL
            if not good:
                _chunk_clear_errors()
                raise NativeError("HKDF-Expand-SHA-512 failed")
            self._key = _new_slot()
            self._gcm = GcmContext.__new__(GcmContext)
            memcpy(self._key.ptr(), okm, 32)
            memcpy(self._nonce, okm + 32, 12)
            memcpy(commitment, okm + 44, 32)
        finally:
            _chunk_cleanse(okm, sizeof(okm))
            _chunk_cleanse(block, 64)
            PyMem_Free(block)
        self._carry = <uint8_t*>PyMem_Malloc(_CHUNK_SEALED)
        if self._carry == NULL:
            raise MemoryError
        return 0

    cdef int _enter(self) except -1:
        if self._failed:
            raise OpenFailed("the stream did not authenticate")
        if self._finished:
            raise ValueError("the stream is finished")
        if self._busy:
            raise RuntimeError("a stream belongs to one thread at a time")
        return 0

    cdef int _fail(self) except -1:
        self._close()
        self._failed = True
        raise OpenFailed("the stream did not authenticate")

    cdef void _close(self):
        self._finished = True
        self._held = 0
        if self._key is not None:
            self._key.wipe()
        if self._carry != NULL:
            _chunk_cleanse(self._carry, _CHUNK_SEALED)

    cdef bytes _run(self, const uint8_t* inp, Py_ssize_t n):
        """Take n bytes in; give out every whole chunk that is now complete."""
        cdef Py_ssize_t unit = _CHUNK_PLAIN if self._sealing else _CHUNK_SEALED
        cdef Py_ssize_t chunks = (self._held + n) // unit
        cdef bytes result
        cdef uint8_t* out
        cdef bint good
        if n == 0:
            return b""
        if chunks == 0:
            memcpy(self._carry + self._held, inp, n)
            self._held += n
            return b""
        if self._next + <uint64_t>chunks >= _CHUNK_COUNT_LIMIT:
            if not self._sealing:
                self._fail()
            raise ValueError("a stream holds at most 4 PiB")
        result = PyBytes_FromStringAndSize(
            NULL, chunks * (_CHUNK_SEALED if self._sealing else _CHUNK_PLAIN))
        out = <uint8_t*>PyBytes_AS_STRING(result)
        self._gcm.start(self._key.ptr())
        if n >= _CHUNK_NOGIL:
            self._busy = True
            with nogil:
                good = self._chunks(inp, n, out, chunks)
            self._busy = False
        else:
            good = self._chunks(inp, n, out, chunks)
        self._gcm.stop()
        if not good:
            # What was opened before the bad chunk is dropped with it.
            memset(out, 0, len(result))
            _chunk_clear_errors()
            self._fail()
        return result

    cdef bint _chunks(self, const uint8_t* inp, Py_ssize_t n, uint8_t* out,
                      Py_ssize_t chunks) noexcept nogil:
        cdef Py_ssize_t step_in = _CHUNK_PLAIN if self._sealing else _CHUNK_SEALED
        cdef Py_ssize_t step_out = _CHUNK_SEALED if self._sealing else _CHUNK_PLAIN
        cdef Py_ssize_t fill
        cdef const uint8_t* end = inp + n
        if self._held > 0:
            fill = step_in - self._held
            memcpy(self._carry + self._held, inp, fill)
            self._held = 0
            inp += fill
            if not _chunk_one(self._gcm, self._nonce, self._next, self._carry, _CHUNK_PLAIN, out,
                              self._sealing):
                return False
            self._next += 1
            out += step_out
            chunks -= 1
        while chunks > 0:
            if not _chunk_one(self._gcm, self._nonce, self._next, inp, _CHUNK_PLAIN, out, self._sealing):
                return False
            self._next += 1
            inp += step_in
            out += step_out
            chunks -= 1
        self._held = end - inp
        memcpy(self._carry, inp, self._held)
        return True

    cdef bytes _last(self, int plain):
        """Seal or open what is held, plain bytes of plaintext, as the final chunk."""
        cdef bytes result = PyBytes_FromStringAndSize(
            NULL, plain + _CHUNK_TAG if self._sealing else plain)
        cdef uint8_t nothing[_CHUNK_TAG]
        # An empty bytes object is shared: nobody may be handed its memory to write to.
        cdef uint8_t* out = <uint8_t*>PyBytes_AS_STRING(result) if len(result) else nothing
        cdef bint good
        self._gcm.start(self._key.ptr())
        good = _chunk_one(self._gcm, self._nonce, self._next, self._carry, plain, out, self._sealing)
        self._gcm.stop()
        if not good:
            memset(out, 0, len(result))
            _chunk_clear_errors()
            self._fail()
        self._close()
        return result

    cdef bytes _take(self, object data):
        cdef Py_buffer view
        self._enter()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return self._run(<const uint8_t*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)


cdef class PartSealer(_PartStream):
    """One Cobblestone-256 stream being sealed under a fresh random salt.

    The header goes first, then what every update returns, then what finish returns. A stream
    that was cut off is not resumed: seal again with a new PartSealer, which draws a new salt.
    """

    def __init__(self, KeyHandle key not None, bytes context not None):
        if self._key is not None:
            raise TypeError("a stream is begun once")
        self._sealing = True
        if _chunk_rand(self._header, _CHUNK_SALT) != 1:
            _chunk_clear_errors()
            raise NativeError("no random bytes")
        self._derive(key, self._header, context, self._header + _CHUNK_SALT)

    @property
    def header(self):
        """24-byte salt and 32-byte commitment: the first 56 bytes of the stream."""
        return <bytes>self._header[:_CHUNK_HEADER]

    def update(self, data):
        """Whole sealed chunks that are ready; empty when fewer than 16 KiB have gathered."""
        return self._take(data)

    def finish(self):
        """The last, short chunk (16 to 16399 bytes). The key is wiped."""
        self._enter()
        return self._last(<int>self._held)


cdef class PartOpener(_PartStream):
    """Opens a run of chunks of one stream, from chunk first_chunk on.

    Raises OpenFailed when the header's commitment is not this key's and context's, and on the
    first chunk that does not authenticate; what the same call opened before it is dropped.
    Whether the stream is whole is known only when finish(at_end=True) has returned.
    """

    def __init__(self, KeyHandle key not None, bytes context not None, bytes header not None,
                 uint64_t first_chunk=0):
        cdef uint8_t commitment[32]
        if self._key is not None:
            raise TypeError("a stream is begun once")
        if first_chunk >= _CHUNK_COUNT_LIMIT:
            raise ValueError("a stream has at most 2**38 chunks")
        if len(header) != _CHUNK_HEADER:
            raise OpenFailed("the stream did not authenticate")
        self._sealing = False
        self._next = first_chunk
        memcpy(self._header, PyBytes_AS_STRING(header), _CHUNK_HEADER)
        self._derive(key, self._header, context, commitment)
        if _chunk_differ(commitment, self._header + _CHUNK_SALT, 32) != 0:
            self._fail()

    def update(self, data):
        """Plaintext of the whole chunks that are now complete."""
        return self._take(data)

    def finish(self, bint at_end=True):
        """The rest of the plaintext. The key is wiped.

        at_end: what is held must be the final, short chunk of the stream. Otherwise the run
        ended at a chunk border and nothing may be held.
        """
        self._enter()
        if at_end:
            if not _CHUNK_TAG <= self._held < _CHUNK_SEALED:
                self._fail()
            return self._last(<int>self._held - _CHUNK_TAG)
        if self._held:
            self._fail()
        self._close()
        return b""
