/* One message of the key agent's channel: a SOCK_SEQPACKET datagram, header, keys, payload.
 *
 * Keys go between arena slots and the socket by scatter and gather: no buffer of ours in between.
 * All functions return a count or -errno, touch no Python object, and are called without the GIL
 * only with slots that the caller holds.
 */
#ifndef SG_CHANNEL_H
#define SG_CHANNEL_H

#include "sg_arena.h"
#include <sys/socket.h>
#include <sys/uio.h>

#define SG_CH_MAGIC 0x53474b41u     /* "SGKA" */
#define SG_CH_HEAD 16
#define SG_CH_KEYS 64               /* of 32 bytes */
#define SG_CH_PAYLOAD 65536

/* magic u32, kind u8, zero u8, keys u16, request u32, payload length u32; all big-endian */
static void sg_ch_put_head(uint8_t *h, uint8_t kind, uint32_t request, int keys, uint32_t payload)
{
    h[0] = 0x53; h[1] = 0x47; h[2] = 0x4b; h[3] = 0x41;
    h[4] = kind; h[5] = 0; h[6] = (uint8_t)(keys >> 8); h[7] = (uint8_t)keys;
    for (int i = 0; i < 4; i++) {
        h[8 + i] = (uint8_t)(request >> (24 - 8 * i));
        h[12 + i] = (uint8_t)(payload >> (24 - 8 * i));
    }
}

static uint32_t sg_ch_u32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* 0, or -EBADMSG: a header that sg_ch_put_head would not write, or beyond a limit. */
static int sg_ch_head_ok(const uint8_t *h)
{
    uint32_t keys = (uint32_t)h[6] << 8 | h[7];
    if (sg_ch_u32(h) != SG_CH_MAGIC || h[5] != 0) return -EBADMSG;
    return keys <= SG_CH_KEYS && sg_ch_u32(h + 12) <= SG_CH_PAYLOAD ? 0 : -EBADMSG;
}

/* All of it in one datagram, or nothing. */
static int sg_ch_send(int fd, uint8_t *head, const int *slots, int keys,
                      const uint8_t *payload, size_t n)
{
    struct iovec iov[SG_CH_KEYS + 2];
    struct msghdr msg;
    memset(&msg, 0, sizeof msg);
    iov[0].iov_base = head; iov[0].iov_len = SG_CH_HEAD;
    for (int i = 0; i < keys; i++) {
        iov[i + 1].iov_base = sg_slot_ptr(slots[i]);
        iov[i + 1].iov_len = 32;
    }
    iov[keys + 1].iov_base = (void *)payload; iov[keys + 1].iov_len = n;
    msg.msg_iov = iov; msg.msg_iovlen = (size_t)keys + 2;
    ssize_t sent;
    do sent = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL); while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

/* The header of the next datagram, which stays. 1; 0 at the end; -EBADMSG if it is shorter. */
static int sg_ch_peek(int fd, uint8_t *head)
{
    ssize_t got;
    do got = recv(fd, head, SG_CH_HEAD, MSG_PEEK | MSG_DONTWAIT); while (got < 0 && errno == EINTR);
    if (got < 0) return -errno;
    if (got == 0) return 0;
    return got == SG_CH_HEAD ? 1 : -EBADMSG;
}

/* The datagram whose header was peeked: keys into their slots, payload into `payload`. 0, or
 * -EBADMSG when it is not just as long as its header says. */
static int sg_ch_receive(int fd, uint8_t *head, const int *slots, int keys,
                         uint8_t *payload, size_t n)
{
    struct iovec iov[SG_CH_KEYS + 2];
    struct msghdr msg;
    memset(&msg, 0, sizeof msg);
    iov[0].iov_base = head; iov[0].iov_len = SG_CH_HEAD;
    for (int i = 0; i < keys; i++) {
        iov[i + 1].iov_base = sg_slot_ptr(slots[i]);
        iov[i + 1].iov_len = 32;
    }
    iov[keys + 1].iov_base = payload; iov[keys + 1].iov_len = n;
    msg.msg_iov = iov; msg.msg_iovlen = (size_t)keys + 2;
    ssize_t got;
    do got = recvmsg(fd, &msg, MSG_DONTWAIT); while (got < 0 && errno == EINTR);
    if (got < 0) return -errno;
    if (msg.msg_flags & MSG_TRUNC) return -EBADMSG;
    return (size_t)got == SG_CH_HEAD + 32 * (size_t)keys + n ? 0 : -EBADMSG;
}

#endif
