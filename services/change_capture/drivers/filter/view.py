"""The frozen view that a filter keeps, read through its control socket."""

import contextlib
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from libs.errors import SourceError, UnavailableError
from libs.ranges import ByteRange
from services.change_capture.drivers.filter.client import FilterClient
from services.change_capture.drivers.local.view import LocalView
from services.change_capture.drivers.port import FrozenView, SharedCut
from services.change_capture.filter.messages import (
    READ_SIZE_BYTES_MAX,
    About,
    Answer,
    Ask,
    ClaimCut,
    Claimed,
    CloseView,
    CutNow,
    Data,
    FindData,
    FollowLead,
    HoldWrites,
    LeadCut,
    Leading,
    Order,
    ReadView,
    Released,
    ReleaseWrites,
    expect,
)


class FilterView:
    """A volume as it was at a cut of its filter. Reading is thread-safe.

    It begins with `cut`, and may be read when `release` has named the cut.

    Args:
        source: the volume, as the agent may read it; not kept.
        control: the control socket of its filter.

    Raises:
        SourceError: no filter is in front of the volume, or it is in front of another one.
        UnavailableError: the filter fails.
    """

    def __init__(self, source: LocalView, control: Path) -> None:
        self.path = source.path
        self.control = control
        self._client = FilterClient(control)
        #: Names the cut, once it counts.
        self.token = ""
        self._readers: queue.SimpleQueue[FilterClient] = queue.SimpleQueue()
        try:
            about = expect(self._client.ask(Ask())[0], About)
            if about.identity != source.identity:
                raise SourceError(
                    f"volume {self.path}: the filter at {control} serves another volume: expected "
                    f"{source.identity}, got {about.identity} ({about.path}); restart the filter"
                )
            self.identity = about.identity
            self.size_bytes = about.size_bytes
            self.data_bytes_estimate = min(source.data_bytes_estimate, self.size_bytes)
        except BaseException:
            self._client.close()
            raise

    def lead(self, shared: SharedCut) -> str:
        """Keep the bytes of the cut for other nodes, too. Returns where their filters find it.

        Raises:
            SourceError: the filter cannot, or has gone.
        """
        order = LeadCut(shared.name, shared.key, list(shared.followers))
        return expect(self._as_source(order)[0], Leading).address

    def follow(self, shared: SharedCut, address: str) -> None:
        """Let the lead keep the bytes of the cut.

        Raises:
            SourceError: the lead does not answer, or the filter cannot or has gone.
        """
        self._as_source(FollowLead(shared.name, shared.key, shared.node, address))

    def hold(self, seconds: float) -> None:
        """Let writes wait; those under way are done and flushed when this returns.

        Raises:
            ConflictError: another capture holds them.
            SourceError: they cannot be held, or the filter has gone.
        """
        self._as_source(HoldWrites(seconds))

    def cut(self) -> None:
        """Begin, while writes are held.

        Raises:
            HoldBrokenError: they are not held any more.
            SourceError: the filter has gone.
        """
        self._as_source(CutNow())

    def release(self) -> bool:
        """Let writes go on. Returns whether they were held until now, so that the cut counts.

        Raises:
            SourceError: the filter has gone, or cannot keep what was written before.
        """
        self.token = expect(self._as_source(ReleaseWrites())[0], Released).token or ""
        return bool(self.token)

    def data(self, start: int = 0) -> Iterator[ByteRange]:
        """As the port says."""
        at: int | None = start
        while at is not None:
            found = expect(self._as_source(FindData(self.token, at))[0], Data)
            for begin, end in found.extents:
                yield ByteRange(begin, end)
            at = found.next_start

    def read_into(self, start: int, buffer: memoryview) -> None:
        """As the port says.

        Raises:
            SourceError: also if the view is broken.
        """
        try:
            reader = self._readers.get_nowait()
        except queue.Empty:
            reader = FilterClient(self.control)
        try:
            for begin in range(0, len(buffer), READ_SIZE_BYTES_MAX):
                piece = buffer[begin : begin + READ_SIZE_BYTES_MAX]
                reader.ask(ReadView(self.token, start + begin, len(piece)), piece)
        except UnavailableError as err:
            reader.close()
            raise SourceError(f"volume {self.path}: {err}") from err
        except BaseException:
            reader.close()
            raise
        self._readers.put(reader)

    def consistency(self) -> Literal["frozen"]:
        """As the port says.

        Raises:
            SourceError: the view is broken.
        """
        about = expect(self._as_source(Ask(self.token))[0], About)
        if about.broken:
            raise SourceError(
                f"volume {self.path}: the filter's frozen view is broken: {about.broken}; take "
                f"the snapshot again"
            )
        return "frozen"

    def claim(self, order: ClaimCut) -> tuple[Claimed, bytes]:
        """Say which session the cut has become, and ask what changed since a base.

        Raises:
            SourceError: the filter has gone.
        """
        answer, bits = self._as_source(order)
        return expect(answer, Claimed), bits

    def close(self) -> None:
        """As the port says."""
        # If it does not answer, it closes the view when it notices that the connection has ended.
        with contextlib.suppress(UnavailableError):
            self._client.ask(CloseView())
        self._client.close()
        while True:
            try:
                self._readers.get_nowait().close()
            except queue.Empty:
                return

    def _as_source(self, order: Order) -> tuple[Answer, bytes]:
        try:
            return self._client.ask(order)
        except UnavailableError as err:
            raise SourceError(f"volume {self.path}: {err}") from err


_: type[FrozenView] = FilterView
