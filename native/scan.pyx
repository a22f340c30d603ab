# Does a statement mention a watched name? Conservative: a hit only sends the text to the grammar.
#
# Every run of identifier bytes is looked at, in comments and strings too (a name inside a string may be
# dynamic SQL). A Unicode-escaped identifier (U&"...") always hits: its name is not its spelling.


cdef class Watch:
    """A set of lower-case identifiers; `hit` says whether a text contains one of them."""
    cdef frozenset words
    cdef Py_ssize_t longest, shortest

    def __init__(self, words not None):
        self.words = frozenset(bytes(w) for w in words)
        self.longest = max((len(w) for w in self.words), default=0)
        self.shortest = min((len(w) for w in self.words), default=0)

    def hit(self, bytes sql not None):
        """True if any watched word may be named in this text."""
        cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(sql)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(sql), i = 0, start, j, size
        cdef uint8_t c
        cdef char low[256]
        if self.longest > 255:
            return True
        while i < n:
            c = p[i]
            if not (c == 95 or 97 <= c <= 122 or 65 <= c <= 90 or c >= 128):
                i += 1
                continue
            start = i
            while i < n and (p[i] == 95 or p[i] == 36 or 97 <= p[i] <= 122 or 65 <= p[i] <= 90
                             or 48 <= p[i] <= 57 or p[i] >= 128):
                i += 1
            size = i - start
            if size == 1 and (c == 85 or c == 117) and i + 1 < n and p[i] == 38 and p[i + 1] == 34:
                return True
            if size < self.shortest or size > self.longest:
                continue
            for j in range(size):
                c = p[start + j]
                low[j] = c + 32 if 65 <= c <= 90 else c
            if PyBytes_FromStringAndSize(low, size) in self.words:
                return True
        return False
