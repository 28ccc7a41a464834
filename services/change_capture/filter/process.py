"""All of a filter in one process: the volume, its tracking, its clients and its control socket."""

import contextlib
import logging
import os
import stat
from collections.abc import Callable

from libs.errors import BackcastError, UnavailableError
from libs.nbd.export import BASE_ALLOCATION, BlockSizes, Export
from libs.nbd.layout import Feature
from services.change_capture.filter.connection import PAYLOAD_SIZE_BYTES_MAX
from services.change_capture.filter.control import ControlServer
from services.change_capture.filter.cuts import FilterCuts, ScratchLimits
from services.change_capture.filter.disk import DIRECT_BLOCK_SIZE_BYTES, Disk
from services.change_capture.filter.handover.giving import Giving
from services.change_capture.filter.handover.taking import inherit
from services.change_capture.filter.marks.state import VolumeFacts
from services.change_capture.filter.marks.tracking import Tracking
from services.change_capture.filter.messages import TakeOver
from services.change_capture.filter.places import control_path
from services.change_capture.filter.serving import Serving, listen, listen_on_network
from services.change_capture.filter.settings import Settings
from services.change_capture.filter.sharing.lead import LeadServer
from services.change_capture.filter.sharing.node_lock import lock_on_node
from services.change_capture.filter.volume import FilteredVolume, chunk_count_of

log = logging.getLogger(__name__)

_FEATURES = (
    Feature.HAS_FLAGS
    | Feature.SEND_FLUSH
    | Feature.SEND_FUA
    | Feature.SEND_TRIM
    | Feature.SEND_WRITE_ZEROES
    | Feature.CAN_MULTI_CONN
)
_PREFERRED_BLOCK_SIZE_BYTES = 4096
#: A predecessor that has died lets go of the volume by then.
_LOCK_SECONDS_MAX = 5.0


class VolumeFilter:
    """A running filter. It serves from when it is made until `stop`, or until it is handed over.

    Order of a start: volume locked → listeners bound → tracking found, and said to be unclean →
    clients accepted. A successor inherits the listeners and clients before it locks.
    Order of a stop: control socket closed → view ended → clients ended → volume flushed → tracking
    saved, and said to be clean.

    Args:
        settings: what it serves, and where.
        on_end: told when a successor serves, with None; or that a hand-over went wrong so that
            nothing can be served here any more.

    Raises:
        SourceError: the volume cannot be served.
        ConfigurationError: an address cannot be listened on, or the running filter serves something
            else.
        UnavailableError: the state folder fails, or the running filter.
    """

    def __init__(
        self, settings: Settings, on_end: Callable[[BackcastError | None], None] = lambda _: None
    ) -> None:
        with contextlib.ExitStack() as made:
            self._disk = Disk(settings.volume, is_direct=settings.direct, is_locked=False)
            made.callback(self._disk.close)
            control = control_path(settings.control_folder, self._disk.descriptor)
            self._node_lock = lock_on_node(control, settings.volume) if settings.direct else None
            if self._node_lock is not None:
                made.callback(os.close, self._node_lock)
            tls = settings.nbd_tls()
            about = _about(settings, self._disk)
            inherited = inherit(control, about) if settings.take_over else None
            if inherited is not None:
                made.callback(inherited.close)
            self._disk.lock(_LOCK_SECONDS_MAX if inherited else 0.0)
            if inherited is None:
                listeners = [listen(settings.nbd_listen, settings.nbd_group)]
                made.callback(listeners[0].close)
            else:
                listeners = inherited.listeners
            count = chunk_count_of(self._disk.size_bytes)
            self._tracking = Tracking(
                settings.state_folder,
                _facts(self._disk),
                count,
                inherited.stop if inherited else None,
            )
            self.volume = FilteredVolume(self._disk, self._tracking.marks)
            self._followers = _lead_server(settings)
            if self._followers:
                made.callback(self._followers.close)
            self.cuts = FilterCuts(self.volume, self._tracking, _scratch(settings), self._followers)
            self.clients = Serving(
                listeners,
                self.volume,
                _export(settings, self._disk),
                settings.connection_count_max,
                tls,
            )
            made.callback(self.clients.stop)
            self._giving = Giving(
                about, self.cuts, self._tracking, self.clients, lambda: _facts(self._disk), on_end
            )
            self._control = ControlServer(control, self.cuts, self._giving.give)
            made.callback(self._control.close)
            self.clients.start(inherited.clients if inherited else [])
            if inherited is not None:
                inherited.confirm()
                log.info("taken over", extra={"clients": len(inherited.clients)})
            made.pop_all()

    def stop(self) -> None:
        """End it cleanly, so that the next one knows what this one has marked.

        Raises:
            BackcastError: what was marked could not be saved, and is lost.
        """
        is_serving = self._giving.stop()
        self._control.close()
        if self._followers:
            self._followers.close()
        if not is_serving:
            self._disk.close()
            return
        self.cuts.end_all("the filter was stopped")
        self.clients.stop()
        try:
            self._disk.flush()
            self._tracking.stop(self.volume.marks, _facts(self._disk))
        except OSError as err:
            log.error("volume not flushed; tracking is lost", extra={"detail": str(err)})  # noqa: TRY400 -- the text says all
        except BackcastError:
            log.critical("tracking not saved; it is lost")
            raise
        finally:
            self._disk.close()
            if self._node_lock is not None:
                os.close(self._node_lock)


def _lead_server(settings: Settings) -> LeadServer | None:
    """Where the filters of other nodes connect, if they are to."""
    if settings.peer_listen is None:
        return None
    listener = listen_on_network("BACKCAST_FILTER_PEER_LISTEN", settings.peer_listen)
    host, port = listener.getsockname()[:2]
    return LeadServer(listener, settings.peer_advertised or f"{host}:{port}")


def _about(settings: Settings, disk: Disk) -> TakeOver:
    """What a predecessor and its successor must agree on.

    Raises:
        UnavailableError: the state folder cannot be made.
    """
    folder = settings.state_folder
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except OSError as err:
        raise UnavailableError(f"state of the filter in {folder}: {err.strerror}") from err
    return TakeOver(
        disk.identity,
        disk.size_bytes,
        settings.export,
        settings.direct,
        settings.nbd_listen,
        (status.st_dev, status.st_ino),
    )


def _export(settings: Settings, disk: Disk) -> Export:
    least = DIRECT_BLOCK_SIZE_BYTES if settings.direct else 1
    return Export(
        name=settings.export,
        size_bytes=disk.size_bytes,
        features=_FEATURES,
        block_sizes=BlockSizes(least, _PREFERRED_BLOCK_SIZE_BYTES, PAYLOAD_SIZE_BYTES_MAX),
        description=f"the volume {settings.volume}, whose writes are tracked",
        contexts=(BASE_ALLOCATION,),
    )


def _scratch(settings: Settings) -> ScratchLimits:
    return ScratchLimits(
        settings.scratch_folder or settings.state_folder,
        settings.scratch_size_bytes_max,
        settings.scratch_wait_seconds,
    )


def _facts(disk: Disk) -> VolumeFacts:
    """What nobody changes behind the filter's back; other nodes may write a direct volume."""
    status = os.fstat(disk.descriptor)
    is_ours = stat.S_ISREG(status.st_mode) and not disk.is_direct
    changed_ns = status.st_mtime_ns if is_ours else 0
    return VolumeFacts(disk.identity, disk.size_bytes, changed_ns)
