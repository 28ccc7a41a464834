"""The frame of every service process: settings, logs, stop on signals, a telling exit status."""

import argparse
import faulthandler
import gc
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
from libs.runtime.threads import start_thread

log = logging.getLogger(__name__)

#: Exit status after an error that nobody foresaw (EX_SOFTWARE of sysexits.h).
UNEXPECTED_EXIT_CODE = 70
#: After an error, an orderly end gets so long; then the process ends anyhow, because a supervisor
#: restarts only what has ended. Requests in flight get 10 s of it.
END_SECONDS_MAX = 30.0

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
    thread is logged at once and requests the stop too: a service with half of its threads is worse
    than one that restarts. After an error the process ends within `END_SECONDS_MAX`, whatever its
    threads wait for.

    Args:
        service: name in lower case, as in the variables.
        settings_class: what `libs.runtime.settings.load` fills.
        main: wires the service and runs it.
        arguments: of the command line; those of the process if None.

    Returns:
        0 after an orderly end; the error's ``exit_code`` (11 for wrong settings) after a
        BackcastError in ``main`` or a thread; 70 after any other exception.
    """
    # What was imported is 100,000 objects that stay. A `__main__` imports them with the collector
    # off, and from here on no collection looks at them: a quarter of a start's CPU.
    gc.freeze()
    gc.enable()
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
    def on_broken_thread(broken: threading.ExceptHookArgs) -> None:
        name = broken.thread.name if broken.thread else "unknown"
        stop.fail(f"thread {name}", broken.exc_value or broken.exc_type())

    threading.excepthook = on_broken_thread
    before, over = set(threading.enumerate()), threading.Event()
    stop.on_failure = lambda failure: _end_in_time(failure, over)
    log.info("started")
    try:
        main(settings, stop)
    except Exception as err:  # noqa: BLE001 -- whatever it is, it is logged and ends the process
        stop.fail("main", err)
    finally:
        stop.request()
        left = set(threading.enumerate()) - before
        if all(thread.daemon for thread in left):  # the interpreter waits for no other thread
            over.set()
            threading.excepthook = threading.__excepthook__
    if stop.failure:
        return _exit_code(stop.failure)
    log.info("stopped")
    return 0


def _end_in_time(failure: BaseException, over: threading.Event) -> None:
    """See to it that the process ends, whatever its threads still wait for."""

    def wait() -> None:
        if not over.wait(END_SECONDS_MAX):
            log.critical("not ended in time", extra={"seconds": END_SECONDS_MAX})
            os._exit(_exit_code(failure))

    start_thread("end", wait, daemon=True)


def _exit_code(failure: BaseException) -> int:
    return failure.exit_code if isinstance(failure, BackcastError) else UNEXPECTED_EXIT_CODE
