# Declarations of libcrypto (OpenSSL 3.0 and later) and the few system calls that the parts use.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t, uintptr_t
from libc.string cimport memcpy, memset, memcmp
from libc.stdlib cimport malloc, calloc, free
from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.buffer cimport PyObject_GetBuffer, PyBuffer_Release, PyBUF_SIMPLE, PyBUF_WRITABLE

cdef extern from "openssl/evp.h" nogil:
    ctypedef struct EVP_CIPHER_CTX
    ctypedef struct EVP_CIPHER
    EVP_CIPHER_CTX* EVP_CIPHER_CTX_new()
    void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX*)
    int EVP_CIPHER_CTX_reset(EVP_CIPHER_CTX*)
    EVP_CIPHER* EVP_CIPHER_fetch(void*, const char*, const char*)
    int EVP_EncryptInit_ex(EVP_CIPHER_CTX*, const EVP_CIPHER*, void*, const uint8_t*, const uint8_t*)
    int EVP_EncryptUpdate(EVP_CIPHER_CTX*, uint8_t*, int*, const uint8_t*, int)
    int EVP_EncryptFinal_ex(EVP_CIPHER_CTX*, uint8_t*, int*)
    int EVP_DecryptInit_ex(EVP_CIPHER_CTX*, const EVP_CIPHER*, void*, const uint8_t*, const uint8_t*)
    int EVP_DecryptUpdate(EVP_CIPHER_CTX*, uint8_t*, int*, const uint8_t*, int)
    int EVP_DecryptFinal_ex(EVP_CIPHER_CTX*, uint8_t*, int*)
    int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX*, int, int, void*)
    int EVP_CIPHER_CTX_set_padding(EVP_CIPHER_CTX*, int)
    int EVP_CTRL_AEAD_GET_TAG
    int EVP_CTRL_AEAD_SET_TAG
cdef extern from "openssl/crypto.h" nogil:
    void OPENSSL_cleanse(void*, size_t)
    int CRYPTO_memcmp(const void*, const void*, size_t)
cdef extern from "openssl/rand.h" nogil:
    int RAND_bytes(uint8_t*, int)
cdef extern from "openssl/err.h" nogil:
    void ERR_clear_error()
