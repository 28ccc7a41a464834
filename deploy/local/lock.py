"""Exclusive locks between processes of one machine."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Told what is going on, one line for people at a time.
Tell = Callable[[str], None]


@contextmanager
def exclusive(lock_file: Path, tell: Tell) -> Iterator[None]:
    """Hold ``lock_file`` alone; wait for whoever holds it, and say so.

    The kernel releases the lock when its holder ends, however it ends. Children do not inherit it.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("w") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"waiting for another process that holds {lock_file}")
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
