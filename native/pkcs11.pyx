# cython: language_level=3
# How does a token wrap and unwrap keys without a key byte ever becoming a Python object?
# PKCS #11 v2.40 (OASIS). The module is opened and initialised here, with CKF_OS_LOCKING_OK:
# C_Initialize(NULL) tells a module "no threads", and SoftHSM then turns its mutexes off and dies
# under a session pool. Every C call runs without the GIL. A session is used by one thread at a
# time: the pool in proxy/keys/providers sees to that. Which key, which retry: not known here.
#
# ERR_clear_error after every call that failed: the module may share our libcrypto, and what it
# leaves in the thread's error queue kills the next TLS read on that thread.

cdef extern from "<dlfcn.h>" nogil:
    void* dlopen(const char* path, int flags)
    void* dlsym(void* handle, const char* name)
    char* dlerror()
    int RTLD_NOW
    int RTLD_LOCAL

cdef extern from "sg_pkcs11.h" nogil:
    ctypedef unsigned char CK_BYTE
    ctypedef unsigned char CK_BBOOL
    ctypedef unsigned long CK_ULONG
    ctypedef unsigned long CK_RV
    ctypedef unsigned long CK_SLOT_ID
    ctypedef unsigned long CK_SESSION_HANDLE
    ctypedef unsigned long CK_OBJECT_HANDLE
    ctypedef struct CK_TOKEN_INFO:
        CK_BYTE label[32]
        CK_BYTE manufacturerID[32]
        CK_BYTE model[16]
        CK_BYTE serialNumber[16]
        CK_ULONG flags
        CK_ULONG ulMaxSessionCount, ulSessionCount
    ctypedef struct CK_ATTRIBUTE:
        CK_ULONG type
        void* pValue
        CK_ULONG ulValueLen
    ctypedef struct CK_MECHANISM:
        CK_ULONG mechanism
        void* pParameter
        CK_ULONG ulParameterLen
    ctypedef struct CK_GCM_PARAMS:
        CK_BYTE* pIv
        CK_ULONG ulIvLen
        CK_ULONG ulIvBits
        CK_BYTE* pAAD
        CK_ULONG ulAADLen
        CK_ULONG ulTagBits
    ctypedef struct CK_C_INITIALIZE_ARGS:
        CK_ULONG flags
        void* pReserved
    ctypedef struct CK_RSA_PKCS_OAEP_PARAMS:
        CK_ULONG hashAlg
        CK_ULONG mgf
        CK_ULONG source
        void* pSourceData
        CK_ULONG ulSourceDataLen
    ctypedef struct CK_RSA_AES_KEY_WRAP_PARAMS:
        CK_ULONG ulAESKeyBits
        CK_RSA_PKCS_OAEP_PARAMS* pOAEPParams
    ctypedef struct sg_ck_function_list:
        CK_RV (*C_Initialize)(void*) noexcept nogil
        CK_RV (*C_Finalize)(void*) noexcept nogil
        CK_RV (*C_GetSlotList)(CK_BBOOL, CK_SLOT_ID*, CK_ULONG*) noexcept nogil
        CK_RV (*C_GetTokenInfo)(CK_SLOT_ID, CK_TOKEN_INFO*) noexcept nogil
        CK_RV (*C_OpenSession)(CK_SLOT_ID, CK_ULONG, void*, void*, CK_SESSION_HANDLE*) noexcept nogil
        CK_RV (*C_CloseSession)(CK_SESSION_HANDLE) noexcept nogil
        CK_RV (*C_Login)(CK_SESSION_HANDLE, CK_ULONG, CK_BYTE*, CK_ULONG) noexcept nogil
        CK_RV (*C_GetAttributeValue)(CK_SESSION_HANDLE, CK_OBJECT_HANDLE, CK_ATTRIBUTE*, CK_ULONG) noexcept nogil
        CK_RV (*C_FindObjectsInit)(CK_SESSION_HANDLE, CK_ATTRIBUTE*, CK_ULONG) noexcept nogil
        CK_RV (*C_FindObjects)(CK_SESSION_HANDLE, CK_OBJECT_HANDLE*, CK_ULONG, CK_ULONG*) noexcept nogil
        CK_RV (*C_FindObjectsFinal)(CK_SESSION_HANDLE) noexcept nogil
        CK_RV (*C_EncryptInit)(CK_SESSION_HANDLE, CK_MECHANISM*, CK_OBJECT_HANDLE) noexcept nogil
        CK_RV (*C_Encrypt)(CK_SESSION_HANDLE, CK_BYTE*, CK_ULONG, CK_BYTE*, CK_ULONG*) noexcept nogil
        CK_RV (*C_DecryptInit)(CK_SESSION_HANDLE, CK_MECHANISM*, CK_OBJECT_HANDLE) noexcept nogil
        CK_RV (*C_Decrypt)(CK_SESSION_HANDLE, CK_BYTE*, CK_ULONG, CK_BYTE*, CK_ULONG*) noexcept nogil
        CK_RV (*C_GenerateKey)(CK_SESSION_HANDLE, CK_MECHANISM*, CK_ATTRIBUTE*, CK_ULONG, CK_OBJECT_HANDLE*) noexcept nogil
        CK_RV (*C_GetMechanismList)(CK_SLOT_ID, CK_ULONG*, CK_ULONG*) noexcept nogil
        CK_RV (*C_CreateObject)(CK_SESSION_HANDLE, CK_ATTRIBUTE*, CK_ULONG, CK_OBJECT_HANDLE*) noexcept nogil
        CK_RV (*C_DestroyObject)(CK_SESSION_HANDLE, CK_OBJECT_HANDLE) noexcept nogil
        CK_RV (*C_GenerateKeyPair)(CK_SESSION_HANDLE, CK_MECHANISM*, CK_ATTRIBUTE*, CK_ULONG, CK_ATTRIBUTE*, CK_ULONG, CK_OBJECT_HANDLE*, CK_OBJECT_HANDLE*) noexcept nogil
        CK_RV (*C_WrapKey)(CK_SESSION_HANDLE, CK_MECHANISM*, CK_OBJECT_HANDLE, CK_OBJECT_HANDLE, CK_BYTE*, CK_ULONG*) noexcept nogil
        CK_RV (*C_UnwrapKey)(CK_SESSION_HANDLE, CK_MECHANISM*, CK_OBJECT_HANDLE, CK_BYTE*, CK_ULONG, CK_ATTRIBUTE*, CK_ULONG, CK_OBJECT_HANDLE*) noexcept nogil
        CK_RV (*C_SignInit)(CK_SESSION_HANDLE, CK_MECHANISM*, CK_OBJECT_HANDLE) noexcept nogil
        CK_RV (*C_Sign)(CK_SESSION_HANDLE, CK_BYTE*, CK_ULONG, CK_BYTE*, CK_ULONG*) noexcept nogil
        CK_RV (*C_GenerateRandom)(CK_SESSION_HANDLE, CK_BYTE*, CK_ULONG) noexcept nogil
    ctypedef CK_RV (*sg_ck_get_function_list)(sg_ck_function_list**) noexcept nogil
    CK_ULONG CKF_SERIAL_SESSION, CKF_RW_SESSION, CKF_OS_LOCKING_OK, CKU_USER
    CK_ULONG CKO_SECRET_KEY, CKK_AES, CKM_AES_KEY_GEN, CKM_AES_GCM
    CK_ULONG CKA_CLASS, CKA_TOKEN, CKA_PRIVATE, CKA_LABEL, CKA_KEY_TYPE, CKA_ID, CKA_SENSITIVE
    CK_ULONG CKA_ENCRYPT, CKA_DECRYPT, CKA_WRAP, CKA_UNWRAP, CKA_SIGN, CKA_VERIFY, CKA_DERIVE
    CK_ULONG CKA_VALUE, CKA_VALUE_LEN, CKA_EXTRACTABLE
    CK_ULONG CKR_OK, CKR_USER_ALREADY_LOGGED_IN, CKR_CRYPTOKI_ALREADY_INITIALIZED

cdef enum:
    _P11_KEY = 32
    _P11_TAG = 16
    _P11_IV = 12
    _P11_SLOTS = 256
    _P11_TEMPLATE = 20
    _P11_ROOM = 64  # SoftHSM wants room for the ciphertext (48); every slot of the arena has 64


class Pkcs11Error(NativeError):
    """A C_ function returned something else than CKR_OK: `code` and `function` say what."""

    def __init__(self, code, function):
        super().__init__(f"{function}: CKR 0x{code:08X}")
        self.code = code
        self.function = function

    def __reduce__(self):
        return (Pkcs11Error, (self.code, self.function))


cdef int _p11(CK_RV rv, str function) except -1:
    if rv == CKR_OK:
        return 0
    ERR_clear_error()
    raise Pkcs11Error(rv, function)


cdef void _p11_attribute(CK_ATTRIBUTE* template, int* n, CK_ULONG kind, void* value,
                         CK_ULONG size) noexcept nogil:
    template[n[0]].type = kind
    template[n[0]].pValue = value
    template[n[0]].ulValueLen = size
    n[0] += 1


cdef void _p11_gcm(CK_MECHANISM* mechanism, CK_GCM_PARAMS* gcm, CK_BYTE* iv, const CK_BYTE* aad,
                   Py_ssize_t aad_len) noexcept nogil:
    # The IV lies in memory of ours: some modules write it (CloudHSM, nShield make their own).
    gcm.pIv = iv
    gcm.ulIvLen = _P11_IV
    gcm.ulIvBits = _P11_IV * 8
    gcm.pAAD = <CK_BYTE*>aad
    gcm.ulAADLen = <CK_ULONG>aad_len
    gcm.ulTagBits = _P11_TAG * 8
    mechanism.mechanism = CKM_AES_GCM
    mechanism.pParameter = gcm
    mechanism.ulParameterLen = sizeof(CK_GCM_PARAMS)


cdef class Pkcs11Core:
    """One module: tokens, sessions, login, the root key. It is never unloaded."""

    cdef sg_ck_function_list* f
    cdef bytes _parameters

    def __init__(self, str path not None, str parameters=None):
        """`parameters`: text for C_Initialize, for modules that want one (NSS: "configdir=...")."""
        cdef bytes name = path.encode()
        cdef const char* c_path = name
        cdef void* library
        cdef sg_ck_get_function_list get
        cdef CK_RV rv
        if not path.startswith("/"):
            # dlopen would search the library path, and so the directory an attacker may write to.
            raise ValueError("the path of a PKCS #11 module is absolute")
        with nogil:
            library = dlopen(c_path, RTLD_NOW | RTLD_LOCAL)
        if library == NULL:
            raise OSError(f"cannot load PKCS #11 module {path}: "
                          f"{(<bytes>dlerror()).decode('utf-8', 'replace')}")
        get = <sg_ck_get_function_list>dlsym(library, b"C_GetFunctionList")
        if get == NULL:
            raise OSError(f"{path} is not a PKCS #11 module: it has no C_GetFunctionList")
        with nogil:
            rv = get(&self.f)
        _p11(rv, "C_GetFunctionList")
        if self.f == NULL:
            raise OSError(f"{path}: C_GetFunctionList gave no list")
        self._parameters = None if parameters is None else parameters.encode()
        self._initialize()

    cdef int _initialize(self) except -1:
        cdef CK_C_INITIALIZE_ARGS args
        cdef CK_RV rv
        memset(&args, 0, sizeof(args))
        args.flags = CKF_OS_LOCKING_OK
        if self._parameters is not None:
            args.pReserved = PyBytes_AS_STRING(self._parameters)
        with nogil:
            rv = self.f.C_Initialize(&args)
        if rv == CKR_CRYPTOKI_ALREADY_INITIALIZED:
            ERR_clear_error()
            return 0
        return _p11(rv, "C_Initialize")

    def reinitialize(self):
        """C_Finalize and C_Initialize: the only way to make some modules (SoftHSM) look again for
        a token that was away. Ends every session of the process on this module; the caller makes
        sure that no call is under way."""
        cdef CK_RV rv
        with nogil:
            rv = self.f.C_Finalize(NULL)
        if rv != CKR_OK:  # then it was not initialised, which is as good
            ERR_clear_error()
        self._initialize()

    def slots(self):
        """Slots that have a token: slot, label, manufacturer, model, serial, flags, max_sessions
        (0: no limit, -1: not told)."""
        cdef CK_SLOT_ID ids[_P11_SLOTS]
        cdef CK_ULONG n = _P11_SLOTS
        cdef CK_ULONG i
        cdef CK_TOKEN_INFO info
        cdef CK_RV rv
        # Asked for the number first: SoftHSM looks for new tokens only then.
        with nogil:
            rv = self.f.C_GetSlotList(1, NULL, &n)
        _p11(rv, "C_GetSlotList")
        n = _P11_SLOTS
        with nogil:
            rv = self.f.C_GetSlotList(1, ids, &n)
        _p11(rv, "C_GetSlotList")
        found = []
        for i in range(n):
            with nogil:
                rv = self.f.C_GetTokenInfo(ids[i], &info)
            if rv != CKR_OK:
                ERR_clear_error()
                continue
            found.append({
                "slot": ids[i],
                "label": _p11_text(info.label, 32),
                "manufacturer": _p11_text(info.manufacturerID, 32),
                "model": _p11_text(info.model, 16),
                "serial": _p11_text(info.serialNumber, 16),
                "flags": info.flags,
                "max_sessions": _p11_count(info.ulMaxSessionCount),
            })
        return found

    def open_session(self, CK_SLOT_ID slot):
        """A read-write session (a read-only one cannot make the root key)."""
        cdef CK_SESSION_HANDLE session = 0
        cdef CK_RV rv
        with nogil:
            rv = self.f.C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL,
                                      &session)
        _p11(rv, "C_OpenSession")
        return session

    def close_session(self, CK_SESSION_HANDLE session):
        cdef CK_RV rv
        with nogil:
            rv = self.f.C_CloseSession(session)
        _p11(rv, "C_CloseSession")

    def login(self, CK_SESSION_HANDLE session, bytearray pin not None):
        """Logs the whole process in to the token. The caller wipes `pin`."""
        cdef CK_BYTE[::1] view = pin
        cdef CK_RV rv
        if view.shape[0] == 0:
            raise ValueError("empty PIN")
        with nogil:
            rv = self.f.C_Login(session, CKU_USER, &view[0], view.shape[0])
        if rv == CKR_USER_ALREADY_LOGGED_IN:
            ERR_clear_error()
            return
        _p11(rv, "C_Login")

    def find_key(self, CK_SESSION_HANDLE session, bytes label, bytes id):
        """The AES key with this label and id (None: any); 0 if there is none, ValueError if there
        are several."""
        cdef CK_ATTRIBUTE template[_P11_TEMPLATE]
        cdef CK_ULONG cls = CKO_SECRET_KEY
        cdef CK_ULONG kind = CKK_AES
        cdef CK_OBJECT_HANDLE found[2]
        cdef CK_ULONG count = 0
        cdef CK_RV rv, after
        cdef int n = 0
        _p11_attribute(template, &n, CKA_CLASS, &cls, sizeof(cls))
        _p11_attribute(template, &n, CKA_KEY_TYPE, &kind, sizeof(kind))
        if label is not None:
            _p11_attribute(template, &n, CKA_LABEL, PyBytes_AS_STRING(label), len(label))
        if id is not None:
            _p11_attribute(template, &n, CKA_ID, PyBytes_AS_STRING(id), len(id))
        with nogil:
            rv = self.f.C_FindObjectsInit(session, template, n)
        _p11(rv, "C_FindObjectsInit")
        with nogil:
            rv = self.f.C_FindObjects(session, found, 2, &count)
            after = self.f.C_FindObjectsFinal(session)
        _p11(rv, "C_FindObjects")
        _p11(after, "C_FindObjectsFinal")
        if count > 1:
            raise ValueError("more than one key has this label and id")
        return found[0] if count else 0

    def generate_aes_key(self, CK_SESSION_HANDLE session, bytes label not None,
                         bytes id not None):
        """A new AES-256 token object: private, sensitive, never extractable, and good for
        encrypting and decrypting only (a key that also wraps could be made to open its wraps)."""
        cdef CK_ATTRIBUTE template[_P11_TEMPLATE]
        cdef CK_MECHANISM mechanism
        cdef CK_ULONG cls = CKO_SECRET_KEY
        cdef CK_ULONG kind = CKK_AES
        cdef CK_ULONG size = _P11_KEY
        cdef CK_BBOOL yes = 1
        cdef CK_BBOOL no = 0
        cdef CK_OBJECT_HANDLE key = 0
        cdef CK_RV rv
        cdef int n = 0
        _p11_attribute(template, &n, CKA_CLASS, &cls, sizeof(cls))
        _p11_attribute(template, &n, CKA_KEY_TYPE, &kind, sizeof(kind))
        _p11_attribute(template, &n, CKA_VALUE_LEN, &size, sizeof(size))
        _p11_attribute(template, &n, CKA_TOKEN, &yes, 1)
        _p11_attribute(template, &n, CKA_PRIVATE, &yes, 1)
        _p11_attribute(template, &n, CKA_SENSITIVE, &yes, 1)
        _p11_attribute(template, &n, CKA_EXTRACTABLE, &no, 1)
        _p11_attribute(template, &n, CKA_ENCRYPT, &yes, 1)
        _p11_attribute(template, &n, CKA_DECRYPT, &yes, 1)
        _p11_attribute(template, &n, CKA_WRAP, &no, 1)
        _p11_attribute(template, &n, CKA_UNWRAP, &no, 1)
        _p11_attribute(template, &n, CKA_SIGN, &no, 1)
        _p11_attribute(template, &n, CKA_VERIFY, &no, 1)
        _p11_attribute(template, &n, CKA_DERIVE, &no, 1)
        _p11_attribute(template, &n, CKA_LABEL, PyBytes_AS_STRING(label), len(label))
        _p11_attribute(template, &n, CKA_ID, PyBytes_AS_STRING(id), len(id))
        mechanism.mechanism = CKM_AES_KEY_GEN
        mechanism.pParameter = NULL
        mechanism.ulParameterLen = 0
        with nogil:
            rv = self.f.C_GenerateKey(session, &mechanism, template, n, &key)
        _p11(rv, "C_GenerateKey")
        return key

    def gcm_wrap(self, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, bytes iv not None,
                 KeyHandle secret not None, bytes aad not None):
        """48 bytes: the secret under the token's key, then the tag. The IV has 12 bytes."""
        # The arena's bytes go to the token as they are; wrapping a handle that another thread
        # wipes meanwhile yields a record that fails the comparison made before its first use.
        return self._encrypt(session, key, iv, <const CK_BYTE*>secret.ptr(), _P11_KEY, aad)

    def gcm_encrypt(self, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, bytes iv not None,
                    bytes data not None, bytes aad not None):
        """Ciphertext and 16-byte tag. Not for keys."""
        return self._encrypt(session, key, iv, <const CK_BYTE*>PyBytes_AS_STRING(data), len(data),
                             aad)

    cdef bytes _encrypt(self, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, bytes iv,
                        const CK_BYTE* data, Py_ssize_t size, bytes aad):
        cdef CK_MECHANISM mechanism
        cdef CK_GCM_PARAMS gcm
        cdef CK_BYTE own_iv[_P11_IV]
        cdef CK_RV rv
        cdef CK_ULONG got = size + _P11_TAG
        cdef bytes out = PyBytes_FromStringAndSize(NULL, size + _P11_TAG)
        cdef CK_BYTE* target = <CK_BYTE*>PyBytes_AS_STRING(out)
        cdef str failed = "C_EncryptInit"
        if len(iv) != _P11_IV:
            raise ValueError("a GCM IV has 12 bytes")
        memcpy(own_iv, PyBytes_AS_STRING(iv), _P11_IV)
        _p11_gcm(&mechanism, &gcm, own_iv, <const CK_BYTE*>PyBytes_AS_STRING(aad), len(aad))
        with nogil:
            rv = self.f.C_EncryptInit(session, &mechanism, key)
        if rv == CKR_OK:
            failed = "C_Encrypt"
            with nogil:
                rv = self.f.C_Encrypt(session, <CK_BYTE*>data, size, target, &got)
        _p11(rv, failed)
        if got != <CK_ULONG>(size + _P11_TAG) or memcmp(own_iv, PyBytes_AS_STRING(iv), _P11_IV):
            raise ValueError("this token's AES-GCM does not use the IV it is given")
        return out

    def gcm_seal(self, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, bytes iv not None,
                 bytes data not None, bytes aad not None):
        """IV, ciphertext and 16-byte tag; the IV is `iv`, or the one that the module wrote over it
        (CloudHSM and nShield make their own, and want twelve zeros). Not for keys."""
        cdef CK_MECHANISM mechanism
        cdef CK_GCM_PARAMS gcm
        cdef CK_BYTE own_iv[_P11_IV]
        cdef CK_BYTE none[_P11_IV]
        cdef CK_RV rv
        cdef CK_ULONG size = len(data)
        cdef CK_ULONG got = size + _P11_TAG
        cdef bytes out = PyBytes_FromStringAndSize(NULL, _P11_IV + size + _P11_TAG)
        cdef CK_BYTE* target = <CK_BYTE*>PyBytes_AS_STRING(out)
        cdef CK_BYTE* source = <CK_BYTE*>PyBytes_AS_STRING(data)
        cdef str failed = "C_EncryptInit"
        if len(iv) != _P11_IV:
            raise ValueError("a GCM IV has 12 bytes")
        memset(none, 0, _P11_IV)
        memcpy(own_iv, PyBytes_AS_STRING(iv), _P11_IV)
        _p11_gcm(&mechanism, &gcm, own_iv, <const CK_BYTE*>PyBytes_AS_STRING(aad), len(aad))
        with nogil:
            rv = self.f.C_EncryptInit(session, &mechanism, key)
        if rv == CKR_OK:
            failed = "C_Encrypt"
            with nogil:
                rv = self.f.C_Encrypt(session, source, size, target + _P11_IV, &got)
        _p11(rv, failed)
        if got != size + _P11_TAG or gcm.ulIvLen != _P11_IV or gcm.pIv != own_iv:
            raise ValueError("this token's AES-GCM does not answer IV, ciphertext and tag")
        # A token that leaves the zeros and uses them would repeat a nonce.
        if memcmp(own_iv, none, _P11_IV) == 0:
            raise ValueError("this token's AES-GCM makes no IV of its own")
        memcpy(target, own_iv, _P11_IV)
        return out

    def gcm_unwrap(self, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, bytes iv not None,
                   bytes wrapped not None, bytes aad not None):
        """The secret, written by C_Decrypt into its arena slot; wiped again on any failure."""
        cdef KeyHandle secret
        cdef CK_ULONG got = 0
        cdef CK_RV rv
        if len(wrapped) != _P11_KEY + _P11_TAG:
            raise ValueError("a wrapped key has 48 bytes")
        secret = _new_slot()
        try:
            self._decrypt(session, key, iv, wrapped, aad, <CK_BYTE*>secret.ptr(), _P11_ROOM, &got)
            if got != _P11_KEY:
                raise ValueError("the token gave a key of another size")
            OPENSSL_cleanse(secret.ptr() + _P11_KEY, _P11_ROOM - _P11_KEY)
        except BaseException:
            OPENSSL_cleanse(secret.ptr(), _P11_ROOM)
            secret.wipe()
            raise
        return secret

    def gcm_decrypt(self, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, bytes iv not None,
                    bytes data not None, bytes aad not None):
        """Plaintext. Not for keys: the result is a Python object."""
        cdef Py_ssize_t size = len(data) - _P11_TAG
        cdef CK_ULONG got = 0
        # Room for the tag too: SoftHSM asks for as much room as the ciphertext has.
        cdef bytes out
        if size < 0:
            raise ValueError("shorter than a tag")
        out = PyBytes_FromStringAndSize(NULL, len(data))
        self._decrypt(session, key, iv, data, aad, <CK_BYTE*>PyBytes_AS_STRING(out), len(data),
                      &got)
        if got != <CK_ULONG>size:
            raise ValueError("the token gave a plaintext of another size")
        return out[:size]

    cdef int _decrypt(self, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, bytes iv, bytes data,
                      bytes aad, CK_BYTE* target, CK_ULONG room, CK_ULONG* got) except -1:
        cdef CK_MECHANISM mechanism
        cdef CK_GCM_PARAMS gcm
        cdef CK_BYTE own_iv[_P11_IV]
        cdef CK_BYTE* source = <CK_BYTE*>PyBytes_AS_STRING(data)
        cdef CK_ULONG size = len(data)
        cdef CK_RV rv
        cdef str failed = "C_DecryptInit"
        if len(iv) != _P11_IV:
            raise ValueError("a GCM IV has 12 bytes")
        memcpy(own_iv, PyBytes_AS_STRING(iv), _P11_IV)
        _p11_gcm(&mechanism, &gcm, own_iv, <const CK_BYTE*>PyBytes_AS_STRING(aad), len(aad))
        got[0] = room
        with nogil:
            rv = self.f.C_DecryptInit(session, &mechanism, key)
        if rv == CKR_OK:
            failed = "C_Decrypt"
            with nogil:
                rv = self.f.C_Decrypt(session, source, size, target, got)
        return _p11(rv, failed)

    def gcm_open(self, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, bytes sealed not None,
                 bytes aad not None):
        """The plaintext of what `gcm_seal` gave. Not for keys: the result is a Python object."""
        if len(sealed) < _P11_IV + _P11_TAG:
            raise ValueError("shorter than an IV and a tag")
        return self.gcm_decrypt(session, key, sealed[:_P11_IV], sealed[_P11_IV:], aad)

    def random(self, CK_SESSION_HANDLE session, Py_ssize_t n):
        """`n` bytes (1..1024) from the token."""
        cdef bytes out
        cdef CK_BYTE* target
        cdef CK_RV rv
        if not 1 <= n <= 1024:
            raise ValueError("1 to 1024 random bytes")
        out = PyBytes_FromStringAndSize(NULL, n)
        target = <CK_BYTE*>PyBytes_AS_STRING(out)
        with nogil:
            rv = self.f.C_GenerateRandom(session, target, n)
        _p11(rv, "C_GenerateRandom")
        return out

    def attribute(self, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE obj, CK_ULONG attribute):
        """The raw value of one attribute, at most 256 bytes. CKA_VALUE must be refused by the token;
        if it is given out, that is a ValueError and the value is wiped here."""
        cdef CK_BYTE value[256]
        cdef CK_ATTRIBUTE template
        cdef CK_RV rv
        template.type = attribute
        template.pValue = value
        template.ulValueLen = sizeof(value)
        with nogil:
            rv = self.f.C_GetAttributeValue(session, obj, &template, 1)
        if attribute == CKA_VALUE and rv == CKR_OK:
            OPENSSL_cleanse(value, sizeof(value))
            raise ValueError("the token gives out the value of this key")
        _p11(rv, "C_GetAttributeValue")
        if template.ulValueLen > sizeof(value):
            raise ValueError("the attribute is not available")
        return PyBytes_FromStringAndSize(<char*>value, template.ulValueLen)


cdef str _p11_text(CK_BYTE* field, int size):
    # Blank-padded UTF-8, not terminated (v2.40 section 3.2).
    return (<bytes>field[:size]).decode("utf-8", "replace").rstrip(" \x00")


cdef object _p11_count(CK_ULONG n):
    # CK_UNAVAILABLE_INFORMATION is ~0, CK_EFFECTIVELY_INFINITE 0.
    return -1 if n == ~<CK_ULONG>0 else n
