"""`python -m services.change_capture.filter`: the filter of one volume."""

import contextlib
import sys

from libs.rest.server import create_app, serving
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from libs.runtime.service import run_service
from libs.runtime.signals import Stop
from services.change_capture.filter.metrics import watch
from services.change_capture.filter.process import VolumeFilter
from services.change_capture.filter.settings import Settings


def main(settings: Settings, stop: Stop) -> None:
    """Run the filter until it is asked to stop."""
    health, registry = Health(stop), new_registry()
    app = create_app("Backcast volume filter", settings, health, registry)
    with serving(app, settings), contextlib.ExitStack() as running:
        one = VolumeFilter(settings)
        running.callback(one.stop)
        watch(one, registry)
        health.started()
        stop.wait()


if __name__ == "__main__":
    sys.exit(run_service("filter", Settings, main))
