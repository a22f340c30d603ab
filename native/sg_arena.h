/* The locked arena: where every key byte of the process lives.
 *
 * One mapping, [guard][key slots][schedule slots][nonce pool][guard], on memfd_secret(2) (the
 * kernel drops it from its own direct map; not dumped, not swapped, not readable through
 * /proc/pid/mem), else anonymous memory with mlock(2), MADV_DONTDUMP and MADV_WIPEONFORK.
 * Book-keeping lives outside it, so that an overrun in the arena corrupts no free list and a
 * forked child, where the mapping is absent, can still account for itself.
 *
 * Every function here needs the GIL (one lock for the book-keeping), except where it says nogil.
 */
#ifndef SG_ARENA_H
#define SG_ARENA_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/rand.h>

#ifndef SEALGATE_DEBUG
#define SEALGATE_DEBUG 0
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif
#define SG_SYS_memfd_secret 447

#define SG_SLOT 64          /* a key uses 32; a pair of saved SHA-256 states uses all 64 */
#define SG_SCHED 1024       /* ipsec-mb's struct gcm_key_data is 1008, aligned to 64 */
#define SG_CACHE_SETS 32
#define SG_CACHE_WAYS 8
#define SG_CACHE (SG_CACHE_SETS * SG_CACHE_WAYS)
#define SG_STREAMS 128      /* schedule slots of long-lived contexts (object streams) */
#define SG_NSCHED (SG_CACHE + SG_STREAMS)
#define SG_POOL 4096
#define SG_POISON 0xDD

typedef struct {
    uint32_t gen;           /* rises at every wipe; a handle with another one is dead */
    int32_t next;           /* free list while free, sibling while live; -1 ends */
    int32_t child;          /* first slot derived from this one and wiped with it */
    int32_t owner;
    uint8_t live;
} sg_slot_meta;

typedef struct {
    uint8_t prefix[12];
    int32_t owner;          /* key slot the message key was derived from; -1 when empty */
    uint32_t stamp;         /* least recently used goes first */
    uint32_t serial;        /* tells a libcrypto context which entry it is keyed with */
    uint8_t schedule;       /* 1: ipsec-mb schedule, 0: raw 32-byte message key */
} sg_entry;

static struct {
    uint8_t *map, *keys, *sched, *pool;
    size_t map_len, body_len;
    int nslots, used, peak, free_head, locked;
    const char *backend;
    uint32_t epoch;         /* rises in a forked child: all handles of the parent are dead */
    sg_slot_meta *meta;
    uint32_t pool_left;
    int32_t stream_free[SG_STREAMS];
    int nstream_free;
    uint32_t clock, serial;
    int cached;
    int contexts;           /* live libcrypto contexts that hold a key */
    int hooked;
    sg_entry cache[SG_CACHE];
} sg;

static int sg_dirty = 0;    /* raw key bytes may have been spilled to the stack */

/* Zeroes what calls below this one left on the stack, and the vector registers. Not inlined, so
 * that its frame covers theirs. 8 KiB is four times the deepest frame measured under EVP. */
static void __attribute__((noinline)) sg_scrub(void)
{
    volatile uint8_t area[8192];
    memset((void *)area, 0, sizeof area);
    __asm__ volatile("" : : "r"(area) : "memory");
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx")) __asm__ volatile("vzeroall" ::: "memory");
#endif
    sg_dirty = 0;
}

static void sg_fork_child(void)
{
    /* The mapping is absent (MADV_DONTFORK) or zero (MADV_WIPEONFORK) here. Forget it: handles
     * of the parent raise KeyGone, the pool is empty, a new arena is made on first use. */
    sg.map = sg.keys = sg.sched = sg.pool = NULL;
    sg.epoch++;
    sg.used = 0;
    sg.cached = 0;
    sg.pool_left = 0;
    sg.nstream_free = 0;
}

static void sg_at_exit(void)
{
    if (sg.map == NULL) return;
    OPENSSL_cleanse(sg.keys, sg.body_len);
    sg.epoch++;
    munmap(sg.map, sg.map_len);
    sg.map = sg.keys = sg.sched = sg.pool = NULL;
}

static size_t sg_pages(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (n + page - 1) / page * page;
}

/* 0, or an errno. Idempotent: a second call changes nothing. */
static int sg_arena_init(int slots, int allow_unlocked)
{
    if (sg.map != NULL) return 0;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t keys = sg_pages((size_t)slots * SG_SLOT), scheds = sg_pages((size_t)SG_NSCHED * SG_SCHED);
    size_t body = keys + scheds + sg_pages(SG_POOL), total = body + 2 * page;
    uint8_t *map = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return errno;
    uint8_t *at = map + page;
    int locked = 0, error = 0;
    const char *backend = NULL;
    int fd = (int)syscall(SG_SYS_memfd_secret, (unsigned)O_CLOEXEC);
    if (fd >= 0) {
        if (ftruncate(fd, (off_t)body) == 0
            && mmap(at, body, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED) {
            if (madvise(at, body, MADV_DONTFORK) == 0) {
                locked = 1;
                backend = "memfd_secret";
                (void)madvise(at, body, MADV_DONTDUMP);
            }
        }
        close(fd);
    }
    if (!locked) {
        if (mmap(at, body, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
            == MAP_FAILED) {
            error = errno;
            munmap(map, total);
            return error;
        }
        locked = mlock(at, body) == 0;
        error = locked ? 0 : errno;
        if ((!locked && !allow_unlocked)
            || madvise(at, body, MADV_DONTDUMP) != 0 || madvise(at, body, MADV_WIPEONFORK) != 0) {
            if (error == 0) error = errno;
            munmap(map, total);
            return error ? error : EPERM;
        }
        backend = locked ? "mlock" : "unlocked";
    }
    sg_slot_meta *meta = realloc(sg.meta, (size_t)slots * sizeof *meta);
    if (meta == NULL) { munmap(map, total); return ENOMEM; }
    for (int i = 0; i < slots; i++) {
        meta[i].gen = 1;
        meta[i].next = i + 1 < slots ? i + 1 : -1;
        meta[i].child = meta[i].owner = -1;
        meta[i].live = 0;
    }
    if (!sg.hooked) {
        if (pthread_atfork(NULL, NULL, sg_fork_child) != 0) { munmap(map, total); return ENOMEM; }
        atexit(sg_at_exit);
        sg.hooked = 1;
    }
    sg.map = map; sg.map_len = total; sg.body_len = body;
    sg.keys = at; sg.sched = at + keys; sg.pool = at + keys + scheds;
    sg.nslots = slots; sg.used = 0; sg.free_head = 0; sg.meta = meta;
    sg.locked = locked; sg.backend = backend; sg.pool_left = 0; sg.cached = 0;
    for (int i = 0; i < SG_CACHE; i++) sg.cache[i].owner = -1;
    for (int i = 0; i < SG_STREAMS; i++) sg.stream_free[i] = SG_CACHE + i;
    sg.nstream_free = SG_STREAMS;
    if (SEALGATE_DEBUG) memset(sg.keys, SG_POISON, keys);
    return 0;
}

static inline uint8_t *sg_slot_ptr(int i) { return sg.keys + (size_t)i * SG_SLOT; }
static inline uint8_t *sg_sched_ptr(int i) { return sg.sched + (size_t)i * SG_SCHED; }

static inline int sg_slot_alive(uint32_t epoch, int i, uint32_t gen)
{
    return epoch == sg.epoch && sg.map != NULL && sg.meta[i].live && sg.meta[i].gen == gen;
}

/* A zeroed slot, or -1 when the arena is full. Debug: aborts if someone wrote into a freed one. */
static int sg_slot_take(void)
{
    int i = sg.free_head;
    if (i < 0) return -1;
    uint8_t *p = sg_slot_ptr(i);
    if (SEALGATE_DEBUG)
        for (int k = 0; k < SG_SLOT; k++) if (p[k] != SG_POISON) abort();
    memset(p, 0, SG_SLOT);
    sg.free_head = sg.meta[i].next;
    sg.meta[i].next = sg.meta[i].child = sg.meta[i].owner = -1;
    sg.meta[i].live = 1;
    if (++sg.used > sg.peak) sg.peak = sg.used;
    return i;
}

static void sg_entry_drop(int e)
{
    if (sg.cache[e].owner < 0) return;
    OPENSSL_cleanse(sg_sched_ptr(e), SG_SCHED);
    sg.cache[e].owner = -1;
    sg.cache[e].serial = 0;
    sg.cached--;
}

static void sg_adopt(int owner, int child)
{
    sg.meta[child].owner = owner;
    sg.meta[child].next = sg.meta[owner].child;
    sg.meta[owner].child = child;
}

/* Wipes a slot, the slots derived from it, and the message keys derived from it. */
static void sg_slot_drop(int i)
{
    sg_slot_meta *m = &sg.meta[i];
    while (m->child >= 0) {
        int c = m->child;
        m->child = sg.meta[c].next;
        sg.meta[c].owner = -1;
        sg_slot_drop(c);
    }
    if (m->owner >= 0) {
        int32_t *link = &sg.meta[m->owner].child;
        while (*link != i) link = &sg.meta[*link].next;
        *link = m->next;
        m->owner = -1;
    }
    if (sg.cached)
        for (int e = 0; e < SG_CACHE; e++) if (sg.cache[e].owner == i) sg_entry_drop(e);
    OPENSSL_cleanse(sg_slot_ptr(i), SG_SLOT);
    if (SEALGATE_DEBUG) memset(sg_slot_ptr(i), SG_POISON, SG_SLOT);
    m->gen++;
    m->live = 0;
    m->next = sg.free_head;
    sg.free_head = i;
    sg.used--;
}

/* n random bytes (n <= 64) from a pool refilled 4 KiB at a time: RAND_bytes for 12 bytes costs
 * 324 ns, this 5. Each byte handed out is wiped in the pool. 0 on success. */
static int sg_pool_take(uint8_t *out, uint32_t n)
{
    if (sg.pool_left < n) {
        if (RAND_bytes(sg.pool, SG_POOL) != 1) { ERR_clear_error(); sg.pool_left = 0; return -1; }
        sg.pool_left = SG_POOL;
    }
    sg.pool_left -= n;
    memcpy(out, sg.pool + sg.pool_left, n);
    memset(sg.pool + sg.pool_left, 0, n);
    return 0;
}

/* bit 0: PR_SET_DUMPABLE 0 holds; bit 1: RLIMIT_CORE 0 holds. */
static int sg_harden(void)
{
    struct rlimit none = {0, 0}, now;
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    (void)setrlimit(RLIMIT_CORE, &none);
    int held = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0 ? 1 : 0;
    if (getrlimit(RLIMIT_CORE, &now) == 0 && now.rlim_cur == 0 && now.rlim_max == 0) held |= 2;
    return held;
}

#endif
