"""A fault proxy for span connections: requests labelled ``CLIENT want``, ``drop`` or ``reread``."""

from libs.spans.messages import (
    HELLO_SIZE_BYTES,
    REPLY_SIZE_BYTES,
    REQUEST_SIZE_BYTES,
    Kind,
    unpack_reply,
    unpack_request,
)
from tests.faults.proxies.link import Link, Proxy, receive

_SPAN_SIZE_BYTES_MAX = 1 << 25


class SpanProxy(Proxy):
    """Passes what chunkers ask of an agent."""

    def converse(self, link: Link) -> None:
        def ask(request: bytes) -> bytes:
            link.server.sendall(request)
            head = receive(link.server, REPLY_SIZE_BYTES)
            return head + receive(link.server, unpack_reply(head, _SPAN_SIZE_BYTES_MAX).length)

        link.await_request()
        self.play(link, "hello", receive(link.client, HELLO_SIZE_BYTES), ask)
        while True:
            link.await_request()
            head = receive(link.client, REQUEST_SIZE_BYTES)
            request = unpack_request(head)
            whole = head + receive(link.client, request.body_size_bytes)
            if request.kind is Kind.DROP:  # is not answered
                link.server.sendall(whole)
            else:
                self.play(link, request.kind.name.lower(), whole, ask)
