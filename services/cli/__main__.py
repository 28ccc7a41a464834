"""The command ``backcast``: reads its arguments, runs one command, and ends with a telling status.

Imports are the price of every start: a command's own are made when it runs, so that all of them
answer within 0.3 s.
"""

import atexit
import gc
import os
import sys
from collections.abc import Sequence

from libs.errors import BackcastError, UnavailableError
from services.cli.output import Output
from services.cli.parser import build_parser

#: What a shell reports for a command that ended by Ctrl-C (128 + SIGINT), and by a closed pipe.
INTERRUPTED_EXIT_CODE = 130
BROKEN_PIPE_EXIT_CODE = 141
#: A command makes many objects that stay, by its imports, and then ends. To look through them again
#: and again, and once more at the end, would take a tenth of a short command's time.
_GARBAGE_THRESHOLD = 50_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: of the command line; those of the process if None.

    Returns:
        0 after success, the error's ``exit_code`` after one of our errors, 70 after any other.
    """
    gc.set_threshold(_GARBAGE_THRESHOLD)
    atexit.register(gc.freeze)
    args = build_parser().parse_args(arguments)
    out = Output(as_json=args.json)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except BackcastError as err:
        out.failure(err.code, f"{err}{_hint(err)}")
        return err.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_CODE
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` has. Python would complain once more
        # when it flushes at its end: give it somewhere to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE_EXIT_CODE
    except Exception as err:  # noqa: BLE001 -- the one place that turns what nobody foresaw into a status
        return _unexpected(err, out)
    return status


def _hint(error: BackcastError) -> str:
    at_home = isinstance(error, UnavailableError) and not os.environ.get("BACKCAST_URL")
    return "\n`backcast dev status` shows what runs on this machine" if at_home else ""


def _unexpected(error: Exception, out: Output) -> int:
    import traceback  # noqa: PLC0415 -- costs start-up time, and is never needed

    from libs.runtime.service import UNEXPECTED_EXIT_CODE  # noqa: PLC0415 -- the same

    out.failure("unexpected", "".join(traceback.format_exception(error)).rstrip())
    return UNEXPECTED_EXIT_CODE


if __name__ == "__main__":
    sys.exit(main())
