"""The command ``backcast``: reads its arguments, runs one command, and ends with a telling status.

It begins in `services.cli.entry`, which sees to Ctrl-C while this is imported.

Imports are the price of every start: a command's own are made when it runs, so that all of them
answer within 0.3 s.
"""

import argparse
import atexit
import gc
import os
import sys
from collections.abc import Sequence

from libs.errors import BackcastError, BadInputError, OutOfSpaceError, UnavailableError
from services.cli.entry import INTERRUPTED_EXIT_CODE
from services.cli.entry import main as begin
from services.cli.output import Output
from services.cli.parser import build_parser
from services.cli.streams import flush_output, give_up, prepare_streams

#: What a shell reports for a command that ended by a closed pipe.
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
    prepare_streams()
    out = Output(as_json=False)
    try:
        args = _parsed(arguments)
        if isinstance(args, int):
            return args
        out = Output(as_json=args.json)
        _refuse_bytes(args)
        status: int = args.run(args)
        flush_output()
    except BackcastError as err:
        out.failure(err.code, str(err), _hint(err))
        return err.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_CODE
    except BrokenPipeError:  # whoever read our output has seen enough, as `head` has
        give_up(sys.stdout)
        return BROKEN_PIPE_EXIT_CODE
    except Exception as err:  # noqa: BLE001 -- the one place that turns what nobody foresaw into a status
        return _unexpected(err, out)
    return status


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace | int:
    """The arguments; or the status, if the parser has said all that there is to say."""
    try:
        return build_parser().parse_args(arguments)
    except SystemExit as end:
        flush_output()
        return int(end.code or 0)


def _refuse_bytes(args: argparse.Namespace) -> None:
    """Refuse names and texts that are not UTF-8; paths of this machine may be any bytes.

    Raises:
        BadInputError: one of them is none that a service could be sent.
    """
    for name, value in vars(args).items():
        for text in value if isinstance(value, list) else [value]:
            try:
                if isinstance(text, str) and name not in ("out", "path"):
                    text.encode()
            except UnicodeEncodeError:
                raise BadInputError(f"{text}: is not UTF-8; names and texts must be") from None


def _hint(error: BackcastError) -> str:
    at_home = isinstance(error, UnavailableError) and not os.environ.get("BACKCAST_URL")
    if not at_home or isinstance(error, OutOfSpaceError):
        return ""
    return "`backcast dev status` shows what runs on this machine"


def _unexpected(error: Exception, out: Output) -> int:
    import traceback  # noqa: PLC0415 -- costs start-up time, and is never needed

    from libs.runtime.service import UNEXPECTED_EXIT_CODE  # noqa: PLC0415 -- the same

    trace = "".join(traceback.format_exception(error)).rstrip()
    out.failure("unexpected", f"an error that nobody foresaw: {type(error).__name__}", trace)
    return UNEXPECTED_EXIT_CODE


if __name__ == "__main__":
    sys.exit(begin())
