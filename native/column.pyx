# Column values (docs/reference/format.md): header, equality tag, XAES-256-GCM, and their batches.
#
# A writer keeps one random 12-byte nonce prefix for at most EPOCH_SEALS values, so that the message key
# that XAES derives from it is derived once. The last 12 bytes start at a random 96-bit value and count up:
# unique under one prefix, and the prefix (hence the key) is this codec's alone but with odds of 2^-96.

DEF HEADER = 27
DEF NONCE_AT = 27
DEF BODY_AT = 51
DEF LEAST = 67
DEF EPOCH_SEALS = 1 << 20
DEF DERIVED = 16

CANON_IDENTITY = 0
CANON_INT = 1
CANON_CALL = 2


cdef class _ColumnKey:
    """One ring version's keys for one domain, with a small cache of message keys by nonce prefix."""
    cdef bytes id
    cdef KeyHandle seal, equality, state
    cdef list derived
    cdef uint8_t prefixes[DERIVED][12]
    cdef int filled, turn

    def __cinit__(self):
        self.filled = self.turn = 0
        self.derived = []


cdef class ColumnCodec:
    """Seals and opens the values of one column."""
    cdef list keys
    cdef _ColumnKey active
    cdef bytes tail                      # what follows the header in the AAD
    cdef uint8_t aad[HEADER + 2 + 1024 + 4]
    cdef int aad_len, pad_to, kind
    cdef bint equality
    cdef uint8_t transform[2]
    cdef object call
    cdef _Gcm gcm
    cdef const uint8_t* held             # message key that the context holds now
    cdef int held_way
    cdef uint8_t nonce[24]
    cdef KeyHandle sealing               # message key of the current epoch
    cdef long left                       # seals left in it

    def __init__(self, bytes domain not None, uint32_t type_oid, bint equality, int transform_id=0,
                 int pad_to=0, int canonical_kind=0, object canonical_call=None):
        cdef Py_ssize_t n = len(domain)
        if not 1 <= n <= 1024:
            raise ValueError("domain")
        if not 0 <= transform_id <= 0xFFFF or not 0 <= pad_to <= 65536:
            raise ValueError("transform_id or pad_to")
        if canonical_kind == CANON_CALL and canonical_call is None:
            raise ValueError("canonical_call")
        self.keys = []
        self.tail = n.to_bytes(2, "big") + domain + type_oid.to_bytes(4, "big")
        self.aad_len = HEADER + len(self.tail)
        memcpy(self.aad + HEADER, PyBytes_AS_STRING(self.tail), len(self.tail))
        self.equality = equality
        self.pad_to = pad_to
        self.kind = canonical_kind
        self.call = canonical_call
        self.transform[0] = transform_id >> 8
        self.transform[1] = transform_id & 0xFF
        self.gcm = _Gcm.__new__(_Gcm)
        self.left = 0

    def add_key(self, bytes key_id not None, KeyHandle seal not None, KeyHandle equality, bint active):
        """Adds one version. The active one seals; every one opens."""
        if len(key_id) != 8:
            raise ValueError("a key id has 8 bytes")
        if self.equality and equality is None:
            raise ValueError("an equality column needs its index key")
        cdef _ColumnKey key = _ColumnKey.__new__(_ColumnKey)
        key.id = key_id
        key.seal = seal
        key.equality = equality
        key.state = _hmac_state(equality) if equality is not None else None
        self.keys.append(key)
        if active:
            self.active = key

    @property
    def alive(self):
        """Every key in it still lives."""
        cdef _ColumnKey key
        for key in self.keys:
            if not key.seal.alive or (key.equality is not None and not key.equality.alive):
                self.forget()
                return False
        return bool(self.keys)

    @property
    def handles(self):
        """The keys in it: adopted by the ring's keys, so that they are wiped with it."""
        cdef _ColumnKey key
        return [h for key in self.keys for h in (key.seal, key.equality) if h is not None]

    cdef void forget(self) noexcept:
        """Wipes what was derived from keys that are gone."""
        cdef _ColumnKey key
        cdef int i
        self.end_batch()
        self.left = 0
        self.sealing = None
        for key in self.keys:
            if key.state is not None:
                key.state._release()
            for i in range(key.filled):
                (<KeyHandle>key.derived[i])._release()
            key.filled = 0
            key.derived = []

    cdef int check(self, _ColumnKey key) except -1:
        if not key.seal.alive:
            self.forget()
            raise KeyGone("the key was wiped")
        return 0

    cdef void end_batch(self) noexcept:
        """The context lets its copy of a key go. Call after the last value of a batch."""
        self.gcm.end()
        self.held = NULL
        self.held_way = 0
        sg_scrub_stack()

    cdef int hold(self, const uint8_t* message_key, int way) except -1:
        if self.held != message_key or self.held_way != way:
            if not self.gcm.start(message_key, way):
                ERR_clear_error()
                raise NativeError("AES-GCM failed")
            self.held = message_key
            self.held_way = way
        return 0

    cdef const uint8_t* message_key(self, _ColumnKey key, const uint8_t* prefix) except NULL:
        cdef int i
        for i in range(key.filled):
            if memcmp(key.prefixes[i], prefix, 12) == 0:
                return (<KeyHandle>key.derived[i]).ptr()
        if key.filled < DERIVED:
            i = key.filled
            key.derived.append(_new_slot())
            key.filled += 1
        else:
            i = key.turn
            key.turn = (key.turn + 1) % DERIVED
            if self.held == (<KeyHandle>key.derived[i]).ptr():
                self.end_batch()
        cdef KeyHandle slot = key.derived[i]
        _xaes_key(key.seal.ptr(), prefix, slot.ptr())
        memcpy(key.prefixes[i], prefix, 12)
        return slot.ptr()

    cdef Py_ssize_t sealed_size(self, Py_ssize_t n):
        if self.pad_to:
            n = (n // self.pad_to + 1) * self.pad_to
        return BODY_AT + n + 16

    cdef int tag_under(self, _ColumnKey key, const uint8_t* plain, Py_ssize_t n, uint8_t* out) except -1:
        cdef uint8_t wide[8]
        cdef uint8_t full[32]
        cdef bytes canonical
        cdef Py_ssize_t i
        cdef sg_hmac* h = <sg_hmac*>key.state.ptr()
        if self.kind == 0:
            sg_hmac_two(h, self.transform, 2, plain, n, full)
        elif self.kind == 1:
            if n not in (2, 4, 8):
                raise OpenFailed("sealed bytes do not open")
            memset(wide, 0xFF if plain[0] & 0x80 else 0, 8)
            memcpy(wide + 8 - n, plain, n)
            sg_hmac_two(h, self.transform, 2, wide, 8, full)
        else:
            canonical = self.call(PyBytes_FromStringAndSize(<const char*>plain, n))
            sg_hmac_two(h, self.transform, 2, <const uint8_t*>PyBytes_AS_STRING(canonical),
                        PyBytes_GET_SIZE(canonical), full)
        memcpy(out, full, 16)
        return 0

    cdef int tag_into(self, const uint8_t* plain, Py_ssize_t n, uint8_t* out16) except -1:
        if self.active is None or self.active.state is None:
            raise NativeError("no active index key")
        self.check(self.active)
        return self.tag_under(self.active, plain, n, out16)

    cdef int seal_into(self, const uint8_t* plain, Py_ssize_t n, uint8_t* out) except -1:
        cdef _ColumnKey key = self.active
        cdef Py_ssize_t room = self.sealed_size(n) - BODY_AT - 16
        cdef int i
        if key is None:
            raise NativeError("no active key")
        if n > 1 << 29:
            raise ValueError("too long")
        self.check(key)
        if self.left == 0 or self.sealing is None:
            self.end_batch()
            _draw(self.nonce, 24)
            self.sealing = _new_slot()
            _xaes_key(key.seal.ptr(), self.nonce, self.sealing.ptr())
            self.left = EPOCH_SEALS
        self.hold(self.sealing.ptr(), 1)
        self.left -= 1
        for i in range(23, 11, -1):      # the last 12 bytes are a big-endian counter
            self.nonce[i] = (self.nonce[i] + 1) & 0xFF
            if self.nonce[i]:
                break
        out[0] = 0xC5
        out[1] = 1
        out[2] = (1 if self.equality else 0) | (2 if self.pad_to else 0)
        if self.equality:
            self.tag_under(key, plain, n, out + 3)
        else:
            memset(out + 3, 0, 16)
        memcpy(out + 19, PyBytes_AS_STRING(key.id), 8)
        memcpy(out + NONCE_AT, self.nonce, 24)
        memcpy(self.aad, out, HEADER)
        memcpy(out + BODY_AT, plain, n)
        if self.pad_to:                   # ISO/IEC 7816-4
            out[BODY_AT + n] = 0x80
            memset(out + BODY_AT + n + 1, 0, room - n - 1)
        if not self.gcm.seal(self.nonce + 12, self.aad, self.aad_len, out + BODY_AT, room, out + BODY_AT):
            self.end_batch()
            ERR_clear_error()
            raise NativeError("AES-GCM failed")
        return 0

    cdef Py_ssize_t open_into(self, const uint8_t* value, Py_ssize_t n, uint8_t* out) except -1:
        cdef _ColumnKey key, found = None
        cdef Py_ssize_t plain
        cdef uint8_t tag[16]
        cdef uint8_t flags
        if n < LEAST or n > 1 << 30 or value[0] != 0xC5 or value[1] != 1:
            raise OpenFailed("sealed bytes do not open")
        for key in self.keys:
            if memcmp(value + 19, PyBytes_AS_STRING(key.id), 8) == 0:
                found = key
                break
        flags = value[2]
        if found is None or flags & ~3 or bool(flags & 1) != self.equality:
            raise OpenFailed("sealed bytes do not open")
        self.check(found)
        self.hold(self.message_key(found, value + NONCE_AT), 2)
        memcpy(self.aad, value, HEADER)
        if not self.gcm.open(value + NONCE_AT + 12, self.aad, self.aad_len, value + BODY_AT, n - BODY_AT, out):
            self.end_batch()
            raise OpenFailed("sealed bytes do not open")
        plain = n - BODY_AT - 16
        if flags & 2:
            while plain > 0 and out[plain - 1] == 0:
                plain -= 1
            if plain == 0 or out[plain - 1] != 0x80:
                raise OpenFailed("sealed bytes do not open")
            plain -= 1
        if flags & 1:
            self.tag_under(found, out, plain, tag)
            if CRYPTO_memcmp(tag, value + 3, 16) != 0:
                OPENSSL_cleanse(out, plain)
                raise OpenFailed("sealed bytes do not open")
        return plain

    cdef bytes one_sealed(self, bytes plain):
        cdef Py_ssize_t n = PyBytes_GET_SIZE(plain)
        out = PyBytes_FromStringAndSize(NULL, self.sealed_size(n))
        self.seal_into(<const uint8_t*>PyBytes_AS_STRING(plain), n, <uint8_t*>PyBytes_AS_STRING(out))
        return out

    cdef bytes one_opened(self, bytes value):
        cdef Py_ssize_t n = PyBytes_GET_SIZE(value), got
        if n < LEAST:
            raise OpenFailed("sealed bytes do not open")
        out = PyBytes_FromStringAndSize(NULL, n - BODY_AT - 16)
        got = self.open_into(<const uint8_t*>PyBytes_AS_STRING(value), n, <uint8_t*>PyBytes_AS_STRING(out))
        return out if got == n - BODY_AT - 16 else out[:got]

    def seal(self, bytes plain not None):
        """The sealed value of one plaintext (PostgreSQL's binary send form)."""
        try:
            return self.one_sealed(plain)
        finally:
            self.end_batch()

    def open(self, bytes value not None):
        """The plaintext of one value. OpenFailed for every cause; KeyGone when a key expired."""
        try:
            return self.one_opened(value)
        finally:
            self.end_batch()

    def seal_many(self, plains not None):
        """One value for each plaintext; None stays None."""
        try:
            return [None if p is None else self.one_sealed(p) for p in plains]
        finally:
            self.end_batch()

    def open_many(self, values not None):
        """One plaintext for each value; None stays None. OpenFailed if any of them fails."""
        try:
            return [None if v is None else self.one_opened(v) for v in values]
        finally:
            self.end_batch()

    def tag(self, bytes plain not None):
        """The 16-byte equality tag under the active index key."""
        out = PyBytes_FromStringAndSize(NULL, 16)
        self.tag_into(<const uint8_t*>PyBytes_AS_STRING(plain), len(plain), <uint8_t*>PyBytes_AS_STRING(out))
        return out

    def tags(self, bytes plain not None):
        """The tags under every version, the active one first, each once."""
        cdef _ColumnKey key
        found = [self.tag(plain)]
        for key in self.keys:
            if key is self.active or key.state is None:
                continue
            self.check(key)
            out = PyBytes_FromStringAndSize(NULL, 16)
            self.tag_under(key, <const uint8_t*>PyBytes_AS_STRING(plain), len(plain),
                           <uint8_t*>PyBytes_AS_STRING(out))
            found.append(out)
        return found
