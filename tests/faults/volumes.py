"""Volumes under attack: what their client asks for, and what every snapshot must restore to."""

import contextlib
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import psycopg

from deploy.local.process import wait_until
from libs.errors import BackcastError
from libs.ids import uuid7
from libs.points import RecoveryPoint
from libs.restoring.restore import restore
from services.cli.commands.taking import take_all
from tests.faults.site import FaultSite
from tests.support.running import TENANT, sha256_of

_CHUNK = 1 << 16
#: A client waits so long for an answer before it gives up and looks what became of its session.
_END_SECONDS_MAX = 180


@dataclass
class AttackedVolume:
    """A protected volume and its only client, which remembers what each session must hold.

    An acknowledged snapshot is one that the command reported as sealed, or that the catalog's log
    calls sealed. The file is never written while a session of it may be open.

    Args:
        site: where it is protected.
        name: its name.
        size_bytes: its size.
        rng: decides its content.
    """

    site: FaultSite
    name: str
    size_bytes: int
    rng: random.Random
    #: Digest of the content that each session was to capture, noted before it was asked for.
    asked: dict[UUID, bytes] = field(default_factory=dict)
    #: Sessions that the command called sealed, and their sequence numbers.
    acknowledged: dict[UUID, int] = field(default_factory=dict)
    #: Why attempts ended without a snapshot, and how often.
    refusals: dict[str, int] = field(default_factory=dict)
    #: Code and message of the last attempt that ended without a snapshot, as its client read them.
    last_refusal: str = ""
    _session: UUID = field(default_factory=uuid7, init=False)

    def __post_init__(self) -> None:
        self.path: Path = self.site.folder / self.name
        self.path.write_bytes(self.rng.randbytes(self.size_bytes))
        self.site.protect(self.name, self.path)

    def change(self, share: float = 0.3) -> None:
        """Overwrite a share of its chunks: with new bytes, zeros, or other chunks of its own."""
        count = self.size_bytes // _CHUNK
        with self.path.open("r+b") as file:
            for index in self.rng.sample(range(count), max(1, round(share * count))):
                kind = self.rng.random()
                data = self.rng.randbytes(_CHUNK) if kind < 0.7 else bytes(_CHUNK)
                if kind > 0.9:
                    file.seek(self.rng.randrange(count) * _CHUNK)
                    data = file.read(_CHUNK)
                file.seek(index * _CHUNK)
                file.write(data)

    def take(self) -> bool:
        """Take a snapshot as `backcast snapshot take` does; whether it was acknowledged.

        Returns when the session has ended for certain, so that the volume may be written again.
        """
        if self.ask():
            return True
        self.wait_until_ended()
        return False

    def ask(self) -> bool:
        """As `take`, but returns with the answer: a refused session may still be under way."""
        self._session = session = uuid7()
        self.asked[session] = sha256_of(self.path)
        try:
            services = self.site.commands()
            (end,) = take_all(
                services, {self.name: session}, full=False, show_bar=_quiet, note=_unsaid
            )
        except BackcastError as err:  # the restore service could not say where the coordinator is
            end = err
        if isinstance(end, BackcastError):
            self._note(end.code, str(end))
        elif end["state"] == "sealed":
            self.acknowledged[session] = end["sequence"]
            return True
        else:
            self._note(end["code"], end["message"])
        return False

    def wait_until_ended(self) -> None:
        """Return when the session of the last `ask` has ended for certain."""
        # A request that timed out may still be under way: a moment later it opens the session.
        time.sleep(0.2)

        def has_ended() -> bool:
            with contextlib.suppress(psycopg.Error):
                query = "SELECT 1 FROM session WHERE session = %s AND state = 'o'"
                return not self.site.sql(query, self._session)
            return False

        assert wait_until(has_ended, _END_SECONDS_MAX), f"session {self._session} never ended"

    def give_up_oldest(self) -> None:
        """Expire the oldest acknowledged snapshot as `backcast snapshot expire` does.

        Raises:
            BackcastError: refused or not answered; it may be expired all the same.
        """
        session = min(self.acknowledged, key=lambda one: self.acknowledged[one])
        del self.acknowledged[session]  # before it is asked for: the answer may get lost
        services = self.site.commands()
        services.catalog.post(services.path(f"/snapshots/{session}/expire"))

    def sealed(self) -> dict[UUID, int]:
        """Sessions that the catalog's log calls sealed and live, and their sequence numbers."""
        rows = self.site.sql(
            """SELECT n.session, n.sequence FROM snapshot n
               JOIN volume_group g USING (group_no) WHERE g.name = %s AND n.state = 'l'""",
            self.name,
        )
        return dict(rows)

    def restores(self, point: str, expected: bytes) -> bool:
        """Restore as `backcast restore` does; whether each byte is as it must be.

        Raises:
            BackcastError: it could not be restored (now).
        """
        out = self.path.with_suffix(f".restored-{self.rng.randrange(1 << 30)}")
        try:
            client = self.site.commands().restore
            wanted = RecoveryPoint(self.name, point)
            restore(client, TENANT, wanted, out, force=False, progressed=lambda _done, _all: None)
            return sha256_of(out) == expected
        finally:
            out.unlink(missing_ok=True)

    def assert_nothing_is_lost(self) -> int:
        """Every acknowledged snapshot restores to what was captured; how many there are."""
        live = self.sealed()
        missing = self.acknowledged.keys() - live.keys()
        assert not missing, f"{self.name}: acknowledged, and not in the catalog: {missing}"
        for session, sequence in live.items():
            assert self.restores(str(sequence), self.asked[session]), (
                f"{self.name}@{sequence} restores to other bytes than session {session} captured"
            )
        return len(live)

    def _note(self, code: str, message: str) -> None:
        self.refusals[code] = self.refusals.get(code, 0) + 1
        self.last_refusal = f"{code}: {message}"


def _unsaid(_text: str) -> None:
    """Nobody waits at a terminal."""


def _quiet(_job: str, _done_bytes: int, _total_bytes: int) -> None:
    return
