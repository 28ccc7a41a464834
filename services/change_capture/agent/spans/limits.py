"""What peers may take of a span server, before they have said who they are and after."""

import resource
from dataclasses import dataclass

_NEWCOMER_COUNT_MAX = 64
_PEER_COUNT_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanLimits:
    """Limits of a span server. No setting changes them; tests make them smaller."""

    #: From the connection's beginning to the end of its hello, with the TLS handshake, however
    #: slowly the peer talks. A chunker needs two round trips, and a lost packet costs up to 1 s.
    hello_seconds_max: float = 2.0
    #: Newcomers at once. Each costs a descriptor and, with TLS, 0.1 MiB.
    newcomer_count_max: int = _NEWCOMER_COUNT_MAX
    #: Newcomers of one address at once. Many chunkers may have the same one behind a gateway.
    newcomer_count_of_address_max: int = 16
    #: Peers that are served at once, each by a thread.
    peer_count_max: int = _PEER_COUNT_MAX
    #: Peers of one capture at once. A chunker opens one for each of its lanes.
    peer_count_of_capture_max: int = 32
    #: A peer may be silent between requests while it compresses and uploads.
    idle_seconds_max: float = 600.0

    @staticmethod
    def of_this_process() -> "SpanLimits":
        """The limits of an agent: its sockets take a third of the files that it may open at most.

        The HTTP listener takes up to half of them.
        """
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files == resource.RLIM_INFINITY:
            return SpanLimits()
        return SpanLimits(
            newcomer_count_max=max(2, min(_NEWCOMER_COUNT_MAX, files // 16)),
            peer_count_max=max(1, min(_PEER_COUNT_MAX, files // 4)),
        )
