"""What one client may take of a server, whoever it is: bytes, time and connections."""

import resource
from dataclasses import dataclass

#: Connections that wait for something cost up to 0.4 MiB each with TLS and 0.1 MiB without, so that
#: this many fit below the memory limit of the smallest service (256 MiB in `k8s/base`).
_CONNECTION_COUNT_MAX = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Limits of an HTTP server. No setting changes them; tests make them smaller."""

    #: Request line and fields of one request. It also bounds all else that the parser keeps to
    #: itself: empty lines before a request, and what frames the pieces of a chunked body.
    head_size_bytes_max: int = 32 << 10
    #: Fields of one request, with those that follow a chunked body.
    head_field_count_max: int = 100
    #: From the connection's beginning, or a later request's first byte, to the end of the head. A
    #: TLS handshake gets the same time before that.
    head_seconds_max: float = 10.0
    #: From the end of the head to the end of the body: 17 KiB/s for the longest default body.
    body_seconds_max: float = 60.0
    #: In this time a client must take all that it was sent, or 64 KiB of it.
    write_seconds_max: float = 30.0
    #: Time between two requests of a connection. It is longer than clients and the proxies before
    #: us keep an idle connection (nginx: 60 s): the one who closes must be the one who sends, or a
    #: request meets a closed connection.
    idle_seconds_max: int = 75
    #: Requests of one connection that wait for an earlier one's answer. Our clients send none.
    pipelined_count_max: int = 16
    #: Open connections. The process needs other files too, so it is at most half of their limit.
    connection_count_max: int = _CONNECTION_COUNT_MAX

    @staticmethod
    def of_this_process() -> "ServerLimits":
        """The limits of a service: connections stay below the limit of open files."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files == resource.RLIM_INFINITY:
            return ServerLimits()
        return ServerLimits(connection_count_max=max(1, min(_CONNECTION_COUNT_MAX, files // 2)))
