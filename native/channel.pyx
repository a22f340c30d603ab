# cython: language_level=3
# Messages of the key agent's channel, keys straight between arena and socket (sg_channel.h;
# docs/reference/keys.md, "Agent protocol"). The fd is a SOCK_SEQPACKET socket: a message is a
# datagram, so nothing is ever half sent or half read, and a bad one cannot put the next out of step.

cdef extern from "sg_channel.h" nogil:
    int SG_CH_HEAD, SG_CH_KEYS, SG_CH_PAYLOAD
    uint32_t sg_ch_u32(const uint8_t* p)
    void sg_ch_put_head(uint8_t* h, uint8_t kind, uint32_t request, int keys, uint32_t payload)
    int sg_ch_head_ok(const uint8_t* h)
    int sg_ch_send(int fd, uint8_t* head, const int* slots, int keys, const uint8_t* payload,
                   size_t n)
    int sg_ch_peek(int fd, uint8_t* head)
    int sg_ch_receive(int fd, uint8_t* head, const int* slots, int keys, uint8_t* payload, size_t n)

cdef extern from "<errno.h>" nogil:
    int EAGAIN, EBADMSG, EWOULDBLOCK


class ChannelError(NativeError):
    """The other side sent what is not a message: end the connection."""


CHANNEL_KEYS = SG_CH_KEYS
CHANNEL_PAYLOAD = SG_CH_PAYLOAD


def channel_send(int fd, uint8_t kind, uint32_t request, keys, bytes payload not None) -> bool:
    """One message. False: the socket takes nothing now, and nothing was sent.

    ValueError beyond CHANNEL_KEYS or CHANNEL_PAYLOAD, KeyGone for a wiped handle, OSError from the
    socket. The handles stay the caller's.
    """
    cdef uint8_t head[16]
    cdef int slots[64]
    cdef int n = 0, done
    cdef KeyHandle key
    keys = tuple(keys)
    if len(keys) > SG_CH_KEYS or len(payload) > SG_CH_PAYLOAD:
        raise ValueError("more than a message takes")
    for item in keys:
        key = <KeyHandle?>item
        key.ptr()
        slots[n] = key._slot
        n += 1
    sg_ch_put_head(head, kind, request, n, <uint32_t>len(payload))
    # Under the GIL: it never blocks, and nobody wipes a slot meanwhile.
    done = sg_ch_send(fd, head, slots, n, <const uint8_t*>PyBytes_AS_STRING(payload), len(payload))
    if done == -EAGAIN or done == -EWOULDBLOCK:
        return False
    if done < 0:
        import os
        raise OSError(-done, os.strerror(-done))
    return True


def channel_receive(int fd):
    """The next message: (kind, request, handles, payload). None: there is none now.

    EOFError at the end; ChannelError for what is not a message; ArenaFull when the keys have no
    room (the message then stays in the socket); OSError from the socket. The handles are the
    caller's to wipe.
    """
    cdef uint8_t head[16]
    cdef uint8_t again[16]
    cdef int slots[64]
    cdef int keys, i, done
    cdef uint32_t size
    cdef bytes payload
    done = sg_ch_peek(fd, head)
    if done == 0:
        raise EOFError("the other side is gone")
    if done > 0:
        done = sg_ch_head_ok(head)
    if done < 0:
        return _ch_failed(done)
    keys = head[6] << 8 | head[7]
    size = sg_ch_u32(head + 12)
    handles = []
    for i in range(keys):
        handle = _new_slot()
        slots[i] = (<KeyHandle>handle)._slot
        handles.append(handle)
    payload = PyBytes_FromStringAndSize(NULL, size)
    done = sg_ch_receive(fd, again, slots, keys, <uint8_t*>PyBytes_AS_STRING(payload), size)
    if done == 0 and memcmp(head, again, 16) != 0:
        done = -EBADMSG
    if done < 0:
        for handle in handles:
            handle.wipe()
        return _ch_failed(done)
    return head[4], sg_ch_u32(head + 8), tuple(handles), payload


cdef object _ch_failed(int error):
    import os
    if error == -EAGAIN or error == -EWOULDBLOCK:
        return None
    if error == -EBADMSG:
        raise ChannelError("not a message of the key channel")
    raise OSError(-error, os.strerror(-error))
