"""Taking snapshots: asks for a session of each group, then waits for their ends.

The command chooses a session's id before it asks. So it may ask again when an answer got lost, and
no second snapshot is made.
"""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from libs.errors import (
    BackcastError,
    ConflictError,
    NotFoundError,
    OutOfSpaceError,
    UnavailableError,
)
from libs.points import RecoveryPoint
from libs.runtime.retries import tried_again
from services.cli.commands.effects import listed, volumes_by_group
from services.cli.connection import Services
from services.cli.patience import RETRY_SECONDS_MAX, get_again
from services.cli.progress import ShowBar

#: A session as the coordinator answers it.
Session = dict[str, Any]
#: What changed of a volume, as the coordinator is told.
Hints = dict[str, str]

#: The coordinator answers sooner when something changes. When nothing does, its answer says whom
#: the session waits for, and nobody should have to guess for long.
_WAIT_SECONDS = 5


def groups_of(services: Services, names: Sequence[str]) -> dict[str, list[str]]:
    """The groups that names of groups and volumes mean, each once, and the volumes of each.

    Raises:
        NotFoundError: the tenant has none of this name.
    """
    volumes = volumes_by_group(services, names[0] if len(names) == 1 else None)
    groups = {name: group for group, members in volumes.items() for name in members}
    groups |= {group: group for group in volumes}
    for name in names:
        if name not in groups:
            raise NotFoundError(
                f"{name}: tenant {services.tenant} has no volume or group of this name; "
                f"`backcast volume list` shows them"
            )
    return {groups[name]: volumes[groups[name]] for name in names}


def not_named(groups: Mapping[str, Sequence[str]], names: Sequence[str]) -> list[str]:
    """Says which snapshots are of more volumes than were named, by themselves or by their group."""
    texts = []
    for group, volumes in groups.items():
        others = [volume for volume in volumes if volume not in names]
        if others and group not in names:
            texts.append(f"the snapshot of group {group} is of {listed(others)} too")
    return texts


def hints_of(services: Services, name: str, path: Path, base: str) -> Hints:
    """What a file says has changed of a volume since a recovery point, as the coordinator takes it.

    Args:
        services: where to ask.
        name: the volume.
        path: the file.
        base: NAME@POINT, or POINT alone for one of this volume.

    Raises:
        BadInputError: the file or the point is not what it must be.
        NotFoundError: there is no such point.
    """
    from services.cli.hints import read_hints  # noqa: PLC0415 -- few commands need it

    point = RecoveryPoint.parse(base if "@" in base else f"{name}@{base}")
    found = services.get(point.path)
    return {"base": found["session"], "runs": base64.b64encode(read_hints(path)).decode()}


def take_all(  # noqa: PLR0913 -- what is taken how, and who is told
    services: Services,
    sessions: Mapping[str, UUID],
    *,
    full: bool,
    hints: Hints | None = None,
    show_bar: ShowBar,
    note: Callable[[str], None],
) -> Iterator[Session | BackcastError]:
    """Take a snapshot of each group, all at once; their ends are yielded in the order given.

    Args:
        services: where to ask.
        sessions: group, and the id that its session shall have.
        full: without a base: everything is compared and counted.
        hints: what changed, of the only group.
        show_bar: told the bytes read of the group that is waited for.
        note: told once whom a session waits for that makes no progress.

    Yields:
        A sealed or rejected session; or why it could not be opened or followed, which keeps
        nothing from the others. If the snapshot may still be made, a note of the error says which
        session that is and how to follow it.

    Raises:
        BackcastError: the coordinator could not be found; nothing was asked for.
    """
    _ = services.coordinator  # one that cannot be found at all is no reason to wait and retry
    opened = [
        _open(services, group, id_, {"full": full} | ({"hints": hints} if hints else {}))
        for group, id_ in sessions.items()
    ]
    for session in opened:
        if isinstance(session, BackcastError):
            yield session
        else:
            yield _end(services, session, show_bar, note)


def _open(
    services: Services, group: str, id_: UUID, how: Mapping[str, Any]
) -> Session | BackcastError:
    @tried_again(RETRY_SECONDS_MAX)
    def ask() -> Session | BackcastError:
        body = {"session": str(id_), "name": group, **how}
        try:
            answer: Session = services.coordinator.post(services.path("/snapshots"), body)
        except ConflictError as busy:  # retriable, but whoever asked should know at once
            return busy
        return answer

    try:
        return ask()
    except BackcastError as err:
        if isinstance(err, UnavailableError) and not isinstance(err, OutOfSpaceError):
            err.add_note(
                f"{group}: the snapshot may still be made: nobody knows whether session {id_} was "
                f"opened. `backcast session show {id_}` says it once the services answer; if there "
                f"is none of this id by then, nothing was begun: take the snapshot again"
            )
        return err


def _end(
    services: Services, session: Session, show_bar: ShowBar, note: Callable[[str], None]
) -> Session | BackcastError:
    path = services.path(f"/sessions/{session['session']}")
    query = {"wait_seconds": _WAIT_SECONDS}
    told: set[str] = set()
    while session["state"] == "open":
        parts = session["parts"]
        for text in dict.fromkeys(one["message"] for one in session.get("waits_for", ())):
            if text not in told:
                note(f"{session['group']}: waits for {text}")
            told.add(text)
        show_bar(
            session["group"],
            sum(part["read_bytes"] for part in parts),
            sum(part["logical_bytes"] for part in parts),
        )
        try:
            session = get_again(services.coordinator, path, query, RETRY_SECONDS_MAX)
        except BackcastError as err:
            id_ = session["session"]
            err.add_note(
                f"{session['group']}: the snapshot may still be made: session {id_} goes on "
                f"without this command, and is rejected if it makes no progress. `backcast session "
                f"show {id_}` says how it goes or ended; `backcast session cancel {id_}` ends it"
            )
            return err
    return session
