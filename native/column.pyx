# cython: language_level=3
# Column values: sealing, opening, equality tags (docs/reference/format.md, "Column value").
#
# Nonces. XAES-256-GCM derives a message key from the column key and the first 12 nonce bytes and
# runs AES-256-GCM under it with the last 12. Deriving costs several times the seal, so a codec
# keeps one random 12-byte prefix for an epoch of at most 2^20 seals or 60 s and draws the last 12
# bytes at random for every value. Two values collide only if both halves do. Within one epoch that
# is at most 2^40/2^97 = 2^-57; N values of one column key make N/2^20 epochs, so the bound is
# N * 2^-77 (2^-32 at 2^45 values); two processes, or two epochs, share a message key only if their
# random prefixes collide (2^-97 a pair), and then still need equal suffixes. A counter as suffix
# would be unique for sure, and would write the order of the writes into every value: refused.
# After a fork all key handles are dead, so a child cannot go on with its parent's epoch.

cimport cython

CANON_IDENTITY = 0
CANON_INT = 1
CANON_CALL = 2

cdef enum:
    _MAGIC = 0xC5
    _VERSION = 1
    _HAS_TAG = 1
    _PADDED = 2
    _TOKENS = 4            # a token region stands before the key id
    _HEADER = 51
    _BOUND = 27            # header bytes covered by the AAD: everything before the nonce
    _OVERHEAD = 67
    _MOST_TOKENS = 65535
    _EPOCH_SEALS = 1048576    # 2^20; overflowcheck cannot take an expression here
    _EPOCH_SECONDS = 60

ctypedef struct column_key:
    uint8_t id[8]
    int seal_slot
    uint32_t seal_gen
    int mac_slot           # saved HMAC states of the index key, -1 without equality
    uint32_t mac_gen
    int hint               # where its last message key was in the cache


@cython.final
cdef class ColumnCodec:
    """Seals and opens values of one column.

    Holds references to the key handles it was given; wiping one of them makes every use of that
    key raise KeyGone. Callers of open_into, seal_into and tag_into call end_batch() after the
    last value (in a finally): until then the libcrypto engine keeps its keyed context. The
    methods for Python do so themselves.
    """

    cdef column_key* _keys
    cdef int _n, _active
    cdef uint32_t _epoch
    cdef list _handles, _given
    cdef set _index_keys   # slots and generations of the index keys, each once
    cdef uint8_t* _aad     # what is bound of the value, then the tail
    cdef Py_ssize_t _aad_room, _aad_bound
    cdef bytes _tail       # domain, type OID, token descriptor
    cdef object _tokens    # makes the token region of a plaintext; None: the column has none
    cdef bint _equality
    cdef uint8_t _transform[2]
    cdef Py_ssize_t _pad_to
    cdef int _canon_kind
    cdef object _canon_call
    cdef uint8_t _prefix[12]
    cdef int _seals_left
    cdef long _deadline

    def __cinit__(self):
        self._keys = NULL
        self._aad = NULL
        self._n = 0
        self._active = -1
        self._seals_left = 0

    def __init__(self, bytes domain not None, type_oid: int, bint equality, transform_id: int = 0,
                 pad_to: int = 0, canonical_kind: int = 0, canonical_call=None):
        n = len(domain)
        if self._aad != NULL:
            raise TypeError("a codec is set up once")
        if n > 0xFFFF:
            raise ValueError("a domain is at most 65535 bytes")
        if not 0 <= type_oid <= 0xFFFFFFFF or not 0 <= transform_id <= 0xFFFF:
            raise ValueError("type_oid is 32 bits, transform_id 16 bits")
        if not 0 <= pad_to <= 1 << 20:
            raise ValueError("pad_to is 0 to 1048576")
        if canonical_kind not in (CANON_IDENTITY, CANON_INT, CANON_CALL):
            raise ValueError("unknown canonical_kind")
        if (canonical_kind == CANON_CALL) != (canonical_call is not None):
            raise ValueError("canonical_call goes with CANON_CALL")
        _need_arena()
        self._epoch = sg_epoch
        self._handles = []
        self._given = []
        self._index_keys = set()
        self._equality = equality
        self._transform[0] = <uint8_t>(<int>transform_id >> 8)
        self._transform[1] = <uint8_t>(<int>transform_id & 0xFF)
        self._pad_to = pad_to
        self._canon_kind = canonical_kind
        self._canon_call = canonical_call
        oid = type_oid
        self._tail = n.to_bytes(2, "big") + domain + oid.to_bytes(4, "big")
        self._set_tail()

    def __dealloc__(self):
        free(self._keys)
        free(self._aad)

    cdef int _set_tail(self) except -1:
        self._aad_bound = -1
        return self._bind(NULL, _BOUND)

    cdef inline int _bind(self, const uint8_t* value, Py_ssize_t bound) except -1:
        """`_aad` is the first `bound` bytes of value, then the tail."""
        cdef Py_ssize_t m = PyBytes_GET_SIZE(self._tail)
        cdef uint8_t* grown
        if bound != self._aad_bound:
            if bound + m > self._aad_room:
                grown = <uint8_t*>realloc(self._aad, bound + m)
                if grown == NULL:
                    raise MemoryError
                self._aad = grown
                self._aad_room = bound + m
            memcpy(self._aad + bound, PyBytes_AS_STRING(self._tail), m)
            self._aad_bound = bound
        if value != NULL:
            memcpy(self._aad, value, bound)
        return 0

    cdef inline Py_ssize_t _aad_size(self) noexcept:
        return self._aad_bound + PyBytes_GET_SIZE(self._tail)

    def set_tokens(self, tokens not None, bytes descriptor not None) -> None:
        """The column carries search tokens: `tokens.region(plain)` makes a value's, `tokens.handles`
        are its keys. `descriptor` says which there are; it is bound into every value, so that a
        value made under other search settings does not open."""
        if self._tokens is not None or len(descriptor) > 0xFFFF:
            raise ValueError("tokens are set once, and described in at most 65535 bytes")
        self._given += tokens.handles
        self._tail += len(descriptor).to_bytes(2, "big") + descriptor
        self._set_tail()
        self._tokens = tokens

    @property
    def tokens(self):
        """What `set_tokens` was given, or None."""
        return self._tokens

    def __reduce_ex__(self, protocol):
        raise TypeError("a ColumnCodec cannot be pickled")

    def add_key(self, bytes key_id not None, KeyHandle seal not None, KeyHandle equality,
                bint active) -> None:
        """A key version: opens what names it; the active one (at most one) seals and tags.

        `equality` is the index key, only with equality. Without it, although the codec has
        equality, values open (their tag is authenticated, not made again), and none is sealed.
        """
        cdef column_key* grown
        cdef KeyHandle states
        cdef int i
        if len(key_id) != 8:
            raise ValueError("a key id is 8 bytes")
        if equality is not None and not self._equality:
            raise ValueError("an index key goes with equality only")
        if active and self._active >= 0:
            raise ValueError("there is an active key already")
        for i in range(self._n):
            if memcmp(self._keys[i].id, PyBytes_AS_STRING(key_id), 8) == 0:
                raise ValueError("this key id is there already")
        seal.ptr()
        if equality is not None:
            equality.ptr()
            states = _new_slot()
            sg_hmac_key(states.ptr(), equality.ptr(), 32)
            sg_scrub()
            sg_adopt(equality._slot, states._slot)
            self._handles.append(states)
        self._given.append(seal)
        if equality is not None:
            self._given.append(equality)
            self._index_keys.add((equality._slot, equality._gen))
        grown = <column_key*>realloc(self._keys, (self._n + 1) * sizeof(column_key))
        if grown == NULL:
            raise MemoryError
        self._keys = grown
        memcpy(grown[self._n].id, PyBytes_AS_STRING(key_id), 8)
        grown[self._n].seal_slot = seal._slot
        grown[self._n].seal_gen = seal._gen
        grown[self._n].mac_slot = -1
        grown[self._n].mac_gen = 0
        grown[self._n].hint = 0
        if equality is not None:
            grown[self._n].mac_slot = states._slot
            grown[self._n].mac_gen = states._gen
        if active:
            self._active = self._n
        self._n += 1

    @property
    def alive(self) -> bool:
        """Every key in it still lives, and there is one."""
        cdef int i
        for i in range(self._n):
            if not sg_slot_alive(self._epoch, self._keys[i].seal_slot, self._keys[i].seal_gen):
                return False
            if self._keys[i].mac_slot >= 0 and not sg_slot_alive(
                    self._epoch, self._keys[i].mac_slot, self._keys[i].mac_gen):
                return False
        return self._n > 0 and all(h.alive for h in self._given)

    @property
    def index_keys(self) -> int:
        """How many tags a value may have: 0 without index keys, more than 1 while they change."""
        return len(self._index_keys)

    @property
    def handles(self) -> list[KeyHandle]:
        """The keys in it: adopted by the ring's keys, so that they are wiped with it."""
        return list(self._given)

    # ---- the C contract -----------------------------------------------------------------------
    cdef Py_ssize_t sealed_size(self, Py_ssize_t n):
        """At most so many bytes: with tokens a value may be shorter."""
        cdef Py_ssize_t more = 0
        if self._tokens is not None:
            more = 2 + <Py_ssize_t>self._tokens.most_bytes(n)
        if self._pad_to:
            n = (n // self._pad_to + 1) * self._pad_to
        return n + _OVERHEAD + more

    cdef int _tag(self, int k, const uint8_t* plain, Py_ssize_t n, uint8_t* out16) except -1:
        """Tag under key version k, of the canonical form of plain."""
        cdef uint8_t mac[32]
        cdef uint8_t number[8]
        cdef bytes called = None
        if self._keys[k].mac_slot < 0:
            raise NativeError("no index key")
        if self._canon_kind == 1:
            if n != 2 and n != 4 and n != 8:
                raise ValueError("an integer has 2, 4 or 8 bytes")
            memset(number, 0xFF if plain[0] & 0x80 else 0, 8)
            memcpy(number + 8 - n, plain, n)
            plain = number
            n = 8
        elif self._canon_kind == 2:
            called = self._canon_call(PyBytes_FromStringAndSize(<const char*>plain, n))
            if called is None:
                raise TypeError("canonical_call must return bytes")
            plain = <const uint8_t*>PyBytes_AS_STRING(called)
            n = PyBytes_GET_SIZE(called)
        # after the call, which may have wiped a key
        if not sg_slot_alive(self._epoch, self._keys[k].mac_slot, self._keys[k].mac_gen):
            raise KeyGone("the key was wiped")
        sg_hmac(sg_slot_ptr(self._keys[k].mac_slot), self._transform, 2, plain, n, NULL, 0, mac)
        memcpy(out16, mac, 16)
        return 0

    cdef int tag_into(self, const uint8_t* plain, Py_ssize_t n, uint8_t* out16) except -1:
        """16 bytes under the active index key."""
        if not self._equality or self._active < 0:
            raise NativeError("no active index key")
        return self._tag(self._active, plain, n, out16)

    cdef int _new_epoch(self) except -1:
        cdef sg_timespec now
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
        if self._seals_left <= 0 or now.tv_sec >= self._deadline:
            if sg_pool_take(self._prefix, 12) != 0:
                raise NativeError("the random generator failed")
            self._seals_left = _EPOCH_SEALS
            self._deadline = now.tv_sec + _EPOCH_SECONDS
        return 0

    cdef Py_ssize_t seal_into(self, const uint8_t* plain, Py_ssize_t n, uint8_t* out) except -1:
        """Length written; out has room for sealed_size(n) and does not overlap plain."""
        cdef int k = self._active
        cdef uint8_t* body
        cdef uint8_t* at = out + 19
        cdef bytes region
        cdef Py_ssize_t m = n
        if k < 0:
            raise NativeError("no active key")
        # the clock is read once in 64 seals (and by each call from Python)
        if self._seals_left & 63 == 0:
            self._new_epoch()
        out[0] = _MAGIC
        out[1] = _VERSION
        out[2] = (_HAS_TAG if self._equality else 0) | (_PADDED if self._pad_to else 0)
        if self._equality:
            self._tag(k, plain, n, out + 3)
        else:
            memset(out + 3, 0, 16)
        if self._tokens is not None:
            region = self._tokens.region(PyBytes_FromStringAndSize(<const char*>plain, n))
            m = PyBytes_GET_SIZE(region)
            if m > _MOST_TOKENS or m > <Py_ssize_t>self._tokens.most_bytes(n):
                raise NativeError("too many tokens")  # `out` has room for what was announced
            out[2] |= _TOKENS
            at[0] = <uint8_t>(m >> 8)
            at[1] = <uint8_t>(m & 0xFF)
            memcpy(at + 2, PyBytes_AS_STRING(region), m)
            at += 2 + m
            m = n
        # after the calls, which may have wiped a key
        if not sg_slot_alive(self._epoch, self._keys[k].seal_slot, self._keys[k].seal_gen):
            raise KeyGone("the key was wiped")
        memcpy(at, self._keys[k].id, 8)
        memcpy(at + 8, self._prefix, 12)
        body = at + 32
        if sg_pool_take(at + 20, 12) != 0:
            raise NativeError("the random generator failed")
        self._seals_left -= 1
        if self._pad_to:
            m = (n // self._pad_to + 1) * self._pad_to
            memcpy(body, plain, n)
            body[n] = 0x80
            memset(body + n + 1, 0, m - n - 1)
            plain = body
        self._bind(out, at + 8 - out)
        if sg_xaes_seal(self._keys[k].seal_slot, &self._keys[k].hint, at + 8, self._aad,
                        self._aad_size(), plain, m, body) != 1:
            OPENSSL_cleanse(body, m)
            raise NativeError("sealing failed")
        return body - out + m + 16

    cdef Py_ssize_t open_into(self, const uint8_t* value, Py_ssize_t n, uint8_t* out) except -1:
        """Plaintext length; out has room for n - 67 bytes. OpenFailed or KeyGone, out wiped."""
        cdef int k, got
        cdef uint8_t tag[16]
        cdef Py_ssize_t m = n - _OVERHEAD
        cdef const uint8_t* at = value + 19
        if (m < 0 or value[0] != _MAGIC or value[1] != _VERSION
                or value[2] & ~(_HAS_TAG | _PADDED | _TOKENS)
                or (value[2] & _HAS_TAG) != (_HAS_TAG if self._equality else 0)
                or (value[2] & _TOKENS) != (_TOKENS if self._tokens is not None else 0)):
            raise OpenFailed("does not open")
        if value[2] & _TOKENS:
            at += 2 + (value[19] << 8 | value[20])
            m -= at - value - 19
            if m < 0:
                raise OpenFailed("does not open")
        for k in range(self._n):
            if memcmp(self._keys[k].id, at, 8) == 0:
                break
        else:
            raise OpenFailed("does not open")
        if not sg_slot_alive(self._epoch, self._keys[k].seal_slot, self._keys[k].seal_gen):
            raise KeyGone("the key was wiped")
        self._bind(value, at + 8 - value)
        got = sg_xaes_open(self._keys[k].seal_slot, &self._keys[k].hint, at + 8, self._aad,
                           self._aad_size(), at + 32, m, out)
        if got < 0:
            raise NativeError("opening failed")
        if got == 0:
            raise OpenFailed("does not open")
        if not value[2] & _PADDED and self._keys[k].mac_slot < 0:
            return m
        try:
            if value[2] & _PADDED:
                n = m
                while n > 0 and out[n - 1] == 0:
                    n -= 1
                if n == 0 or out[n - 1] != 0x80:
                    raise OpenFailed("does not open")
                n -= 1
            else:
                n = m
            if self._keys[k].mac_slot >= 0:
                if self._canon_kind == 1 and n != 2 and n != 4 and n != 8:
                    raise OpenFailed("does not open")
                self._tag(k, out, n, tag)
                if CRYPTO_memcmp(tag, value + 3, 16) != 0:
                    raise OpenFailed("does not open")
        except BaseException:
            OPENSSL_cleanse(out, m)
            raise
        return n

    cdef void end_batch(self) noexcept:
        """No copy of a key is left outside the arena, the stack is scrubbed."""
        sg_batch_end()

    # ---- from Python --------------------------------------------------------------------------
    cdef bytes _seal_bytes(self, bytes plain):
        cdef Py_ssize_t n = PyBytes_GET_SIZE(plain)
        cdef bytes out = PyBytes_FromStringAndSize(NULL, self.sealed_size(n))
        n = self.seal_into(<const uint8_t*>PyBytes_AS_STRING(plain), n,
                           <uint8_t*>PyBytes_AS_STRING(out))
        return out if n == PyBytes_GET_SIZE(out) else out[:n]

    cdef bytes _open_bytes(self, bytes value):
        cdef Py_ssize_t n = PyBytes_GET_SIZE(value), m
        if n < _OVERHEAD:
            raise OpenFailed("does not open")
        cdef bytes out = PyBytes_FromStringAndSize(NULL, n - _OVERHEAD)
        m = self.open_into(<const uint8_t*>PyBytes_AS_STRING(value), n,
                       <uint8_t*>PyBytes_AS_STRING(out))
        if m != n - _OVERHEAD:
            return out[:m]
        return out

    def seal(self, bytes plain not None) -> bytes:
        """The sealed value under the active key, 67 bytes longer than the padded plaintext."""
        try:
            self._new_epoch()
            return self._seal_bytes(plain)
        finally:
            self.end_batch()

    def open(self, bytes value not None) -> bytes:
        """The plaintext, tag checked; OpenFailed for any value not sealed for this column."""
        try:
            return self._open_bytes(value)
        finally:
            self.end_batch()

    def seal_many(self, plains) -> list[bytes | None]:
        """seal of each, None (SQL NULL) for None; all or nothing."""
        cdef list out = []
        cdef object item
        try:
            self._new_epoch()
            for item in plains:
                out.append(None if item is None else self._seal_bytes(<bytes?>item))
        finally:
            self.end_batch()
        return out

    def open_many(self, values) -> list[bytes | None]:
        """open of each, None for None; raises on the first that does not open."""
        cdef list out = []
        cdef object item
        try:
            for item in values:
                out.append(None if item is None else self._open_bytes(<bytes?>item))
        finally:
            self.end_batch()
        return out

    def tag(self, bytes plain not None) -> bytes:
        """The 16-byte equality tag under the active index key; the canonical form is taken here."""
        cdef bytes out = PyBytes_FromStringAndSize(NULL, 16)
        try:
            self.tag_into(<const uint8_t*>PyBytes_AS_STRING(plain), PyBytes_GET_SIZE(plain),
                          <uint8_t*>PyBytes_AS_STRING(out))
        finally:
            self.end_batch()
        return out

    def tags(self, bytes plain not None) -> list[bytes]:
        """Tags under every index key, the active one first, each once: what a search asks for."""
        cdef list found = []
        cdef bytes out
        cdef int k
        if not self._equality:
            raise NativeError("no index key")
        try:
            for k in range(self._n):
                out = PyBytes_FromStringAndSize(NULL, 16)
                self._tag(k, <const uint8_t*>PyBytes_AS_STRING(plain), PyBytes_GET_SIZE(plain),
                          <uint8_t*>PyBytes_AS_STRING(out))
                if out in found:
                    continue
                if k == self._active:
                    found.insert(0, out)
                else:
                    found.append(out)
        finally:
            self.end_batch()
        return found
