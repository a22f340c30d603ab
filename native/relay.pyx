# cython: language_level=3
# The common event of a PostgreSQL session, without Python: bytes came in on one side, are framed, and
# go out on the other.
#
# While `quick` is set nothing is waited for on either side (Connection sets it after whatever it has
# done). Then what comes is handed to the Wire here; as soon as the Wire shows a message, or stalls,
# the owner goes on with it. Output is written straight to the socket, from the buffer it lies in, as
# long as the transport holds nothing back itself; what the kernel does not take, and everything where
# TLS lies between, goes by way of the transport, with its water marks.

cdef extern from "<sys/socket.h>" nogil:
    ssize_t sg_send "send"(int fd, const void* data, size_t size, int flags)
    int SG_DONTWAIT "MSG_DONTWAIT"
    int SG_NOSIGNAL "MSG_NOSIGNAL"


cdef enum:
    _READ_SIZE = 131072


cdef class Traffic:
    """Bytes since the last `take`: from clients, to clients, from servers, to servers."""
    cdef uint64_t counts[4]

    def __getitem__(self, int place):
        if not 0 <= place < 4:
            raise IndexError(place)
        return self.counts[place]

    def add(self, int place, uint64_t n):
        if not 0 <= place < 4:
            raise IndexError(place)
        self.counts[place] += n

    def take(self):
        """The four counts, which begin anew."""
        cdef int i
        found = tuple([self.counts[i] for i in range(4)])
        for i in range(4):
            self.counts[i] = 0
        return found


cdef class _Leg:
    """One side: its transport, and the socket below where bytes may be written past it."""
    cdef object transport
    cdef int fd  # -1: by way of the transport only
    cdef bint queued  # the transport may hold bytes back

    def __cinit__(self, transport, int fd):
        self.transport = transport
        self.fd = fd
        self.queued = True

    cdef int write(self, const uint8_t* p, Py_ssize_t n) except -1:
        cdef ssize_t sent = 0
        if self.fd >= 0:
            if self.queued and self.transport.get_write_buffer_size() == 0:
                self.queued = False
            if not self.queued:
                sent = sg_send(self.fd, p, n, SG_DONTWAIT | SG_NOSIGNAL)
                if sent == n:
                    return 0
                if sent < 0:  # full, or broken, which the transport will find out and tell
                    sent = 0
        self.queued = True
        self.transport.write(PyBytes_FromStringAndSize(<const char*>p + sent, n - sent))
        return 0


cdef class Relay:
    """Both legs of a session at work. `owner` has `from_client(event)`, `from_server(event)` (an
    event of the Wire, or None: look for yourself), `broken(error)`, and `client_timed(expected)` and
    `server_timed(expected)`, which are called while `timed` is set. `*_fd`: the socket, or -1 where
    TLS lies between."""
    cdef Wire wire
    cdef Traffic traffic
    cdef _Leg client, server
    cdef object owner
    cdef public bint quick
    cdef public bint timed
    cdef readonly bint asked  # the client has sent something while `quick`

    def __cinit__(self, owner, Wire wire not None, Traffic traffic not None, client, int client_fd,
                  server, int server_fd):
        self.owner = owner
        self.wire = wire
        self.traffic = traffic
        self.client = _Leg(client, client_fd)
        self.server = _Leg(server, server_fd)

    def stop(self):
        """The legs are being closed: nothing is written past their transports any more."""
        self.quick = False
        self.client.fd = self.server.fd = -1

    def flush(self):
        """Writes what the Wire has for both sides."""
        self._to_server()
        self._to_client()

    cdef int _to_server(self) except -1:
        cdef const uint8_t* p
        cdef Py_ssize_t n = self.wire.for_server(&p)
        if n:
            self.traffic.counts[3] += n
            self.server.write(p, n)
            self.wire.server_has_it()
        return 0

    cdef int _to_client(self) except -1:
        cdef const uint8_t* p
        cdef Py_ssize_t n = self.wire.for_client(&p)
        if n:
            self.traffic.counts[1] += n
            self.client.write(p, n)
            self.wire.client_has_it()
        return 0

    cdef object _sent(self, bint server):
        """The Wire has more of the client's, or of the server's; the owner looks where that is not
        enough."""
        cdef object event = None
        cdef Wire wire = self.wire
        try:
            if self.quick:
                event = wire.server_step() if server else wire.client_step()
                if event is None and not wire.stalled:
                    if server:
                        self._to_client()
                    if not server or wire.cout.n:
                        self._to_server()
                    self.asked = self.asked or not server
                    if self.timed:
                        owner = self.owner
                        (owner.server_timed if server else owner.client_timed)(wire.count)
                    return None
        except Exception as error:
            self.owner.broken(error)
            return None
        (self.owner.from_server if server else self.owner.from_client)(event)

    def client_sent(self, bytes data not None):
        """For a transport that hands over bytes."""
        self.traffic.counts[0] += PyBytes_GET_SIZE(data)
        self.wire.client_feed(data)
        self._sent(False)

    def server_sent(self, bytes data not None):
        self.traffic.counts[2] += PyBytes_GET_SIZE(data)
        self.wire.server_feed(data)
        self._sent(True)


cdef ReadBuffer _reads = ReadBuffer(_READ_SIZE)


cdef class RelayEnd:
    """The protocol of one transport, from the moment there is a session: bytes go to the relay, all
    else to the protocol that was there before."""
    cdef Relay relay
    cdef bint server
    cdef readonly object eof_received, connection_lost, pause_writing, resume_writing

    def __cinit__(self, Relay relay not None, bint server, before):
        self.relay = relay
        self.server = server
        self.eof_received = before.eof_received
        self.connection_lost = before.connection_lost
        self.pause_writing = before.pause_writing
        self.resume_writing = before.resume_writing


cdef class _BytesEnd(RelayEnd):
    """asyncio.Protocol, where TLS lies between (its plaintext is bytes already)."""

    def data_received(self, bytes data not None):
        if self.server:
            self.relay.server_sent(data)
        else:
            self.relay.client_sent(data)


cdef class _SocketEnd(RelayEnd):
    """asyncio.BufferedProtocol, for a socket."""

    def get_buffer(self, hint):
        return _reads

    def buffer_updated(self, Py_ssize_t n):
        cdef Relay relay = self.relay
        if not 0 <= n <= _READ_SIZE:
            raise ValueError("more than there is room for")
        try:
            if self.server:
                relay.traffic.counts[2] += n
                relay.wire.server_lies(_reads, n)
                try:
                    relay._sent(True)
                finally:
                    relay.wire.server_keep()
            else:
                relay.traffic.counts[0] += n
                relay.wire.client_lies(_reads, n)
                try:
                    relay._sent(False)
                finally:
                    relay.wire.client_keep()
        except Exception as error:  # before another connection reads into the same buffer
            relay.owner.broken(error)


def relay_end(Relay relay not None, bint server, before):
    """The protocol of the client's transport of this relay, or of the server's."""
    if (relay.server if server else relay.client).fd < 0:
        return _BytesEnd(relay, server, before)
    return _SocketEnd(relay, server, before)
