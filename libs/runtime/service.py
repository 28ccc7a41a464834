"""The frame of every service process: settings, logs, stop on signals, a telling exit status."""

import argparse
import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from libs.errors import BackcastError
from libs.runtime.groups import ServiceSettings
from libs.runtime.logs import configure_logs
from libs.runtime.settings import load, render
from libs.runtime.signals import Stop, stop_on_signals

log = logging.getLogger(__name__)

#: Exit status after an error that nobody foresaw (EX_SOFTWARE of sysexits.h).
UNEXPECTED_EXIT_CODE = 70

S = TypeVar("S", bound=ServiceSettings)


def run_service(
    service: str,
    settings_class: type[S],
    main: Callable[[S, Stop], None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run ``main`` until it returns; what a ``__main__`` hands to ``sys.exit``.

    Settings come from BACKCAST_<SERVICE>_* variables; with ``--print-config`` they are printed and
    nothing runs. ``main`` must return soon after its `Stop` is requested. An exception that ends a
    thread requests the stop too: a service with half of its threads is worse than one that
    restarts.

    Args:
        service: name in lower case, as in the variables.
        settings_class: what `libs.runtime.settings.load` fills.
        main: wires the service and runs it.
        arguments: of the command line; those of the process if None.

    Returns:
        0 after an orderly end; the error's ``exit_code`` (11 for wrong settings) after a
        BackcastError; 70 after any other exception.
    """
    parser = argparse.ArgumentParser(prog=service, description=f"Runs the {service} service.")
    parser.add_argument(
        "--print-config", action="store_true", help="print the effective settings and exit"
    )
    options = parser.parse_args(arguments)
    try:
        settings = load(settings_class, service, os.environ)
    except BackcastError as err:
        print(f"{service}: {err}", file=sys.stderr)  # noqa: T201 -- how to log is not yet known
        return err.exit_code
    if options.print_config:
        print(render(settings, service))  # noqa: T201 -- this is the output asked for
        return 0
    faulthandler.enable()
    configure_logs(service, settings.log_level)
    with stop_on_signals() as stop:
        return _run(main, settings, stop)


def _run(main: Callable[[S, Stop], None], settings: S, stop: Stop) -> int:
    broken_threads: list[str] = []

    def on_broken_thread(broken: threading.ExceptHookArgs) -> None:
        name = broken.thread.name if broken.thread else "unknown"
        info = (broken.exc_type, broken.exc_value or broken.exc_type(), broken.exc_traceback)
        log.critical("thread ended by an error", exc_info=info, extra={"thread_name": name})
        broken_threads.append(name)
        stop.request()

    threading.excepthook = on_broken_thread
    log.info("started")
    try:
        main(settings, stop)
    except BackcastError as err:
        log.critical("ended by an error", extra={"code": err.code, "detail": str(err)})
        log.debug("where it was raised", exc_info=err)
        return err.exit_code
    except Exception:
        log.critical("ended by an unexpected error", exc_info=True)
        return UNEXPECTED_EXIT_CODE
    finally:
        threading.excepthook = threading.__excepthook__
        stop.request()
    log.info("stopped")
    return UNEXPECTED_EXIT_CODE if broken_threads else 0
