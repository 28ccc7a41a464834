"""A file that gets its name when it is complete, and an open folder in which that happens.

Order: file made under a temporary name → written → renamed, which is the commit. A failure before
the rename removes the file. A killed process leaves it, under a name that nobody takes for the
restored one. Nothing is done by a path twice: the folder is opened once, and every name is a name
in it, so it does not matter what becomes of the folder's own path meanwhile.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from libs.errors import (
    BackcastError,
    BadInputError,
    ConflictError,
    NotFoundError,
    OutOfSpaceError,
    TargetError,
)
from libs.runtime.libc import rename_without_replacing

#: A restored disk has whatever its owner kept on it, so nobody else may read it. This is so for a
#: file that is overwritten too, whatever its mode was.
_MODE = 0o600
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """The folder that ``path`` names something in, open for that, while the context lasts.

    Raises:
        NotFoundError: there is no such folder.
        BadInputError: it cannot be opened.
    """
    try:
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: there is no folder {path.parent}; make it") from None
    except OSError as err:
        raise BadInputError(f"{path}: {err.strerror}") from err
    try:
        yield folder
    finally:
        os.close(folder)


@contextlib.contextmanager
def new_file(folder: int, path: Path, *, replaces: bool) -> Iterator[int]:
    """A new file, open for reading and writing, which is named when the context ends.

    If the context ends by an error, the file is removed, and what has the name stays.

    Args:
        folder: `opened_folder` of ``path``.
        path: its last part is the name.
        replaces: whether the file takes the place of whatever has the name by then. A link is
            replaced itself, and not what it leads to.

    Raises:
        BadInputError: no file can be made in the folder.
        ConflictError: the name was taken meanwhile, and ``replaces`` is not given.
        OutOfSpaceError, TargetError: the file cannot be renamed.
    """
    name = f".backcast-{secrets.token_hex(8)}.partial"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, _MODE, dir_fd=folder)
    except OSError as err:
        raise BadInputError(
            f"{path}: no file can be made in {path.parent}: {err.strerror}; "
            f"choose a folder that you may write to"
        ) from err
    try:
        yield descriptor
        _rename(folder, name, path, replaces=replaces)
    except BaseException:
        _remove(folder, name, descriptor)
        raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def target_errors(path: Path) -> Iterator[None]:
    """What the system says of a target, as an error of ours.

    Raises:
        OutOfSpaceError: there is no room.
        TargetError: any other fault of the medium.
    """
    try:
        yield
    except OSError as err:
        kind: type[BackcastError] = TargetError
        if err.errno in _NO_SPACE:
            kind = OutOfSpaceError
        raise kind(
            f"{path}: cannot be written: {err.strerror}; nothing is wrong with the backup"
        ) from err


def _rename(folder: int, name: str, path: Path, *, replaces: bool) -> None:
    with target_errors(path):
        if replaces:
            os.rename(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            return
        try:
            rename_without_replacing(folder, name, path.name)
        except FileExistsError as err:
            raise ConflictError(
                f"{path}: was made by somebody else while it was restored; choose another name, "
                f"or overwrite it with --force"
            ) from err


def _remove(folder: int, name: str, descriptor: int) -> None:
    """Remove our file, unless another one has its name by now."""
    with contextlib.suppress(OSError):
        named = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if os.path.samestat(named, os.fstat(descriptor)):
            os.unlink(name, dir_fd=folder)
