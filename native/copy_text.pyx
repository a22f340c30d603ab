# cython: language_level=3
# Lines and fields of COPY's text and csv formats, as PostgreSQL reads and writes them (COPY,
# "File Formats"; copyfromparse.c CopyReadLineText, CopyReadAttributesText, CopyReadAttributesCSV;
# copyto.c CopyAttributeOutText, CopyAttributeOutCSV). No Python object, no cell is interpreted.

cdef enum:
    _COPY_MORE = -1     # the line is not complete
    _COPY_LINE = 0
    _COPY_MARKER = 1    # \. : nothing behind it counts
    _COPY_CR = 2        # a carriage return that is none of this stream's line ends
    _COPY_LF = 3        # ... a newline
    _COPY_CORRUPT = 4   # \. with something behind it
    _COPY_STYLE = 5     # \. with another line end
    _EOL_NL = 1
    _EOL_CR = 2
    _EOL_CRNL = 3


cdef struct CopyLook:
    bint csv
    bint marker          # a csv line of only \. ends the stream (servers before 18)
    bint servers         # written by a server: no newline is escaped, lines end in newlines
    uint8_t delimiter
    uint8_t quote
    uint8_t escape
    uint8_t toggle       # the escape as a line end sees it: 0 where it is the quote


cdef struct CopyScan:
    int eol              # 0 until the first line end was seen
    Py_ssize_t at        # next byte of the line to look at
    Py_ssize_t body      # length of the line
    Py_ssize_t taken     # ... with its end
    long embedded        # line ends inside quotes
    bint in_quote
    bint was_escape


cdef int copy_line(const uint8_t* p, Py_ssize_t n, bint last, const CopyLook* look,
                   CopyScan* s) noexcept nogil:
    """Goes on looking for the end of the line at p, of which n bytes are there (`last`: no more
    will come). `body` and `taken` are set on _COPY_LINE and _COPY_MARKER."""
    cdef Py_ssize_t i = s.at
    cdef uint8_t c, d
    cdef const uint8_t* end
    if i == 0 and s.eol <= _EOL_NL:  # most lines have nothing in them that could end them early
        end = <const uint8_t*>memchr(p, 10, n)
        if end != NULL:
            i = pg_between(p, end)
            if (memchr(p, look.quote, i) == NULL and memchr(p, 13, i) == NULL and p[0] != 92
                    if look.csv else look.servers
                    or memchr(p, 13, i) == NULL and memchr(p, 92, i) == NULL):
                s.eol = _EOL_NL
                s.body = i
                s.taken = i + 1
                return _COPY_LINE
            i = 0
    while True:
        if i >= n:
            s.at = i
            if not last:
                return _COPY_MORE
            s.body = s.taken = n
            return _COPY_LINE
        c = p[i]
        if look.csv:
            if s.in_quote and c == look.toggle:
                s.was_escape = not s.was_escape
            if c == look.quote and not s.was_escape:
                s.in_quote = not s.in_quote
            if c != look.toggle:
                s.was_escape = False
            if s.in_quote:
                if c == (10 if s.eol == _EOL_NL else 13):
                    s.embedded += 1
                i += 1
                continue
        if c > 13 and c != 92:
            i += 1
            continue
        if c == 13:
            if s.eol == 0 or s.eol == _EOL_CRNL:
                if i + 1 >= n and not last:
                    s.at = i
                    return _COPY_MORE
                if i + 1 < n and p[i + 1] == 10:
                    s.eol = _EOL_CRNL
                    s.body = i
                    s.taken = i + 2
                    return _COPY_LINE
                if s.eol == _EOL_CRNL:
                    return _COPY_CR
                s.eol = _EOL_CR
            elif s.eol == _EOL_NL:
                return _COPY_CR
            s.body = i
            s.taken = i + 1
            return _COPY_LINE
        if c == 10:
            if s.eol == _EOL_CR or s.eol == _EOL_CRNL:
                return _COPY_LF
            s.eol = _EOL_NL
            s.body = i
            s.taken = i + 1
            return _COPY_LINE
        if c == 92 and (not look.csv or (i == 0 and look.marker)):
            if i + 1 >= n:
                if not last:
                    s.at = i
                    return _COPY_MORE
                s.body = s.taken = n
                return _COPY_LINE
            if p[i + 1] == 46:
                # how many bytes tell: \. and one, or two with CR LF
                if n - i < (4 if s.eol == _EOL_CRNL else 3) and not last:
                    s.at = i
                    return _COPY_MORE
                c = p[i + 2] if n - i > 2 else 0
                d = p[i + 3] if n - i > 3 else 0
                if s.eol == _EOL_CRNL:
                    if c == 10 and not look.csv:
                        return _COPY_STYLE
                    if c != 13:
                        if not look.csv:
                            return _COPY_CORRUPT
                        i += 1
                        continue
                    c = d
                if c != 13 and c != 10:
                    if not look.csv:
                        return _COPY_CORRUPT
                    i += 1
                    continue
                if (s.eol == _EOL_NL or s.eol == _EOL_CRNL) and c != 10 or (
                        s.eol == _EOL_CR and c != 13):
                    return _COPY_STYLE
                s.body = i
                s.taken = n
                return _COPY_MARKER
            i += 1 if look.csv else 2
            continue
        i += 1


cdef Py_ssize_t copy_field(const uint8_t* p, Py_ssize_t n, Py_ssize_t at, const CopyLook* look,
                           int* special) noexcept nogil:
    """End of the field that starts at `at` of a whole line; -1: a quote is not closed. `special`
    is 1 when it holds an escape (text) or a quote (csv), 2 when a backslash at its beginning is the only
    one that is escaped."""
    cdef uint8_t c
    cdef Py_ssize_t start
    cdef const uint8_t* end
    special[0] = 0
    end = <const uint8_t*>memchr(p + at, look.delimiter, n - at)
    start = n if end == NULL else pg_between(p, end)
    if look.csv:
        if memchr(p + at, look.quote, start - at) == NULL:
            return start
    elif start - at > 2 and p[at] == 92 and p[at + 1] == 92:
        if memchr(p + at + 2, 92, start - at - 2) == NULL:
            special[0] = 2
            return start
    elif memchr(p + at, 92, start - at) == NULL:
        return start
    if not look.csv:
        while at < n:
            c = p[at]
            if c == look.delimiter:
                return at
            if c == 92:
                special[0] = 1
                at += 1
            at += 1
        return n
    while at < n:
        c = p[at]
        if c == look.delimiter:
            return at
        at += 1
        if c != look.quote:
            continue
        special[0] = 1
        while True:
            if at >= n:
                return -1
            c = p[at]
            at += 1
            if c == look.escape and at < n and (p[at] == look.escape or p[at] == look.quote):
                at += 1
            elif c == look.quote:
                break
    return n


cdef int _octal(uint8_t c) noexcept nogil:
    return c - 48 if 48 <= c <= 55 else -1


cdef Py_ssize_t copy_unescape(const uint8_t* p, Py_ssize_t n, uint8_t* out) noexcept nogil:
    """The value of a field in text format, into `out` (room for n)."""
    cdef Py_ssize_t i = 0, k = 0
    cdef int v, digit, count
    cdef uint8_t c
    while i < n:
        c = p[i]
        i += 1
        if c != 92:
            out[k] = c
            k += 1
            continue
        if i >= n:
            break
        c = p[i]
        i += 1
        if 48 <= c <= 55:
            v = c - 48
            count = 1
            while count < 3 and i < n and _octal(p[i]) >= 0:
                v = v * 8 + _octal(p[i])
                i += 1
                count += 1
            c = <uint8_t>(v & 0xFF)
        elif c == 120:
            v = -1
            count = 0
            while count < 2 and i < n:
                digit = _hex_digit(p[i])
                if digit < 0:
                    break
                v = (0 if v < 0 else v) * 16 + digit
                i += 1
                count += 1
            if v >= 0:
                c = <uint8_t>v
        elif c == 98:
            c = 8
        elif c == 102:
            c = 12
        elif c == 110:
            c = 10
        elif c == 114:
            c = 13
        elif c == 116:
            c = 9
        elif c == 118:
            c = 11
        out[k] = c
        k += 1
    return k


cdef Py_ssize_t copy_unquote(const uint8_t* p, Py_ssize_t n, const CopyLook* look,
                             uint8_t* out) noexcept nogil:
    """The value of a field in csv format, whose quotes are closed, into `out` (room for n)."""
    cdef Py_ssize_t i = 0, k = 0
    cdef uint8_t c
    while i < n:
        c = p[i]
        i += 1
        if c != look.quote:
            out[k] = c
            k += 1
            continue
        while i < n:
            c = p[i]
            i += 1
            if c == look.escape and i < n and (p[i] == look.escape or p[i] == look.quote):
                out[k] = p[i]
                k += 1
                i += 1
            elif c == look.quote:
                break
            else:
                out[k] = c
                k += 1
    return k


cdef Py_ssize_t copy_escape(const uint8_t* p, Py_ssize_t n, uint8_t delimiter,
                            uint8_t* out) noexcept nogil:
    """A value as a field in text format, into `out` (room for 2 n)."""
    cdef Py_ssize_t i, k = 0
    cdef uint8_t c, shown
    for i in range(n):
        c = p[i]
        shown = c
        if c < 32:
            shown = (98 if c == 8 else 102 if c == 12 else 110 if c == 10 else 114 if c == 13
                     else 116 if c == 9 else 118 if c == 11 else c)
            if shown == c and c != delimiter:
                out[k] = c
                k += 1
                continue
        elif c != 92 and c != delimiter:
            out[k] = c
            k += 1
            continue
        out[k] = 92
        out[k + 1] = shown
        k += 2
    return k


cdef Py_ssize_t copy_quote(const uint8_t* p, Py_ssize_t n, const CopyLook* look, bint force,
                           uint8_t* out) noexcept nogil:
    """A value as a field in csv format, into `out` (room for 2 n + 2)."""
    cdef Py_ssize_t i, k = 0
    cdef uint8_t c
    if not force:
        for i in range(n):
            c = p[i]
            if c == look.delimiter or c == look.quote or c == 10 or c == 13:
                force = True
                break
        if not force:
            memcpy(out, p, n)
            return n
    out[0] = look.quote
    k = 1
    for i in range(n):
        c = p[i]
        if c == look.quote or c == look.escape:
            out[k] = look.escape
            k += 1
        out[k] = c
        k += 1
    out[k] = look.quote
    return k + 1
