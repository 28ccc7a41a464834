"""What clients have asked of a filter, counted at the cost of two additions a request."""

from libs.nbd.layout import Command

#: Commands by their numbers; those that are not served stay 0.
_COMMANDS = max(Command) + 1


class Traffic:
    """Requests and bytes of one client, or of many. One thread counts; others may read."""

    __slots__ = ("failed", "requests", "sizes_bytes")

    def __init__(self) -> None:
        #: By the number of the command.
        self.requests = [0] * _COMMANDS
        self.sizes_bytes = [0] * _COMMANDS
        #: Requests that the disk has failed.
        self.failed = 0

    def add(self, other: "Traffic") -> None:
        """Count what another one has counted, too."""
        for command in range(_COMMANDS):
            self.requests[command] += other.requests[command]
            self.sizes_bytes[command] += other.sizes_bytes[command]
        self.failed += other.failed
