"""Paths of volumes, as they are typed and as a node is told them."""

from pathlib import Path

from libs.errors import BadInputError
from libs.printable import printable


def absolute_path(path: str) -> str:
    """The whole path. A relative one means the caller's folder, if it means anything on the node.

    Raises:
        BadInputError: the caller's folder was deleted, or the path is not UTF-8.
    """
    try:
        absolute = str(Path(path).absolute())
    except FileNotFoundError:
        raise BadInputError(
            f"{path}: is relative to a folder that was deleted; give the whole path"
        ) from None
    try:
        absolute.encode()
    except UnicodeEncodeError:
        raise BadInputError(
            f"{printable(absolute)}: is not UTF-8, and a volume's path must be; give the file or "
            f"device another name, or a link to it"
        ) from None
    return absolute
