"""A volume as a node has cut it: its own bytes or a clone's, and how frozen it truly is."""

from services.change_capture.drivers.local.cloned import ClonedView, Consistency
from services.change_capture.drivers.local.view import LocalView
from services.change_capture.drivers.port import FrozenView


class CutView(ClonedView):
    """A frozen view that begins at a cut, which is common to all volumes. Reading is thread-safe.

    Without a clone the volume itself is read, and whether something wrote since the cut is found
    out when all has been read. With a clone, what counts is whether something wrote between the
    beginning of the hold and the release: the clone was made in between.

    Args:
        source: the volume, opened before the cut; the view closes it.
        held: whether writes to it are held now.
        may_clone: whether its file system can be written to now.
    """

    def __init__(self, source: LocalView, *, held: bool, may_clone: bool) -> None:
        super().__init__(source, may_clone=may_clone)
        self._held = held
        self._verdict: Consistency | None = None

    @property
    def is_clone(self) -> bool:
        """Whether a clone is read."""
        return self.clone is not None

    def released(self, *, unbroken: bool) -> None:
        """The release has reached the node: from here on a clone's consistency is settled."""
        if not self.is_clone:
            return
        frozen = self._held and unbroken
        self._verdict = "frozen" if frozen else self.source.consistency()

    def consistency(self) -> Consistency:
        """How sure it is that all was read from the moment of the cut."""
        if not self.is_clone:
            return self.source.consistency()
        return self._verdict or "unvouched"


_: type[FrozenView] = CutView
