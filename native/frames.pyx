# cython: language_level=3
# Message framing of one PostgreSQL connection, both directions (PostgreSQL documentation,
# "Message Flow" and "Message Formats", protocol 3.0 and 3.2), after the startup packet.
#
# Theory. Each client message that the server answers has an entry in one FIFO, in the order sent.
# The head of the FIFO says to which message an answer belongs, hence what to do with it: copy it
# through, open its rows, or show it to Python. An error in the extended protocol makes the server
# discard everything up to Sync (postgres.c, ignore_till_sync); the FIFO does the same. Messages
# that need no Python are copied in runs; a buffer of nothing else is handed on as the very object
# that came in. Names of statements and portals that need Python are in two dicts; a name in
# neither cannot refer to anything protected. A third holds the names of statements that went to the
# server as the client sent them: a Bind of any other name goes without its values.
#
# COPY. CopyData passes, or goes through the CopyStream of the entry at the head. Before the
# server's CopyInResponse it is not known which: then it waits.
#
# An error that only the proxy sees (a value that does not open) must abort the transaction as one
# of the server's would. So while rows wait to be opened nothing is sent that could not be undone
# afterwards: no further segment, no Execute, and no Sync that ends a segment of several Executes
# (`stalled`); and after the error a Bind that must fail goes to the server, before the client's
# Sync, or, where that was sent, before its ReadyForQuery is passed on.

K_PARSE = 1
K_BIND = 2
K_DESCRIBE = 3
K_EXECUTE = 4
K_CLOSE = 5
K_SYNC = 6
K_QUERY = 7
K_FUNCTION = 8
K_STARTUP = 9
K_POISON = 10  # a Bind that must fail: the client gets `cookie` (an ErrorResponse) in its place

F_SWALLOW = 1  # ours: nothing of the answer goes to the client
F_OPENS = 2  # its rows, or some of them, are opened


cdef extern from "Python.h":
    int PyBuffer_FillInfo(Py_buffer* view, object exporter, void* buf, Py_ssize_t size, int readonly,
                          int flags) except -1


class WireError(Exception):
    """Bytes that are not this protocol. `side` is "client" or "server"."""

    def __init__(self, side, message):
        super().__init__(message)
        self.side = side


cdef dict _error_counts = {}  # class of SQLSTATE -> errors that clients got


cdef int _count_error(const uint8_t* p, Py_ssize_t n) except -1:
    """Counts an ErrorResponse (payload at `p`) by the first two characters of its SQLSTATE."""
    cdef const uint8_t* end
    cdef Py_ssize_t at = 0
    while at + 3 < n and p[at] != 0:
        if p[at] == 67:  # C
            key = PyBytes_FromStringAndSize(<char*>p + at + 1, 2)
            _error_counts[key] = _error_counts.get(key, 0) + 1
            return 0
        end = <const uint8_t*>memchr(p + at, 0, n - at)
        if end == NULL:
            return 0
        at = end - p + 1
    return 0


def take_error_counts():
    """Errors that clients got since the last call, by the class of their SQLSTATE."""
    global _error_counts
    found = {key.decode("latin-1"): count for key, count in _error_counts.items()}
    _error_counts = {}
    return found


cdef struct Expected:
    uint8_t kind
    uint8_t flags
    PyObject* cookie
    PyObject* rows


cdef bytes _ANY_NAME = b"\0"  # among the plain names: SQL may have prepared any; no name has a zero in it
cdef Expected _NOTHING  # all zero: what is expected when the FIFO is empty


cdef struct Stream:
    Py_ssize_t pos  # next byte to look at
    Py_ssize_t run  # first byte that is to be copied through and was not yet
    Py_ssize_t held  # length of the message shown to Python, 0: none
    Py_ssize_t skip  # bytes of a streamed message that are still to come
    bint drop  # ... and are dropped
    bint feed  # ... by way of the COPY in progress


cdef enum:
    _READ_HEAD = 65536  # room for the rest of the read before


cdef class ReadBuffer:
    """Where a socket is read into; one serves all, since what was read is used up, or copied away
    (`*_keep`), before the next read. In front of it is room for the rest of the read before, so that
    a message in two reads lies in one piece without the larger part being moved."""
    cdef uint8_t* base
    cdef uint8_t* at
    cdef Py_ssize_t size

    def __cinit__(self, Py_ssize_t size):
        self.base = <uint8_t*>malloc(_READ_HEAD + size)
        if self.base == NULL:
            raise MemoryError()
        self.at = self.base + _READ_HEAD
        self.size = size

    def __dealloc__(self):
        free(self.base)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.at, self.size, 0, flags)


cdef class Wire:
    """Framing state of one session. Buffers handed in are kept until they are used up.

    `client_feed`/`client_next` and `server_feed`/`server_next` walk the two directions. `*_next`
    returns None when the buffer holds no further message that Python must see, else a tuple
    (type, payload, cookie); the message is then held, and exactly one of `forward_*` or `drop_*`
    follows. Output is collected with `to_server` and `to_client`.
    """
    cdef Expected* fifo
    cdef Py_ssize_t head, count, capacity
    cdef Stream c, s
    cdef bytes cbuf, sbuf  # what holds the bytes below; None: a ReadBuffer, for this call alone
    cdef const uint8_t* cat
    cdef const uint8_t* sat
    cdef Py_ssize_t csize, ssize
    cdef PgOut cout, sout
    cdef RowPlan opening  # whose rows were opened in this call
    cdef CopyStream copying  # whose cells were sealed or opened in this call
    cdef CopyStream copier  # of the COPY FROM STDIN in progress
    cdef Py_ssize_t unopened  # entries in the FIFO that have F_OPENS
    cdef Py_ssize_t executes  # Execute messages of the current segment
    cdef bytes marker, instead  # an error that has `marker` in it is replaced by `instead`
    cdef public object on_error  # from a statement's error to the message to be shown instead, or None
    cdef bytes abort_first  # sent before the client gets its ReadyForQuery
    cdef Py_ssize_t limit
    cdef dict statements, portals
    cdef bint hands_off
    cdef readonly bint server_skips
    cdef readonly bint copy_in  # the server reads CopyData
    cdef public bint unflushed  # the server need not answer yet to what it got last
    cdef readonly bint stalled  # the next client message waits for answers
    cdef readonly bint draining
    cdef readonly bint segment_open  # extended messages since the last Sync or Query
    cdef readonly unsigned long segment  # number of the current one
    cdef public bint watch_ready  # show every ReadyForQuery to Python
    cdef public bint discard
    cdef public bint authenticating
    cdef readonly bytes status
    cdef readonly dict fast  # statement name -> FastBind
    cdef FastBind binding  # that has sealed in this call
    cdef FastBind unnamed  # the unnamed portal's, if it was bound by one
    cdef int unnamed_format
    cdef readonly dict parses  # payload of a Parse of the unnamed statement -> FastParse
    cdef FastParse parsed  # the unnamed statement, if its Parse was done by one ...
    cdef FastBind parsed_bind  # ... and how it is bound, until something changes
    cdef bint unnamed_moved  # it changed since all was answered, and `parsed` was or is involved
    cdef bint unnamed_doubtful  # ... and that failed: the server may have either
    cdef bint unnamed_left  # the server may have an unnamed statement, whichever
    cdef dict plain  # name of a statement that went to the server as the client sent it -> its _Slot
    cdef object parsing  # from the name in a Parse of such a one to the Change that it makes, or None
    cdef public bint unnamed_plain  # the unnamed statement is such a one
    cdef public Watch watch  # texts without its words may pass, if set

    def __cinit__(self, Py_ssize_t limit, dict statements, dict portals, bint hands_off=False,
                  dict plain=None, parsing=None):
        self.limit = limit
        self.statements = statements
        self.portals = portals
        self.hands_off = hands_off
        self.fast = {}
        self.parses = {}
        self.plain = {} if plain is None else plain
        self.parsing = parsing
        self._own_c(b"")
        self._own_s(b"")
        self.capacity = 16
        self.fifo = <Expected*>malloc(16 * sizeof(Expected))
        if self.fifo == NULL:
            raise MemoryError()
        self.authenticating = True
        self.status = b"I"
        self._push(9, 0, None, None)

    def __dealloc__(self):
        while self.count > 0:
            self._pop()
        free(self.fifo)
        free(self.cout.p)
        free(self.sout.p)

    # ---- the FIFO of expected answers ----------------------------------------------------------
    cdef int _push(self, uint8_t kind, uint8_t flags, object cookie, object rows) except -1:
        cdef Expected* bigger
        cdef Py_ssize_t i
        cdef Expected e
        if self.count == self.capacity:
            bigger = <Expected*>malloc(2 * self.capacity * sizeof(Expected))
            if bigger == NULL:
                raise MemoryError()
            for i in range(self.count):
                bigger[i] = self.fifo[(self.head + i) & (self.capacity - 1)]
            free(self.fifo)
            self.fifo = bigger
            self.capacity *= 2
            self.head = 0
        if rows is not None and not (isinstance(rows, CopyStream)
                                     and (<CopyStream>rows).sealing):
            flags |= 2
        if flags & 2:
            self.unopened += 1
        e.kind = kind
        e.flags = flags
        e.cookie = NULL
        e.rows = NULL
        if cookie is not None:
            e.cookie = <PyObject*>cookie
            Py_INCREF(cookie)
        if rows is not None:
            e.rows = <PyObject*>rows
            Py_INCREF(rows)
        self.fifo[(self.head + self.count) & (self.capacity - 1)] = e
        self.count += 1
        if kind == 7:  # a Query ends the unnamed statement
            self.unnamed_plain = self.unnamed_left = False
        self.segment_open = kind <= 5 or kind == 10
        if not self.segment_open:
            self.segment += 1
            self.executes = 0
        elif kind == 4:
            self.executes += 1
        self.unflushed = self.segment_open
        return 0

    cdef int _pop(self) except -1:
        cdef Expected* e = &self.fifo[self.head]
        cdef object dead
        self.head = (self.head + 1) & (self.capacity - 1)
        self.count -= 1
        if e.flags & 2:
            self.unopened -= 1
        if e.cookie != NULL:
            dead = <object>e.cookie
            e.cookie = NULL
            Py_DECREF(dead)
        if e.rows != NULL:
            dead = <object>e.rows
            e.rows = NULL
            Py_DECREF(dead)
        return 0

    cdef int _sent(self, uint8_t kind, object cookie=None) except -1:
        """A client message of this kind goes to the server untouched."""
        if kind == 6:
            if self.copy_in:
                return 0  # ignored by the server until CopyDone or CopyFail
            self.server_skips = False
        elif self.server_skips:
            return 0
        return self._push(kind, 0, cookie, None)

    def expect(self, int kind, int flags=0, cookie=None, rows=None):
        """Registers a message that Python puts or forwards to the server.

        Returns False when the server is known to discard it (it skips to Sync after an error).
        """
        if kind == 6:
            self.server_skips = False
        elif self.server_skips:
            return False
        self._push(kind, flags, cookie, rows)
        return True

    @property
    def expected(self):
        """Number of answers that are still to come."""
        return self.count

    def set_rows(self, rows):
        """Row plan (or None) of the statement of a simple Query whose answer is being read."""
        cdef Expected* e = &self.fifo[self.head]
        cdef object dead
        if self.count == 0 or e.kind != 7:
            raise WireError("server", "no query is being answered")
        if e.rows != NULL:
            dead = <object>e.rows
            e.rows = NULL
            Py_DECREF(dead)
        if rows is not None:
            e.rows = <PyObject*>rows
            Py_INCREF(rows)

    def drain(self, bytes poison not None):
        """The client has been told of an error that the server does not know: swallow all that
        follows up to ReadyForQuery, and what the client still sends before its Sync. `poison`, a
        Bind that must fail, makes the server abort the transaction."""
        cdef Py_ssize_t i
        cdef uint8_t kind
        self.draining = True
        for i in range(self.count):
            kind = self.fifo[(self.head + i) & (self.capacity - 1)].kind
            if kind == 6 or kind == 7 or kind == 8:
                self.abort_first = poison
                return
        self.discard = True
        self.put_server(poison)
        self._push(10, 1, b"", None)

    # ---- COPY ----------------------------------------------------------------------------------
    def begin_copy(self, CopyStream stream):
        """The held CopyInResponse or CopyOutResponse belongs to a COPY with this stream, or to none
        that is protected. WireError: it is another than the stream's."""
        cdef const uint8_t* p = self.sat + self.s.pos
        cdef Expected* e = &self.fifo[self.head]
        if stream is not None and (
                self.s.held < 8 or stream.sealing != (p[0] == 71) or p[5] != stream.binary
                or pg_u16(p + 6) != stream.width):
            raise WireError("server", "a COPY of another shape")
        if p[0] == 71:
            self.copier = stream
            self._enter_copy_in()
        elif e.kind == 7:
            self.set_rows(stream)

    def fail_copy(self, bytes message not None, bytes marker not None, bytes error not None):
        """Ends the COPY FROM STDIN in progress: the server gets CopyFail `message`, with `marker` in
        it, and the client `error` in place of the server's answer to it."""
        self.copier = None
        self.copy_in = False
        self.unflushed = self.segment_open
        self.put_server(message)
        self.marker = marker
        self.instead = error

    cdef object _copy_run(self, bint last):
        """Whole rows of the COPY in progress go to the server; an exception is returned."""
        cdef Py_ssize_t start
        cdef CopyStream stream = self.copier
        self._flush_c()
        self.copying = stream
        start = self.cout.n
        pg_room(&self.cout, 5)
        self.cout.n += 5
        try:
            stream.run(&self.cout, last)
        except Exception as error:
            return error
        finally:
            if self.cout.n == start + 5:
                self.cout.n = start
            else:
                self.cout.p[start] = 100
                pg_put32(self.cout.p + start + 1, <uint32_t>(self.cout.n - start - 1))
        return None

    cdef list _fail_segment(self):
        """The server discards everything up to Sync; cookies of what it discards."""
        cdef list lost = []
        cdef Expected* e
        self.unnamed_left = True  # what would have ended it may be among what is discarded
        if self.unnamed_moved:
            self.unnamed_doubtful = True
            self.parsed = None
            self.parsed_bind = None
        while self.count > 0:
            e = &self.fifo[self.head]
            if e.kind == 6:
                return lost
            if e.cookie != NULL:
                lost.append(<object>e.cookie)
            self._pop()
        self.server_skips = True
        return lost

    # ---- output --------------------------------------------------------------------------------
    cdef int _flush_c(self) except -1:
        if self.c.pos > self.c.run:
            pg_append(&self.cout, self.cat + self.c.run,
                      self.c.pos - self.c.run)
        self.c.run = self.c.pos
        return 0

    cdef int _flush_s(self) except -1:
        if self.s.pos > self.s.run:
            pg_append(&self.sout, self.sat + self.s.run,
                      self.s.pos - self.s.run)
        self.s.run = self.s.pos
        return 0

    def to_server(self):
        """Bytes for the server."""
        cdef bytes whole
        if self.cout.n == 0:
            if self.cbuf is not None and self.c.run == 0 and self.c.pos == self.csize:
                whole = self.cbuf
                self._own_c(b"")
                return whole
            if self.c.run == self.c.pos:
                return b""
        self._flush_c()
        return pg_take(&self.cout)

    def to_client(self):
        """Bytes for the client."""
        cdef bytes whole
        if self.sout.n == 0:
            if self.sbuf is not None and self.s.run == 0 and self.s.pos == self.ssize:
                whole = self.sbuf
                self._own_s(b"")
                return whole
            if self.s.run == self.s.pos:
                return b""
        self._flush_s()
        return pg_take(&self.sout)

    cdef Py_ssize_t for_server(self, const uint8_t** p) except -1:
        """Size of what `to_server` would give, and where it lies; `server_has_it` follows."""
        if self.cout.n == 0:
            p[0] = self.cat + self.c.run
            return self.c.pos - self.c.run
        self._flush_c()
        p[0] = self.cout.p
        return self.cout.n

    cdef int server_has_it(self) except -1:
        pg_empty(&self.cout)
        self.c.run = self.c.pos
        if self.c.pos == self.csize:
            self._own_c(b"")
        return 0

    cdef Py_ssize_t for_client(self, const uint8_t** p) except -1:
        """Size of what `to_client` would give, and where it lies; `client_has_it` follows."""
        if self.sout.n == 0:
            p[0] = self.sat + self.s.run
            return self.s.pos - self.s.run
        self._flush_s()
        p[0] = self.sout.p
        return self.sout.n

    cdef int client_has_it(self) except -1:
        pg_empty(&self.sout)
        self.s.run = self.s.pos
        if self.s.pos == self.ssize:
            self._own_s(b"")
        return 0

    def put_server(self, bytes message):
        """Appends whole messages for the server, before a held client message."""
        self._flush_c()
        pg_append(&self.cout, <const uint8_t*>PyBytes_AS_STRING(message),
                  PyBytes_GET_SIZE(message))

    def put_client(self, bytes message):
        """Appends whole messages for the client, before a held server message."""
        self._flush_s()
        if PyBytes_GET_SIZE(message) > 5 and PyBytes_AS_STRING(message)[0] == 69:
            _count_error(<const uint8_t*>PyBytes_AS_STRING(message) + 5,
                         PyBytes_GET_SIZE(message) - 5)
        pg_append(&self.sout, <const uint8_t*>PyBytes_AS_STRING(message),
                  PyBytes_GET_SIZE(message))

    def forward_client(self):
        """The held client message goes to the server as it came (entry: `expect`)."""
        self.c.pos += self.c.held
        self.c.held = 0

    def drop_client(self):
        """The held client message is not forwarded."""
        self._flush_c()
        self.c.pos += self.c.held
        self.c.run = self.c.pos
        self.c.held = 0

    def forward_server(self):
        self.s.pos += self.s.held
        self.s.held = 0

    def drop_server(self):
        self._flush_s()
        self.s.pos += self.s.held
        self.s.run = self.s.pos
        self.s.held = 0

    @property
    def client_buffered(self):
        """Bytes of the client that wait: an incomplete message, or a pause."""
        return self.csize - self.c.pos

    @property
    def mid_message(self):
        """The client has got a part of a message whose rest is still to come."""
        return self.s.skip > 0 and not self.s.drop

    @property
    def server_buffered(self):
        return self.ssize - self.s.pos

    # ---- client direction ----------------------------------------------------------------------
    def client_feed(self, bytes data):
        if self.c.pos == self.csize and self.c.run == self.c.pos:
            self._own_c(data)
        else:
            self._flush_c()
            self._own_c(PyBytes_FromStringAndSize(<const char*>self.cat + self.c.pos,
                                                  self.csize - self.c.pos) + data)

    cdef int client_lies(self, ReadBuffer buffer, Py_ssize_t n) except -1:
        """As `client_feed` with the `n` bytes in `buffer`, which stays untouched until `client_keep`."""
        cdef Py_ssize_t rest = self.csize - self.c.pos
        if self.c.run != self.c.pos:
            self._flush_c()
        if rest > _READ_HEAD:
            self.client_feed(PyBytes_FromStringAndSize(<const char*>buffer.at, n))
            return 0
        memcpy(buffer.at - rest, self.cat + self.c.pos, rest)
        self.cat = buffer.at - rest
        self.csize = rest + n
        self.c.pos = self.c.run = 0
        self.cbuf = None
        return 0

    cdef int client_keep(self) except -1:
        """What is left of a `ReadBuffer` becomes bytes of our own."""
        if self.cbuf is None:
            try:
                if self.c.run != self.c.pos:
                    self._flush_c()
                self._own_c(PyBytes_FromStringAndSize(<const char*>self.cat + self.c.pos,
                                                      self.csize - self.c.pos))
            except BaseException:
                self._own_c(b"")  # never what others will read into it
                raise
        return 0

    cdef int _own_c(self, bytes data) except -1:
        self.cbuf = data
        self.cat = <const uint8_t*>PyBytes_AS_STRING(data)
        self.csize = PyBytes_GET_SIZE(data)
        self.c.pos = self.c.run = 0
        return 0

    cdef int _special(self, const uint8_t* p, Py_ssize_t n, uint8_t t) except -1:
        """Whether a Bind, Describe, Execute or Close may name something protected."""
        cdef const uint8_t* end
        cdef const uint8_t* start = p
        cdef bytes name
        cdef object slot
        if not self.statements and not self.portals and self.parsed is None and (
                not self.plain or t == 68 or t == 69):
            return 0
        if t == 68 or t == 67:  # Describe, Close
            if n < 2:
                raise WireError("client", "message too short")
            start = p + 1
        end = <const uint8_t*>memchr(start, 0, n - pg_between(p, start))
        if end == NULL:
            raise WireError("client", "name without end")
        if t == 68 or t == 67:
            if p[0] == 83:
                if end == start and self.parsed is not None:
                    return 1
                name = PyBytes_FromStringAndSize(<char*>start, pg_between(start, end))
                return name in self.statements or (t == 67 and name in self.plain)
            return PyBytes_FromStringAndSize(<char*>start, pg_between(start, end)) in self.portals
        if PyBytes_FromStringAndSize(<char*>start, pg_between(start, end)) in self.portals:
            return 1
        if t == 66:
            start = end + 1
            end = <const uint8_t*>memchr(start, 0, n - pg_between(p, start))
            if end == NULL:
                raise WireError("client", "name without end")
            if end == start and self.parsed is not None:
                return 1
            name = PyBytes_FromStringAndSize(<char*>start, pg_between(start, end))
            if name in self.statements:
                return 1
            slot = self.plain.get(name)
            return slot is not None and len(slot.changes) > 0  # what it means depends on answers
        return 0

    cdef bint _fast_bind(self, const uint8_t* p, Py_ssize_t total) except -1:
        """Sends the server's Bind for the whole message at `p`, where a FastBind can; else 0."""
        cdef const uint8_t* end
        cdef FastBind known
        cdef object found
        if p[5] != 0:
            return False  # a named portal
        end = <const uint8_t*>memchr(p + 6, 0, total - 6)
        if end == NULL:
            return False
        if end == p + 6:
            known = self.parsed_bind
        else:
            found = self.fast.get(PyBytes_FromStringAndSize(<char*>p + 6, pg_between(p + 6, end)))
            known = <FastBind?>found if found is not None else None
        if known is None or not known.fresh():
            return False
        self._flush_c()
        if not known.bind(p, total, pg_between(p, end) + 1, &self.cout, &self.unnamed_format):
            return False
        self.binding = known
        self.unnamed = known
        self._push(2, 0, None, None)
        return True

    cdef int _unnamed_goes(self) except -1:
        """A message that ends the unnamed statement is on its way, or will be."""
        if self.parsed is not None:
            self.unnamed_moved = True
        self.parsed = None
        self.parsed_bind = None
        self.unnamed_plain = False
        return 0

    cdef int _no_unnamed(self) except -1:
        """The server is told to drop the unnamed statement, of which it is not known which it is: a
        Bind taken for another statement's could carry a protected value in clear."""
        self.unnamed_doubtful = self.unnamed_left = self.unnamed_plain = False
        self.put_server(b"C\0\0\0\6S\0")
        self._push(5, 1, None, None)
        return 0

    cdef bint _fast_parse(self, const uint8_t* p, Py_ssize_t total) except -1:
        """Sends the server's Parse for the whole message at `p`, where a FastParse is known; else 0.
        Either way another statement takes the place of the unnamed one, if it is that."""
        cdef FastParse known
        cdef object found
        if total < 8 or p[5] != 0:
            return False
        self._unnamed_goes()
        self.unnamed_left = True
        if not self.parses:
            return False
        found = self.parses.get(PyBytes_FromStringAndSize(<char*>p + 5, total - 5))
        if found is None or not (<FastParse?>found).binding.fresh():
            return False
        known = <FastParse>found
        self._flush_c()
        pg_append(&self.cout, <const uint8_t*>PyBytes_AS_STRING(known.message),
                  PyBytes_GET_SIZE(known.message))
        self.parsed = known
        self.parsed_bind = known.binding
        self.unnamed_moved = True
        self._push(1, 0, None, None)
        return True

    cdef bint _passes(self, const uint8_t* p, Py_ssize_t n, uint8_t t) except -1:
        """A Parse or Query (payload at `p`) that can neither touch nor change anything of interest."""
        cdef const uint8_t* name_end
        cdef const uint8_t* end
        if t == 81:
            return n > 0 and p[n - 1] == 0 and not self.watch.hits(p, n - 1)
        name_end = <const uint8_t*>memchr(p, 0, n)
        if name_end == NULL:
            return False
        end = <const uint8_t*>memchr(name_end + 1, 0, n - pg_between(p, name_end) - 1)
        if end == NULL or self.watch.hits(name_end + 1, pg_between(name_end + 1, end)):
            return False
        if not self.statements:
            return True
        return PyBytes_FromStringAndSize(<char*>p, pg_between(p, name_end)) not in self.statements

    cdef object _plain_parse(self, const uint8_t* p):
        """A Parse (payload at `p`) goes to the server as it is; the cookie for its answer."""
        if p[0] == 0:
            self.unnamed_plain = True
            return None
        return None if self.parsing is None else self.parsing(<bytes>(<const char*>p))

    def without_values(self, bytes portal not None, bytes name not None, cookie):
        """In place of the held Bind of a statement that the server cannot have, one without values."""
        if not name and self.unnamed_left:
            self._no_unnamed()
        self.put_server(b"B" + (12 + len(portal) + len(name)).to_bytes(4, "big") + portal + b"\0" + name
                        + b"\0\0\0\0\0\0\0")
        self._push(2, 0, cookie, None)
        self.drop_client()

    cdef bint _unknown(self, const uint8_t* p, Py_ssize_t n) except -1:
        """Sends a Bind (payload at `p`) of a statement that the server cannot have without its values:
        the answer is the same error, and they may have been meant for something protected."""
        cdef const uint8_t* name = <const uint8_t*>memchr(p, 0, n)
        cdef const uint8_t* end
        cdef uint8_t head[5]
        cdef bytes named
        if name == NULL:
            return False
        name += 1
        end = <const uint8_t*>memchr(name, 0, n - pg_between(p, name))
        if end == NULL:
            return False
        if end == name:
            if self.unnamed_plain:
                return False
        else:
            named = PyBytes_FromStringAndSize(<char*>name, pg_between(name, end))
            if named in self.plain or _ANY_NAME in self.plain:
                return False
        self._flush_c()
        if end == name and self.unnamed_left:
            self._no_unnamed()  # it may have an older one, which without values could be executed
        head[0] = 66
        pg_put32(head + 1, <uint32_t>(4 + pg_between(p, end) + 1 + 6))
        pg_append(&self.cout, head, 5)
        pg_append(&self.cout, p, pg_between(p, end) + 1)
        pg_append(&self.cout, <const uint8_t*>b"\0\0\0\0\0\0", 6)
        self._push(2, 0, None, None)
        return True

    @property
    def unnamed_statement(self):
        """What Python prepared as the unnamed statement, if its last Parse was done natively."""
        return None if self.parsed is None else self.parsed.statement

    def forget_fast(self):
        """Something has changed on which native Parses and Binds depend."""
        self.fast.clear()
        self.parses.clear()
        self.parsed_bind = None

    cdef bint _fast_portal(self, const uint8_t* p, Py_ssize_t total, uint8_t t) except -1:
        """Describe, Execute or Close of the unnamed portal that a FastBind has bound; else 0."""
        cdef object cookie = None
        if t == 69:
            if total != 10 or p[5] != 0:
                return False
            self._push(4, 0, None, self.unnamed.binary if self.unnamed_format else self.unnamed.text)
            return True
        if total != 7 or p[5] != 80 or p[6] != 0:
            return False
        if t == 67:
            self.unnamed = None
            self._push(5, 0, None, None)
            return True
        cookie = (self.unnamed.describe_binary if self.unnamed_format
                  else self.unnamed.describe_text)
        self._push(3, 0, cookie, None)
        return True

    cdef bint _must_wait(self, const uint8_t* p, uint8_t t) noexcept:
        """Rows wait to be opened: would this message reach what their failure could not undo?"""
        if t == 88 or t == 72:
            return False
        if not self.segment_open:
            return True
        return t == 69 or t == 81 or t == 70 or (t == 83 and self.executes > 1)

    def client_next(self):
        """The next client message that Python must see, or None.

        A COPY row that cannot be sealed is shown as type 34 ('"') with the exception as payload,
        nothing being held; unless `fail_copy` is called, it is tried again.
        """
        return self.client_step()

    cdef object client_step(self):
        self.stalled = False
        try:
            return self._client_next()
        finally:
            if self.binding is not None:
                self.binding.end_batch()
                self.binding = None
            self._end_copy_batch()

    cdef int _end_copy_batch(self) except -1:
        if self.copying is not None:
            self.copying.end_batch()
            self.copying = None
        return 0

    cdef object _client_next(self):
        cdef const uint8_t* p = self.cat
        cdef Py_ssize_t n = self.csize, total, part
        cdef uint32_t length
        cdef uint8_t t
        cdef bint show, dead
        cdef object failed
        if self.c.held:
            self.drop_client()
        while True:
            if self.copier is not None and self.copier.again:
                failed = self._copy_run(False)
                if failed is not None:
                    return (34, failed, None)
            if self.c.skip > 0:
                part = n - self.c.pos
                if part > self.c.skip:
                    part = self.c.skip
                if self.c.drop:
                    self._flush_c()
                if self.c.feed and self.copier is not None:
                    self.copier.add(p + self.c.pos, part)
                self.c.pos += part
                self.c.skip -= part
                if self.c.drop:
                    self.c.run = self.c.pos
                if self.c.feed and self.copier is not None:
                    failed = self._copy_run(False)
                    if failed is not None:
                        return (34, failed, None)
                if self.c.skip > 0:
                    return None
            if n - self.c.pos < 5:
                return None
            t = p[self.c.pos]
            length = pg_u32(p + self.c.pos + 1)
            if length < 4 or length > 0x3FFFFFFF:
                raise WireError("client", "invalid message length")
            total = <Py_ssize_t>length + 1
            if self.authenticating and t != 112 and t != 88:
                if total - 1 > self.limit:
                    raise WireError("client", "message too large")
                return None  # kept until the server is ready
            # while the server skips to Sync it need not see what it would discard: the Parse behind which
            # a Bind has its meaning was not sent either
            dead = self.discard or (self.server_skips and not self.hands_off)
            if not self.hands_off and not dead and (t == 100 or t == 99 or t == 102):
                # without a COPY the server ignores these three, so it need not see them
                dead = not self.copy_in
                if dead and self.count > 0 and not self.server_skips:
                    self.stalled = True
                    return None
            if t == 100 and not self.authenticating:  # CopyData, of any size
                self.c.skip = total
                self.c.drop = dead
                self.c.feed = False
                if self.copier is not None and not dead:
                    self._flush_c()
                    self.c.pos += 5
                    self.c.run = self.c.pos
                    self.c.skip = total - 5
                    self.c.drop = self.c.feed = True
                continue
            if total - 1 > self.limit:
                raise WireError("client", "message too large")
            if n - self.c.pos < total:
                return None
            show = False
            if dead and t != 83 and t != 88:
                self._flush_c()
                self.c.pos += total
                self.c.run = self.c.pos
                continue
            if self.unopened > 0 and not self.server_skips and self._must_wait(p + self.c.pos, t):
                self.stalled = True
                return None
            if self.copy_in and not self.hands_off and not (
                    t == 99 or t == 102 or t == 72 or t == 83 or t == 88):
                # the server gives up the connection (pq_startmsgread was under way)
                raise WireError("client", "unexpected message type during COPY from stdin")
            if t == 66 or t == 69 or t == 68 or t == 67:  # Bind, Execute, Describe, Close
                if self.unnamed_doubtful and not self.server_skips and (t == 66 or t == 68):
                    self._no_unnamed()
                if t == 66 and (self.parsed_bind is not None or self.fast) and (
                        not self.server_skips and total >= 12
                        and self._fast_bind(p + self.c.pos, total)):
                    self.c.pos += total
                    self.c.run = self.c.pos
                    continue
                if self.unnamed is not None and not self.server_skips and (
                        t != 66 and self._fast_portal(p + self.c.pos, total, t)):
                    self.c.pos += total
                    continue
                if t == 66 and total > 5 and p[self.c.pos + 5] == 0:
                    self.unnamed = None  # another one takes its place
                if t == 67 and total == 7 and p[self.c.pos + 5] == 83 and p[self.c.pos + 6] == 0:
                    if not self.server_skips:  # Close of the unnamed statement
                        self._unnamed_goes()
                if self.hands_off or not self._special(p + self.c.pos + 5, total - 5, t):
                    if t == 66 and not self.hands_off and not self.server_skips and (
                            self._unknown(p + self.c.pos + 5, total - 5)):
                        self.c.pos += total
                        self.c.run = self.c.pos
                        continue
                    self._sent(2 if t == 66 else 4 if t == 69 else 3 if t == 68 else 5)
                else:
                    show = True
            elif t == 83:  # Sync
                self.discard = False
                self._sent(6)
            elif t == 72:  # Flush
                self.unflushed = False
            elif t == 102 and self.copier is not None:  # CopyFail; its text may quote data
                show = True
            elif t == 99 or t == 102:  # CopyDone, CopyFail
                if self.copier is not None:
                    failed = self._copy_run(True)
                    if failed is not None:
                        return (34, failed, None)
                    self.copier = None
                self.copy_in = False
                self.unflushed = self.segment_open  # CommandComplete waits for a Flush or Sync
            elif self.hands_off and t == 80:  # Parse
                self._sent(1)
            elif self.hands_off and t == 81:  # Query
                self._sent(7)
            elif t == 80 and not self.server_skips and self._fast_parse(p + self.c.pos, total):
                self.c.pos += total
                self.c.run = self.c.pos
                continue
            elif (t == 80 or t == 81) and self.watch is not None and not self.server_skips and not (
                    t == 81 and self.segment_open and self.count > 0) and (
                    self._passes(p + self.c.pos + 5, total - 5, t)):
                self._sent(1 if t == 80 else 7,
                           self._plain_parse(p + self.c.pos + 5) if t == 80 else None)
            elif t == 70 and self.hands_off:  # FunctionCall
                self._sent(8)
            else:
                show = True
            if show:
                self.c.held = total
                return (t, PyBytes_FromStringAndSize(<char*>p + self.c.pos + 5, total - 5), None)
            self.c.pos += total

    # ---- server direction ----------------------------------------------------------------------
    def server_feed(self, bytes data):
        if self.s.pos == self.ssize and self.s.run == self.s.pos:
            self._own_s(data)
        else:
            self._flush_s()
            self._own_s(PyBytes_FromStringAndSize(<const char*>self.sat + self.s.pos,
                                                  self.ssize - self.s.pos) + data)

    cdef int server_lies(self, ReadBuffer buffer, Py_ssize_t n) except -1:
        """As `client_lies`."""
        cdef Py_ssize_t rest = self.ssize - self.s.pos
        if self.s.run != self.s.pos:
            self._flush_s()
        if rest > _READ_HEAD:
            self.server_feed(PyBytes_FromStringAndSize(<const char*>buffer.at, n))
            return 0
        memcpy(buffer.at - rest, self.sat + self.s.pos, rest)
        self.sat = buffer.at - rest
        self.ssize = rest + n
        self.s.pos = self.s.run = 0
        self.sbuf = None
        return 0

    cdef int server_keep(self) except -1:
        """As `client_keep`."""
        if self.sbuf is None:
            try:
                if self.s.run != self.s.pos:
                    self._flush_s()
                self._own_s(PyBytes_FromStringAndSize(<const char*>self.sat + self.s.pos,
                                                      self.ssize - self.s.pos))
            except BaseException:
                self._own_s(b"")  # never what others will read into it
                raise
        return 0

    cdef int _own_s(self, bytes data) except -1:
        self.sbuf = data
        self.sat = <const uint8_t*>PyBytes_AS_STRING(data)
        self.ssize = PyBytes_GET_SIZE(data)
        self.s.pos = self.s.run = 0
        return 0

    cdef int _skip_message(self, Py_ssize_t total) except -1:
        """Drops a whole server message that is in the buffer."""
        self._flush_s()
        self.s.pos += total
        self.s.run = self.s.pos
        return 0

    def server_next(self):
        """The next server message that Python must see, or None.

        A row that does not open is shown as type 33 ('!') with the exception as payload; the row
        is not consumed: `server_next` tries it again, unless `drain` was called before.
        """
        return self.server_step()

    cdef object server_step(self):
        try:
            return self._server_next()
        finally:
            if self.opening is not None:
                self.opening.end_batch()
                self.opening = None
            self._end_copy_batch()

    cdef object _server_next(self):
        cdef const uint8_t* p = self.sat
        cdef Py_ssize_t n = self.ssize, total, part
        cdef uint32_t length
        cdef uint8_t t, kind, flags
        cdef Expected* e
        cdef object cookie, error
        cdef bytes body, swap
        cdef bint hide, opens
        if self.s.held:
            self.drop_server()
        while True:
            if self.s.skip > 0:
                part = n - self.s.pos
                if part > self.s.skip:
                    part = self.s.skip
                if self.s.drop:
                    self._flush_s()
                self.s.pos += part
                self.s.skip -= part
                if self.s.drop:
                    self.s.run = self.s.pos
                if self.s.skip > 0:
                    return None
            if n - self.s.pos < 5:
                return None
            t = p[self.s.pos]
            length = pg_u32(p + self.s.pos + 1)
            if length < 4 or length > 0x3FFFFFFF:
                raise WireError("server", "invalid message length")
            total = <Py_ssize_t>length + 1
            kind = 0
            flags = 0
            cookie = None
            e = &_NOTHING
            if self.count > 0:
                e = &self.fifo[self.head]
                kind = e.kind
                flags = e.flags
            hide = self.draining or (flags & 1)
            if t == 68 or t == 100:  # DataRow, CopyData
                if kind != 4 and kind != 7:
                    raise WireError("server", "row without a statement")
                opens = e.rows != NULL and not hide and (
                    isinstance(<object>e.rows, RowPlan) if t == 68
                    else isinstance(<object>e.rows, CopyStream))
                if e.rows != NULL and not hide and not opens:
                    raise WireError("server", "rows of another kind")
                if not opens:
                    if not (t == 68 and (flags & 1) and not self.draining):
                        self.s.skip = total
                        self.s.drop = hide
                        continue
                if total - 1 > self.limit:
                    raise WireError("server", "message too large")
                if n - self.s.pos < total:
                    return None
                if flags & 1:
                    return self._show(total)
                self._flush_s()
                if t == 100:
                    error = self._copy_out(<CopyStream>e.rows, p + self.s.pos + 5, total - 5)
                    if error is not None:
                        return (33, error, (<object>e.cookie if e.cookie != NULL else None,
                                            <object>e.rows))
                    self.s.pos += total
                    self.s.run = self.s.pos
                    continue
                if self.opening is not <RowPlan>e.rows:
                    if self.opening is not None:
                        self.opening.end_batch()
                    self.opening = <RowPlan>e.rows
                try:
                    while True:
                        if not self.opening.open_quick(p + self.s.pos + 5, total - 5, &self.sout):
                            self.opening.open_row(p + self.s.pos + 5, total - 5, &self.sout)
                        self.s.pos += total
                        self.s.run = self.s.pos
                        if n - self.s.pos < 5 or p[self.s.pos] != 68:
                            break
                        length = pg_u32(p + self.s.pos + 1)
                        if length < 4 or length > self.limit or n - self.s.pos <= <Py_ssize_t>length:
                            break  # what that is, the way of every message finds out
                        total = <Py_ssize_t>length + 1
                    continue
                except Exception as failed:
                    return (33, failed, (<object>e.cookie if e.cookie != NULL else None,
                                         <object>e.rows))
            if total - 1 > self.limit:
                raise WireError("server", "message too large")
            if n - self.s.pos < total:
                return None
            if t == 67 or t == 73 or t == 115:  # CommandComplete, EmptyQuery, PortalSuspended
                if e.rows != NULL and not hide and isinstance(<object>e.rows, RowPlan):
                    try:
                        body = (<RowPlan>e.rows).completion(p + self.s.pos + 5, total - 5) \
                            if t == 67 else None
                    except RowShape as failed:
                        raise WireError("server", str(failed)) from None
                    (<RowPlan>e.rows).dropped = 0
                    if body is not None:
                        self.put_client(body)
                        hide = True
                if kind == 4:
                    if e.cookie != NULL and t == 67:
                        cookie = <object>e.cookie
                    self._pop()
                elif kind == 7 and t != 115:
                    if e.cookie != NULL:
                        cookie = <object>e.cookie
                else:
                    raise WireError("server", "completion without a statement")
            elif t == 90:  # ReadyForQuery
                if total != 6 or (kind != 6 and kind != 7 and kind != 8 and kind != 9):
                    raise WireError("server", "unexpected ReadyForQuery")
                if e.cookie != NULL:
                    cookie = <object>e.cookie
                self._pop()
                self.status = PyBytes_FromStringAndSize(<char*>p + self.s.pos + 5, 1)
                self.copy_in = False
                self.copier = None
                self.instead = None
                if self.count == 0 and not self.c.held:
                    self.unnamed_moved = False
                hide = flags & 1
                if self.abort_first is not None:
                    if not hide and self.status == b"T" and self.count == 0:
                        self._abort_transaction(total)
                        continue
                    if not hide:
                        self.abort_first = None
                self.draining = False
                if kind == 9:
                    self.authenticating = False
                    cookie = True
                elif self.watch_ready and cookie is None:
                    cookie = True
            elif t == 49:  # ParseComplete
                if kind != 1:
                    raise WireError("server", "unexpected ParseComplete")
                if e.cookie != NULL:
                    cookie = <object>e.cookie
                self._pop()
            elif t == 50:  # BindComplete
                if kind != 2:
                    raise WireError("server", "unexpected BindComplete")
                if e.cookie != NULL:
                    cookie = <object>e.cookie
                self._pop()
            elif t == 51:  # CloseComplete
                if kind != 5:
                    raise WireError("server", "unexpected CloseComplete")
                if e.cookie != NULL:
                    cookie = <object>e.cookie
                self._pop()
            elif t == 84 or t == 110 or t == 116:  # RowDescription, NoData, ParameterDescription
                if kind != 3 and (t != 84 or kind != 7):
                    raise WireError("server", "unexpected description")
                if e.cookie != NULL and not hide:
                    cookie = <object>e.cookie
                if t != 116 and kind == 3:
                    self._pop()
                if t == 84 and cookie is not None and isinstance(cookie, FastDescribe):
                    body = (<FastDescribe>cookie).answer(p + self.s.pos + 5, total - 5)
                    if body is not None:
                        self._skip_message(total)
                        pg_append(&self.sout, <const uint8_t*>PyBytes_AS_STRING(body),
                                  PyBytes_GET_SIZE(body))
                        continue
                if cookie is not None:
                    self.s.held = total
                    return (t, PyBytes_FromStringAndSize(<char*>p + self.s.pos + 5, total - 5),
                            cookie)
            elif t == 69:  # ErrorResponse
                body = PyBytes_FromStringAndSize(<char*>p + self.s.pos + 5, total - 5)
                if kind != 10 and not hide:
                    _count_error(p + self.s.pos + 5, total - 5)
                swap = None
                if self.instead is not None:
                    if self.marker in body and not hide:
                        swap = self.instead
                        hide = True
                    self.instead = None
                    self.copier = None
                if self.on_error is not None and not hide and (1 <= kind <= 5 or kind == 7):
                    swap = self.on_error(body)
                    hide = swap is not None
                if kind == 10:
                    cookie = <object>e.cookie
                    self._skip_message(total)
                    if not self.draining:
                        self.put_client(cookie)
                    return (t, body, self._fail_segment())
                if 1 <= kind <= 5:
                    self.s.held = total
                    if hide:
                        self.drop_server()
                    else:
                        self.forward_server()
                    if swap is not None:
                        self.put_client(swap)
                    self.copy_in = False
                    self.copier = None
                    cookie = self._fail_segment()
                    if flags & 1:
                        cookie.insert(0, True)  # the error was ours
                    if cookie or b"\0VFATAL\0" in body:
                        return (t, body, cookie)
                    continue
                if kind == 9:
                    return self._show(total)
                if kind != 0 and e.cookie != NULL:
                    cookie = [<object>e.cookie]
                if hide:
                    self._skip_message(total)
                else:
                    self.s.pos += total
                if swap is not None:
                    self.put_client(swap)
                self.copy_in = False
                self.copier = None
                if cookie is not None or kind == 0 or b"\0VFATAL\0" in body:
                    return (t, body, cookie)
                continue
            elif t == 78 or t == 65:  # NoticeResponse, NotificationResponse
                self.s.pos += total
                continue
            elif t == 83:  # ParameterStatus
                body = PyBytes_FromStringAndSize(<char*>p + self.s.pos + 5, total - 5)
                self.s.pos += total
                return (t, body, None)
            elif t == 71 or t == 72:  # CopyInResponse, CopyOutResponse
                if kind != 4 and kind != 7:
                    raise WireError("server", "copy without a statement")
                if not hide and (e.rows != NULL or e.cookie != NULL):
                    self.s.held = total
                    return (t, PyBytes_FromStringAndSize(<char*>p + self.s.pos + 5, total - 5),
                            (<object>e.cookie if e.cookie != NULL else None,
                             <object>e.rows if e.rows != NULL else None))
                if t == 71:
                    self._enter_copy_in()
            elif t == 87:  # CopyBothResponse: of START_REPLICATION alone
                if kind != 7:
                    raise WireError("server", "copy without a statement")
                self.copy_in = True
            elif t == 99:  # CopyDone
                if kind != 4 and kind != 7:
                    raise WireError("server", "copy without a statement")
                if e.rows != NULL and not hide and isinstance(<object>e.rows, CopyStream):
                    if (<CopyStream>e.rows).rest:
                        return (33, RowShape("a COPY row without end"),
                                (<object>e.cookie if e.cookie != NULL else None, <object>e.rows))
            elif t == 86:  # FunctionCallResponse
                if kind != 8:
                    raise WireError("server", "unexpected FunctionCallResponse")
            elif kind == 9 and (t == 82 or t == 75 or t == 118):
                return self._show(total)  # Authentication*, BackendKeyData, NegotiateProtocol
            else:
                raise WireError("server", "unexpected message")
            body = b""
            if cookie is not None:
                body = PyBytes_FromStringAndSize(<char*>p + self.s.pos + 5, total - 5)
            if hide:
                self._skip_message(total)
            else:
                self.s.pos += total
            if cookie is not None:
                return (t, body, cookie)

    cdef int _abort_transaction(self, Py_ssize_t total) except -1:
        """In place of ReadyForQuery 'T': the server aborts its transaction first."""
        self._skip_message(total)
        self.put_server(self.abort_first)
        self.put_server(b"S\0\0\0\4")
        self.abort_first = None
        self._push(10, 1, b"", None)
        self._push(6, 0, None, None)
        self.status = b"E"
        return 0

    cdef object _copy_out(self, CopyStream stream, const uint8_t* p, Py_ssize_t n):
        """One message of COPY TO STDOUT becomes one; an exception is returned."""
        cdef Py_ssize_t start = self.sout.n
        self.copying = stream
        pg_room(&self.sout, 5)
        self.sout.n += 5
        try:
            if not stream.again:
                stream.add(p, n)
            stream.run(&self.sout, False)
        except Exception as error:
            return error
        finally:
            if self.sout.n == start + 5:
                self.sout.n = start
            else:
                self.sout.p[start] = 100
                pg_put32(self.sout.p + start + 1, <uint32_t>(self.sout.n - start - 1))
        return None

    cdef tuple _show(self, Py_ssize_t total):
        cdef Expected* e = &self.fifo[self.head]
        self.s.held = total
        return (self.sat[self.s.pos],
                PyBytes_FromStringAndSize(<const char*>self.sat + self.s.pos + 5, total - 5),
                <object>e.cookie if e.cookie != NULL else None)

    cdef int _enter_copy_in(self) except -1:
        """Sync that the server reads before CopyDone is ignored by it (protocol-flow, "COPY
        Operations"): libpq sends one with the Execute and another behind CopyDone."""
        cdef Py_ssize_t i, kept
        self.copy_in = True
        while self.count > 1 and self.fifo[(self.head + 1) & (self.capacity - 1)].kind == 6:
            # remove the entry behind the head: move the head up by one
            if self.fifo[(self.head + 1) & (self.capacity - 1)].cookie != NULL:
                return 0
            self.fifo[(self.head + 1) & (self.capacity - 1)] = self.fifo[self.head]
            self.head = (self.head + 1) & (self.capacity - 1)
            self.count -= 1
        return 0
