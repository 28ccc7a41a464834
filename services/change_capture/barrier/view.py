"""A volume as a node has cut it: its own bytes or a clone's, and how frozen it truly is."""

from collections.abc import Iterator
from typing import Literal

from libs.ranges import ByteRange
from services.change_capture.barrier.clone import clone
from services.change_capture.drivers.local.view import LocalView
from services.change_capture.drivers.port import FrozenView

Consistency = Literal["frozen", "quiet", "unvouched", "fuzzy"]


class CutView:
    """A frozen view that begins at a cut. Reading is thread-safe.

    Without a clone the volume itself is read, and whether something wrote since the cut is found
    out when all has been read. With a clone, what counts is whether something wrote between the
    beginning of the hold and the release: the clone was made in between.

    Args:
        source: the volume, opened before the cut; the view closes it.
        held: whether writes to it are held now.
        may_clone: whether its file system can be written to now.
    """

    def __init__(self, source: LocalView, *, held: bool, may_clone: bool) -> None:
        self._source = source
        self._held = held
        copy = clone(source.source) if may_clone else None
        self._bytes = LocalView(copy) if copy else source
        self._verdict: Consistency | None = None

    @property
    def is_clone(self) -> bool:
        """Whether a clone is read."""
        return self._bytes is not self._source

    def released(self, *, unbroken: bool) -> None:
        """The release has reached the node: from here on a clone's consistency is settled."""
        if not self.is_clone:
            return
        frozen = self._held and unbroken
        self._verdict = "frozen" if frozen else self._source.consistency()

    @property
    def size_bytes(self) -> int:
        """Bytes of the volume at the cut."""
        return self._bytes.size_bytes

    @property
    def data_bytes_estimate(self) -> int:
        """As of the bytes that are read."""
        return self._bytes.data_bytes_estimate

    @property
    def identity(self) -> str:
        """That of the volume, also if a clone is read."""
        return self._source.identity

    def data(self, start: int = 0) -> Iterator[ByteRange]:
        """Where data may be from byte ``start`` on."""
        return self._bytes.data(start)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the volume's bytes at the cut."""
        self._bytes.read_into(start, buffer)

    def consistency(self) -> Consistency:
        """How sure it is that all was read from the moment of the cut."""
        if not self.is_clone:
            return self._source.consistency()
        return self._verdict or "unvouched"

    def close(self) -> None:
        """Let go of the volume and of the clone, which is gone with that."""
        if self.is_clone:
            self._bytes.close()
        self._source.close()


_: type[FrozenView] = CutView
