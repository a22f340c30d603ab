# cython: language_level=3
# The data of one COPY on protected columns: cells are sealed on their way in, opened on their way
# out, all others pass as they came. Text, csv and binary format (PostgreSQL documentation, COPY,
# "File Formats"); what is a line and a field is in copy_text.pyx. Knows no messages: bytes come in
# pieces cut anywhere, whole rows go out. A row that raises is not consumed: `run` tries it again
# (its keys may have been fetched), and nothing of it was written.

COPY_TEXT_FORMAT = 0
COPY_CSV_FORMAT = 1
COPY_BINARY_FORMAT = 2

cdef bytes _COPY_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
cdef bytes _HEX_PAIRS = b"".join(b"%02x" % i for i in range(256))


class CopyBad(ValueError):
    """The data are not what the format says: (the server's message, hint)."""


cdef bint _utf8(const uint8_t* p, Py_ssize_t n) noexcept nogil:
    """Well-formed UTF-8 (RFC 3629) without a zero byte."""
    cdef Py_ssize_t i = 0, more
    cdef uint8_t c, low, high
    while i < n:
        c = p[i]
        i += 1
        if c < 128:
            if c == 0:
                return False
            continue
        low = 0x80
        high = 0xBF
        if 0xC2 <= c <= 0xDF:
            more = 1
        elif 0xE0 <= c <= 0xEF:
            more = 2
            if c == 0xE0:
                low = 0xA0
            elif c == 0xED:
                high = 0x9F
        elif 0xF0 <= c <= 0xF4:
            more = 3
            if c == 0xF0:
                low = 0x90
            elif c == 0xF4:
                high = 0x8F
        else:
            return False
        if n - i < more or p[i] < low or p[i] > high:
            return False
        i += 1
        while more > 1:
            if p[i] & 0xC0 != 0x80:
                return False
            i += 1
            more -= 1
    return True


cdef bint _integer(const uint8_t* p, Py_ssize_t n, Py_ssize_t width, uint8_t* out) noexcept nogil:
    """Plain decimal text as a big-endian integer of `width` bytes. False: let Python look at it."""
    cdef Py_ssize_t i = 0
    cdef bint minus = False
    cdef int64_t v = 0
    cdef uint64_t u
    if n > 0 and (p[0] == 45 or p[0] == 43):
        minus = p[0] == 45
        i = 1
    if n - i < 1 or n - i > 18:
        return False
    while i < n:
        if p[i] < 48 or p[i] > 57:
            return False
        v = v * 10 + (p[i] - 48)
        i += 1
    if minus:
        v = -v
    if width == 2 and not -32768 <= v <= 32767:
        return False
    if width == 4 and not -2147483648 <= v <= 2147483647:
        return False
    u = <uint64_t>v
    for i in range(width):
        out[width - 1 - i] = <uint8_t>(u & 0xFF)
        u >>= 8
    return True


cdef void _put_hex(const uint8_t* p, Py_ssize_t n, uint8_t* out) noexcept:
    cdef const uint8_t* pairs = <const uint8_t*>PyBytes_AS_STRING(_HEX_PAIRS)
    cdef Py_ssize_t i
    for i in range(n):
        memcpy(out + 2 * i, pairs + 2 * <Py_ssize_t>p[i], 2)


cdef Py_ssize_t pg_seal_value(object codec, const uint8_t* plain, Py_ssize_t n,
                              PgOut* out) except -1:
    """The sealed value, as all that is in `out`. Any object with `seal` serves."""
    cdef bytes sealed
    out.n = 0
    if isinstance(codec, ColumnCodec):
        pg_room(out, (<ColumnCodec>codec).sealed_size(n))
        out.n = (<ColumnCodec>codec).seal_into(plain, n, out.p)
        return out.n
    sealed = codec.seal(PyBytes_FromStringAndSize(<char*>plain, n))
    pg_append(out, <const uint8_t*>PyBytes_AS_STRING(sealed), PyBytes_GET_SIZE(sealed))
    return out.n


cdef class CopyStream:
    """One COPY, one direction.

    `columns` has an entry for each column of the stream: None, or (codec, ROW_* kind, callable,
    fits). Inwards the callable makes the declared type's binary form of a cell in the stream's
    format, and is asked where the kind's own reading does not hold: ROW_TEXT takes well-formed
    text of at most `fits` bytes, ROW_INT decimal text of a `fits`-byte integer, ROW_BOOL t and f,
    ROW_COPY binary of `fits` bytes. Outwards as in RowPlan. `header`: column names that take the
    place of a header line going in; a header line coming out passes. `check_header` is given the
    fields of the one that came. `limit`: bytes of a line or row.
    """
    cdef list codecs, calls
    cdef list headers
    cdef object check_header
    cdef Py_ssize_t width, limit, start
    cdef int* kinds
    cdef Py_ssize_t* fits
    cdef uint8_t* flags       # per column: 1 force_not_null or force_quote, 2 force_null
    cdef bint sealing, binary, pass_header, greeted, ended
    cdef CopyLook look
    cdef CopyScan scan
    cdef bytes null, default
    cdef PgOut buf, plain, raw
    cdef unsigned long long lines
    cdef readonly unsigned long long line   # number of the line or row at hand, from 1
    cdef readonly Py_ssize_t failed         # its column, -1: none
    cdef readonly bint again                # the last run raised: call `run` again

    def __cinit__(self, columns, bint sealing, int form, *, Py_ssize_t limit,
                  bytes delimiter=b"\t", bytes null=b"\\N", bytes quote=b'"', bytes escape=b'"',
                  bytes default=None, header=None, bint pass_header=False, check_header=None,
                  force_first=(), force_null=(), bint marker=True):
        cdef Py_ssize_t i
        self.width = len(columns)
        self.codecs = [None if c is None else c[0] for c in columns]
        self.calls = [None if c is None else c[2] for c in columns]
        self.kinds = <int*>malloc((self.width + 1) * sizeof(int))
        self.fits = <Py_ssize_t*>malloc((self.width + 1) * sizeof(Py_ssize_t))
        self.flags = <uint8_t*>malloc(self.width + 1)
        if self.kinds == NULL or self.fits == NULL or self.flags == NULL:
            raise MemoryError
        for i in range(self.width):
            self.kinds[i] = -1 if columns[i] is None else columns[i][1]
            self.fits[i] = 0 if columns[i] is None else columns[i][3]
            self.flags[i] = (1 if i in force_first else 0) | (2 if i in force_null else 0)
        self.sealing = sealing
        self.binary = form == 2
        self.limit = limit
        self.look.csv = form == 1
        self.look.marker = marker
        self.look.servers = not sealing
        self.look.delimiter = delimiter[0]
        self.look.quote = quote[0]
        self.look.escape = escape[0]
        self.look.toggle = 0 if quote == escape else escape[0]
        self.null = null
        self.default = default
        self.headers = None if header is None else list(header)
        self.check_header = check_header
        self.pass_header = pass_header
        self.failed = -1

    def __dealloc__(self):
        for out in (0, 1, 2):
            self._wipe(&self.buf if out == 0 else &self.plain if out == 1 else &self.raw)
        free(self.kinds)
        free(self.fits)
        free(self.flags)

    cdef void _wipe(self, PgOut* out) noexcept:
        if out.p != NULL:
            OPENSSL_cleanse(out.p, out.cap)
            free(out.p)
            out.p = NULL

    def renew(self, codecs):
        """The same columns under fetched keys: one codec or None for each."""
        self.codecs = list(codecs)

    def value_lost(self, index: int) -> None:
        """A value of this column did not open and was given out as NULL."""

    cdef void end_batch(self) noexcept:
        cdef object codec
        for codec in self.codecs:
            if isinstance(codec, ColumnCodec):
                (<ColumnCodec>codec).end_batch()

    @property
    def rest(self):
        """Whether an incomplete row is left."""
        return self.start != self.buf.n

    # ---- the C contract ------------------------------------------------------------------------
    cdef int add(self, const uint8_t* p, Py_ssize_t n) except -1:
        """More of the stream."""
        if self.ended and not self.binary:
            return 0  # behind \. nothing counts
        if self.start == self.buf.n:
            self.start = self.buf.n = 0
        elif self.start > 65536:
            memmove(self.buf.p, self.buf.p + self.start, self.buf.n - self.start)
            self.buf.n -= self.start
            self.start = 0
        pg_append(&self.buf, p, n)
        return 0

    cdef int run(self, PgOut* out, bint last) except -1:
        """Appends all whole rows to `out`; with `last` what is left must be one."""
        cdef Py_ssize_t before
        cdef int more = 1
        self.again = True
        while more:
            before = out.n
            try:
                if self.binary:
                    more = self._tuple(out, last)
                else:
                    more = self._text_line(out, last)
            except BaseException:
                out.n = before
                raise
        self.again = False
        self.failed = -1
        if self.buf.n - self.start > self.limit:
            raise CopyBad("a row of COPY data is too large", "")
        return 0

    # ---- text and csv --------------------------------------------------------------------------
    cdef int _text_line(self, PgOut* out, bint last) except -1:
        cdef const uint8_t* p = self.buf.p + self.start
        cdef Py_ssize_t n = self.buf.n - self.start
        cdef int found
        if n == 0 or self.ended:
            return 0
        found = copy_line(p, n, last, &self.look, &self.scan)
        if found == _COPY_MORE:
            return 0
        self.line = self.lines + 1 + self.scan.embedded
        self.failed = -1
        if found > _COPY_MARKER:
            self._bad_line(found)
        if found == _COPY_LINE or self.scan.body > 0:
            if self.headers is not None:
                self._header(p, self.scan.body, out)
            elif self.pass_header:
                pg_append(out, p, self.scan.body)
            else:
                self._row(p, self.scan.body, out)
            pg_room(out, 1)[0] = 10
            out.n += 1
        self.headers = None
        self.pass_header = False
        self.lines = self.line
        self.ended = found == _COPY_MARKER
        self.start += self.scan.taken
        self.scan.at = 0
        self.scan.embedded = 0
        self.scan.in_quote = False
        self.scan.was_escape = False
        if self.ended:
            self.start = self.buf.n
        return 1

    cdef int _bad_line(self, int found) except -1:
        if found == _COPY_CORRUPT:
            raise CopyBad("end-of-copy marker corrupt", "")
        if found == _COPY_STYLE:
            raise CopyBad("end-of-copy marker does not match previous newline style", "")
        which, code = (("carriage return", "\\r") if found == _COPY_CR else ("newline", "\\n"))
        if self.look.csv:
            raise CopyBad(f"unquoted {which} found in data",
                          f"Use quoted CSV field to represent {which}.")
        raise CopyBad(f"literal {which} found in data", f'Use "{code}" to represent {which}.')

    cdef int _row(self, const uint8_t* p, Py_ssize_t n, PgOut* out) except -1:
        """The fields of a line, sealed or opened where they are protected."""
        cdef Py_ssize_t at = 0, run = 0, end, i = 0
        cdef int special
        while True:
            if i >= self.width:
                raise CopyBad("extra data after last expected column", "")
            end = copy_field(p, n, at, &self.look, &special)
            if end < 0:
                raise CopyBad("unterminated CSV quoted field", "")
            if self.kinds[i] >= 0:
                pg_append(out, p + run, at - run)
                self.failed = i
                if self.sealing:
                    run = end if self._cell_in(i, p + at, end - at, special, out) else at
                else:
                    run = end if self._cell_out(i, p + at, end - at, special, out) else at
                self.failed = -1
            i += 1
            if end >= n:
                break
            at = end + 1
        if i < self.width and not self.sealing:
            raise RowShape("number of columns")
        pg_append(out, p + run, n - run)
        return 0

    cdef bint _same(self, const uint8_t* p, Py_ssize_t n, bytes word) noexcept:
        return n == PyBytes_GET_SIZE(word) and memcmp(p, PyBytes_AS_STRING(word), n) == 0

    cdef Py_ssize_t _value(self, const uint8_t** p, Py_ssize_t n, int special) except -1:
        """Resolves escapes or quotes; p then points at the value."""
        if not special:
            return n
        if special == 2:
            p[0] += 1
            return n - 1
        self.raw.n = 0
        pg_room(&self.raw, n + 1)
        if self.look.csv:
            n = copy_unquote(p[0], n, &self.look, self.raw.p)
        else:
            n = copy_unescape(p[0], n, self.raw.p)
        p[0] = self.raw.p
        return n

    cdef int _cell_in(self, Py_ssize_t i, const uint8_t* p, Py_ssize_t n, int special,
                      PgOut* out) except -1:
        """Appends the sealed cell; 0: it is NULL or a default, and stays as it came."""
        cdef bint quoted = self.look.csv and special
        cdef Py_ssize_t size
        cdef uint8_t* q
        if not quoted:
            if self._same(p, n, self.null):
                if not (self.look.csv and self.flags[i] & 1):
                    return 0
            elif self.default is not None and self._same(p, n, self.default):
                return 0
        n = self._value(&p, n, special)
        if self.flags[i] & 2 and self._same(p, n, self.null):
            return 0
        size = self._seal(i, p, n)
        q = pg_room(out, 2 * size + 3)
        q[0] = q[1] = 92
        if not self.look.csv:
            q += 1
        q[1] = 120
        _put_hex(self.plain.p, size, q + 2)
        out.n = pg_between(out.p, q) + 2 + 2 * size
        return 1

    cdef Py_ssize_t _seal(self, Py_ssize_t i, const uint8_t* p, Py_ssize_t n) except -1:
        """The sealed value of a cell, in `plain`."""
        cdef uint8_t number[8]
        cdef int kind = self.kinds[i]
        cdef bytes made
        if self.binary:
            if kind == 0 and n == self.fits[i]:
                return pg_seal_value(self.codecs[i], p, n, &self.plain)
        elif kind == 2 and _integer(p, n, self.fits[i], number):
            return pg_seal_value(self.codecs[i], number, self.fits[i], &self.plain)
        elif kind == 3 and n == 1 and (p[0] == 116 or p[0] == 102):
            number[0] = 1 if p[0] == 116 else 0
            return pg_seal_value(self.codecs[i], number, 1, &self.plain)
        if kind == 1 and n <= self.fits[i] and _utf8(p, n):
            return pg_seal_value(self.codecs[i], p, n, &self.plain)
        made = self.calls[i](PyBytes_FromStringAndSize(<char*>p, n))
        return pg_seal_value(self.codecs[i], <const uint8_t*>PyBytes_AS_STRING(made),
                             PyBytes_GET_SIZE(made), &self.plain)

    cdef int _cell_out(self, Py_ssize_t i, const uint8_t* p, Py_ssize_t n, int special,
                       PgOut* out) except -1:
        cdef Py_ssize_t size, got
        cdef bint force
        if self._same(p, n, self.null):
            return 0
        n = self._value(&p, n, special)
        self.plain.n = 0
        pg_room(&self.plain, n + 1)
        size = _bytea_text(p, n, self.plain.p)
        if size < 0:
            raise RowShape("not bytea")
        got = self._open(i, self.plain.p, size)
        if got < 0:
            pg_append(out, <const uint8_t*>PyBytes_AS_STRING(self.null),
                      PyBytes_GET_SIZE(self.null))
            return 1
        if self.look.csv:
            force = (self.flags[i] & 1 or self._same(self.raw.p, got, self.null)
                     or (self.width == 1 and got == 2 and self.raw.p[0] == 92
                         and self.raw.p[1] == 46))
            pg_room(out, 2 * got + 2)
            out.n += copy_quote(self.raw.p, got, &self.look, force, out.p + out.n)
        else:
            pg_room(out, 2 * got)
            out.n += copy_escape(self.raw.p, got, self.look.delimiter, out.p + out.n)
        return 1

    cdef Py_ssize_t _open(self, Py_ssize_t i, const uint8_t* p, Py_ssize_t n) except -2:
        """What the client gets of a sealed value, in `raw`; -1: NULL."""
        cdef int kind = self.kinds[i]
        cdef Py_ssize_t got
        cdef bytes fixed
        self.raw.n = 0
        pg_room(&self.raw, n + 64)
        if kind == 4:
            return -1
        if kind == 5:
            fixed = self.calls[i]
            got = PyBytes_GET_SIZE(fixed)
            memcpy(pg_room(&self.raw, got + 1), PyBytes_AS_STRING(fixed), got)
            return got
        try:
            got = pg_open_value(self.codecs[i], p, n, self.raw.p)
        except OpenFailed:
            if not kind & 16:
                raise
            self.value_lost(i)
            return -1
        return pg_render(kind & 15, self.calls[i], got, &self.raw, 0)

    cdef int _header(self, const uint8_t* p, Py_ssize_t n, PgOut* out) except -1:
        """What came as a header may be a row of data: the server gets the names."""
        cdef list found = []
        cdef Py_ssize_t at = 0, end, size, i
        cdef int special
        cdef const uint8_t* q
        cdef bytes name
        if self.check_header is not None:
            while True:
                end = copy_field(p, n, at, &self.look, &special)
                if end < 0:
                    raise CopyBad("unterminated CSV quoted field", "")
                q = p + at
                if not (self.look.csv and special) and self._same(q, end - at, self.null):
                    found.append(None)
                else:
                    size = self._value(&q, end - at, special)
                    found.append(PyBytes_FromStringAndSize(<char*>q, size))
                if end >= n:
                    break
                at = end + 1
            self.check_header(found)
        for i in range(len(self.headers)):
            if i:
                pg_room(out, 1)[0] = self.look.delimiter
                out.n += 1
            name = self.headers[i]
            q = <const uint8_t*>PyBytes_AS_STRING(name)
            size = PyBytes_GET_SIZE(name)
            pg_room(out, 2 * size + 2)
            if self.look.csv:
                out.n += copy_quote(q, size, &self.look, self._same(q, size, self.null),
                                    out.p + out.n)
            else:
                out.n += copy_escape(q, size, self.look.delimiter, out.p + out.n)
        return 0

    # ---- binary --------------------------------------------------------------------------------
    cdef int _tuple(self, PgOut* out, bint last) except -1:
        cdef const uint8_t* p = self.buf.p + self.start
        cdef Py_ssize_t n = self.buf.n - self.start, pos, i, run
        cdef int count
        cdef int32_t size
        if not self.greeted:
            return self._greeting(p, n, out, last)
        if n == 0:
            return 0
        if self.ended:
            raise CopyBad("received copy data after EOF marker", "")
        if n < 2:
            if last:
                self.start = self.buf.n
            return 0
        self.line = self.lines + 1
        self.failed = -1
        count = <int16_t>pg_u16(p)
        if count == -1:
            self.ended = True
            pg_append(out, p, 2)
            self.start += 2
            return 1
        if count != self.width:
            raise CopyBad(f"row field count is {count}, expected {self.width}", "")
        pos = 2
        for i in range(self.width):
            self.failed = i
            if n - pos < 4:
                return self._early(last)
            size = <int32_t>pg_u32(p + pos)
            pos += 4
            if size < -1:
                raise CopyBad("invalid field size", "")
            if size < 0:
                continue
            if size > self.limit:
                raise CopyBad("a row of COPY data is too large", "")
            if n - pos < size:
                return self._early(last)
            pos += size
        pos = 2
        run = 0
        self.failed = -1
        for i in range(self.width):
            size = <int32_t>pg_u32(p + pos)
            if size < 0 or self.kinds[i] < 0:
                pos += 4 + (size if size > 0 else 0)
                continue
            pg_append(out, p + run, pos - run)
            self.failed = i
            self._binary_cell(i, p + pos + 4, size, out)
            pos += 4 + size
            run = pos
        self.failed = -1
        pg_append(out, p + run, pos - run)
        self.lines = self.line
        self.start += pos
        return 1

    cdef int _early(self, bint last) except -1:
        if last:
            raise CopyBad("unexpected EOF in COPY data", "")
        return 0

    cdef int _binary_cell(self, Py_ssize_t i, const uint8_t* p, Py_ssize_t n,
                          PgOut* out) except -1:
        cdef Py_ssize_t size
        cdef uint8_t* q
        if self.sealing:
            size = self._seal(i, p, n)
            q = pg_room(out, size + 4)
            memcpy(q + 4, self.plain.p, size)
        else:
            size = self._open(i, p, n)
            q = pg_room(out, 4 + (size if size > 0 else 0))
            memcpy(q + 4, self.raw.p, size if size > 0 else 0)
        pg_put32(q, <uint32_t>size)
        out.n += 4 + (size if size > 0 else 0)
        return 0

    cdef int _greeting(self, const uint8_t* p, Py_ssize_t n, PgOut* out, bint last) except -1:
        cdef uint32_t flags, more
        if n < 19:
            if last:
                raise CopyBad("COPY file signature not recognized" if n < 11
                              else "invalid COPY file header (missing flags)" if n < 15
                              else "invalid COPY file header (missing length)", "")
            return 0
        if memcmp(p, PyBytes_AS_STRING(_COPY_SIGNATURE), 11) != 0:
            raise CopyBad("COPY file signature not recognized", "")
        flags = pg_u32(p + 11)
        if flags & 0x10000:
            raise CopyBad("invalid COPY file header (WITH OIDS)", "")
        if flags & 0xFFFF0000:
            raise CopyBad("unrecognized critical flags in COPY file header", "")
        more = pg_u32(p + 15)
        if more > 0x7FFFFFFF or <Py_ssize_t>more > self.limit:
            raise CopyBad("invalid COPY file header (missing length)", "")
        if n - 19 < <Py_ssize_t>more:
            if last:
                raise CopyBad("invalid COPY file header (wrong length)", "")
            return 0
        pg_append(out, p, 19)
        memset(out.p + out.n - 4, 0, 4)  # an extension is not forwarded: no reader knows one
        self.start += 19 + <Py_ssize_t>more
        self.greeted = True
        return 1

    # ---- from Python: tests --------------------------------------------------------------------
    def feed(self, bytes data not None, bint last=False):
        """Whole rows out of what came so far."""
        cdef PgOut out
        memset(&out, 0, sizeof(PgOut))
        try:
            self.add(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            self.run(&out, last)
            return PyBytes_FromStringAndSize(<char*>out.p, out.n)
        finally:
            free(out.p)
            self.end_batch()
