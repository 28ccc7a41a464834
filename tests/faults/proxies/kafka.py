"""A fault proxy for Kafka: requests labelled ``CLIENT API TOPIC``, such as ``agent produce …``.

Brokers tell clients where brokers are. The proxy puts its own port in place of the broker's into
the answers that say so, which keeps lengths, so that no client finds a way around it. A broker
answers the requests of one connection in their order, so one at a time is what it does anyway.
"""

import socket
import struct
from collections.abc import Callable

from tests.faults.proxies.link import Address, Link, Proxy, receive

_APIS = {
    0: "produce",
    1: "fetch",
    3: "metadata",
    10: "find-coordinator",
    11: "join-group",
    12: "heartbeat",
    14: "sync-group",
}
_TELLS_ADDRESSES = ("metadata", "find-coordinator")
_TOPIC_PREFIX = b"backcast."


class KafkaProxy(Proxy):
    """Passes requests to the one broker of a local cluster."""

    def __init__(
        self, upstream: Callable[[], Address], name_of: Callable[[int], str] = lambda _: "client"
    ) -> None:
        super().__init__(upstream, name_of)
        self._broker = upstream

    def converse(self, link: Link) -> None:
        while True:
            link.await_request()
            request = _receive_frame(link.client)
            api = _APIS.get(struct.unpack_from(">h", request, 4)[0], "other")

            def ask(request: bytes, api: str = api) -> bytes:
                link.server.sendall(request)
                answer = _receive_frame(link.server)
                return self._redirected(answer) if api in _TELLS_ADDRESSES else answer

            topic = _topic(request) if api == "produce" else ""
            self.play(link, f"{api} {topic}".strip(), request, ask)

    def _redirected(self, answer: bytes) -> bytes:
        host, port = self._broker()
        there, here = (host.encode() + struct.pack(">i", p) for p in (port, self.port))
        return answer.replace(there, here)


def _topic(request: bytes) -> str:
    """The first of our topics that a request names."""
    at = request.find(_TOPIC_PREFIX)
    if at < 2:
        return ""
    length = struct.unpack_from(">h", request, at - 2)[0]
    if not 0 < length < 250:  # flexible versions have one byte of length, plus one
        length = request[at - 1] - 1
    return request[at : at + length].decode(errors="replace")


def _receive_frame(peer: socket.socket) -> bytes:
    head = receive(peer, 4)
    return head + receive(peer, struct.unpack(">i", head)[0])
