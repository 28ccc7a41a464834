"""Downloads: a range of a volume in bounded pieces, read ahead of the client."""

import contextlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future

import anyio
import anyio.to_thread
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from libs.errors import TooManyRequestsError
from libs.ranges import ByteRange
from libs.reading.volume import PlacedChunk, VolumeReader, chunks_of
from libs.rest.shares import token_share

#: Chunks are located, and the lease is renewed, once for so much: what one map leaf covers.
_WINDOW_SIZE_BYTES = 32 << 20
#: Two frames and more; read whole before any of it is sent.
PIECE_SIZE_BYTES = 2 << 20
#: Pieces of one download that are read while one is sent. A download that its client does not take
#: keeps four pieces, which is 256 MiB for all that there may be at once.
_PIECES_AHEAD = 2
#: Downloads at once, and those of one tenant among them.
DOWNLOAD_COUNT_MAX, _TENANT_DOWNLOAD_COUNT_MAX = 32, 8


class DownloadSlots:
    """How many downloads go on, so that their pieces fit into memory. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: By tenant and token.
        self._counts: Counter[tuple[str, str]] = Counter()

    @contextlib.contextmanager
    def taken(self, tenant: str, token: str) -> Iterator[None]:
        """One slot while the context lasts.

        Args:
            tenant: whose data is downloaded.
            token: name of the token that asked for it.

        Raises:
            TooManyRequestsError: all of them, all of the tenant's, or all of the token's are taken.
        """
        of_token = token_share(_TENANT_DOWNLOAD_COUNT_MAX)
        with self._lock:
            of_tenant = sum(count for (one, _), count in self._counts.items() if one == tenant)
            if (
                self._counts[tenant, token] >= of_token
                or of_tenant >= _TENANT_DOWNLOAD_COUNT_MAX
                or self._counts.total() >= DOWNLOAD_COUNT_MAX
            ):
                raise TooManyRequestsError(
                    f"downloads: expected at most {of_token} of one token, "
                    f"{_TENANT_DOWNLOAD_COUNT_MAX} of tenant {tenant} and {DOWNLOAD_COUNT_MAX} of "
                    f"all at once; finish some, or try again later"
                )
            self._counts[tenant, token] += 1
        try:
            yield
        finally:
            with self._lock:
                self._counts[tenant, token] -= 1
                if not self._counts[tenant, token]:
                    del self._counts[tenant, token]


class ClosingStream(StreamingResponse):
    """A streamed response that closes what it streams from, however it ends."""

    def __init__(
        self,
        pieces: Iterator[bytes],
        status: int,
        headers: dict[str, str],
        close: Callable[[], object],
    ) -> None:
        super().__init__(pieces, status, headers, media_type="application/octet-stream")
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response; also a client that hangs up does not leave pins behind."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._close)


def read_pieces(volume: VolumeReader, wanted: ByteRange, threads: Executor) -> Iterator[bytes]:
    """The bytes of ``wanted`` in order, in pieces of at most `PIECE_SIZE_BYTES`.

    Each piece is verified before it is given; after an error nothing more is.
    """
    ahead: deque[Future[bytes]] = deque()
    try:
        for placed, piece in _located_pieces(volume, wanted):
            ahead.append(threads.submit(volume.read, placed, piece))
            if len(ahead) > _PIECES_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()


def _located_pieces(
    volume: VolumeReader, wanted: ByteRange
) -> Iterator[tuple[list[PlacedChunk], ByteRange]]:
    for window in _split(wanted, _WINDOW_SIZE_BYTES):
        placed = volume.locate(chunks_of(window))
        for piece in _split(window, PIECE_SIZE_BYTES):
            yield placed, piece


def _split(wanted: ByteRange, size_bytes: int) -> Iterator[ByteRange]:
    """Parts that end at multiples of ``size_bytes``."""
    at = wanted.start
    while at < wanted.end:
        end = min(wanted.end, (at // size_bytes + 1) * size_bytes)
        yield ByteRange(at, end)
        at = end
