"""Blocking sockets whose time limits the kernel keeps: one system call moves a whole MiB.

Python's own socket timeouts make the socket non-blocking, and each 100 KiB that arrives then costs
a poll, a call, and two changes of the interpreter's lock.
"""

import socket
import struct

_TIMEVAL = struct.Struct("@ll")


def limit_blocking(sock: socket.socket, seconds: float) -> None:
    """Make the socket blocking; a call that waits longer than that raises BlockingIOError.

    A receiving call that got some bytes by then returns those (`socket(7)`, SO_RCVTIMEO).
    """
    whole = int(seconds)
    timeval = _TIMEVAL.pack(whole, int((seconds - whole) * 1e6) or 1)  # zero would mean: for ever
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
