"""Says whom the command waits for, so that nobody looks at a silent terminal and wonders.

A service may not answer, or refuse and be tried again; both look alike to whoever waits. After
about two seconds of either, one line names it, on a terminal and without one. Another line says
when it answers again.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from libs.errors import TooManyRequestsError, UnavailableError
from libs.rest.client import Json, RestClient
from libs.runtime.threads import start_thread

#: An answer that takes longer is told.
TELL_SECONDS = 2.0
#: A server that is tried again is told sooner, because the next try may be two seconds away.
_TELL_TRIED_SECONDS = 1.0


@dataclass(slots=True)
class _Outage:
    """A server that has not answered yet, or does not at all."""

    begun_at: float
    last: UnavailableError | None = None
    told: bool = False


@dataclass(slots=True)
class _Asked:
    """A request that is not answered yet."""

    who: str
    what: str
    tell_at: float


class Waits:
    """Requests of one command, to servers by their names. Thread-safe.

    Args:
        tell: shows a line.
        clock: monotonic seconds.
    """

    def __init__(
        self, tell: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._changed = threading.Condition()
        self._outages: dict[str, _Outage] = {}
        self._asked: list[_Asked] = []
        self._watcher: threading.Thread | None = None

    @contextmanager
    def asking(self, who: str, what: str, expected_seconds: float = 0.0) -> Iterator[None]:
        """Ask a server, within the context.

        Args:
            who: the server.
            what: the request.
            expected_seconds: an answer may take so long, because it waits for news.
        """
        asked = self._begin(who, what, expected_seconds)
        try:
            yield
        except TooManyRequestsError:  # it is there; `patience` tells of that
            self._answered(asked)
            raise
        except UnavailableError as err:
            self._failed(asked, err)
            raise
        except BaseException:
            self._answered(asked)
            raise
        self._answered(asked)

    def _begin(self, who: str, what: str, expected_seconds: float) -> _Asked:
        with self._changed:
            now = self._clock()
            outage = self._outages.setdefault(who, _Outage(now))
            if outage.last and now - outage.begun_at >= _TELL_TRIED_SECONDS:
                self._tell_of(who, what, outage)
            asked = _Asked(who, what, outage.begun_at + TELL_SECONDS + expected_seconds)
            self._asked.append(asked)
            if self._watcher is None:
                self._watcher = start_thread("waits", self._watch, daemon=True)
            self._changed.notify()
        return asked

    def _failed(self, asked: _Asked, error: UnavailableError) -> None:
        with self._changed:
            self._asked.remove(asked)
            self._outages.setdefault(asked.who, _Outage(self._clock())).last = error

    def _answered(self, asked: _Asked) -> None:
        with self._changed:
            self._asked.remove(asked)
            outage = self._outages.pop(asked.who, None)
            if outage and outage.told:
                self._tell(f"{asked.who} answers again")

    def _watch(self) -> None:
        """Tell of requests in time, until the process ends."""
        with self._changed:
            while True:
                now = self._clock()
                for asked in self._asked:
                    if asked.tell_at <= now:
                        self._tell_of(asked.who, asked.what, self._outages.get(asked.who))
                later = [asked.tell_at - now for asked in self._asked if asked.tell_at > now]
                self._changed.wait(min(later, default=None))

    def _tell_of(self, who: str, what: str, outage: _Outage | None) -> None:
        if outage is None or outage.told:
            return
        outage.told = True
        self._tell(f"waiting: {outage.last or f'{who} has not answered yet to {what}'}")


class WaitingClient(RestClient):
    """A client of one service whose waits are told.

    Args:
        base_url: as of `RestClient`, and so are the other two.
        token: see there.
        ca_file: see there.
        waits: tells.
    """

    def __init__(self, base_url: str, token: str, ca_file: Path | None, waits: Waits) -> None:
        super().__init__(base_url, token, ca_file)
        self._waits = waits

    def get_raw(self, path: str, query: Mapping[str, object] | None = None) -> bytes:
        """As of `RestClient`."""
        expected = (query or {}).get("wait_seconds")
        seconds = float(expected) if isinstance(expected, int | float) else 0.0
        with self._waits.asking(self.base_url, f"GET {path}", seconds):
            return super().get_raw(path, query)

    def post_raw(self, path: str, body: Json = None) -> bytes:
        """As of `RestClient`."""
        with self._waits.asking(self.base_url, f"POST {path}"):
            return super().post_raw(path, body)

    def asking(self, who: str, what: str) -> AbstractContextManager[None]:
        """As of `RestClient`."""
        return self._waits.asking(who, what)
