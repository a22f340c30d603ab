# cython: language_level=3
# Text forms of the hot types, rendered from the binary send form without a Python object. What does not
# hold here (infinities, BC, numerics beyond the bounds below) is the Python codec's to render: -1.
# Checked against proxy/postgres/types, which is checked against a real server.

cdef enum:
    _NUMERIC_GROUPS = 20  # base-10000 digits of a numeric that is rendered here
    _NUMERIC_SCALE = 60
    _RENDERED_MOST = 192  # bytes of the longest text but bytea's

cdef const char* _HEX = "0123456789abcdef"


cdef Py_ssize_t _decimal(int64_t v, uint8_t* out) noexcept nogil:
    """Decimal text of v into `out` (room for 20)."""
    cdef uint8_t digits[20]
    cdef Py_ssize_t n = 0, k = 0
    cdef uint64_t u = <uint64_t>v
    if v < 0:
        u = 0 - u
        out[0] = 45
        k = 1
    while True:
        digits[n] = <uint8_t>(48 + u % 10)
        n += 1
        u //= 10
        if u == 0:
            break
    while n > 0:
        n -= 1
        out[k] = digits[n]
        k += 1
    return k


cdef Py_ssize_t _uuid_text(const uint8_t* p, uint8_t* out) noexcept nogil:
    cdef Py_ssize_t i, k = 0
    for i in range(16):
        if i == 4 or i == 6 or i == 8 or i == 10:
            out[k] = 45
            k += 1
        out[k] = _HEX[p[i] >> 4]
        out[k + 1] = _HEX[p[i] & 15]
        k += 2
    return k


cdef inline void _two(uint8_t* out, int v) noexcept nogil:
    out[0] = <uint8_t>(48 + v // 10)
    out[1] = <uint8_t>(48 + v % 10)


cdef Py_ssize_t _date_text(int64_t days, uint8_t* out) noexcept nogil:
    """ISO 8601 of a day number since 2000-01-01, from the year 1 on; days in eras of 400 years that
    begin in March, as calendar.py has it."""
    cdef int64_t shifted = days + 10957 + 719468, era, of_era, year, of_year, march
    cdef int day, month
    cdef Py_ssize_t k
    if days < -730119 or days >= 2145031949:
        return -1
    era = shifted // 146097
    of_era = shifted - era * 146097
    year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    march = (5 * of_year + 2) // 153
    day = <int>(of_year - (153 * march + 2) // 5 + 1)
    month = <int>(march + 3 if march < 10 else march - 9)
    year += era * 400
    if month <= 2:
        year += 1
    if year < 10000:
        _two(out, <int>(year // 100))
        _two(out + 2, <int>(year % 100))
        k = 4
    else:
        k = _decimal(year, out)
    out[k] = 45
    _two(out + k + 1, month)
    out[k + 3] = 45
    _two(out + k + 4, day)
    return k + 6


cdef Py_ssize_t _clock_text(int64_t micros, uint8_t* out) noexcept nogil:
    """hh:mm:ss and as many digits of the fraction as there are; 0 to 24 hours."""
    cdef int64_t seconds = micros // 1000000
    cdef int rest = <int>(micros % 1000000), scale = 100000
    cdef Py_ssize_t k = 8
    _two(out, <int>(seconds // 3600))
    out[2] = 58
    _two(out + 3, <int>(seconds // 60 % 60))
    out[5] = 58
    _two(out + 6, <int>(seconds % 60))
    if rest:
        out[k] = 46
        k += 1
        while rest:
            out[k] = <uint8_t>(48 + rest // scale)
            rest %= scale
            scale //= 10
            k += 1
    return k


cdef Py_ssize_t _moment_text(int64_t micros, uint8_t* out) noexcept nogil:
    """ISO date and time of microseconds since 2000-01-01, from the year 1 on."""
    cdef int64_t days
    cdef Py_ssize_t k
    if micros < <int64_t>-63082281600000000 or micros >= <int64_t>9223371331200000000:
        return -1
    days = micros // <int64_t>86400000000
    if micros < days * <int64_t>86400000000:
        days -= 1
    k = _date_text(days, out)
    if k < 0:
        return -1
    out[k] = 32
    return k + 1 + _clock_text(micros - days * <int64_t>86400000000, out + k + 1)


cdef Py_ssize_t _numeric_text(const uint8_t* p, Py_ssize_t n, uint8_t* out) noexcept nogil:
    cdef int count, weight, sign, scale, i, group, k = 0, unit
    if n < 8:
        return -1
    count = (p[0] << 8) | p[1]
    weight = <int16_t>((p[2] << 8) | p[3])
    sign = (p[4] << 8) | p[5]
    scale = (p[6] << 8) | p[7]
    if (n != 8 + 2 * count or count > _NUMERIC_GROUPS or not -_NUMERIC_GROUPS <= weight < _NUMERIC_GROUPS
            or scale > _NUMERIC_SCALE or (sign != 0 and sign != 0x4000)):
        return -1
    if sign:
        out[0] = 45
        k = 1
    if weight < 0:
        out[k] = 48
        k += 1
    for i in range(weight + 1):
        group = (p[8 + 2 * i] << 8) | p[9 + 2 * i] if i < count else 0
        if i == 0:
            k += <int>_decimal(group, out + k)
        else:
            _two(out + k, group // 100)
            _two(out + k + 2, group % 100)
            k += 4
    if scale:
        out[k] = 46
        k += 1
        unit = 1000
        for i in range(scale):
            group = weight + 1 + i // 4
            group = (p[8 + 2 * group] << 8) | p[9 + 2 * group] if 0 <= group < count else 0
            unit = 1000 if i % 4 == 0 else 100 if i % 4 == 1 else 10 if i % 4 == 2 else 1
            out[k] = <uint8_t>(48 + group // unit % 10)
            k += 1
    return k


cdef Py_ssize_t _hot_text(int kind, const uint8_t* p, Py_ssize_t n, uint8_t* out) noexcept nogil:
    """Text of a value into `out`, with room for _RENDERED_MOST and apart from `p`; -1: not here."""
    cdef int64_t v
    cdef Py_ssize_t k
    if kind == 6 and n == 16:
        return _uuid_text(p, out)
    if kind == 8 and n == 4:
        return _date_text(<int32_t>pg_u32(p), out)
    if (kind == 10 or kind == 12) and n == 8:
        v = <int64_t>((<uint64_t>pg_u32(p) << 32) | pg_u32(p + 4))
        k = _moment_text(v, out)
        if k >= 0 and kind == 12:
            out[k] = 43
            out[k + 1] = 48
            out[k + 2] = 48
            k += 3
        return k
    if kind == 11:
        return _numeric_text(p, n, out)
    return -1


def hot_text(int kind, bytes value not None):
    """What _hot_text makes of a value, or None: for the tests, which compare it with the codecs."""
    cdef uint8_t out[_RENDERED_MOST]
    cdef Py_ssize_t n = _hot_text(kind, <const uint8_t*>PyBytes_AS_STRING(value),
                                  PyBytes_GET_SIZE(value), out)
    return None if n < 0 else PyBytes_FromStringAndSize(<char*>out, n)
