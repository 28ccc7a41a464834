"""A clock for what waits between tries."""


class SleepingClock:
    """Time passes only by sleeping, or where a test moves it on."""

    def __init__(self) -> None:
        #: Monotonic seconds.
        self.now = 1_000.0
        #: How long each sleep was.
        self.sleeps: list[float] = []

    def sleep(self, seconds: float) -> None:
        """Let time pass at once."""
        self.sleeps.append(seconds)
        self.now += seconds
