# The arena: the one place where key bytes live. Locked, outside core dumps, gone in a forked child.
#
# Backed by memfd_secret(2) where the kernel has it (not even root reads it through the process's mem
# file), else by mmap + mlock + MADV_DONTDUMP + MADV_WIPEONFORK. A guard page lies on either side. Slots
# are of one size; a generation counter tells a live handle from one whose slot was given to another.
# All access is under the GIL, which is what makes the free list safe.

cdef extern from *:
    """
    #include <sys/mman.h>
    #include <sys/prctl.h>
    #include <sys/resource.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #include <pthread.h>
    #include <string.h>
    #include <stdint.h>
    #include <openssl/crypto.h>
    #ifndef SYS_memfd_secret
    #define SYS_memfd_secret 447
    #endif
    #ifndef MADV_WIPEONFORK
    #define MADV_WIPEONFORK 18
    #endif
    static uint8_t *sg_base = 0;
    static size_t sg_bytes = 0;
    static int sg_secret = 0, sg_locked = 0, sg_forked = 0;

    static void sg_child(void) { sg_forked = 1; }

    /* 0: ok; -1: no memory; -2: cannot be locked */
    static int sg_map(size_t bytes, int allow_unlocked) {
        size_t page = (size_t)sysconf(_SC_PAGESIZE);
        uint8_t *whole, *inner;
        int fd;
        bytes = (bytes + page - 1) / page * page;
        whole = mmap(0, bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (whole == MAP_FAILED) return -1;
        inner = whole + page;
        fd = (int)syscall(SYS_memfd_secret, 0x80000 /* O_CLOEXEC */);
        if (fd >= 0) {
            if (ftruncate(fd, (off_t)bytes) == 0 &&
                mmap(inner, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED)
                sg_secret = sg_locked = 1;
            close(fd);
        }
        if (!sg_secret) {
            if (mmap(inner, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
                munmap(whole, bytes + 2 * page);
                return -1;
            }
            sg_locked = mlock(inner, bytes) == 0;
            if (!sg_locked && !allow_unlocked) {
                munmap(whole, bytes + 2 * page);
                return -2;
            }
            madvise(inner, bytes, MADV_WIPEONFORK);
        } else {
            madvise(inner, bytes, MADV_DONTFORK);
        }
        madvise(inner, bytes, MADV_DONTDUMP);
        pthread_atfork(0, 0, sg_child);
        sg_base = inner;
        sg_bytes = bytes;
        return 0;
    }

    static void sg_wipe_all(void) {
        if (sg_base && !sg_forked) OPENSSL_cleanse(sg_base, sg_bytes);
    }

    __attribute__((noinline)) static void sg_scrub_stack(void) {
        uint8_t waste[8192];
        OPENSSL_cleanse(waste, sizeof waste);
        __asm__ __volatile__("" : : "r"(waste) : "memory");
    #if defined(__AVX__)
        __asm__ __volatile__("vzeroall" ::: "memory");
    #endif
    }

    static int sg_harden(void) {
        struct rlimit none = {0, 0};
        int done = 0;
        if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0) done |= 1;
        if (setrlimit(RLIMIT_CORE, &none) == 0) done |= 2;
        return done;
    }
    """
    uint8_t* sg_base
    int sg_secret, sg_locked, sg_forked
    int sg_map(size_t, int)
    void sg_wipe_all() nogil
    void sg_scrub_stack() nogil
    int sg_harden()

cdef extern from *:
    int SEALGATE_DEBUG

FLAVOUR = "debug" if SEALGATE_DEBUG else "release"

DEF SLOT = 256          # bytes a slot: room for a key, or for the two saved states of an HMAC
DEF KEY = 32

cdef uint32_t _slots = 0
cdef uint32_t* _generation = NULL
cdef uint32_t* _free_list = NULL
cdef uint32_t _free_count = 0
cdef long _live_slots = 0
cdef long _live_contexts = 0


class NativeError(Exception):
    """Root of what the native code raises."""


class KeyGone(NativeError):
    """A handle was used after its key was wiped."""


class OpenFailed(NativeError):
    """Sealed bytes do not authenticate. One class and text for every cause."""


class ArenaFull(NativeError):
    """Every slot of the arena is taken."""


def arena_init(int slots=4096, bint allow_unlocked=False):
    """Makes the arena, once. NativeError if memory cannot be locked and that is not allowed."""
    global _slots, _generation, _free_list, _free_count
    cdef int code
    cdef uint32_t i
    if sg_base != NULL:
        return
    if slots < 1 or slots > 1 << 20:
        raise ValueError("slots")
    code = sg_map(<size_t>slots * SLOT, allow_unlocked)
    if code == -2:
        raise NativeError(f"cannot lock {slots * SLOT} bytes of memory")
    if code:
        raise MemoryError()
    _generation = <uint32_t*>calloc(slots, sizeof(uint32_t))
    _free_list = <uint32_t*>calloc(slots, sizeof(uint32_t))
    if _generation == NULL or _free_list == NULL:
        raise MemoryError()
    for i in range(slots):
        _free_list[i] = slots - 1 - i
    _free_count = _slots = slots
    import atexit
    atexit.register(_wipe_all)


def _wipe_all():
    sg_wipe_all()
    cdef uint32_t i
    for i in range(_slots):
        _generation[i] += 1


def arena_report():
    """What the arena is made of and how full it is. No key material."""
    return {
        "backend": "memfd_secret" if sg_secret else "mlock",
        "locked": bool(sg_locked),
        "slots": _slots,
        "used": _slots - _free_count,
        "slot_bytes": SLOT,
        "engine": _engine_name,
    }


def debug_counters():
    """Live native objects; all zero in the release flavour."""
    return {"slots": _live_slots, "contexts": _live_contexts}


def harden_process():
    """No core dump, not dumpable: other users cannot read this process's memory."""
    cdef int done = sg_harden()
    return {"dumpable_off": bool(done & 1), "core_limit_zero": bool(done & 2)}


cdef class KeyHandle:
    """One arena slot. Holds no way to its bytes from Python."""
    cdef uint32_t index, generation
    cdef object __weakref__

    def __cinit__(self):
        self.index = 0xFFFFFFFF

    def __init__(self):
        raise TypeError("a KeyHandle comes from native functions only")

    def __dealloc__(self):
        self._release()

    cdef void _release(self) noexcept:
        global _free_count, _live_slots
        if self.index == 0xFFFFFFFF or sg_forked or _generation[self.index] != self.generation:
            return
        OPENSSL_cleanse(sg_base + <size_t>self.index * SLOT, SLOT)
        if SEALGATE_DEBUG:
            memset(sg_base + <size_t>self.index * SLOT, 0xDB, SLOT)
            _live_slots -= 1
        _generation[self.index] += 1
        _free_list[_free_count] = self.index
        _free_count += 1

    cdef uint8_t* ptr(self) except NULL:
        if sg_forked or self.index == 0xFFFFFFFF or _generation[self.index] != self.generation:
            raise KeyGone("the key was wiped")
        return sg_base + <size_t>self.index * SLOT

    @property
    def alive(self):
        """False once wiped."""
        return self.index != 0xFFFFFFFF and not sg_forked and _generation[self.index] == self.generation

    def wipe(self):
        """Overwrites the key now. Idempotent; later uses raise KeyGone."""
        self._release()

    def same(self, KeyHandle other not None):
        """Whether both hold the same 32 bytes; constant time."""
        return CRYPTO_memcmp(self.ptr(), other.ptr(), KEY) == 0

    def __reduce__(self):
        raise TypeError("a key cannot be copied or pickled")

    def __repr__(self):
        return f"<KeyHandle {'live' if self.alive else 'wiped'}>"


cdef KeyHandle _new_slot():
    global _free_count, _live_slots
    cdef KeyHandle handle
    if sg_base == NULL:
        arena_init()
    if sg_forked:
        raise NativeError("keys do not cross a fork")
    if _free_count == 0:
        raise ArenaFull(f"all {_slots} key slots are taken; raise keys.arena_slots")
    handle = KeyHandle.__new__(KeyHandle)
    _free_count -= 1
    handle.index = _free_list[_free_count]
    handle.generation = _generation[handle.index]
    memset(sg_base + <size_t>handle.index * SLOT, 0, SLOT)
    if SEALGATE_DEBUG:
        _live_slots += 1
    return handle


def key_random():
    """A new key of 32 random bytes (OpenSSL's DRBG, straight into the arena)."""
    cdef KeyHandle handle = _new_slot()
    if RAND_bytes(handle.ptr(), KEY) != 1:
        ERR_clear_error()
        raise NativeError("no random bytes")
    return handle


def key_import(secret not None):
    """A handle to these 32 bytes; the source, which must be writable, is wiped in place."""
    cdef Py_buffer view
    cdef KeyHandle handle
    PyObject_GetBuffer(secret, &view, PyBUF_WRITABLE)
    try:
        if view.len != KEY:
            raise ValueError(f"a key has {KEY} bytes, not {view.len}")
        handle = _new_slot()
        memcpy(handle.ptr(), view.buf, KEY)
        OPENSSL_cleanse(view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return handle


def wipe(buffer not None):
    """Overwrites a writable buffer in place."""
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    OPENSSL_cleanse(view.buf, view.len)
    PyBuffer_Release(&view)


cdef uint8_t _pool[4096]
cdef int _pool_left = 0
cdef uint32_t _pool_owner = 0

cdef extern from "unistd.h" nogil:
    int getpid()

cdef int _draw(uint8_t* out, int n) except -1:
    """Random bytes for nonces, drawn 4 KiB at a time: one RAND call a value costs more than the seal.
    Each byte is wiped once handed out; a forked child starts with an empty pool."""
    global _pool_left, _pool_owner
    if sg_forked and _pool_owner != <uint32_t>getpid():
        _pool_left = 0
        _pool_owner = <uint32_t>getpid()
    if n > _pool_left:
        if n > 4096:
            if RAND_bytes(out, n) != 1:
                ERR_clear_error()
                raise NativeError("no random bytes")
            return 0
        if RAND_bytes(_pool, 4096) != 1:
            ERR_clear_error()
            raise NativeError("no random bytes")
        _pool_left = 4096
    _pool_left -= n
    memcpy(out, _pool + _pool_left, n)
    memset(_pool + _pool_left, 0, n)
    return 0


def random_bytes(int n):
    """n random bytes that are not secret (nonces, salts, ids)."""
    if n < 0:
        raise ValueError("n")
    out = PyBytes_FromStringAndSize(NULL, n)
    _draw(<uint8_t*>PyBytes_AS_STRING(out), n)
    return out


def ct_equal(bytes a not None, bytes b not None):
    """Whether a and b are equal; the time depends on the lengths only."""
    if len(a) != len(b):
        return False
    return CRYPTO_memcmp(PyBytes_AS_STRING(a), PyBytes_AS_STRING(b), len(a)) == 0
