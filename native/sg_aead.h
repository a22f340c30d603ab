/* AES-256-GCM and XAES-256-GCM over two engines.
 *
 * ipsec-mb (dlopen'ed; headers needed at build time): its key schedule is in memory we hand it,
 * so it lives in the arena and stays there between batches. libcrypto: contexts keep a copy of
 * the key in the ordinary heap, so one lives for a batch or a call and is freed (OpenSSL cleanses
 * it). NIST SP 800-38D; C2SP XAES-256-GCM v1.0.
 */
#ifndef SG_AEAD_H
#define SG_AEAD_H

#include "sg_arena.h"
#include <dlfcn.h>
#include <openssl/evp.h>

#if defined(__x86_64__) && defined(__has_include)
#if __has_include(<intel-ipsec-mb.h>)
#define NO_COMPAT_IMB_API_053   /* its old macro names collide with openssl/sha.h */
#include <intel-ipsec-mb.h>
#define SG_IPSEC 1
#endif
#endif
#ifndef SG_IPSEC
#define SG_IPSEC 0
#endif

enum { SG_LIBCRYPTO = 0, SG_IPSEC_MB = 1 };

static EVP_CIPHER *sg_gcm_cipher, *sg_ecb_cipher;
static int sg_have_ipsec = 0, sg_engine = SG_LIBCRYPTO;

#if SG_IPSEC
static aes_gcm_pre_t sg_imb_pre;
static aes_gcm_enc_dec_t sg_imb_enc, sg_imb_dec;
_Static_assert(sizeof(struct gcm_key_data) <= SG_SCHED, "schedule slot too small");
#endif

/* ---- libcrypto, one keyed context ---------------------------------------------------------- */
static EVP_CIPHER_CTX *sg_evp_new(const uint8_t *key)
{
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    if (c == NULL) { ERR_clear_error(); return NULL; }
    if (EVP_CipherInit_ex(c, sg_gcm_cipher, NULL, key, NULL, 1) != 1) {
        EVP_CIPHER_CTX_free(c);
        ERR_clear_error();
        return NULL;
    }
    __atomic_add_fetch(&sg.contexts, 1, __ATOMIC_RELAXED);
    return c;
}

static void sg_evp_free(EVP_CIPHER_CTX *c)
{
    if (c == NULL) return;
    EVP_CIPHER_CTX_free(c);
    __atomic_sub_fetch(&sg.contexts, 1, __ATOMIC_RELAXED);
}

/* dst gets n + 16 bytes; src == dst is allowed. 1 on success. nogil */
static int sg_evp_seal(EVP_CIPHER_CTX *c, const uint8_t *iv, const uint8_t *aad, size_t aad_len,
                       const uint8_t *src, size_t n, uint8_t *dst)
{
    int l = 0;
    if (n > INT32_MAX || aad_len > INT32_MAX) return 0;
    if (EVP_CipherInit_ex(c, NULL, NULL, NULL, iv, 1) == 1
        && (aad_len == 0 || EVP_CipherUpdate(c, NULL, &l, aad, (int)aad_len) == 1)
        && (n == 0 || EVP_CipherUpdate(c, dst, &l, src, (int)n) == 1)
        && EVP_CipherFinal_ex(c, dst + n, &l) == 1
        && EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, 16, dst + n) == 1)
        return 1;
    ERR_clear_error();
    return 0;
}

/* dst gets n bytes, sealed is n + 16. 1 on success; on failure dst is wiped. nogil */
static int sg_evp_open(EVP_CIPHER_CTX *c, const uint8_t *iv, const uint8_t *aad, size_t aad_len,
                       const uint8_t *src, size_t n, uint8_t *dst)
{
    int l = 0;
    if (n > INT32_MAX || aad_len > INT32_MAX) return 0;
    if (EVP_CipherInit_ex(c, NULL, NULL, NULL, iv, 0) == 1
        && EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, 16, (void *)(src + n)) == 1
        && (aad_len == 0 || EVP_CipherUpdate(c, NULL, &l, aad, (int)aad_len) == 1)
        && (n == 0 || EVP_CipherUpdate(c, dst, &l, src, (int)n) == 1)
        && EVP_CipherFinal_ex(c, dst + n, &l) == 1)
        return 1;
    ERR_clear_error();
    if (n) OPENSSL_cleanse(dst, n);
    return 0;
}

/* ---- ipsec-mb ------------------------------------------------------------------------------ */
#if SG_IPSEC
static const uint8_t sg_nothing[64] = {0};

static int sg_imb_seal(const void *sched, const uint8_t *iv, const uint8_t *aad, size_t aad_len,
                       const uint8_t *src, size_t n, uint8_t *dst)
{
    struct gcm_context_data x;
    sg_imb_enc((const struct gcm_key_data *)sched, &x, dst, n ? src : sg_nothing, n, iv,
               aad_len ? aad : sg_nothing, aad_len, dst + n, 16);
    return 1;
}

static int sg_imb_open(const void *sched, const uint8_t *iv, const uint8_t *aad, size_t aad_len,
                       const uint8_t *src, size_t n, uint8_t *dst)
{
    struct gcm_context_data x;
    uint8_t tag[16], unused[16];
    sg_imb_dec((const struct gcm_key_data *)sched, &x, n ? dst : unused, n ? src : sg_nothing, n, iv,
               aad_len ? aad : sg_nothing, aad_len, tag, 16);
    if (CRYPTO_memcmp(tag, src + n, 16) == 0) return 1;
    if (n) OPENSSL_cleanse(dst, n);
    return 0;
}

/* Known answer (NIST GCM test case 14: zero key, iv and block): an engine that fails is not used. */
static int sg_imb_works(void)
{
    static const uint8_t want[32] = {
        0xce,0xa7,0x40,0x3d,0x4d,0x60,0x6b,0x6e,0x07,0x4e,0xc5,0xd3,0xba,0xf3,0x9d,0x18,
        0xd0,0xd1,0xc8,0xa7,0x99,0x99,0x6b,0xf0,0x26,0x5b,0x98,0xb5,0xd4,0x8a,0xb9,0x19};
    static uint8_t schedule[SG_SCHED] __attribute__((aligned(64)));
    uint8_t zero[32] = {0}, out[32], back[16];
    sg_imb_pre(zero, (struct gcm_key_data *)schedule);
    sg_imb_seal(schedule, zero, NULL, 0, zero, 16, out);
    return memcmp(out, want, 32) == 0 && sg_imb_open(schedule, zero, NULL, 0, out, 16, back)
        && memcmp(back, zero, 16) == 0;
}

/* The library's functions are reached through its IMB_MGR table; its layout belongs to one
 * release, so the version must be that of the header we were built with. */
static void sg_imb_load(void)
{
    void *lib = dlopen("libIPSec_MB.so.1", RTLD_NOW | RTLD_LOCAL);
    if (lib == NULL) return;
    unsigned (*version)(void) = (unsigned (*)(void))dlsym(lib, "imb_get_version");
    size_t (*size)(void) = (size_t (*)(void))dlsym(lib, "imb_get_mb_mgr_size");
    IMB_MGR *(*alloc)(uint64_t) = (IMB_MGR *(*)(uint64_t))dlsym(lib, "alloc_mb_mgr");
    void (*init)(IMB_MGR *, IMB_ARCH *) = (void (*)(IMB_MGR *, IMB_ARCH *))dlsym(lib, "init_mb_mgr_auto");
    void (*release)(IMB_MGR *) = (void (*)(IMB_MGR *))dlsym(lib, "free_mb_mgr");
    if (!version || !size || !alloc || !init || !release) return;
    if (version() != IMB_VERSION_NUM || size() < sizeof(IMB_MGR)) return;
    IMB_MGR *mgr = alloc(0);
    if (mgr == NULL) return;
    IMB_ARCH arch = IMB_ARCH_NONE;
    init(mgr, &arch);
    /* NOAESNI emulates AES with tables: slower than libcrypto and not constant time */
    if (arch != IMB_ARCH_NONE && arch != IMB_ARCH_NOAESNI) {
        sg_imb_pre = mgr->gcm256_pre;
        sg_imb_enc = mgr->gcm256_enc;
        sg_imb_dec = mgr->gcm256_dec;
        sg_have_ipsec = sg_imb_pre && sg_imb_enc && sg_imb_dec && sg_imb_works();
    }
    release(mgr);
}
#endif

static int sg_aead_load(void)
{
    sg_gcm_cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    sg_ecb_cipher = EVP_CIPHER_fetch(NULL, "AES-256-ECB", NULL);
    if (sg_gcm_cipher == NULL || sg_ecb_cipher == NULL) { ERR_clear_error(); return -1; }
#if SG_IPSEC
    sg_imb_load();
    if (sg_have_ipsec) sg_engine = SG_IPSEC_MB;
#endif
    return 0;
}

/* ---- XAES-256-GCM key derivation ----------------------------------------------------------- */
/* Message key of `key` for the first 12 bytes of the nonce: CMAC in counter mode (C2SP XAES,
 * SP 800-108r1) on two fixed blocks, so two AES calls after one for the subkey. 1 on success. */
static int sg_xaes_derive(const uint8_t *key, const uint8_t *prefix, uint8_t *out)
{
    uint8_t block[48] = {0}, k1[16] = {0};
    int l, ok = 0;
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    if (c == NULL) { ERR_clear_error(); return 0; }
    if (EVP_EncryptInit_ex(c, sg_ecb_cipher, NULL, key, NULL) == 1
        && EVP_CIPHER_CTX_set_padding(c, 0) == 1 && EVP_EncryptUpdate(c, k1, &l, block, 16) == 1) {
        uint8_t carry = (uint8_t)-(k1[0] >> 7);
        for (int i = 0; i < 15; i++) k1[i] = (uint8_t)(k1[i] << 1 | k1[i + 1] >> 7);
        k1[15] = (uint8_t)(k1[15] << 1) ^ (carry & 0x87);
        for (int b = 0; b < 2; b++) {
            uint8_t *m = block + 16 * b;
            m[0] = 0; m[1] = (uint8_t)(b + 1); m[2] = 'X'; m[3] = 0;
            memcpy(m + 4, prefix, 12);
            for (int i = 0; i < 16; i++) m[i] ^= k1[i];
        }
        ok = EVP_EncryptUpdate(c, out, &l, block, 32) == 1;
    }
    EVP_CIPHER_CTX_free(c);
    if (!ok) ERR_clear_error();
    OPENSSL_cleanse(block, sizeof block);
    OPENSSL_cleanse(k1, sizeof k1);
    sg_dirty = 1;
    return ok;
}

/* ---- message keys, cached by (key slot, nonce prefix) ---------------------------------------- */
static EVP_CIPHER_CTX *sg_batch_ctx;    /* libcrypto: keyed with the entry of this serial */
static uint32_t sg_batch_serial;

/* Ends a batch: no copy of a key is left outside the arena. Cheap when there was none. */
static void sg_batch_end(void)
{
    if (sg_batch_ctx != NULL) {
        sg_evp_free(sg_batch_ctx);
        sg_batch_ctx = NULL;
        sg_dirty = 1;
    }
    sg_batch_serial = 0;
    if (sg_dirty) sg_scrub();
}

static inline int sg_entry_is(const sg_entry *e, int slot, const uint8_t *prefix)
{
    return e->owner == slot && e->schedule == sg_engine && memcmp(e->prefix, prefix, 12) == 0;
}

/* Index of the entry, or -1 (engine failure). `hint` is where the caller found one last: values of
 * one column mostly come from one epoch, and looking through a set costs as much as a tenth of the
 * opening. Any value within the cache will do. */
static int sg_message_key(int slot, const uint8_t *prefix, int *hint)
{
    uint32_t h;
    if (sg_entry_is(&sg.cache[*hint], slot, prefix)) {
        sg.cache[*hint].stamp = ++sg.clock;
        return *hint;
    }
    memcpy(&h, prefix, 4);
    h = (h ^ (uint32_t)slot * 2654435761u) % SG_CACHE_SETS * SG_CACHE_WAYS;
    int victim = (int)h;
    uint32_t age = 0;
    for (int i = 0; i < SG_CACHE_WAYS; i++) {
        sg_entry *e = &sg.cache[h + i];
        if (sg_entry_is(e, slot, prefix)) {
            e->stamp = ++sg.clock;
            return *hint = (int)h + i;
        }
        uint32_t a = e->owner < 0 ? UINT32_MAX : sg.clock - e->stamp;
        if (a >= age) { age = a; victim = (int)h + i; }
    }
    sg_entry_drop(victim);
    sg_entry *e = &sg.cache[victim];
    uint8_t *at = sg_sched_ptr(victim);
    uint8_t *key = at;
#if SG_IPSEC
    uint8_t raw[32];
    if (sg_engine == SG_IPSEC_MB) key = raw;
#endif
    int ok = sg_xaes_derive(sg_slot_ptr(slot), prefix, key);
#if SG_IPSEC
    if (sg_engine == SG_IPSEC_MB) {
        if (ok) sg_imb_pre(raw, (struct gcm_key_data *)at);
        OPENSSL_cleanse(raw, sizeof raw);
    }
#endif
    if (!ok) return -1;
    e->owner = slot;
    e->schedule = (uint8_t)sg_engine;
    memcpy(e->prefix, prefix, 12);
    e->stamp = ++sg.clock;
    if (++sg.serial == 0) sg.serial = 1;
    e->serial = sg.serial;
    sg.cached++;
    return *hint = victim;
}

static EVP_CIPHER_CTX *sg_batch_keyed(int entry)
{
    if (sg_batch_ctx != NULL && sg_batch_serial == sg.cache[entry].serial) return sg_batch_ctx;
    if (sg_batch_ctx == NULL) {
        sg_batch_ctx = sg_evp_new(sg_sched_ptr(entry));
        if (sg_batch_ctx == NULL) return NULL;
    } else if (EVP_CipherInit_ex(sg_batch_ctx, NULL, NULL, sg_sched_ptr(entry), NULL, 1) != 1) {
        ERR_clear_error();
        return NULL;
    }
    sg_batch_serial = sg.cache[entry].serial;
    return sg_batch_ctx;
}

/* XAES-256-GCM with the key of a slot. The caller ends the batch.
 * 1 on success, 0: does not open, -1: the engine failed. */
static int sg_xaes_seal(int slot, int *hint, const uint8_t *nonce, const uint8_t *aad,
                        size_t aad_len, const uint8_t *src, size_t n, uint8_t *dst)
{
    int e = sg_message_key(slot, nonce, hint);
    if (e < 0) return -1;
#if SG_IPSEC
    if (sg_engine == SG_IPSEC_MB)
        return sg_imb_seal(sg_sched_ptr(e), nonce + 12, aad, aad_len, src, n, dst);
#endif
    EVP_CIPHER_CTX *c = sg_batch_keyed(e);
    return c != NULL && sg_evp_seal(c, nonce + 12, aad, aad_len, src, n, dst) ? 1 : -1;
}

static int sg_xaes_open(int slot, int *hint, const uint8_t *nonce, const uint8_t *aad,
                        size_t aad_len, const uint8_t *src, size_t n, uint8_t *dst)
{
    int e = sg_message_key(slot, nonce, hint);
    if (e < 0) return -1;
#if SG_IPSEC
    if (sg_engine == SG_IPSEC_MB)
        return sg_imb_open(sg_sched_ptr(e), nonce + 12, aad, aad_len, src, n, dst);
#endif
    EVP_CIPHER_CTX *c = sg_batch_keyed(e);
    if (c == NULL) return -1;
    return sg_evp_open(c, nonce + 12, aad, aad_len, src, n, dst);
}

/* ---- a context of its own: object streams, one-shot calls ------------------------------------ */
typedef struct {
    EVP_CIPHER_CTX *evp;
    int sched;              /* arena index, -1 when none */
    uint32_t epoch;
} sg_gcm;

/* Keys `g`; uses a schedule slot when the engine has one free, else libcrypto. 0 on success. */
static int sg_gcm_start(sg_gcm *g, const uint8_t *key)
{
    g->evp = NULL;
    g->sched = -1;
    g->epoch = sg.epoch;
    sg_dirty = 1;
#if SG_IPSEC
    if (sg_engine == SG_IPSEC_MB && sg.nstream_free > 0) {
        g->sched = sg.stream_free[--sg.nstream_free];
        sg_imb_pre(key, (struct gcm_key_data *)sg_sched_ptr(g->sched));
        return 0;
    }
#endif
    g->evp = sg_evp_new(key);
    return g->evp != NULL ? 0 : -1;
}

static void sg_gcm_stop(sg_gcm *g)
{
    if (g->evp != NULL) { sg_evp_free(g->evp); sg_dirty = 1; }
    if (g->sched >= 0 && g->epoch == sg.epoch && sg.map != NULL) {
        OPENSSL_cleanse(sg_sched_ptr(g->sched), SG_SCHED);
        sg.stream_free[sg.nstream_free++] = g->sched;
    }
    g->evp = NULL;
    g->sched = -1;
}

static inline int sg_gcm_usable(const sg_gcm *g)
{
    return g->evp != NULL || (g->sched >= 0 && g->epoch == sg.epoch && sg.map != NULL);
}

/* nogil. 1 on success. */
static int sg_gcm_seal(sg_gcm *g, const uint8_t *iv, const uint8_t *aad, size_t aad_len,
                       const uint8_t *src, size_t n, uint8_t *dst)
{
#if SG_IPSEC
    if (g->sched >= 0)
        return sg_imb_seal(sg_sched_ptr(g->sched), iv, aad, aad_len, src, n, dst);
#endif
    return sg_evp_seal(g->evp, iv, aad, aad_len, src, n, dst);
}

/* nogil. n = plaintext length; 1 on success, 0 when it does not open (dst is wiped). */
static int sg_gcm_open(sg_gcm *g, const uint8_t *iv, const uint8_t *aad, size_t aad_len,
                       const uint8_t *src, size_t n, uint8_t *dst)
{
#if SG_IPSEC
    if (g->sched >= 0)
        return sg_imb_open(sg_sched_ptr(g->sched), iv, aad, aad_len, src, n, dst);
#endif
    return sg_evp_open(g->evp, iv, aad, aad_len, src, n, dst);
}

#endif
