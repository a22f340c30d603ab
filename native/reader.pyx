# cython: language_level=3
# Big-endian reads over untrusted bytes, and the growing output buffer, of the PostgreSQL parts
# (PostgreSQL documentation, "Message Formats"). No Python object here. A read never happens
# before its bound was checked by the caller with a subtraction that cannot overflow.
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcpy, memmove
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE


@cython.overflowcheck(False)  # its helper takes integers only; both pointers are into one buffer
cdef inline Py_ssize_t pg_between(const uint8_t* start, const uint8_t* end) noexcept nogil:
    """Bytes from `start` to `end`."""
    return end - start


cdef inline uint32_t pg_u32(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | <uint32_t>p[3]


cdef inline uint16_t pg_u16(const uint8_t* p) noexcept nogil:
    return <uint16_t>((<uint32_t>p[0] << 8) | <uint32_t>p[1])


cdef inline void pg_put32(uint8_t* p, uint32_t v) noexcept nogil:
    p[0] = <uint8_t>(v >> 24)
    p[1] = <uint8_t>(v >> 16)
    p[2] = <uint8_t>(v >> 8)
    p[3] = <uint8_t>v


cdef struct PgOut:
    uint8_t* p
    Py_ssize_t n
    Py_ssize_t cap


cdef uint8_t* pg_room(PgOut* out, Py_ssize_t need) except NULL:
    """Space for `need` more bytes behind what is there; does not move `n`."""
    cdef Py_ssize_t cap = out.cap
    cdef uint8_t* q
    if need < 0 or need > <Py_ssize_t>0x7FFFFFFF:
        raise MemoryError("message too large")
    if out.p == NULL or cap - out.n < need:
        if cap < 4096:
            cap = 4096
        while cap - out.n < need:
            cap *= 2
        q = <uint8_t*>realloc(out.p, cap)
        if q == NULL:
            raise MemoryError()
        out.p = q
        out.cap = cap
    return out.p + out.n


cdef int pg_append(PgOut* out, const uint8_t* p, Py_ssize_t n) except -1:
    memcpy(pg_room(out, n), p, n)
    out.n += n
    return 0


cdef bytes pg_take(PgOut* out):
    """What is there as bytes; the buffer is empty afterwards, and small again if it was large."""
    cdef bytes taken = PyBytes_FromStringAndSize(<char*>out.p, out.n)
    pg_empty(out)
    return taken


cdef void pg_empty(PgOut* out) noexcept:
    """Nothing is there any more, and the buffer is small again if it was large."""
    out.n = 0
    if out.cap > 1 << 18:
        free(out.p)
        out.p = NULL
        out.cap = 0
