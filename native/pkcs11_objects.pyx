# cython: language_level=3
# What is done to the objects of a token? Made, found, wrapped, unwrapped, tried, destroyed: the key
# stays inside, and what comes out is wrapped, public, or a check value. A template is a sequence of
# (attribute, value): bool, int (CK_ULONG), bytes, or, for CKA_VALUE alone, a KeyHandle, whose 32
# bytes go from the arena to the token. Which key is for what: not known here.

cdef enum:
    _OBJ_ROOM = 8192            # bytes of the longest wrapped key, signature or public attribute
    _OBJ_FOUND = 64
    _OBJ_MECHANISMS = 1024
    _OBJ_AES_ECB = 0x1081
    _OBJ_RSA_AES_KEY_WRAP = 0x1054
    _OBJ_SHA_1 = 0x220
    _OBJ_SHA256 = 0x250
    _OBJ_PRIVATE_EXPONENT = 0x123   # to CKA_COEFFICIENT, 0x128: parts of a private RSA key
    _OBJ_COEFFICIENT = 0x128


cdef class _Template:
    """CK_ATTRIBUTEs, and the memory behind them, for the time of one call."""

    cdef CK_ATTRIBUTE items[_P11_TEMPLATE]
    cdef CK_ULONG numbers[_P11_TEMPLATE]
    cdef CK_BBOOL flags[_P11_TEMPLATE]
    cdef CK_ULONG n
    cdef list _kept

    def __init__(self, pairs):
        cdef KeyHandle secret
        cdef bytes raw
        cdef CK_ATTRIBUTE* at
        self.n = 0
        self._kept = []
        for kind, value in pairs:
            if self.n == _P11_TEMPLATE:
                raise ValueError(f"at most {_P11_TEMPLATE} attributes")
            at = &self.items[self.n]
            at.type = kind
            if isinstance(value, bool):
                self.flags[self.n] = 1 if value else 0
                at.pValue = &self.flags[self.n]
                at.ulValueLen = 1
            elif isinstance(value, int):
                self.numbers[self.n] = value
                at.pValue = &self.numbers[self.n]
                at.ulValueLen = sizeof(CK_ULONG)
            elif isinstance(value, bytes):
                raw = value
                at.pValue = PyBytes_AS_STRING(raw)
                at.ulValueLen = len(raw)
            elif isinstance(value, KeyHandle) and kind == CKA_VALUE:
                secret = value
                at.pValue = secret.ptr()
                at.ulValueLen = _P11_KEY
            else:
                raise TypeError(f"attribute 0x{kind:X}: no such value in a template")
            self._kept.append(value)
            self.n += 1


cdef class _Mechanism:
    """CK_MECHANISM, and the memory behind it. `oaep_hash` 0: without parameter; else OAEP (RFC 8017)
    with that hash (CKM_) for label and MGF1, an empty label, and for CKM_RSA_AES_KEY_WRAP a 256-bit
    inner key."""

    cdef CK_MECHANISM m
    cdef CK_RSA_PKCS_OAEP_PARAMS oaep
    cdef CK_RSA_AES_KEY_WRAP_PARAMS both

    def __init__(self, CK_ULONG kind, CK_ULONG oaep_hash=0):
        self.m.mechanism = kind
        self.m.pParameter = NULL
        self.m.ulParameterLen = 0
        if oaep_hash == 0:
            return
        if oaep_hash not in (_OBJ_SHA_1, _OBJ_SHA256):
            raise ValueError("OAEP with SHA-1 or SHA-256")
        self.oaep.hashAlg = oaep_hash
        self.oaep.mgf = 1 if oaep_hash == _OBJ_SHA_1 else 2     # CKG_MGF1_SHA1, CKG_MGF1_SHA256
        self.oaep.source = 1                                    # CKZ_DATA_SPECIFIED
        self.oaep.pSourceData = NULL
        self.oaep.ulSourceDataLen = 0
        self.m.pParameter = &self.oaep
        self.m.ulParameterLen = sizeof(CK_RSA_PKCS_OAEP_PARAMS)
        if kind == _OBJ_RSA_AES_KEY_WRAP:
            self.both.ulAESKeyBits = 256
            self.both.pOAEPParams = &self.oaep
            self.m.pParameter = &self.both
            self.m.ulParameterLen = sizeof(CK_RSA_AES_KEY_WRAP_PARAMS)


cdef int _obj_within(CK_ULONG n, CK_ULONG room) except -1:
    # The length is the module's word: what it says beyond our room was never written.
    if n > room:
        raise ValueError("the token answers more than there was room for")
    return 0


cdef class Pkcs11Module(Pkcs11Core):
    """One module, with everything that is done to objects."""

    def mechanisms(self, CK_SLOT_ID slot):
        """The mechanisms that the token in this slot offers."""
        cdef CK_ULONG kinds[_OBJ_MECHANISMS]
        cdef CK_ULONG n = _OBJ_MECHANISMS
        cdef CK_ULONG i
        cdef CK_RV rv
        with nogil:
            rv = self.f.C_GetMechanismList(slot, kinds, &n)
        _p11(rv, "C_GetMechanismList")
        _obj_within(n, _OBJ_MECHANISMS)
        return frozenset([kinds[i] for i in range(n)])

    def generate(self, CK_SESSION_HANDLE session, CK_ULONG kind, template):
        """A new secret key; its handle."""
        cdef _Mechanism mechanism = _Mechanism(kind)
        cdef _Template wanted = _Template(template)
        cdef CK_OBJECT_HANDLE key = 0
        cdef CK_RV rv
        with nogil:
            rv = self.f.C_GenerateKey(session, &mechanism.m, wanted.items, wanted.n, &key)
        _p11(rv, "C_GenerateKey")
        return key

    def generate_pair(self, CK_SESSION_HANDLE session, CK_ULONG kind, public, private):
        """A new key pair; the handles of its public and its private key."""
        cdef _Mechanism mechanism = _Mechanism(kind)
        cdef _Template one = _Template(public)
        cdef _Template two = _Template(private)
        cdef CK_OBJECT_HANDLE first = 0
        cdef CK_OBJECT_HANDLE second = 0
        cdef CK_RV rv
        with nogil:
            rv = self.f.C_GenerateKeyPair(session, &mechanism.m, one.items, one.n, two.items, two.n,
                                          &first, &second)
        _p11(rv, "C_GenerateKeyPair")
        return first, second

    def create(self, CK_SESSION_HANDLE session, template):
        """An object with these attributes; its handle."""
        cdef _Template wanted = _Template(template)
        cdef CK_OBJECT_HANDLE made = 0
        cdef CK_RV rv
        with nogil:
            rv = self.f.C_CreateObject(session, wanted.items, wanted.n, &made)
        _p11(rv, "C_CreateObject")
        return made

    def destroy(self, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE obj):
        """The object is gone."""
        cdef CK_RV rv
        with nogil:
            rv = self.f.C_DestroyObject(session, obj)
        _p11(rv, "C_DestroyObject")

    def find(self, CK_SESSION_HANDLE session, template):
        """Handles of the objects with these attributes, at most 64."""
        cdef _Template wanted = _Template(template)
        cdef CK_OBJECT_HANDLE found[_OBJ_FOUND]
        cdef CK_ULONG n = 0
        cdef CK_ULONG i
        cdef CK_RV rv, after
        with nogil:
            rv = self.f.C_FindObjectsInit(session, wanted.items, wanted.n)
        _p11(rv, "C_FindObjectsInit")
        with nogil:
            rv = self.f.C_FindObjects(session, found, _OBJ_FOUND, &n)
            after = self.f.C_FindObjectsFinal(session)
        _p11(rv, "C_FindObjects")
        _p11(after, "C_FindObjectsFinal")
        _obj_within(n, _OBJ_FOUND)
        return [found[i] for i in range(n)]

    def public(self, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE obj, CK_ULONG attribute):
        """The raw value of a public attribute. ValueError for one that is a secret, whatever the
        token thinks of it, and for one that is absent."""
        cdef CK_BYTE room[_OBJ_ROOM]
        cdef CK_ATTRIBUTE a
        cdef CK_RV rv
        if attribute == CKA_VALUE or _OBJ_PRIVATE_EXPONENT <= attribute <= _OBJ_COEFFICIENT:
            raise ValueError("this attribute is a secret")
        a.type = attribute
        a.pValue = room
        a.ulValueLen = _OBJ_ROOM
        with nogil:
            rv = self.f.C_GetAttributeValue(session, obj, &a, 1)
        _p11(rv, "C_GetAttributeValue")
        if a.ulValueLen > _OBJ_ROOM:
            raise ValueError("the attribute is not available")
        return PyBytes_FromStringAndSize(<char*>room, a.ulValueLen)

    def wrap(self, CK_SESSION_HANDLE session, CK_ULONG kind, CK_OBJECT_HANDLE by,
             CK_OBJECT_HANDLE key, CK_ULONG oaep_hash=0):
        """`key`, wrapped inside the token under `by`: at most 8192 bytes."""
        cdef _Mechanism mechanism = _Mechanism(kind, oaep_hash)
        cdef CK_BYTE room[_OBJ_ROOM]
        cdef CK_ULONG n = _OBJ_ROOM
        cdef CK_RV rv
        with nogil:
            rv = self.f.C_WrapKey(session, &mechanism.m, by, key, room, &n)
        _p11(rv, "C_WrapKey")
        _obj_within(n, _OBJ_ROOM)
        return PyBytes_FromStringAndSize(<char*>room, n)

    def unwrap(self, CK_SESSION_HANDLE session, CK_ULONG kind, CK_OBJECT_HANDLE by,
               bytes wrapped not None, template, CK_ULONG oaep_hash=0):
        """The handle of the key that was wrapped; its bytes stay in the token."""
        cdef _Mechanism mechanism = _Mechanism(kind, oaep_hash)
        cdef _Template wanted = _Template(template)
        cdef CK_BYTE* source = <CK_BYTE*>PyBytes_AS_STRING(wrapped)
        cdef CK_ULONG size = len(wrapped)
        cdef CK_OBJECT_HANDLE key = 0
        cdef CK_RV rv
        with nogil:
            rv = self.f.C_UnwrapKey(session, &mechanism.m, by, source, size, wanted.items, wanted.n,
                                    &key)
        _p11(rv, "C_UnwrapKey")
        return key

    def sign(self, CK_SESSION_HANDLE session, CK_ULONG kind, CK_OBJECT_HANDLE key,
             bytes data not None):
        """The signature that the token makes over `data`."""
        cdef _Mechanism mechanism = _Mechanism(kind)
        cdef CK_BYTE room[_OBJ_ROOM]
        cdef CK_BYTE* source = <CK_BYTE*>PyBytes_AS_STRING(data)
        cdef CK_ULONG size = len(data)
        cdef CK_ULONG n = _OBJ_ROOM
        cdef CK_RV rv
        cdef str failed = "C_SignInit"
        with nogil:
            rv = self.f.C_SignInit(session, &mechanism.m, key)
        if rv == CKR_OK:
            failed = "C_Sign"
            with nogil:
                rv = self.f.C_Sign(session, source, size, room, &n)
        _p11(rv, failed)
        _obj_within(n, _OBJ_ROOM)
        return PyBytes_FromStringAndSize(<char*>room, n)

    def check_value(self, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key):
        """The 3 bytes that CKA_CHECK_VALUE has (v2.40, section 4.9): the first of a block of zeros,
        encrypted. The other 13 are part of the secret that AES-GCM hashes with: they stay here."""
        cdef _Mechanism mechanism = _Mechanism(_OBJ_AES_ECB)
        cdef CK_BYTE zeros[16]
        cdef CK_BYTE block[32]
        cdef char shown[3]
        cdef CK_ULONG n = sizeof(block)
        cdef CK_RV rv
        cdef str failed = "C_EncryptInit"
        memset(zeros, 0, sizeof(zeros))
        memset(block, 0, sizeof(block))
        with nogil:
            rv = self.f.C_EncryptInit(session, &mechanism.m, key)
        if rv == CKR_OK:
            failed = "C_Encrypt"
            with nogil:
                rv = self.f.C_Encrypt(session, zeros, sizeof(zeros), block, &n)
        memcpy(shown, block, sizeof(shown))
        OPENSSL_cleanse(block, sizeof(block))
        sg_scrub()
        _p11(rv, failed)
        if n != sizeof(zeros):
            raise ValueError("the token gave a block of another size")
        return PyBytes_FromStringAndSize(shown, sizeof(shown))
