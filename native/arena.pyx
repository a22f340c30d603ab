# cython: language_level=3
# Key handles over the locked arena (sg_arena.h): who may use a key, and when it is gone.
# A handle names (epoch, slot, generation). It never gives bytes out; a wiped slot, or a fork,
# makes every later use raise KeyGone.


class NativeError(Exception):
    """A native operation failed; the text never carries secret bytes."""


class KeyGone(NativeError):
    """A handle was used after its slot was wiped, or in a forked child."""


class OpenFailed(NativeError):
    """Authentication failed. One class and one text for every cause."""


class ArenaFull(NativeError):
    """No free key slot; the number is set once, by arena_init."""


cdef int _need_arena() except -1:
    if sg_map == NULL:
        arena_init()
    return 0


cdef class KeyHandle:
    """32 secret bytes in the locked arena. No method gives them out; no copy, no pickle."""

    cdef int _slot
    cdef uint32_t _gen
    cdef uint32_t _epoch

    def __cinit__(self):
        self._slot = -1

    def __init__(self):
        raise TypeError("KeyHandle is made by key_random, key_import and the key derivations")

    cdef uint8_t* ptr(self) except NULL:
        if self._slot < 0 or not sg_slot_alive(self._epoch, self._slot, self._gen):
            raise KeyGone("the key was wiped")
        return sg_slot_ptr(self._slot)

    @property
    def alive(self) -> bool:
        """True until the slot is wiped."""
        return self._slot >= 0 and sg_slot_alive(self._epoch, self._slot, self._gen) != 0

    def wipe(self) -> None:
        """Zeroes the slot, everything derived from it in native caches, and frees it. Idempotent."""
        if self._slot >= 0 and sg_slot_alive(self._epoch, self._slot, self._gen):
            sg_slot_drop(self._slot)
            sg_batch_end()      # a context left open could be keyed from it

    def same(self, KeyHandle other not None) -> bool:
        """Whether both hold the same 32 bytes, in constant time. KeyGone if either is wiped."""
        return CRYPTO_memcmp(self.ptr(), other.ptr(), 32) == 0

    def __dealloc__(self):
        if self._slot >= 0 and sg_slot_alive(self._epoch, self._slot, self._gen):
            sg_slot_drop(self._slot)

    def __repr__(self):
        return f"<KeyHandle slot {self._slot} {'alive' if self.alive else 'wiped'}>"

    def __reduce_ex__(self, protocol):
        raise TypeError("a KeyHandle cannot be pickled")

    def __copy__(self):
        raise TypeError("a KeyHandle cannot be copied")

    def __deepcopy__(self, memo):
        raise TypeError("a KeyHandle cannot be copied")


cdef KeyHandle _new_slot():
    """A fresh zeroed slot (64 bytes; a key uses 32). Raises ArenaFull."""
    _need_arena()
    cdef int i = sg_slot_take()
    if i < 0:
        raise ArenaFull(f"all {sg_nslots} key slots are in use")
    cdef KeyHandle h = KeyHandle.__new__(KeyHandle)
    h._slot = i
    h._gen = sg_meta[i].gen
    h._epoch = sg_epoch
    return h


def arena_init(slots: int = 4096, allow_unlocked: bool = False) -> None:
    """The arena exists. Idempotent; `slots` (1 to 65536) counts only in the first call.

    NativeError when memory cannot be locked and `allow_unlocked` is False.
    """
    cdef int n = slots
    if not 1 <= n <= 65536:
        raise ValueError("slots must be 1 to 65536")
    cdef int error = sg_arena_init(n, 1 if allow_unlocked else 0)
    if error:
        import os
        raise NativeError("cannot lock memory for keys: " + os.strerror(error)
                          + "; raise RLIMIT_MEMLOCK (ulimit -l) or allow unlocked memory")


def arena_report() -> dict[str, object]:
    """Facts for start-up log and health: backend, locked, slots, used, engine and so on."""
    _need_arena()
    return {
        "backend": sg_backend.decode(), "locked": bool(sg_locked), "slots": sg_nslots,
        "used": sg_used, "peak": sg_peak, "slot_bytes": SG_SLOT, "cached_schedules": sg_cached,
        "engine": engines_in_use(), "openssl": OpenSSL_version(0).decode(),
    }


def key_random() -> KeyHandle:
    """A new key from OpenSSL's private generator, written straight into the arena."""
    cdef KeyHandle h = _new_slot()
    if RAND_priv_bytes(h.ptr(), 32) != 1:
        ERR_clear_error()
        h.wipe()
        raise NativeError("the random generator failed")
    return h


def key_import(secret) -> KeyHandle:
    """Takes over 32 bytes; `secret` (bytearray or writable memoryview) is wiped in place."""
    cdef Py_buffer b
    cdef KeyHandle h
    PyObject_GetBuffer(secret, &b, PyBUF_SIMPLE | PyBUF_WRITABLE)
    try:
        if b.len != 32:
            raise ValueError("a key is 32 bytes")
        h = _new_slot()
        memcpy(h.ptr(), b.buf, 32)
    finally:
        OPENSSL_cleanse(b.buf, b.len)
        PyBuffer_Release(&b)
    return h


def wipe(buffer) -> None:
    """Zeroes a bytearray or writable memoryview in place; BufferError or TypeError for others."""
    cdef Py_buffer b
    PyObject_GetBuffer(buffer, &b, PyBUF_SIMPLE | PyBUF_WRITABLE)
    OPENSSL_cleanse(b.buf, b.len)
    PyBuffer_Release(&b)


def random_bytes(n: int) -> bytes:
    """n public random bytes (0 to 1 MiB); up to 64 from the pool, so that a nonce costs no call."""
    cdef Py_ssize_t size = n
    if not 0 <= size <= 1 << 20:
        raise ValueError("0 to 1048576 bytes")
    _need_arena()
    cdef bytes out = PyBytes_FromStringAndSize(NULL, size)
    cdef uint8_t* p = <uint8_t*>PyBytes_AS_STRING(out)
    if size <= 64:
        if sg_pool_take(p, <uint32_t>size) == 0:
            return out
    elif RAND_bytes(p, <int>size) == 1:
        return out
    ERR_clear_error()
    raise NativeError("the random generator failed")


def ct_equal(a: bytes, b: bytes) -> bool:
    """Whether a == b, in time that depends on the lengths only."""
    if len(a) != len(b):
        return False
    return CRYPTO_memcmp(<const char*>a, <const char*>b, len(a)) == 0


def harden_process() -> dict[str, bool]:
    """PR_SET_DUMPABLE 0 and RLIMIT_CORE 0 are set; says which of them the kernel confirms.

    Call it after privileges are dropped: setuid makes a process dumpable again.
    """
    cdef int held = sg_harden()
    return {"not_dumpable": bool(held & 1), "no_core": bool(held & 2)}
