"""`python -m services.change_capture.filter`: the filter of one volume."""

import contextlib
import logging
import signal
import sys

from fastapi import FastAPI

from libs.errors import ConfigurationError
from libs.rest.server import create_app, serving
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from libs.runtime.service import run_service
from libs.runtime.signals import Stop
from libs.runtime.supervisor import tell_supervisor
from services.change_capture.filter.handover.upgrade import Upgrade
from services.change_capture.filter.metrics import watch
from services.change_capture.filter.process import VolumeFilter
from services.change_capture.filter.settings import Settings

log = logging.getLogger(__name__)

#: A predecessor has the address of the HTTP listener until it has ended.
_LISTEN_AGAIN_SECONDS = 0.1


def main(settings: Settings, stop: Stop) -> None:
    """Run the filter until it is asked to stop, or until a successor serves."""
    health, registry = Health(stop), new_registry()
    app = create_app("Backcast volume filter", settings, health, registry)
    upgrade = Upgrade(stop)
    stop.watch(signal.SIGHUP, upgrade.begin)
    with contextlib.ExitStack() as running:
        one = VolumeFilter(settings, upgrade.ended)
        running.callback(one.stop)
        watch(one, registry)
        _listen(app, settings, stop, running)
        health.started()
        tell_supervisor("READY=1")
        stop.wait()


def _listen(app: FastAPI, settings: Settings, stop: Stop, running: contextlib.ExitStack) -> None:
    """Serve metrics and probes. A successor waits for the address, and clients for nothing.

    Raises:
        ConfigurationError: the address cannot be listened on, by a process that has taken over
            nothing.
    """
    is_told = False
    while not stop.requested:
        try:
            running.enter_context(serving(app, settings))
        except ConfigurationError as err:
            if not settings.take_over:
                raise
            if not is_told:
                log.warning("no metrics yet", extra={"detail": str(err)})
                is_told = True
            stop.wait(_LISTEN_AGAIN_SECONDS)
        else:
            return


if __name__ == "__main__":
    sys.exit(run_service("filter", Settings, main))
