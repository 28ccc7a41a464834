"""A client's session and a server's, joined by a byte stream that is cut anywhere."""

from collections.abc import Callable, Sequence

from libs.nbd.client.events import Enter, HandshakeEvent, Purpose
from libs.nbd.client.pending import Pending
from libs.nbd.client.session import ClientSession
from libs.nbd.export import BASE_ALLOCATION
from libs.nbd.server.session import ServerSession
from libs.nbd.streams import Bytes
from tests.support.nbd_serving import BITMAP, NbdDisk, Serving, disk

Session = ClientSession | ServerSession
BOTH = (BASE_ALLOCATION, BITMAP)


def feed(session: Session, data: Bytes, react: Callable[[], None], sizes: Sequence[int]) -> None:
    """Give a session bytes in pieces of these sizes, over and over; it reacts after each."""
    view = memoryview(data)
    turn = 0
    while view:
        buffer = session.buffer()
        assert len(buffer), "a session that has room for nothing"
        count = min(len(view), len(buffer), sizes[turn % len(sizes)])
        turn += 1
        buffer[:count] = view[:count]
        session.received(count)
        view = view[count:]
        react()


class Wire:
    """Both ends, and what the client has heard."""

    def __init__(
        self,
        *disks: NbdDisk,
        purpose: Purpose | None = None,
        to_client: Sequence[int] = (1 << 30,),
        to_server: Sequence[int] = (1 << 30,),
    ) -> None:
        self.disks = {one.export.name: one for one in disks or (disk(),)}
        self.client = ClientSession("server", purpose or Enter("disk", BOTH))
        self.serving = Serving(ServerSession("client"), self.disks)
        self._sizes = (to_client, to_server)
        self.events: list[HandshakeEvent] = []
        self.done: list[Pending] = []
        #: Everything that was said, as (by the client, bytes).
        self.said: list[tuple[bool, bytes]] = []

    def run(self) -> "Wire":
        """Until neither has anything to say."""
        while True:
            self.serving.go_on()
            down = b"".join(map(bytes, self.serving.session.take_output()))
            if down:
                self.said.append((False, down))
            feed(self.client, down, self._hear, self._sizes[0])
            up = b"".join(map(bytes, self.client.take_output()))
            if up:
                self.said.append((True, up))
            feed(self.serving.session, up, self.serving.go_on, self._sizes[1])
            if not up and not down:
                return self

    def _hear(self) -> None:
        while (event := self.client.next_event()) is not None:
            self.events.append(event)
        while self.client.is_entered and (done := self.client.next_reply()) is not None:
            self.done.append(done)

    @property
    def heard(self) -> HandshakeEvent:
        """What the handshake has ended with."""
        (event,) = self.events
        return event
