# cython: language_level=3
# Opens the protected columns of DataRow messages of one result, in the server's buffer, without
# a Python object per row (facts: performance.md E 2). Knows nothing of messages other than 'D'.

ROW_COPY = 0  # plaintext is copied: binary to a client that asked for binary
ROW_TEXT = 1  # plaintext is text already
ROW_INT = 2  # 2, 4 or 8-byte signed integer -> decimal text
ROW_BOOL = 3  # one byte -> t or f
ROW_NULL = 4  # NULL whatever is there; needs no codec
ROW_FIXED = 5  # the bytes that stand in place of the callable; needs no codec
# rendered natively, by the callable where that does not hold (render.pyx)
ROW_UUID = 6
ROW_HEX = 7  # bytea
ROW_DATE = 8  # ISO, as the two below
ROW_TIMESTAMP = 10
ROW_NUMERIC = 11
ROW_TIMESTAMP_UTC = 12  # with time zone, in a session whose zone is UTC
ROW_CALL = 9  # ask the Python callable
ROW_LENIENT = 16  # flag: a value that does not open is NULL, and `value_lost` is told


class RowShape(ValueError):
    """A DataRow that does not fit its plan: other number of columns, or not bytea."""


cdef int _hex_digit(uint8_t c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    if 97 <= c <= 102:
        return c - 87
    if 65 <= c <= 70:
        return c - 55
    return -1


cdef int8_t _HEX_VALUE[256]
for _octet in range(256):
    _HEX_VALUE[_octet] = <int8_t>_hex_digit(<uint8_t>_octet)


cdef Py_ssize_t _bytea_text(const uint8_t* p, Py_ssize_t n, uint8_t* out) noexcept nogil:
    """bytea's text form, hex or escape (PostgreSQL 8.4), into `out` (room for n); -1: malformed."""
    cdef Py_ssize_t i, k = 0
    cdef int hi, lo, bad = 0
    if n >= 2 and p[0] == 92 and p[1] == 120:
        if n & 1:
            return -1
        i = 2
        while i < n:
            hi = _HEX_VALUE[p[i]]
            lo = _HEX_VALUE[p[i + 1]]
            bad |= hi | lo
            out[k] = <uint8_t>((hi << 4) | (lo & 15))
            k += 1
            i += 2
        return -1 if bad < 0 else k
    i = 0
    while i < n:
        if p[i] != 92:
            out[k] = p[i]
            i += 1
        elif i + 1 < n and p[i + 1] == 92:
            out[k] = 92
            i += 2
        elif (i + 3 < n and 48 <= p[i + 1] <= 51 and 48 <= p[i + 2] <= 55
                and 48 <= p[i + 3] <= 55):
            out[k] = <uint8_t>((p[i + 1] - 48) * 64 + (p[i + 2] - 48) * 8 + (p[i + 3] - 48))
            i += 4
        else:
            return -1
        k += 1
    return k


cdef Py_ssize_t pg_open_value(object codec, const uint8_t* value, Py_ssize_t n,
                              uint8_t* out) except -1:
    """Opens into `out` (room for n). Any object with `open` serves; a ColumnCodec natively."""
    cdef bytes plain
    if isinstance(codec, ColumnCodec):
        return (<ColumnCodec>codec).open_into(value, n, out)
    plain = codec.open(PyBytes_FromStringAndSize(<char*>value, n))
    if PyBytes_GET_SIZE(plain) > n:
        raise RowShape("plaintext longer than its sealed form")
    memcpy(out, PyBytes_AS_STRING(plain), PyBytes_GET_SIZE(plain))
    return PyBytes_GET_SIZE(plain)


cdef Py_ssize_t pg_render(int kind, object call, Py_ssize_t got, PgOut* out,
                          Py_ssize_t gap) except -1:
    """Turns the binary value that lies `gap` bytes behind the end of `out`, `got` bytes long and with
    room for 20, into what the client gets; its length. Behind ROW_CALL the buffer may have moved."""
    cdef uint8_t* q = out.p + out.n + gap
    cdef int64_t number
    cdef bytes rendered
    cdef uint8_t text[_RENDERED_MOST]
    cdef uint8_t byte
    cdef Py_ssize_t i
    if kind == 2:
        if got == 2:
            number = <int16_t>pg_u16(q)
        elif got == 4:
            number = <int32_t>pg_u32(q)
        elif got == 8:
            number = <int64_t>((<uint64_t>pg_u32(q) << 32) | pg_u32(q + 4))
        else:
            raise RowShape("integer width")
        return _decimal(number, q)
    if kind == 3:
        if got != 1:
            raise RowShape("boolean width")
        q[0] = 116 if q[0] else 102
    elif kind == 7:
        pg_room(out, gap + 2 * got + 2)
        q = out.p + out.n + gap
        i = got
        while i > 0:  # from the end: the text grows over the value
            i -= 1
            byte = q[i]
            q[2 * i + 3] = _HEX[byte & 15]
            q[2 * i + 2] = _HEX[byte >> 4]
        q[0] = 92
        q[1] = 120
        return 2 * got + 2
    elif kind >= 6:
        if kind != 9:
            i = _hot_text(kind, q, got, text)
            if i >= 0:
                memcpy(pg_room(out, gap + i) + gap, text, i)
                OPENSSL_cleanse(text, i)
                return i
        rendered = call(PyBytes_FromStringAndSize(<char*>q, got))
        got = PyBytes_GET_SIZE(rendered)
        q = pg_room(out, got + gap) + gap
        memcpy(q, PyBytes_AS_STRING(rendered), got)
    return got


cdef class RowPlan:
    """How the rows of one result are opened.

    `columns` has one entry per output column: None (copied through) or (ColumnCodec or None, ROW_*,
    render callable, bytes or None). `text_input`: the server sends bytea as text (simple protocol).
    The codecs can be replaced while rows are in flight (`renew`), when keys had to be fetched
    again. `failed` is the index of the column at which the last row did not open.
    """
    cdef list codecs
    cdef list renders
    cdef list kinds
    cdef bint text_input
    cdef readonly Py_ssize_t failed
    cdef Py_ssize_t hidden
    cdef object test
    cdef uint64_t dropped  # rows that did not stay since the last completion
    cdef PgOut scratch
    cdef PyObject** quick  # the codec of each column, or NULL; NULL itself: open_row does all
    cdef Py_ssize_t width

    def __cinit__(self, columns, bint text_input=False):
        self.codecs = [None if c is None else c[0] for c in columns]
        self.kinds = [0 if c is None else c[1] for c in columns]
        self.renders = [None if c is None else c[2] for c in columns]
        self.text_input = text_input
        self.failed = -1
        self.hidden = 0
        self.test = None
        self.dropped = 0
        self._plain_columns()

    def filter(self, Py_ssize_t hidden, test not None):
        """The last `hidden` columns are sealed ones that the client does not see: `test` gets their
        plaintexts (None: NULL) and says whether a row stays."""
        if not 0 < hidden <= len(self.codecs) or None in self.codecs[len(self.codecs) - hidden:]:
            raise ValueError("the hidden columns are sealed ones, at the end")
        self.hidden = hidden
        self.test = test
        self._plain_columns()

    cdef bytes completion(self, const uint8_t* body, Py_ssize_t n):
        """The CommandComplete message with this body, less the rows that did not stay; None where
        nothing changes. `SELECT n` and `FETCH n` end in the number of rows."""
        cdef uint64_t dropped = self.dropped
        self.dropped = 0
        if dropped == 0:
            return None
        command, _, rows = PyBytes_FromStringAndSize(<const char*>body, n).rpartition(b" ")
        rows = rows.rstrip(b"\0")
        if not rows.isdigit() or int(rows) < dropped:
            raise RowShape("completion of rows")
        tag = command + b" %d\0" % (int(rows) - dropped)
        return b"C" + (len(tag) + 4).to_bytes(4, "big") + tag

    def __dealloc__(self):
        free(self.quick)
        if self.scratch.p != NULL:
            OPENSSL_cleanse(self.scratch.p, self.scratch.cap)
            free(self.scratch.p)

    def renew(self, codecs):
        """The same columns under fetched keys: one ColumnCodec or None per output column."""
        self.codecs = list(codecs)
        self._plain_columns()

    def value_lost(self, index: int) -> None:
        """A value of this column did not open and was given out as NULL."""

    cdef void end_batch(self) noexcept:
        """The codecs let go of the copies of keys that they keep for one batch."""
        cdef object codec
        for codec in self.codecs:
            if isinstance(codec, ColumnCodec):
                (<ColumnCodec>codec).end_batch()

    cdef int _plain_columns(self) except -1:
        """Fills `quick` where the rows need nothing but values that are copied or opened."""
        cdef Py_ssize_t i, count = len(self.codecs)
        free(self.quick)
        self.quick = NULL
        if self.text_input or self.hidden:
            return 0
        for i in range(count):
            if not (self.codecs[i] is None and self.kinds[i] == 0
                    or type(self.codecs[i]) is ColumnCodec and self.kinds[i] in (0, 1)):
                return 0
        self.quick = <PyObject**>malloc((count + 1) * sizeof(PyObject*))
        if self.quick == NULL:
            raise MemoryError()
        for i in range(count):
            codec = self.codecs[i]
            self.quick[i] = NULL if codec is None else <PyObject*>codec  # `codecs` holds it
        self.width = count
        return 0

    cdef bint open_quick(self, const uint8_t* body, Py_ssize_t n, PgOut* out) except -1:
        """As `open_row` for the common row; 0, and nothing done, where that has to look."""
        cdef const uint8_t* p = body + 2
        cdef const uint8_t* end = body + n
        cdef uint8_t* q
        cdef uint8_t* start
        cdef Py_ssize_t i, got
        cdef int32_t size
        if self.quick == NULL or n < 2 or <Py_ssize_t>pg_u16(body) != self.width:
            return 0
        start = pg_room(out, n + 5)  # no value grows
        q = start + 7
        self.failed = -1
        for i in range(self.width):
            if pg_between(p, end) < 4:
                return 0
            size = <int32_t>pg_u32(p)
            if size < 0:
                if size != -1:
                    return 0
                pg_put32(q, 0xFFFFFFFF)
                p += 4
                q += 4
                continue
            if size > pg_between(p, end) - 4:
                return 0
            if self.quick[i] == NULL:
                memcpy(q, p, size + 4)
                q += size + 4
            else:
                self.failed = i
                got = (<ColumnCodec>self.quick[i]).open_into(p + 4, size, q + 4)
                pg_put32(q, <uint32_t>got)
                q += got + 4
            p += size + 4
        self.failed = -1
        if p != end:
            return 0
        start[0] = 68
        pg_put32(start + 1, <uint32_t>(pg_between(start, q) - 1))
        start[5] = body[0]
        start[6] = body[1]
        out.n += pg_between(start, q)
        return 1

    cdef int open_row(self, const uint8_t* body, Py_ssize_t n, PgOut* out) except -1:
        """Appends the client's whole DataRow message to `out`; `out` is unchanged on an error."""
        cdef Py_ssize_t start = out.n, pos = 2, count, i, size, got
        cdef int32_t declared
        cdef uint8_t* q
        cdef const uint8_t* value
        cdef uint8_t* opened
        cdef int kind
        cdef object codec
        cdef list checked = None
        self.failed = -1
        count = len(self.codecs)
        if n < 2 or <Py_ssize_t>pg_u16(body) != count:
            raise RowShape("number of columns")
        try:
            pg_room(out, 7)
            out.p[out.n] = 68
            out.p[out.n + 5] = <uint8_t>((count - self.hidden) >> 8)
            out.p[out.n + 6] = <uint8_t>((count - self.hidden) & 0xFF)
            out.n += 7
            if self.hidden:
                checked = []
            for i in range(count):
                if n - pos < 4:
                    raise RowShape("row ends early")
                declared = <int32_t>pg_u32(body + pos)
                pos += 4
                size = declared
                if size < -1 or size > n - pos:
                    raise RowShape("value length")
                if size < 0:
                    if i >= count - self.hidden:
                        checked.append(None)
                        continue
                    memcpy(pg_room(out, 4), body + pos - 4, 4)
                    out.n += 4
                    continue
                value = body + pos
                pos += size
                codec = self.codecs[i]
                if codec is None and self.kinds[i] == 4:
                    pg_put32(pg_room(out, 4), 0xFFFFFFFF)
                    out.n += 4
                    continue
                if codec is None and self.kinds[i] == 5:
                    rendered = self.renders[i]
                    got = PyBytes_GET_SIZE(rendered)
                    q = pg_room(out, got + 4)
                    pg_put32(q, <uint32_t>got)
                    memcpy(q + 4, PyBytes_AS_STRING(rendered), got)
                    out.n += got + 4
                    continue
                if codec is None:
                    memcpy(pg_room(out, size + 4), value - 4, size + 4)
                    out.n += size + 4
                    continue
                self.failed = i
                if self.text_input:
                    self.scratch.n = 0
                    pg_room(&self.scratch, size + 1)
                    got = _bytea_text(value, size, self.scratch.p)
                    if got < 0:
                        raise RowShape("not bytea")
                    value = self.scratch.p
                    size = got
                kind = self.kinds[i]
                q = pg_room(out, size + 64) + 4
                if kind & 16:
                    kind &= 15
                    try:
                        got = pg_open_value(codec, value, size, q)
                    except OpenFailed:
                        if i >= count - self.hidden:
                            checked.append(None)
                        else:
                            pg_put32(q - 4, 0xFFFFFFFF)
                            out.n += 4
                        self.value_lost(i)
                        continue
                else:
                    got = pg_open_value(codec, value, size, q)
                if i >= count - self.hidden:
                    checked.append(PyBytes_FromStringAndSize(<char*>q, got))
                    OPENSSL_cleanse(q, got)
                    continue
                got = pg_render(kind, self.renders[i], got, out, 4)
                q = out.p + out.n + 4
                pg_put32(q - 4, <uint32_t>got)
                out.n += got + 4
            if pos != n:
                raise RowShape("bytes behind the last column")
            if self.hidden and not self.test(checked):
                out.n = start
                self.dropped += 1
                self.failed = -1
                return 0
            pg_put32(out.p + start + 1, <uint32_t>(out.n - start - 1))
        except BaseException:
            out.n = start
            raise
        self.failed = -1
        return 0
