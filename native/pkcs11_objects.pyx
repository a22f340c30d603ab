# cython: language_level=3
# How are keys made, wrapped, unwrapped and tried inside a token, whatever the mechanism?
# A mechanism's parameter and a template come from the caller as bytes; this file knows no
# algorithm. Every output is a ciphertext, a tag or a handle. A key never leaves by one of these:
# `wrap` gives what C_WrapKey gives, and nothing reads CKA_VALUE.

cdef enum:
    _P11_OUT = 8192


cdef class _Template:
    """CK_ATTRIBUTEs over Python bytes that this object keeps alive."""

    cdef CK_ATTRIBUTE items[_P11_TEMPLATE]
    cdef CK_ULONG n
    cdef list _kept

    def __init__(self, pairs):
        cdef bytes raw
        self.n = 0
        self._kept = []
        for kind, value in pairs:
            if self.n == _P11_TEMPLATE:
                raise ValueError("the template is too long")
            if isinstance(value, bool):
                raw = b"\1" if value else b"\0"
            elif isinstance(value, int):
                raw = (<object>value).to_bytes(sizeof(CK_ULONG), "little")
            else:
                raw = value
            self._kept.append(raw)
            self.items[self.n].type = kind
            self.items[self.n].pValue = PyBytes_AS_STRING(raw)
            self.items[self.n].ulValueLen = len(raw)
            self.n += 1


cdef void _p11_mechanism(CK_MECHANISM* mechanism, CK_ULONG kind, bytes parameter):
    mechanism.mechanism = kind
    mechanism.pParameter = NULL
    mechanism.ulParameterLen = 0
    if parameter is not None:
        # The struct in it may point at buffers of the caller's; the caller keeps them.
        mechanism.pParameter = PyBytes_AS_STRING(parameter)
        mechanism.ulParameterLen = len(parameter)


cdef class Pkcs11Module(Pkcs11Core):
    """One module, with everything that is done to objects."""

    def mechanisms(self, CK_SLOT_ID slot):
        """{mechanism: (least key size, greatest, flags)}; units of sizes are the mechanism's."""
        cdef CK_ULONG kinds[1024]
        cdef CK_ULONG n = 1024
        cdef CK_ULONG i
        cdef CK_MECHANISM_INFO info
        cdef CK_RV rv
        with nogil:
            rv = self.f.C_GetMechanismList(slot, kinds, &n)
        _p11(rv, "C_GetMechanismList")
        found = {}
        for i in range(n):
            with nogil:
                rv = self.f.C_GetMechanismInfo(slot, kinds[i], &info)
            if rv != CKR_OK:
                ERR_clear_error()
                continue
            found[kinds[i]] = (info.ulMinKeySize, info.ulMaxKeySize, info.flags)
        return found

    def generate(self, CK_SESSION_HANDLE session, CK_ULONG kind, template):
        """C_GenerateKey. A template is a sequence of (attribute, bool | int | bytes)."""
        cdef CK_MECHANISM mechanism
        cdef _Template wanted = _Template(template)
        cdef CK_OBJECT_HANDLE key = 0
        cdef CK_RV rv
        _p11_mechanism(&mechanism, kind, None)
        with nogil:
            rv = self.f.C_GenerateKey(session, &mechanism, wanted.items, wanted.n, &key)
        _p11(rv, "C_GenerateKey")
        return key

    def generate_pair(self, CK_SESSION_HANDLE session, CK_ULONG kind, public, private):
        """C_GenerateKeyPair: (public key, private key)."""
        cdef CK_MECHANISM mechanism
        cdef _Template one = _Template(public)
        cdef _Template two = _Template(private)
        cdef CK_OBJECT_HANDLE first = 0
        cdef CK_OBJECT_HANDLE second = 0
        cdef CK_RV rv
        _p11_mechanism(&mechanism, kind, None)
        with nogil:
            rv = self.f.C_GenerateKeyPair(session, &mechanism, one.items, one.n, two.items, two.n,
                                          &first, &second)
        _p11(rv, "C_GenerateKeyPair")
        return first, second

    def wrap(self, CK_SESSION_HANDLE session, CK_ULONG kind, bytes parameter,
             CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key):
        """C_WrapKey: at most 8192 bytes."""
        cdef CK_MECHANISM mechanism
        cdef CK_BYTE out[_P11_OUT]
        cdef CK_ULONG got = _P11_OUT
        cdef CK_RV rv
        _p11_mechanism(&mechanism, kind, parameter)
        with nogil:
            rv = self.f.C_WrapKey(session, &mechanism, wrapping, key, out, &got)
        _p11(rv, "C_WrapKey")
        return PyBytes_FromStringAndSize(<char*>out, got)

    def unwrap(self, CK_SESSION_HANDLE session, CK_ULONG kind, bytes parameter,
               CK_OBJECT_HANDLE unwrapping, bytes wrapped not None, template):
        """C_UnwrapKey: the handle of a new object; its value stays in the token."""
        cdef CK_MECHANISM mechanism
        cdef _Template wanted = _Template(template)
        cdef CK_BYTE* source = <CK_BYTE*>PyBytes_AS_STRING(wrapped)
        cdef CK_ULONG size = len(wrapped)
        cdef CK_OBJECT_HANDLE key = 0
        cdef CK_RV rv
        _p11_mechanism(&mechanism, kind, parameter)
        with nogil:
            rv = self.f.C_UnwrapKey(session, &mechanism, unwrapping, source, size, wanted.items,
                                    wanted.n, &key)
        _p11(rv, "C_UnwrapKey")
        return key

    def derive(self, CK_SESSION_HANDLE session, CK_ULONG kind, bytes parameter,
               CK_OBJECT_HANDLE base, template):
        """C_DeriveKey: the handle of a new object."""
        cdef CK_MECHANISM mechanism
        cdef _Template wanted = _Template(template)
        cdef CK_OBJECT_HANDLE key = 0
        cdef CK_RV rv
        _p11_mechanism(&mechanism, kind, parameter)
        with nogil:
            rv = self.f.C_DeriveKey(session, &mechanism, base, wanted.items, wanted.n, &key)
        _p11(rv, "C_DeriveKey")
        return key

    def sign(self, CK_SESSION_HANDLE session, CK_ULONG kind, bytes parameter, CK_OBJECT_HANDLE key,
             bytes data not None):
        """C_Sign: a signature or a MAC."""
        cdef CK_MECHANISM mechanism
        cdef CK_BYTE out[_P11_OUT]
        cdef CK_BYTE* source = <CK_BYTE*>PyBytes_AS_STRING(data)
        cdef CK_ULONG size = len(data)
        cdef CK_ULONG got = _P11_OUT
        cdef CK_RV rv
        cdef str failed = "C_SignInit"
        _p11_mechanism(&mechanism, kind, parameter)
        with nogil:
            rv = self.f.C_SignInit(session, &mechanism, key)
        if rv == CKR_OK:
            failed = "C_Sign"
            with nogil:
                rv = self.f.C_Sign(session, source, size, out, &got)
        _p11(rv, failed)
        return PyBytes_FromStringAndSize(<char*>out, got)

    def destroy(self, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE obj):
        cdef CK_RV rv
        with nogil:
            rv = self.f.C_DestroyObject(session, obj)
        _p11(rv, "C_DestroyObject")

    def find(self, CK_SESSION_HANDLE session, template):
        """Handles of at most 64 objects that match."""
        cdef _Template wanted = _Template(template)
        cdef CK_OBJECT_HANDLE found[64]
        cdef CK_ULONG count = 0
        cdef CK_ULONG i
        cdef CK_RV rv, after
        with nogil:
            rv = self.f.C_FindObjectsInit(session, wanted.items, wanted.n)
        _p11(rv, "C_FindObjectsInit")
        with nogil:
            rv = self.f.C_FindObjects(session, found, 64, &count)
            after = self.f.C_FindObjectsFinal(session)
        _p11(rv, "C_FindObjects")
        _p11(after, "C_FindObjectsFinal")
        return [found[i] for i in range(count)]
