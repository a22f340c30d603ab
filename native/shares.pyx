# cython: language_level=3
# Shamir's secret sharing of a 256-bit key as SLIP-0039 specifies it: the encrypted master secret,
# shares over GF(256) with Rijndael's polynomial, the digest share, the RS1024 checksum, and the
# words of a share. Secrets stay in the arena; what leaves it is words, in a bytearray that its
# owner wipes. Arithmetic on secrets and look-ups of words have no branch and no index that depends
# on them; how many letters a word has shows in the text anyway.

from cpython.bytearray cimport PyByteArray_AS_STRING

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_MD:
        pass
    const EVP_MD* EVP_sha256()
    int PKCS5_PBKDF2_HMAC(const char* passphrase, int passlen, const uint8_t* salt, int saltlen,
                          int iterations, const EVP_MD* digest, int keylen, uint8_t* out)

cdef enum:
    _SLIP_BYTES = 32
    _SLIP_HALF = 16
    _SLIP_DIGEST_X = 254
    _SLIP_SECRET_X = 255
    _SLIP_MOST = 16
    _SLIP_WORDS = 33            # 4 of header, 26 of value (4 bits of padding), 3 of checksum
    _SLIP_WORD = 8              # letters of the longest word
    _SLIP_ROUNDS = 4
    _SLIP_PASSPHRASE = 256

cdef uint32_t _SLIP_GENERATOR[10]
for _i, _term in enumerate((0xE0E040, 0x1C1C080, 0x3838100, 0x7070200, 0xE0E0009,
                            0x1C0C2412, 0x38086C24, 0x3090FC48, 0x21B1F890, 0x3F3F120)):
    _SLIP_GENERATOR[_i] = _term


class ShareError(NativeError):
    """Shares or words do not fit together; the text never carries a part of a secret."""


cdef uint8_t _gf_mul(uint8_t a, uint8_t b) noexcept nogil:
    cdef uint8_t product = 0
    cdef int i
    for i in range(8):
        product ^= a & <uint8_t>(0 - (b & 1))
        a = <uint8_t>((a << 1) ^ (0x1B & <uint8_t>(0 - (a >> 7))))
        b >>= 1
    return product


cdef uint8_t _gf_inverse(uint8_t a) noexcept nogil:
    # a^254; of public coordinates only
    cdef uint8_t result = 1
    cdef int i
    for i in range(254):
        result = _gf_mul(result, a)
    return result


cdef void _gf_interpolate(const uint8_t* xs, const uint8_t** ys, int n, uint8_t x,
                          uint8_t* out) noexcept nogil:
    """Lagrange: the value at `x` of the polynomial through n points with distinct coordinates."""
    cdef int i, j
    cdef uint8_t basis
    memset(out, 0, _SLIP_BYTES)
    for i in range(n):
        basis = 1
        for j in range(n):
            if j != i:
                basis = _gf_mul(basis, _gf_mul(x ^ xs[j], _gf_inverse(xs[i] ^ xs[j])))
        for j in range(_SLIP_BYTES):
            out[j] ^= _gf_mul(ys[i][j], basis)


cdef int _slip_feistel(const uint8_t* source, uint8_t* target, bytearray passphrase,
                       bytes salt, int exponent, bint backwards) except -1:
    cdef uint8_t password[1 + _SLIP_PASSPHRASE]
    cdef uint8_t seasoned[8 + _SLIP_HALF]
    cdef uint8_t left[_SLIP_HALF]
    cdef uint8_t right[_SLIP_HALF]
    cdef uint8_t f[_SLIP_HALF]
    cdef int size = len(passphrase), nsalt = len(salt), i, j, ok = 1
    if size > _SLIP_PASSPHRASE or not 0 <= exponent <= 15 or nsalt > 8:
        raise ValueError("passphrase, exponent or salt out of range")
    memcpy(password + 1, PyByteArray_AS_STRING(passphrase), size)
    memcpy(seasoned, PyBytes_AS_STRING(salt), nsalt)
    memcpy(left, source, _SLIP_HALF)
    memcpy(right, source + _SLIP_HALF, _SLIP_HALF)
    with nogil:
        for i in range(_SLIP_ROUNDS):
            password[0] = <uint8_t>(_SLIP_ROUNDS - 1 - i if backwards else i)
            memcpy(seasoned + nsalt, right, _SLIP_HALF)
            ok &= PKCS5_PBKDF2_HMAC(<const char*>password, 1 + size, seasoned,
                                    nsalt + _SLIP_HALF, 2500 << exponent, EVP_sha256(),
                                    _SLIP_HALF, f)
            for j in range(_SLIP_HALF):
                f[j] ^= left[j]
            memcpy(left, right, _SLIP_HALF)
            memcpy(right, f, _SLIP_HALF)
        memcpy(target, right, _SLIP_HALF)
        memcpy(target + _SLIP_HALF, left, _SLIP_HALF)
        OPENSSL_cleanse(password, sizeof(password))
        OPENSSL_cleanse(seasoned, sizeof(seasoned))
        OPENSSL_cleanse(left, _SLIP_HALF)
        OPENSSL_cleanse(right, _SLIP_HALF)
        OPENSSL_cleanse(f, _SLIP_HALF)
        sg_scrub()
    if ok != 1:
        ERR_clear_error()
        raise NativeError("PBKDF2 failed")
    return 0


def slip39_encrypt(KeyHandle master not None, bytearray passphrase not None, bytes salt not None,
                   int exponent, bint decrypt = False) -> KeyHandle:
    """The encrypted master secret, or (`decrypt`) the master secret again: a four-round Feistel
    network of PBKDF2-HMAC-SHA-256, 10000·2^exponent iterations in all. `salt`: empty for shares
    that are extendable, else "shamir" and the identifier. A wrong passphrase gives another key."""
    cdef KeyHandle out = _new_slot()
    try:
        _slip_feistel(master.ptr(), out.ptr(), passphrase, salt, exponent, decrypt)
    except BaseException:
        out.wipe()
        raise
    return out


def slip39_split(KeyHandle secret not None, int threshold, int count) -> list[KeyHandle]:
    """`count` shares (at 0, 1, 2 …), any `threshold` of which give `secret` again."""
    cdef uint8_t xs[_SLIP_MOST + 2]
    cdef const uint8_t* ys[_SLIP_MOST + 2]
    cdef uint8_t mac[32]
    cdef uint8_t states[64]
    cdef KeyHandle digest, share
    cdef int i
    cdef int given = threshold - 2
    if not 1 <= threshold <= count <= _SLIP_MOST:
        raise ValueError(f"1 <= threshold <= count <= {_SLIP_MOST}")
    if threshold == 1:
        if count != 1:
            raise ValueError("a threshold of 1 makes one share")
        share = _new_slot()
        memcpy(share.ptr(), secret.ptr(), _SLIP_BYTES)
        return [share]
    made = []
    digest = key_random()           # 4 bytes of MAC, then its key: 28 random bytes
    try:
        sg_hmac_key(states, digest.ptr() + 4, _SLIP_BYTES - 4)
        sg_hmac(states, secret.ptr(), _SLIP_BYTES, NULL, 0, NULL, 0, mac)
        memcpy(digest.ptr(), mac, 4)
        for i in range(given):
            share = key_random()
            made.append(share)
            xs[i] = <uint8_t>i
            ys[i] = share.ptr()
        xs[given], ys[given] = _SLIP_DIGEST_X, digest.ptr()
        xs[given + 1], ys[given + 1] = _SLIP_SECRET_X, secret.ptr()
        for i in range(given, count):
            share = _new_slot()
            made.append(share)
            _gf_interpolate(xs, ys, threshold, <uint8_t>i, share.ptr())
    except BaseException:
        for each in made:
            each.wipe()
        raise
    finally:
        digest.wipe()
        OPENSSL_cleanse(mac, 32)
        OPENSSL_cleanse(states, 64)
        sg_scrub()
    return made


def slip39_combine(list shares not None) -> KeyHandle:
    """The secret of [(coordinate, share), ...]: exactly as many as the threshold, distinct.
    ShareError: they do not belong together (SLIP-0039's digest, 32 bits)."""
    cdef uint8_t xs[_SLIP_MOST]
    cdef const uint8_t* ys[_SLIP_MOST]
    cdef uint8_t mac[32]
    cdef uint8_t states[64]
    cdef uint8_t digest[_SLIP_BYTES]
    cdef KeyHandle share, secret
    cdef int i, n = len(shares), same
    if not 1 <= n <= _SLIP_MOST or len({x for x, _ in shares}) != n:
        raise ShareError("1 to 16 shares with distinct coordinates are needed")
    for i in range(n):
        if not 0 <= shares[i][0] < _SLIP_MOST:
            raise ShareError("a coordinate is 0 to 15")
        share = shares[i][1]
        xs[i] = shares[i][0]
        ys[i] = share.ptr()
    secret = _new_slot()
    if n == 1:
        memcpy(secret.ptr(), ys[0], _SLIP_BYTES)
        return secret
    _gf_interpolate(xs, ys, n, _SLIP_SECRET_X, secret.ptr())
    _gf_interpolate(xs, ys, n, _SLIP_DIGEST_X, digest)
    sg_hmac_key(states, digest + 4, _SLIP_BYTES - 4)
    sg_hmac(states, secret.ptr(), _SLIP_BYTES, NULL, 0, NULL, 0, mac)
    same = CRYPTO_memcmp(mac, digest, 4) == 0
    OPENSSL_cleanse(mac, 32)
    OPENSSL_cleanse(states, 64)
    OPENSSL_cleanse(digest, _SLIP_BYTES)
    sg_scrub()
    if not same:
        secret.wipe()
        raise ShareError("these shares do not belong together")
    return secret


cdef uint32_t _slip_polymod(const uint16_t* words, int n, bytes customization) noexcept:
    cdef uint32_t check = 1, top
    cdef int i, j, prefix = PyBytes_GET_SIZE(customization)
    cdef uint16_t value
    for i in range(prefix + n):
        value = <uint8_t>PyBytes_AS_STRING(customization)[i] if i < prefix else words[i - prefix]
        top = check >> 20
        check = ((check & 0xFFFFF) << 10) ^ value
        for j in range(10):
            check ^= _SLIP_GENERATOR[j] & (0 - ((top >> j) & 1))
    return check


cdef bytes _slip_customization(uint64_t header):
    # the bit behind the 15-bit identifier says whether shares can be added to later
    return b"shamir_extendable" if (header >> 24) & 1 else b"shamir"


cdef int _slip_table(bytes table) except -1:
    if len(table) != 1024 * _SLIP_WORD:
        raise ValueError("the word list has 1024 words of 8 letters at most, padded by blanks")
    return 0


def slip39_words(KeyHandle share not None, uint64_t header, bytes table not None) -> bytearray:
    """33 words and a line end. `header`: the 40 bits before the value; `table`: the word list, each
    word padded to 8 letters. The caller wipes the result."""
    cdef uint16_t words[_SLIP_WORDS]
    cdef const uint8_t* value = share.ptr()
    cdef const uint8_t* list_ = <const uint8_t*>PyBytes_AS_STRING(table)
    cdef uint8_t letters[_SLIP_WORD]
    cdef uint32_t check
    cdef int i, j, w, bit, at
    cdef uint8_t mask
    _slip_table(table)
    if header >> 40:
        raise ValueError("the header has 40 bits")
    for i in range(4):
        words[i] = <uint16_t>((header >> (30 - 10 * i)) & 0x3FF)
    for i in range(26):
        words[4 + i] = 0
        for j in range(10):
            bit = 10 * i + j - 4                 # 4 bits of zero padding come first
            if bit >= 0:
                words[4 + i] |= <uint16_t>(((value[bit >> 3] >> (7 - (bit & 7))) & 1) << (9 - j))
    words[30] = words[31] = words[32] = 0
    custom = _slip_customization(header)
    check = _slip_polymod(words, _SLIP_WORDS, custom) ^ 1
    for i in range(3):
        words[30 + i] = <uint16_t>((check >> (20 - 10 * i)) & 0x3FF)
    cdef bytearray out = bytearray(_SLIP_WORDS * (_SLIP_WORD + 1))
    cdef char* text = PyByteArray_AS_STRING(out)
    at = 0
    for i in range(_SLIP_WORDS):
        memset(letters, 0, _SLIP_WORD)
        for w in range(1024):                    # every word is read, whichever is wanted
            mask = <uint8_t>(((<uint32_t>(words[i] ^ w) - 1) >> 31) & 1)
            mask = <uint8_t>(0 - mask)
            for j in range(_SLIP_WORD):
                letters[j] |= list_[w * _SLIP_WORD + j] & mask
        for j in range(_SLIP_WORD):
            if letters[j] != 32:
                text[at] = letters[j]
                at += 1
        text[at] = 32 if i < _SLIP_WORDS - 1 else 10
        at += 1
    OPENSSL_cleanse(words, sizeof(words))
    OPENSSL_cleanse(letters, sizeof(letters))
    OPENSSL_cleanse(text + at, len(out) - at)
    cdef bytearray exact = bytearray(at)
    memcpy(PyByteArray_AS_STRING(exact), text, at)
    OPENSSL_cleanse(text, at)
    sg_scrub()
    return exact


def slip39_parse(bytearray text not None, bytes table not None) -> tuple[int, KeyHandle]:
    """(header, share) of 33 words between blanks. ShareError: not such words, or the checksum is
    wrong. The caller wipes `text`."""
    cdef uint16_t words[_SLIP_WORDS]
    cdef const uint8_t* source = <const uint8_t*>PyByteArray_AS_STRING(text)
    cdef const uint8_t* list_
    cdef uint8_t letters[_SLIP_WORD]
    cdef Py_ssize_t size = len(text), at = 0
    cdef int n = 0, j, w, differs, bit, bad = 0
    cdef int32_t found
    cdef uint64_t header = 0
    cdef KeyHandle share
    cdef uint8_t* value
    _slip_table(table)
    list_ = <const uint8_t*>PyBytes_AS_STRING(table)
    while at < size:
        if source[at] in (32, 9, 10, 13):
            at += 1
            continue
        memset(letters, 32, _SLIP_WORD)
        j = 0
        while at < size and source[at] not in (32, 9, 10, 13):
            if j < _SLIP_WORD:
                letters[j] = source[at] | 0x20   # lower case
            else:
                bad = 1
            j += 1
            at += 1
        found = -1
        for w in range(1024):
            differs = CRYPTO_memcmp(letters, list_ + w * _SLIP_WORD, _SLIP_WORD)
            found = found if differs else w
        if found < 0:
            bad = 1
        if n < _SLIP_WORDS:
            words[n] = <uint16_t>(found & 0x3FF)
        n += 1
    try:
        if n != _SLIP_WORDS:
            raise ShareError(f"a share of a 256-bit key has {_SLIP_WORDS} words, not {n}")
        for j in range(4):
            header = header << 10 | words[j]
        if bad or _slip_polymod(words, n, _slip_customization(header)) != 1 or words[4] >> 6:
            raise ShareError("a word is not in the list, or the checksum is wrong")
        share = _new_slot()
        value = share.ptr()
        for bit in range(256):
            j = bit + 4
            value[bit >> 3] |= <uint8_t>(((words[4 + j // 10] >> (9 - j % 10)) & 1)
                                         << (7 - (bit & 7)))
    finally:
        OPENSSL_cleanse(words, sizeof(words))
        OPENSSL_cleanse(letters, sizeof(letters))
        sg_scrub()
    return header, share
