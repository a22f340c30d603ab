# cython: language_level=3
# What this extension takes from libcrypto and from our own C headers. Declarations only.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from libc.stdlib cimport free, malloc, realloc
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport (PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_CheckBuffer,
                             PyObject_GetBuffer)

# first, so that its feature macros hold for the system headers below
cdef extern from "sg_arena.h":
    pass

cdef extern from "<openssl/crypto.h>" nogil:
    void OPENSSL_cleanse(void* p, size_t n)
    int CRYPTO_memcmp(const void* a, const void* b, size_t n)
    const char* OpenSSL_version(int t)

cdef extern from "<openssl/err.h>" nogil:
    void ERR_clear_error()

cdef extern from "<openssl/rand.h>" nogil:
    int RAND_bytes(uint8_t* out, int n)
    int RAND_priv_bytes(uint8_t* out, int n)

cdef extern from "<openssl/evp.h>" nogil:
    int EVP_PBE_scrypt(const char* passphrase, size_t passlen, const uint8_t* salt, size_t saltlen,
                       uint64_t n, uint64_t r, uint64_t p, uint64_t maxmem,
                       uint8_t* key, size_t keylen)

cdef extern from "sg_arena.h" nogil:
    int SEALGATE_DEBUG
    int SG_SLOT
    int SG_STREAMS
    ctypedef struct sg_slot_meta:
        uint32_t gen
    int sg_arena_init(int slots, int allow_unlocked)
    uint8_t* sg_slot_ptr(int i)
    int sg_slot_alive(uint32_t epoch, int i, uint32_t gen)
    int sg_slot_take()
    void sg_slot_drop(int i)
    void sg_adopt(int owner, int child)
    int sg_pool_take(uint8_t* out, uint32_t n)
    int sg_harden()
    void sg_scrub()
    int sg_dirty
    # fields of the one arena record
    const char* sg_backend "sg.backend"
    int sg_nslots "sg.nslots"
    int sg_used "sg.used"
    int sg_peak "sg.peak"
    int sg_locked "sg.locked"
    int sg_cached "sg.cached"
    int sg_contexts "sg.contexts"
    int sg_nstream_free "sg.nstream_free"
    uint32_t sg_epoch "sg.epoch"
    void* sg_map "sg.map"
    sg_slot_meta* sg_meta "sg.meta"

cdef extern from "sg_aead.h" nogil:
    int SG_LIBCRYPTO
    int SG_IPSEC_MB
    int sg_have_ipsec
    int sg_engine
    ctypedef struct sg_gcm:
        pass
    int sg_aead_load()
    int sg_xaes_derive(const uint8_t* key, const uint8_t* prefix, uint8_t* out)
    void sg_batch_end()
    int sg_xaes_seal(int slot, int* hint, const uint8_t* nonce, const uint8_t* aad, size_t aad_len,
                     const uint8_t* src, size_t n, uint8_t* dst)
    int sg_xaes_open(int slot, int* hint, const uint8_t* nonce, const uint8_t* aad, size_t aad_len,
                     const uint8_t* src, size_t n, uint8_t* dst)
    int sg_gcm_start(sg_gcm* g, const uint8_t* key)
    void sg_gcm_stop(sg_gcm* g)
    int sg_gcm_usable(const sg_gcm* g)
    int sg_gcm_seal(sg_gcm* g, const uint8_t* iv, const uint8_t* aad, size_t aad_len,
                    const uint8_t* src, size_t n, uint8_t* dst)
    int sg_gcm_open(sg_gcm* g, const uint8_t* iv, const uint8_t* aad, size_t aad_len,
                    const uint8_t* src, size_t n, uint8_t* dst)

cdef extern from "sg_mac.h" nogil:
    void sg_hmac_key(uint8_t* states, const uint8_t* key, size_t n)
    void sg_hmac(const uint8_t* states, const uint8_t* a, size_t na, const uint8_t* b, size_t nb,
                 const uint8_t* d, size_t nd, uint8_t* out)
    void sg_hkdf(const uint8_t* ikm, size_t nikm, const uint8_t* salt, size_t nsalt,
                 const uint8_t* info, size_t ninfo, uint8_t* out, size_t n)

cdef extern from "<time.h>" nogil:
    ctypedef struct sg_timespec "struct timespec":
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, sg_timespec* now)
    int CLOCK_MONOTONIC_COARSE
