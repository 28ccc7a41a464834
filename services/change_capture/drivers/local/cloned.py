"""The view of a clone of a file, or of the volume itself where nothing can be cloned."""

from collections.abc import Iterator
from typing import Literal

from libs.ranges import ByteRange
from services.change_capture.drivers.local.clone import clone
from services.change_capture.drivers.local.roots import OpenSource
from services.change_capture.drivers.local.view import LocalView
from services.change_capture.drivers.port import FrozenView

Consistency = Literal["frozen", "quiet", "unvouched", "fuzzy"]


class ClonedView:
    """A frozen view that begins when it is made. Reading is thread-safe.

    A clone is of one moment between two writes to the file. So it is what a crash of whoever writes
    would have left at that moment.

    Args:
        source: the volume; the view closes it.
        may_clone: whether its file system can be written to now.

    Raises:
        SourceError: there is no room for a clone. The source stays the caller's.
    """

    def __init__(self, source: LocalView, *, may_clone: bool = True) -> None:
        self.source = source
        #: What is read, if it is a clone.
        self.clone: OpenSource | None = clone(source.source) if may_clone else None
        self._bytes = LocalView(self.clone) if self.clone else source

    @property
    def size_bytes(self) -> int:
        """Bytes of the volume at the moment of the view."""
        return self._bytes.size_bytes

    @property
    def data_bytes_estimate(self) -> int:
        """As of the bytes that are read."""
        return self._bytes.data_bytes_estimate

    @property
    def identity(self) -> str:
        """That of the volume, also if a clone is read."""
        return self.source.identity

    def data(self, start: int = 0) -> Iterator[ByteRange]:
        """Where data may be from byte ``start`` on."""
        return self._bytes.data(start)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the volume's bytes of that moment."""
        self._bytes.read_into(start, buffer)

    def consistency(self) -> Consistency:
        """``frozen`` with a clone; else as the volume itself says."""
        return "frozen" if self.clone else self.source.consistency()

    def close(self) -> None:
        """Let go of the volume and of the clone, which is gone with that if nobody named it."""
        if self.clone:
            self._bytes.close()
        self.source.close()


_: type[FrozenView] = ClonedView
