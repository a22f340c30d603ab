# Does a statement mention a watched name? Conservative: a hit only sends the text to the grammar.
#
# Every run of identifier bytes is looked at, in comments and strings too (a name inside a string may be
# dynamic SQL). A Unicode-escaped identifier (U&"...") always hits: its name is not its spelling.


cdef class Watch:
    """A set of lower-case identifiers; `hit` says whether a text contains one of them."""
    cdef frozenset words
    cdef Py_ssize_t longest, shortest
    cdef bint expired

    def __init__(self, words not None):
        self.words = frozenset(bytes(w) for w in words)
        self.longest = max((len(w) for w in self.words), default=0)
        self.shortest = min((len(w) for w in self.words), default=0)

    def hit(self, bytes sql not None):
        """True if any watched word may be named in this text."""
        return self.hits(<const uint8_t*>PyBytes_AS_STRING(sql), PyBytes_GET_SIZE(sql))

    def expire(self):
        """There may be other words by now: from here on every text hits."""
        self.expired = True

    cdef bint hits(self, const uint8_t* p, Py_ssize_t n) except -1:
        cdef Py_ssize_t i = 0, start, j, size
        cdef uint8_t c
        cdef char low[256]
        if self.expired or self.longest > 255:
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


# Literal stripping (level L1 of the plan cache). Two texts that differ in literals only have the
# same stripped text. Follows PostgreSQL's scan.l with standard_conforming_strings on; every form
# that is not plain (escape, bit, hex, national and Unicode strings, dollar quotes, string
# continuation, numbers with a prefix or underscores) is a doubt, and a doubt is no answer: the
# grammar decides. Control characters are a doubt, too, since two of them stand for literals.

cdef enum:
    _STRING_MARK = 1
    _NUMBER_MARK = 2


cdef inline bint _ident_start(uint8_t c) noexcept nogil:
    return c == 95 or 97 <= c <= 122 or 65 <= c <= 90 or c >= 128


cdef inline bint _digit(uint8_t c) noexcept nogil:
    return 48 <= c <= 57


cdef inline bint _space(uint8_t c) noexcept nogil:
    return c == 32 or 9 <= c <= 13


cdef inline Py_ssize_t _comment_end(const uint8_t* p, Py_ssize_t n, Py_ssize_t i) noexcept nogil:
    """Behind the comment that starts at i, -1 if it does not end. Block comments nest."""
    cdef int depth = 0
    if p[i] == 45:
        while i < n and p[i] != 10 and p[i] != 13:
            i += 1
        return i
    while i + 1 < n:
        if p[i] == 47 and p[i + 1] == 42:
            depth += 1
            i += 2
        elif p[i] == 42 and p[i + 1] == 47:
            depth -= 1
            i += 2
            if depth == 0:
                return i
        else:
            i += 1
    return -1


cdef Py_ssize_t _number_end(const uint8_t* p, Py_ssize_t n, Py_ssize_t i) noexcept nogil:
    """Behind the decimal number that starts at i, -1 in doubt."""
    cdef Py_ssize_t j
    while i < n and _digit(p[i]):
        i += 1
    if i < n and p[i] == 46:
        i += 1
        if i < n and p[i] == 46:
            return -1
        while i < n and _digit(p[i]):
            i += 1
    if i < n and (p[i] == 101 or p[i] == 69):
        j = i + 1
        if j < n and (p[j] == 43 or p[j] == 45):
            j += 1
        if j >= n or not _digit(p[j]):
            return -1
        while j < n and _digit(p[j]):
            j += 1
        i = j
    if i < n and (_ident_start(p[i]) or p[i] == 46 or p[i] == 36):
        return -1
    return i


cdef Py_ssize_t _string_end(const uint8_t* p, Py_ssize_t n, Py_ssize_t i) noexcept nogil:
    """Behind the standard string that starts at i, -1 in doubt (it may go on behind white space)."""
    cdef Py_ssize_t j
    i += 1
    while i < n:
        if p[i] < 9:
            return -1
        if p[i] == 39:
            if i + 1 < n and p[i + 1] == 39:
                i += 2
                continue
            j = i + 1
            while j < n and _space(p[j]):
                j += 1
            if j < n and (p[j] == 39 or (p[j] == 45 and j + 1 < n and p[j + 1] == 45)):
                return -1
            return i + 1
        i += 1
    return -1


def strip_literals(bytes sql not None):
    """(stripped text, [start, end, start, end, ...] of its literals), or None in doubt.

    In the stripped text every string literal is the byte 1, every number the byte 2; all else,
    comments included, stands as it was. `docs/explanation/plans.md` says what hangs on it.
    """
    cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(sql)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(sql), i = 0, at = 0, k = 0, end
    cdef uint8_t c, mark
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n)
    cdef uint8_t* q = <uint8_t*>PyBytes_AS_STRING(out)
    cdef list spans = []
    while i < n:
        c = p[i]
        if c < 9:
            return None
        if _ident_start(c):
            end = i + 1
            while end < n and (_ident_start(p[end]) or _digit(p[end]) or p[end] == 36):
                end += 1
            # E'', B'', X'', N'' and U&'' are strings of other rules
            if end < n and p[end] == 39:
                return None
            if end - i == 1 and (c == 85 or c == 117) and end + 1 < n and p[end] == 38 and (
                    p[end + 1] == 39 or p[end + 1] == 34):
                return None
            i = end
        elif c == 39 or _digit(c):
            mark = _STRING_MARK if c == 39 else _NUMBER_MARK
            end = _string_end(p, n, i) if c == 39 else _number_end(p, n, i)
            if end < 0:
                return None
            memcpy(q + k, p + at, i - at)
            k += i - at
            q[k] = mark
            k += 1
            spans.append(i)
            spans.append(end)
            i = at = end
        elif c == 34:
            i += 1
            while i < n and p[i] != 34:  # "" goes on as the next quoted run
                i += 1
            if i == n:
                return None
            i += 1
        elif c == 36:
            i += 1
            if i == n or not _digit(p[i]):
                return None  # a dollar quote
            while i < n and _digit(p[i]):
                i += 1
            if i < n and _ident_start(p[i]):
                return None
        elif c == 46 and i + 1 < n and _digit(p[i + 1]):
            return None
        elif i + 1 < n and ((c == 45 and p[i + 1] == 45) or (c == 47 and p[i + 1] == 42)):
            i = _comment_end(p, n, i)
            if i < 0:
                return None
        else:
            i += 1
    if not spans:
        return None
    memcpy(q + k, p + at, n - at)
    k += n - at
    return out[:k], spans
