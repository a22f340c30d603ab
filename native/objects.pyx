# cython: language_level=3
# What may a ceremony do with the objects of a token? Generate, wrap, unwrap, sign, destroy: the
# key stays inside; what comes out is wrapped, public, or a check value. Templates are lists of
# (attribute, value) made in proxy/keys/ceremony/token.py: bool, int (CK_ULONG), bytes, or, for
# CKA_VALUE alone, a KeyHandle, whose 32 bytes go from the arena to the token. For one thread and
# one session at a time. Raises Pkcs11Error like pkcs11.pyx.

cdef extern from "sg_p11_objects.h" nogil:
    ctypedef struct sg_ck_oaep_params:
        CK_ULONG hashAlg
        CK_ULONG mgf
        CK_ULONG source
        void* pSourceData
        CK_ULONG ulSourceDataLen
    ctypedef struct sg_ck_rsa_aes_params:
        CK_ULONG ulAESKeyBits
        sg_ck_oaep_params* pOAEPParams
    CK_RV sg_p11_mechanism_list(sg_ck_function_list* f, CK_SLOT_ID slot, CK_ULONG* out, CK_ULONG* n)
    CK_RV sg_p11_create(sg_ck_function_list* f, CK_SESSION_HANDLE s, CK_ATTRIBUTE* t, CK_ULONG n,
                        CK_OBJECT_HANDLE* out)
    CK_RV sg_p11_destroy(sg_ck_function_list* f, CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o)
    CK_RV sg_p11_generate_pair(sg_ck_function_list* f, CK_SESSION_HANDLE s, CK_MECHANISM* m,
                               CK_ATTRIBUTE* pub, CK_ULONG npub, CK_ATTRIBUTE* priv, CK_ULONG npriv,
                               CK_OBJECT_HANDLE* opub, CK_OBJECT_HANDLE* opriv)
    CK_RV sg_p11_wrap(sg_ck_function_list* f, CK_SESSION_HANDLE s, CK_MECHANISM* m,
                      CK_OBJECT_HANDLE by, CK_OBJECT_HANDLE key, CK_BYTE* out, CK_ULONG* n)
    CK_RV sg_p11_unwrap(sg_ck_function_list* f, CK_SESSION_HANDLE s, CK_MECHANISM* m,
                        CK_OBJECT_HANDLE by, CK_BYTE* blob, CK_ULONG size, CK_ATTRIBUTE* t,
                        CK_ULONG n, CK_OBJECT_HANDLE* out)
    CK_RV sg_p11_sign(sg_ck_function_list* f, CK_SESSION_HANDLE s, CK_MECHANISM* m,
                      CK_OBJECT_HANDLE key, CK_BYTE* data, CK_ULONG size, CK_BYTE* out, CK_ULONG* n)

cdef enum:
    _OBJ_ATTRIBUTES = 32
    _OBJ_ROOM = 4096            # bytes of the longest wrapped key or public attribute
    _OBJ_FOUND = 64
    _OBJ_AES_ECB = 0x1081
    _OBJ_RSA_AES_KEY_WRAP = 0x1054
    _OBJ_SHA_1 = 0x220
    _OBJ_SHA256 = 0x250
    _OBJ_PRIVATE_EXPONENT = 0x123   # to CKA_COEFFICIENT, 0x128: parts of a private RSA key
    _OBJ_COEFFICIENT = 0x128


cdef class _CeremonyTemplate:
    """CK_ATTRIBUTEs, and the memory behind them, for the time of one call."""

    cdef CK_ATTRIBUTE a[_OBJ_ATTRIBUTES]
    cdef CK_ULONG numbers[_OBJ_ATTRIBUTES]
    cdef CK_BBOOL flags[_OBJ_ATTRIBUTES]
    cdef CK_ULONG n
    cdef list kept

    def __init__(self, list attributes not None):
        cdef KeyHandle secret
        cdef bytes raw
        cdef CK_ULONG i
        if len(attributes) > _OBJ_ATTRIBUTES:
            raise ValueError(f"at most {_OBJ_ATTRIBUTES} attributes")
        self.kept = []
        self.n = len(attributes)
        for i, (kind, value) in enumerate(attributes):
            self.a[i].type = kind
            if isinstance(value, bool):
                self.flags[i] = 1 if value else 0
                self.a[i].pValue = &self.flags[i]
                self.a[i].ulValueLen = 1
            elif isinstance(value, int):
                self.numbers[i] = value
                self.a[i].pValue = &self.numbers[i]
                self.a[i].ulValueLen = sizeof(CK_ULONG)
            elif isinstance(value, bytes):
                raw = value
                self.kept.append(raw)
                self.a[i].pValue = PyBytes_AS_STRING(raw)
                self.a[i].ulValueLen = len(raw)
            elif isinstance(value, KeyHandle) and kind == CKA_VALUE:
                secret = value
                self.kept.append(secret)
                self.a[i].pValue = secret.ptr()
                self.a[i].ulValueLen = 32
            else:
                raise TypeError(f"attribute 0x{kind:X}: no such value in a template")


cdef int _obj_mechanism(CK_MECHANISM* m, CK_ULONG mechanism, CK_ULONG oaep_hash,
                        sg_ck_oaep_params* oaep, sg_ck_rsa_aes_params* both) except -1:
    """`oaep_hash` 0: a mechanism without parameter; else OAEP (RFC 8017) with that hash for label
    and MGF1, an empty label, and for CKM_RSA_AES_KEY_WRAP a 256-bit inner key."""
    m.mechanism = mechanism
    m.pParameter = NULL
    m.ulParameterLen = 0
    if oaep_hash == 0:
        return 0
    if oaep_hash not in (_OBJ_SHA_1, _OBJ_SHA256):
        raise ValueError("OAEP with SHA-1 or SHA-256")
    oaep.hashAlg = oaep_hash
    oaep.mgf = 1 if oaep_hash == _OBJ_SHA_1 else 2
    oaep.source = 1
    oaep.pSourceData = NULL
    oaep.ulSourceDataLen = 0
    m.pParameter = oaep
    m.ulParameterLen = sizeof(sg_ck_oaep_params)
    if mechanism == _OBJ_RSA_AES_KEY_WRAP:
        both.ulAESKeyBits = 256
        both.pOAEPParams = oaep
        m.pParameter = both
        m.ulParameterLen = sizeof(sg_ck_rsa_aes_params)
    return 0


def p11_mechanisms(Pkcs11Module module not None, CK_SLOT_ID slot):
    """The mechanisms that the token in this slot offers."""
    cdef CK_ULONG found[1024]
    cdef CK_ULONG n = 1024
    cdef CK_RV rv
    with nogil:
        rv = sg_p11_mechanism_list(module.f, slot, found, &n)
    _p11(rv, "C_GetMechanismList")
    return frozenset(found[i] for i in range(n))


def p11_generate(Pkcs11Module module not None, CK_SESSION_HANDLE session, CK_ULONG mechanism,
                 list template not None):
    """A new secret key; its handle."""
    cdef _CeremonyTemplate t = _CeremonyTemplate(template)
    cdef CK_MECHANISM m
    cdef CK_OBJECT_HANDLE key = 0
    cdef CK_RV rv
    _obj_mechanism(&m, mechanism, 0, NULL, NULL)
    with nogil:
        rv = module.f.C_GenerateKey(session, &m, t.a, t.n, &key)
    _p11(rv, "C_GenerateKey")
    return key


def p11_generate_pair(Pkcs11Module module not None, CK_SESSION_HANDLE session, CK_ULONG mechanism,
                      list public not None, list private not None):
    """A new key pair; the handles of its public and its private key."""
    cdef _CeremonyTemplate p = _CeremonyTemplate(public)
    cdef _CeremonyTemplate q = _CeremonyTemplate(private)
    cdef CK_MECHANISM m
    cdef CK_OBJECT_HANDLE one = 0, other = 0
    cdef CK_RV rv
    _obj_mechanism(&m, mechanism, 0, NULL, NULL)
    with nogil:
        rv = sg_p11_generate_pair(module.f, session, &m, p.a, p.n, q.a, q.n, &one, &other)
    _p11(rv, "C_GenerateKeyPair")
    return one, other


def p11_create(Pkcs11Module module not None, CK_SESSION_HANDLE session, list template not None):
    """An object with these attributes; its handle."""
    cdef _CeremonyTemplate t = _CeremonyTemplate(template)
    cdef CK_OBJECT_HANDLE made = 0
    cdef CK_RV rv
    with nogil:
        rv = sg_p11_create(module.f, session, t.a, t.n, &made)
    _p11(rv, "C_CreateObject")
    return made


def p11_destroy(Pkcs11Module module not None, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE obj):
    """The object is gone."""
    cdef CK_RV rv
    with nogil:
        rv = sg_p11_destroy(module.f, session, obj)
    _p11(rv, "C_DestroyObject")


def p11_find(Pkcs11Module module not None, CK_SESSION_HANDLE session, list template not None):
    """Handles of the objects with these attributes, at most 64."""
    cdef _CeremonyTemplate t = _CeremonyTemplate(template)
    cdef CK_OBJECT_HANDLE found[_OBJ_FOUND]
    cdef CK_ULONG n = 0
    cdef CK_RV rv, after
    with nogil:
        rv = module.f.C_FindObjectsInit(session, t.a, t.n)
    _p11(rv, "C_FindObjectsInit")
    with nogil:
        rv = module.f.C_FindObjects(session, found, _OBJ_FOUND, &n)
        after = module.f.C_FindObjectsFinal(session)
    _p11(rv, "C_FindObjects")
    _p11(after, "C_FindObjectsFinal")
    return [found[i] for i in range(n)]


def p11_public(Pkcs11Module module not None, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE obj,
               CK_ULONG attribute):
    """The raw value of a public attribute. ValueError for one that is a secret, whatever the token
    thinks of it, and for one that is absent."""
    cdef CK_BYTE room[_OBJ_ROOM]
    cdef CK_ATTRIBUTE a
    cdef CK_RV rv
    if attribute == CKA_VALUE or _OBJ_PRIVATE_EXPONENT <= attribute <= _OBJ_COEFFICIENT:
        raise ValueError("this attribute is a secret")
    a.type = attribute
    a.pValue = room
    a.ulValueLen = _OBJ_ROOM
    with nogil:
        rv = module.f.C_GetAttributeValue(session, obj, &a, 1)
    _p11(rv, "C_GetAttributeValue")
    if a.ulValueLen > _OBJ_ROOM:
        raise ValueError("the attribute is not available")
    return PyBytes_FromStringAndSize(<char*>room, a.ulValueLen)


def p11_wrap(Pkcs11Module module not None, CK_SESSION_HANDLE session, CK_ULONG mechanism,
             CK_OBJECT_HANDLE by, CK_OBJECT_HANDLE key, CK_ULONG oaep_hash = 0):
    """`key`, wrapped inside the token under `by`."""
    cdef sg_ck_oaep_params oaep
    cdef sg_ck_rsa_aes_params both
    cdef CK_MECHANISM m
    cdef CK_BYTE room[_OBJ_ROOM]
    cdef CK_ULONG n = _OBJ_ROOM
    cdef CK_RV rv
    _obj_mechanism(&m, mechanism, oaep_hash, &oaep, &both)
    with nogil:
        rv = sg_p11_wrap(module.f, session, &m, by, key, room, &n)
    _p11(rv, "C_WrapKey")
    return PyBytes_FromStringAndSize(<char*>room, n)


def p11_unwrap(Pkcs11Module module not None, CK_SESSION_HANDLE session, CK_ULONG mechanism,
               CK_OBJECT_HANDLE by, bytes wrapped not None, list template not None,
               CK_ULONG oaep_hash = 0):
    """The handle of the key that was wrapped; its bytes stay in the token."""
    cdef _CeremonyTemplate t = _CeremonyTemplate(template)
    cdef sg_ck_oaep_params oaep
    cdef sg_ck_rsa_aes_params both
    cdef CK_MECHANISM m
    cdef CK_BYTE* blob = <CK_BYTE*>PyBytes_AS_STRING(wrapped)
    cdef CK_ULONG size = len(wrapped)
    cdef CK_OBJECT_HANDLE key = 0
    cdef CK_RV rv
    _obj_mechanism(&m, mechanism, oaep_hash, &oaep, &both)
    with nogil:
        rv = sg_p11_unwrap(module.f, session, &m, by, blob, size, t.a, t.n, &key)
    _p11(rv, "C_UnwrapKey")
    return key


def p11_sign(Pkcs11Module module not None, CK_SESSION_HANDLE session, CK_ULONG mechanism,
             CK_OBJECT_HANDLE key, bytes data not None):
    """The signature that the token makes over `data`."""
    cdef CK_MECHANISM m
    cdef CK_BYTE* source = <CK_BYTE*>PyBytes_AS_STRING(data)
    cdef CK_ULONG size = len(data), n = _OBJ_ROOM
    cdef CK_BYTE room[_OBJ_ROOM]
    cdef CK_RV rv
    _obj_mechanism(&m, mechanism, 0, NULL, NULL)
    with nogil:
        rv = sg_p11_sign(module.f, session, &m, key, source, size, room, &n)
    _p11(rv, "C_Sign")
    return PyBytes_FromStringAndSize(<char*>room, n)


def p11_check_value(Pkcs11Module module not None, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key):
    """The 3 bytes that CKA_CHECK_VALUE has (v2.40, section 4.9): the first of a block of zeros,
    encrypted. The other 13 are part of the secret that AES-GCM hashes with: they stay here."""
    cdef CK_MECHANISM m
    cdef CK_BYTE zeros[16]
    cdef CK_BYTE block[32]
    cdef CK_ULONG n = 32
    cdef CK_RV rv
    cdef str failed = "C_EncryptInit"
    cdef bytes out
    memset(zeros, 0, 16)
    _obj_mechanism(&m, _OBJ_AES_ECB, 0, NULL, NULL)
    with nogil:
        rv = module.f.C_EncryptInit(session, &m, key)
    if rv == CKR_OK:
        failed = "C_Encrypt"
        with nogil:
            rv = module.f.C_Encrypt(session, zeros, 16, block, &n)
    out = PyBytes_FromStringAndSize(<char*>block, 3)
    OPENSSL_cleanse(block, 32)
    sg_scrub()
    _p11(rv, failed)
    if n != 16:
        raise ValueError("the token gave a block of another size")
    return out
