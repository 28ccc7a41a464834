"""``backcast completion``: a script by which a shell completes the command.

The script is made of the parser and knows nothing else, so that a TAB starts no program and asks no
service. (argcomplete would run the command at every TAB, which costs the start of Python.)
"""

import argparse

from services.cli.output import Output

_SHELLS = ("bash", "zsh", "fish")


def add_parser(
    nouns: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``completion``."""
    text = "print a script that completes this command: bash, zsh, fish"
    completion = nouns.add_parser("completion", parents=[everywhere], help=text, description=text)
    completion.add_argument("shell", choices=_SHELLS, metavar="SHELL", help=", ".join(_SHELLS))
    completion.set_defaults(run=_complete)


def _complete(args: argparse.Namespace) -> int:
    import shtab  # noqa: PLC0415 -- no other command needs it

    from services.cli.parser import build_parser  # noqa: PLC0415 -- this module is a part of it

    script = shtab.complete(build_parser(), shell=args.shell)
    Output(as_json=args.json).show(
        {"shell": args.shell, "script": script}, lambda document: str(script)
    )
    return 0
