# cython: language_level=3
# Bind messages of known prepared statements, without Python.
#
# The first Bind of a statement goes the long way (postgres/client_side.py): plan, policy, keys. If all
# its parameters are of kinds that this file knows, it leaves a FastBind under the statement's name,
# and the Binds that follow within its time and count are turned into the server's here. Whatever is
# unusual in a message (another portal, mixed formats, a value that does not parse, a key that was
# wiped) is left to Python, which does the same and says the error. Python takes a FastBind away as
# soon as anything changes on which it depends.

FAST_PASS = 0  # forwarded as it came
FAST_TEXT = 1  # text types: the bytes are the value
FAST_INT = 2  # int2, int4, int8: `width` bytes
FAST_RAW = 3  # binary only: bytea (width 0) and types of a fixed width whose every value is valid

cdef enum:
    _FAST_PASS = 0
    _FAST_TEXT = 1
    _FAST_INT = 2
    _FAST_RAW = 3

cdef struct FastParam:
    int source  # 0-based index into the client's parameters
    bint store  # sealed value, else tag
    int kind
    int width


cdef class FastDescribe:
    """RowDescription of a fast statement in one format: what the server said, what the client got."""
    cdef readonly object statement
    cdef readonly int format
    cdef bytes seen, told

    def __cinit__(self, statement, int format):
        self.statement = statement
        self.format = format

    def learn(self, bytes seen not None, bytes told not None):
        """The server's payload `seen` is told to the client as the whole message `told`."""
        self.seen = seen
        self.told = told

    cdef bytes answer(self, const uint8_t* p, Py_ssize_t n):
        if (self.seen is not None and PyBytes_GET_SIZE(self.seen) == n
                and memcmp(PyBytes_AS_STRING(self.seen), p, n) == 0):
            return self.told
        return None


cdef class FastBind:
    """How the Binds of one statement are turned into the server's.

    `params`: one tuple (source, codec or None, store, kind, width) per server parameter.
    `outputs`: which output columns are protected, empty if none. `text` and `binary`: row plans for
    results that a client wants all in text, or all in binary. `seconds` and `count` bound how long
    it may be used until Python looks at policy and keys again; `uses` says how often it was.
    """
    cdef FastParam* params
    cdef list codecs
    cdef int n_params, n_client, n_outputs
    cdef bytes ask_text, ask_binary
    cdef RowPlan text, binary
    cdef FastDescribe describe_text, describe_binary
    cdef long deadline
    cdef unsigned long left
    cdef readonly unsigned long uses

    def __cinit__(self, statement, list params, int n_client, list outputs, RowPlan text,
                  RowPlan binary, double seconds, unsigned long count):
        cdef sg_timespec now
        cdef int i
        cdef bytes codes
        self.n_params = <int>len(params)
        self.n_client = n_client
        self.params = <FastParam*>malloc((self.n_params + 1) * sizeof(FastParam))
        if self.params == NULL:
            raise MemoryError()
        self.codecs = []
        for i, (source, codec, store, kind, width) in enumerate(params):
            if not 0 <= source < n_client or not 0 <= kind <= 3:
                raise ValueError("a parameter out of range")
            if kind != 0 and not isinstance(codec, ColumnCodec):
                raise TypeError("a sealed parameter needs a ColumnCodec")
            self.params[i].source = source
            self.params[i].store = store
            self.params[i].kind = kind
            self.params[i].width = width
            self.codecs.append(codec)
        self.n_outputs = <int>len(outputs)
        if self.n_outputs:
            codes = b"".join([b"\0\1" if sealed else b"\0\0" for sealed in outputs])
            self.ask_text = self.n_outputs.to_bytes(2, "big") + codes
            self.ask_binary = self.n_outputs.to_bytes(2, "big") + b"\0\1" * self.n_outputs
            self.describe_text = FastDescribe(statement, 0)
            self.describe_binary = FastDescribe(statement, 1)
        self.text = text
        self.binary = binary
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
        self.deadline = now.tv_sec * 1000 + now.tv_nsec // 1000000 + <long>(seconds * 1000)
        self.left = count

    def __dealloc__(self):
        free(self.params)

    cdef bint fresh(self) noexcept:
        cdef sg_timespec now
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
        return self.left > 0 and now.tv_sec * 1000 + now.tv_nsec // 1000000 < self.deadline

    cdef int value(self, int i, const uint8_t* p, Py_ssize_t n, int format, PgOut* out) except -1:
        """Appends length and value of server parameter `i`; 0: Python must look at it."""
        cdef FastParam* param = &self.params[i]
        cdef uint8_t number[8]
        cdef uint8_t tag[16]
        cdef int64_t v = 0, bound
        cdef int k
        cdef Py_ssize_t size, j
        cdef ColumnCodec codec = <ColumnCodec>self.codecs[i]
        if param.kind == _FAST_TEXT:
            if not _utf8(p, n):
                return 0
        elif format == 1:
            if param.width and n != param.width:
                return 0
        elif param.kind == _FAST_INT:
            j = 1 if n > 1 and p[0] == 45 else 0
            if n == 0 or n - j > 18:
                return 0
            for k in range(<int>j, <int>n):
                if not 48 <= p[k] <= 57:
                    return 0
                v = v * 10 + (p[k] - 48)
            if j:
                v = -v
            bound = (<int64_t>1) << (8 * param.width - 1) if param.width < 8 else 0
            if bound and not -bound <= v < bound:
                return 0
            for k in range(param.width):
                number[k] = <uint8_t>((v >> (8 * (param.width - 1 - k))) & 0xFF)
            p = number
            n = param.width
        else:
            return 0
        if param.store:
            size = codec.sealed_size(n)
            pg_room(out, 4 + size)
            size = codec.seal_into(p, n, out.p + out.n + 4)
            pg_put32(out.p + out.n, <uint32_t>size)
            out.n += 4 + size
        else:
            pg_room(out, 20)
            codec.tag_into(p, n, tag)
            pg_put32(out.p + out.n, 16)
            memcpy(out.p + out.n + 4, tag, 16)
            out.n += 20
        return 1

    cdef int bind(self, const uint8_t* message, Py_ssize_t total, Py_ssize_t names,
                  PgOut* out, int* format) except -1:
        """Appends the server's Bind for the client's (`total` bytes, its names ending at offset
        `names`); `format` is how the client wants its results. 0: nothing appended, Python must
        look at it."""
        cdef const uint8_t* end = message + total
        cdef const uint8_t* p = message + names
        cdef const uint8_t* formats
        cdef const uint8_t* values
        cdef int n_formats, n_values, n_results, i, k, wanted = 0
        cdef Py_ssize_t start = out.n
        cdef int32_t size
        cdef bint good = False
        if pg_between(p, end) < 2:
            return 0
        n_formats = pg_u16(p)
        p += 2
        if pg_between(p, end) < 2 * n_formats + 2:
            return 0
        formats = p
        p += 2 * n_formats
        n_values = pg_u16(p)
        p += 2
        if n_values != self.n_client or (n_formats > 1 and n_formats != n_values):
            return 0
        values = p
        for i in range(n_values):
            if pg_between(p, end) < 4:
                return 0
            size = <int32_t>pg_u32(p)
            p += 4
            if size < -1 or (size > 0 and size > pg_between(p, end)):
                return 0
            if size > 0:
                p += size
        if pg_between(p, end) < 2:
            return 0
        n_results = pg_u16(p)
        if pg_between(p, end) != 2 + 2 * n_results:
            return 0
        if n_results:
            wanted = pg_u16(p + 2)
            for i in range(1, n_results):
                if pg_u16(p + 2 + 2 * i) != wanted:
                    return 0
        if wanted > 1 or (n_results > 1 and n_results != self.n_outputs):
            return 0
        format[0] = wanted
        try:
            pg_append(out, message, names)
            pg_room(out, 4 + 2 * self.n_params)
            out.p[out.n] = <uint8_t>(self.n_params >> 8)
            out.p[out.n + 1] = <uint8_t>(self.n_params & 0xFF)
            out.n += 2
            for i in range(self.n_params):
                k = 1
                if self.params[i].kind == _FAST_PASS:
                    k = self._format(formats, n_formats, self.params[i].source)
                out.p[out.n] = 0
                out.p[out.n + 1] = <uint8_t>k
                out.n += 2
            out.p[out.n] = <uint8_t>(self.n_params >> 8)
            out.p[out.n + 1] = <uint8_t>(self.n_params & 0xFF)
            out.n += 2
            good = self._values(values, formats, n_formats, out)
            if good:
                if self.n_outputs:
                    pg_append(out, <const uint8_t*>PyBytes_AS_STRING(
                        self.ask_binary if wanted else self.ask_text), 2 + 2 * self.n_outputs)
                else:
                    pg_append(out, p, 2 + 2 * n_results)
                pg_put32(out.p + start + 1, <uint32_t>(out.n - start - 1))
        except (KeyGone, NativeError):
            good = False
        finally:
            if not good:
                out.n = start
        if good:
            self.left -= 1
            self.uses += 1
        return good

    cdef int _format(self, const uint8_t* formats, int n, int index) noexcept:
        if n == 0:
            return 0
        return pg_u16(formats if n == 1 else formats + 2 * index)

    cdef bint _values(self, const uint8_t* values, const uint8_t* formats, int n_formats,
                      PgOut* out) except -1:
        cdef const uint8_t* p
        cdef int i, k, kind, format
        cdef int32_t size
        for i in range(self.n_params):
            p = values
            for k in range(self.params[i].source):
                size = <int32_t>pg_u32(p)
                p += 4 + (size if size > 0 else 0)
            size = <int32_t>pg_u32(p)
            kind = self.params[i].kind
            if kind == _FAST_PASS or size < 0:
                pg_append(out, p, 4 + (size if size > 0 else 0))
                continue
            format = self._format(formats, n_formats, self.params[i].source)
            if format > 1 or not self.value(i, p + 4, size, format, out):
                return False
        return True

    cdef void end_batch(self) noexcept:
        cdef object codec
        for codec in self.codecs:
            if codec is not None:
                (<ColumnCodec>codec).end_batch()
                return  # it scrubs for all


cdef class FastParse:
    """A Parse of the unnamed statement, by its exact payload: the server's Parse for it, how its Binds
    go, and what Python needs to know where they do not go natively."""
    cdef bytes message
    cdef FastBind binding
    cdef readonly object statement, describe

    def __cinit__(self, bytes message not None, FastBind binding not None, statement, describe):
        """`message`: the whole message for the server. `describe`: the cookie of a Describe."""
        self.message = message
        self.binding = binding
        self.statement = statement
        self.describe = describe

    @property
    def uses(self):
        """Binds that were done natively."""
        return self.binding.uses
