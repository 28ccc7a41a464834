"""What an agent opens, and for whom: nothing but what its own configuration opens to a tenant.

Whoever may add a volume names any path, so a path from outside proves nothing. It must lie in a
root of its tenant, and it is resolved by the kernel so that no link and no `..` leads out of that
root (openat2(2)). What was found is judged by its open descriptor, and that descriptor is what is
read, frozen and cloned. Nothing is opened by its path a second time, so it does not matter who
exchanges what in between.

Never opened, whatever the roots say: what keeps the agent's own secrets and state, its clones of
images, and the file systems by which the kernel shows itself.
"""

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from libs.errors import BadInputError, ConfigurationError, SourceError
from libs.ids import check_name
from libs.runtime.libc import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    open_resolved,
)
from services.change_capture.drivers.local.file_systems import file_system_of

log = logging.getLogger(__name__)

#: In a root: every tenant.
ALL_TENANTS = "*"
#: Where containers of ours have their secrets.
_SECRETS_FOLDER = Path("/run/backcast")
_TOP = Path("/")
#: Folder beside an image in which the driver `reflink` keeps clones of it.
CLONES_FOLDER = ".backcast-clones"
#: Attribute of these folders and of each clone in them. It stays with a file that is renamed,
#: linked or moved elsewhere, so that nobody makes a volume of another tenant's clone.
CLONE_MARK = "user.backcast.clone"
#: By these file systems the kernel tells of itself and of all processes, and takes orders.
_KERNEL = frozenset(
    {
        "proc",
        "sysfs",
        "cgroup",
        "cgroup2",
        "debugfs",
        "tracefs",
        "securityfs",
        "configfs",
        "bpf",
        "pstore",
        "efivarfs",
        "selinuxfs",
        "smackfs",
        "binfmt_misc",
        "fusectl",
        "devpts",
        "mqueue",
        "nfsd",
        "rpc_pipefs",
        "resctrl",
    }
)
#: What resolving says of a path that leads nowhere, out of its root, or round in circles.
_NOTHING_THERE = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EXDEV,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EAGAIN,
        errno.EINVAL,
    }
)
#: Links that are followed as the last part of a path, one after another; the kernel's own number.
_LINK_COUNT_MAX = 40
#: No folder lies deeper.
_DEPTH_MAX = 4096
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
}


@dataclass(frozen=True, slots=True)
class Root:
    """A folder, a file or a block device that is open to a tenant, with all that lies in it."""

    #: Name of the tenant, or `ALL_TENANTS`.
    tenant: str
    #: Absolute, without `..`. Links in it are followed, because the configuration names it.
    path: Path


@dataclass(frozen=True, slots=True)
class OpenSource:
    """A judged regular file or block device, open for reading; whoever has it closes it."""

    #: For messages. Nobody opens it.
    path: Path
    descriptor: int
    #: The folder that it is in, as a place only (O_PATH); None if it has no name.
    folder: int | None = None

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self.descriptor)
        if self.folder is not None:
            os.close(self.folder)


class Roots:
    """The roots of an agent. Thread-safe.

    Args:
        roots: what is open, and to whom.
        own: files and folders of the agent, which are never opened, nor what lies in them.

    Raises:
        ConfigurationError: a root lies in what is the agent's own, or the kernel lacks openat2(2).
    """

    def __init__(self, roots: Sequence[Root], own: Iterable[Path] = ()) -> None:
        # The longest first: it is the nearest to what is meant.
        self._roots = sorted(roots, key=lambda root: len(root.path.parts), reverse=True)
        self._own = (*own, _SECRETS_FOLDER)
        self._require_kernel()
        for root in self._roots:
            self._refuse_own(root)

    @property
    def opened(self) -> Sequence[Root]:
        """The roots, the longest first."""
        return self._roots

    def open(self, tenant: str, path: Path) -> OpenSource:
        """Open a volume of a tenant.

        Raises:
            SourceError: there is nothing, or nothing that is open to the tenant, which is the same
                to whoever asks; it cannot be read; or it is no regular file or block device.
        """
        with self._located("volume", tenant, path) as (folder, found):
            _refuse_special(path, os.fstat(found).st_mode)
            descriptor = _reopened("volume", path, found, os.O_RDONLY)
            return OpenSource(path, descriptor, os.dup(folder))

    def open_socket(self, tenant: str, path: Path) -> OpenSource:
        """Find the socket of a tenant's process; its descriptor is a place only (O_PATH).

        Raises:
            SourceError: as `open`, or it is no socket.
        """
        with self._located("socket", tenant, path) as (folder, found):
            if not stat.S_ISSOCK(os.fstat(found).st_mode):
                raise SourceError(f"socket {path}: it is none; expected a QMP socket of a VM")
            place = os.dup(found)
            return OpenSource(path, place, os.dup(folder))

    def open_folder(self, tenant: str, path: Path) -> int:
        """Open a folder of a tenant, for freezing what is mounted there; a descriptor.

        Raises:
            SourceError: as `open`, or it is no folder.
        """
        with self._located("mount point", tenant, path) as (_, found):
            return _reopened("mount point", path, found, os.O_RDONLY | os.O_DIRECTORY)

    @contextlib.contextmanager
    def _located(self, what: str, tenant: str, path: Path) -> Iterator[tuple[int, int]]:
        """The folder that something is in, and the thing itself, both as places only (O_PATH)."""
        with contextlib.ExitStack() as opened:
            yield self._first_of(opened, what, tenant, path)

    def _first_of(
        self, opened: contextlib.ExitStack, what: str, tenant: str, path: Path
    ) -> tuple[int, int]:
        reason = "no root of the tenant has this path"
        for root in self._roots:
            if root.tenant not in (ALL_TENANTS, tenant) or not path.is_relative_to(root.path):
                continue
            try:
                folder, found = _resolved(opened, root, path)
                if not self._is_forbidden(folder, found):
                    return folder, found
                reason = "it is the agent's own or the kernel's"
            except ValueError as err:  # a NUL byte, or text that no file system takes
                reason = str(err)
            except OSError as err:
                if err.errno not in _NOTHING_THERE:
                    raise _failed(what, path, err) from err
                reason = str(err.strerror)
        # The client is not told which of them it is, or anybody could ask for what a node has.
        about = {"tenant": tenant, "path": str(path), "detail": reason}
        log.warning("path refused", extra=about)
        raise SourceError(
            f"{what} {str(path)!r}: this agent has nothing there for tenant {tenant}: it does not "
            f"exist, or the agent's roots do not open it to the tenant; check the path, and "
            f"BACKCAST_AGENT_ROOTS on the node"
        )

    def _is_forbidden(self, folder: int, found: int) -> bool:
        """Whether it is never opened, judged by what it is and where it is, not by its name.

        Folders are told by device and inode number, so it does not matter how they are mounted.
        """
        if file_system_of(found).kind in _KERNEL:
            return True
        own = set(self._own_now())
        if _identity(os.fstat(found)) in own or _is_marked(found):
            return True
        return any(_identity(os.fstat(one)) in own or _is_marked(one) for one in _above(folder))

    def _own_now(self) -> Iterator[tuple[int, int]]:
        for path in self._own:
            with contextlib.suppress(OSError):  # it may be made later, or be replaced
                yield _identity(path.stat())

    def _refuse_own(self, root: Root) -> None:
        with contextlib.ExitStack() as opened, contextlib.suppress(OSError):
            folder, found = _resolved(opened, root, root.path)
            if self._is_forbidden(folder, found):
                raise ConfigurationError(
                    f"root {root.path}: it lies in what holds the agent's own secrets or state, or "
                    f"in a file system of the kernel, which no agent opens; name another one"
                )

    def _require_kernel(self) -> None:
        try:
            os.close(open_resolved(_TOP, ".", os.O_PATH, RESOLVE_BENEATH))
        except OSError as err:
            raise ConfigurationError(
                f"roots: this kernel or container cannot resolve paths safely (openat2: "
                f"{err.strerror}); the agent needs Linux 5.6 or newer, and a container runtime "
                f"whose seccomp profile allows openat2"
            ) from err


def parse_roots(entries: Sequence[str]) -> tuple[Root, ...]:
    """Roots as a configuration writes them: ``TENANT=PATH``, with ``*`` for every tenant.

    Raises:
        ValueError: an entry is not of this form, or its path is not absolute.
    """
    return tuple(_parsed(entry) for entry in entries)


def _parsed(entry: str) -> Root:
    tenant, separator, text = entry.partition("=")
    path = Path(text)
    if not separator or not path.is_absolute() or ".." in path.parts:
        raise ValueError(f"root {entry!r}: expected TENANT=PATH with an absolute path without '..'")
    if tenant != ALL_TENANTS:
        try:
            check_name("tenant", tenant)
        except BadInputError as err:
            raise ValueError(f"root {entry!r}: {err}") from err
    return Root(tenant, path)


def _resolved(opened: contextlib.ExitStack, root: Root, path: Path) -> tuple[int, int]:
    """Where a path leads within a root: the folder, and what is in it, closed with the stack.

    Links that are the last part are followed one by one: so the folder is the one that the thing
    was found in.

    Raises:
        OSError: nowhere, or out of the root.
    """
    base, how = root.path, RESOLVE_BENEATH
    if base in (path, _TOP):  # the configuration names it, or there is no way out
        base, how = _TOP, RESOLVE_IN_ROOT
    how |= RESOLVE_NO_MAGICLINKS  # the other two imply it today, and openat2(2) promises nothing
    rest = path.relative_to(base)
    for _ in range(_LINK_COUNT_MAX):
        folder = _kept(opened, base, rest.parent, os.O_DIRECTORY, how)
        found = _kept(opened, folder, Path(rest.name), os.O_NOFOLLOW, how)
        if not stat.S_ISLNK(os.fstat(found).st_mode):
            return folder, found
        if file_system_of(folder).kind in _KERNEL:  # it leads elsewhere than its text
            break
        leads_to = Path(os.readlink("", dir_fd=found))
        if leads_to.is_absolute() and base != _TOP:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rest = (_TOP / rest.parent / leads_to).relative_to(_TOP)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _kept(
    opened: contextlib.ExitStack, folder: int | Path, path: Path, flags: int, how: int
) -> int:
    descriptor = open_resolved(folder, str(path), os.O_PATH | flags, how)
    opened.callback(os.close, descriptor)
    return descriptor


def _reopened(what: str, path: Path, located: int, flags: int) -> int:
    """What was located, open for good: the descriptor stands for the thing, whatever its name."""
    try:
        return os.open(f"/proc/self/fd/{located}", flags | os.O_CLOEXEC)
    except OSError as err:
        raise _failed(what, path, err) from err


def _is_marked(located: int) -> bool:
    """Whether it is a clone that an agent keeps, or a folder of such."""
    try:
        return bool(os.getxattr(f"/proc/self/fd/{located}", CLONE_MARK))
    except OSError:  # a file system without attributes keeps no clones
        return False


def _above(folder: int) -> Iterator[int]:
    """A folder and all that it lies in, up to the top: places that are closed with the next one.

    Raises:
        OSError: the top is not found, or the way to it cannot be gone.
    """
    top, here = _identity(_TOP.stat()), os.dup(folder)
    try:
        for _ in range(_DEPTH_MAX):
            yield here
            if _identity(os.fstat(here)) == top:
                return
            above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = above
    finally:
        os.close(here)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _failed(what: str, path: Path, err: OSError) -> SourceError:
    return SourceError(f"{what} {path}: {err.strerror}; check its permissions")


def _refuse_special(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return
    kind = _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")
    raise SourceError(f"volume {path}: it is {kind}; expected a regular file or a block device")
