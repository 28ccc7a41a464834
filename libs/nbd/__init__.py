"""NBD, the network block device protocol: sessions of clients and servers, bytes in, bytes out.

`libs.nbd.client` and `libs.nbd.server` are state machines without sockets, loops, threads or
clocks. A transport fills the buffers that a session asks for, takes the events that follow from
them, and sends what the session has put out. `libs.nbd.connection` is such a transport for clients:
blocking, and shared by threads.

Spoken: the fixed newstyle handshake alone; simple and structured replies; metadata contexts.
Not spoken: oldstyle, and the extended headers, which both sides decline as unknown.
The specification is `doc/proto.md` of NetworkBlockDevice/nbd.
"""
