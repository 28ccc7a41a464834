"""The audit log's way from a request to the catalog.

Requests that wait to be recorded share one transaction. So a service that is busy pays for one
commit in some milliseconds, however many requests that is.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime

from fastapi.routing import APIRoute
from starlette.types import Scope

from libs.access.acts import Act
from libs.access.recorded import Auditor, NotRecordedError, is_recorded
from libs.catalogdb.access.audit import append_acts
from libs.catalogdb.pool import Catalog
from libs.errors import BackcastError
from libs.events.access.acts import ADDRESS_LENGTH_MAX, TARGET_LENGTH_MAX
from libs.events.fields import NAME_LENGTH_MAX
from libs.printable import printable
from libs.rest.auth import ALL_TENANTS, TokenEntry


class AuditLog:
    """Appends what happens in one service. Thread-safe.

    Args:
        catalog: the catalog, in the service's role.
        service: its name.
        write: appends acts, all or none; what `close` waits for.
    """

    def __init__(
        self,
        catalog: Catalog,
        service: str,
        write: Callable[[Catalog, Sequence[Act]], None] = append_acts,
    ) -> None:
        self._catalog = catalog
        self._service = service
        self._write = write
        self._thread = ThreadPoolExecutor(1, "audit")
        self._lock = threading.Lock()
        self._waiting: list[tuple[Act, Future[None]]] = []

    async def note(self, scope: Scope, entry: TokenEntry, status: int) -> None:
        """Record a request, unless it is one that only looks.

        Args:
            scope: of the request, with its route.
            entry: its token.
            status: of its answer.

        Raises:
            NotRecordedError: it must be recorded, and the catalog does not take it.
        """
        if not is_recorded(scope, status):
            return
        try:
            await asyncio.wrap_future(self._append(self._act(scope, entry, status)))
        except BackcastError as err:
            raise NotRecordedError(err) from err

    def close(self) -> None:
        """Wait until everything is recorded."""
        self._thread.shutdown()

    def _append(self, act: Act) -> "Future[None]":
        recorded: Future[None] = Future()
        with self._lock:
            self._waiting.append((act, recorded))
            is_first = len(self._waiting) == 1
        if is_first:  # the others go with it
            self._thread.submit(self._flush)
        return recorded

    def _flush(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        # Whoever does not wait any more, because its client is gone, is recorded and not told.
        told = [recorded for _, recorded in waiting if recorded.set_running_or_notify_cancel()]
        try:
            self._write(self._catalog, [act for act, _ in waiting])
        except BaseException as err:  # noqa: BLE001 -- each of them is told, whatever it is
            for recorded in told:
                recorded.set_exception(err)
        else:
            for recorded in told:
                recorded.set_result(None)

    def _act(self, scope: Scope, entry: TokenEntry, status: int) -> Act:
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        route = scope.get("route")
        tenant = scope.get("path_params", {}).get("tenant", ALL_TENANTS)
        return Act(
            at=datetime.now(UTC),
            service=self._service,
            token=printable(entry.label)[:NAME_LENGTH_MAX],
            roles=tuple(sorted(role.value for role in entry.rights)),
            address=str((scope.get("client") or ("",))[0])[:ADDRESS_LENGTH_MAX],
            tenant=printable(tenant)[:NAME_LENGTH_MAX],
            method=scope["method"],
            route=route.path_format if isinstance(route, APIRoute) else "",
            target=target.decode("ascii", "backslashreplace")[:TARGET_LENGTH_MAX],
            status=status,
        )


_: type[Auditor] = AuditLog
