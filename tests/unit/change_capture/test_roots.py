"""What an agent opens: on real file systems, with links, exchanged folders and real devices."""

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.errors import ConfigurationError, SourceError
from libs.runtime import libc
from libs.runtime.threads import start_thread
from services.change_capture.barrier.hold import open_mount_point
from services.change_capture.drivers.local.clone import clone
from services.change_capture.drivers.local.reader import SourceReader
from services.change_capture.drivers.local.roots import Root, Roots, parse_roots
from services.change_capture.drivers.local.view import LocalView
from tests.support.file_systems import is_done, mounted, needs_mounts, run
from tests.support.loop_devices import LoopDevice

MINE, FOREIGN = b"what this tenant may read", b"what nobody here may read"
ACME, OTHER = "acme", "other"


class Node:
    """A node with a folder of a tenant, one of another tenant, and the agent's own things."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.images, self.others, self.own = top / "images", top / "others", top / "own"
        for folder in (self.images, self.others, self.own):
            (folder / "below").mkdir(parents=True)
        self.volume = self.images / "volume"
        self.volume.write_bytes(MINE)
        for path in (self.others / "volume", self.own / "token", self.own / "below" / "state"):
            path.write_bytes(FOREIGN)
        self.roots = self.opened(Root(ACME, self.images), Root(OTHER, self.others))

    def opened(self, *roots: Root) -> Roots:
        return Roots(roots, [self.own])

    def read(self, path: Path, tenant: str = ACME, roots: Roots | None = None) -> bytes:
        """What a tenant's volume has."""
        with contextlib.closing((roots or self.roots).open(tenant, path)) as source:
            return os.pread(source.descriptor, 1 << 16, 0)

    def refusal(self, path: Path, tenant: str = ACME, roots: Roots | None = None) -> str:
        """What a tenant is told of a path that is not open to it, without the path itself."""
        with pytest.raises(SourceError) as refused:
            self.read(path, tenant, roots)
        return str(refused.value).replace(repr(str(path)), "PATH")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def missing(node: Node) -> str:
    """What is said of a path that does not exist."""
    return node.refusal(node.images / "nothing")


def test_a_tenant_opens_what_lies_in_its_root(node: Node) -> None:
    (node.images / "below" / "deep").write_bytes(MINE)
    (node.images / "link").symlink_to("below/../volume")
    (node.images / "below" / "link").symlink_to("../link")
    for name in ("volume", "below/deep", "link", "below/link", "below/../volume", "./volume"):
        assert node.read(Path(f"{node.images}/{name}")) == MINE


def test_what_is_open_to_another_tenant_is_not_there(node: Node, missing: str) -> None:
    assert node.refusal(node.others / "volume") == missing
    assert node.refusal(node.volume, OTHER) == missing.replace(ACME, OTHER)
    assert node.read(node.others / "volume", OTHER) == FOREIGN


def test_without_roots_nothing_is_there(node: Node, missing: str) -> None:
    assert node.refusal(node.volume, roots=node.opened()) == missing


def test_a_root_of_every_tenant_is_open_to_every_tenant(node: Node) -> None:
    roots = node.opened(Root("*", node.images))
    assert node.read(node.volume, ACME, roots) == node.read(node.volume, OTHER, roots) == MINE


def test_a_root_is_a_file_too(node: Node, missing: str) -> None:
    (node.images / "beside").write_bytes(FOREIGN)
    roots = node.opened(Root(ACME, node.volume))
    assert node.read(node.volume, roots=roots) == MINE
    assert node.refusal(node.images / "beside", roots=roots) == missing


def test_the_beginning_of_a_name_is_no_root(node: Node, missing: str) -> None:
    (node.top / "images-of-others").write_bytes(FOREIGN)
    assert node.refusal(node.top / "images-of-others") == missing


@pytest.mark.parametrize(
    "way_out",
    [
        "../others/volume",
        "below/../../others/volume",
        "absolute",
        "relative",
        "folder/volume",
        "twice",
        "loop",
        "below/..",
        "volume/.",
        "/etc/passwd",
        "x" * 300,
        "nul\0byte",
        "half \ud800 a character",
    ],
)
def test_no_way_leads_out_of_a_root(node: Node, missing: str, way_out: str) -> None:
    """A file that is out there is as little there as one that is not."""
    (node.images / "absolute").symlink_to(node.others / "volume")
    (node.images / "relative").symlink_to("../others/volume")
    (node.images / "folder").symlink_to(node.others)
    (node.images / "twice").symlink_to("relative")
    (node.images / "loop").symlink_to("loop")
    if way_out == "volume/.":  # pathlib takes it for the volume itself
        assert node.read(Path(f"{node.images}/{way_out}")) == MINE
    else:
        assert node.refusal(Path(f"{node.images}/{way_out}")) == missing


def test_descriptors_of_processes_lead_nowhere(node: Node, missing: str) -> None:
    """Not even with everything open: they may be those of the agent itself."""
    everything = node.opened(Root(ACME, Path("/")))
    with (node.own / "token").open("rb") as secret, (node.others / "volume").open("rb") as foreign:
        for file in (secret, foreign):
            for folder in ("/proc/self/fd", f"/proc/{os.getpid()}/fd", "/dev/fd"):
                path = Path(folder) / str(file.fileno())
                assert node.refusal(path, roots=everything) == missing
                (node.images / "magic").unlink(missing_ok=True)
                (node.images / "magic").symlink_to(path)
                assert node.refusal(node.images / "magic", roots=everything) == missing
    inside = Path(f"/proc/{os.getpid()}/root{node.volume}")
    assert node.refusal(inside, roots=everything) == missing


@pytest.mark.parametrize(
    "path", ["/proc/self/environ", "/proc/kcore", "/sys/kernel/notes", "/proc", "/sys", "/proc/1"]
)
def test_the_file_systems_of_the_kernel_are_not_there(node: Node, missing: str, path: str) -> None:
    assert node.refusal(Path(path), roots=node.opened(Root(ACME, Path("/")))) == missing


def test_the_agents_own_things_are_not_there(node: Node, missing: str) -> None:
    everything = node.opened(Root(ACME, Path("/")))
    assert node.read(node.volume, roots=everything) == MINE
    assert node.read(node.others / "volume", roots=everything) == FOREIGN
    (node.images / "link").symlink_to(node.own / "token")
    for path in (
        node.own,
        node.own / "token",
        node.own / "below",
        node.own / "below" / "state",
        node.images / ".." / "own" / "token",
        node.images / "link",
    ):
        assert node.refusal(path, roots=everything) == missing


def test_a_secret_is_not_there_under_another_name(node: Node, missing: str) -> None:
    os.link(node.own / "token", node.images / "hard link")
    roots = Roots([Root(ACME, node.images)], [node.own / "token"])
    assert node.read(node.volume, roots=roots) == MINE
    assert node.refusal(node.images / "hard link", roots=roots) == missing


@needs_mounts
def test_the_agents_own_folder_is_not_there_under_another_mount(node: Node, missing: str) -> None:
    """As where a node's folders are mounted into a container once more."""
    again = node.images / "again"
    again.mkdir()
    run("mount", "--bind", str(node.top), str(again))
    try:
        assert node.read(again / "others" / "volume") == FOREIGN
        assert node.refusal(again / "own" / "token") == missing
        assert node.refusal(again / "own" / "below" / "state") == missing
    finally:
        run("umount", str(again))


def test_a_root_in_the_agents_own_folder_stops_the_agent(node: Node) -> None:
    for path in (node.own, node.own / "below", Path("/proc"), Path("/sys/kernel")):
        with pytest.raises(ConfigurationError, match=f"root {path}: it lies in"):
            node.opened(Root(ACME, path))


def test_a_root_may_come_later(node: Node, missing: str) -> None:
    later = node.top / "later"
    roots = node.opened(Root(ACME, later))
    assert node.refusal(later / "volume", roots=roots) == missing
    later.mkdir()
    (later / "volume").write_bytes(MINE)
    assert node.read(later / "volume", roots=roots) == MINE


def test_the_agents_log_has_the_reason(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        node.refusal(node.others / "volume")
        node.refusal(node.images / "nothing")
        node.refusal(node.own / "token", roots=node.opened(Root(ACME, node.top)))
    told = [(vars(record)["tenant"], vars(record)["detail"]) for record in caplog.records]
    assert told == [
        (ACME, "no root of the tenant has this path"),
        (ACME, "No such file or directory"),
        (ACME, "it is the agent's own or the kernel's"),
    ]


def test_what_is_no_volume_is_told_and_not_opened(node: Node) -> None:
    """Within its own root a tenant hears what is wrong. To open a pipe would wait for ever."""
    os.mkfifo(node.images / "pipe")
    assert "it is a directory" in node.refusal(node.images)
    assert "it is a pipe" in node.refusal(node.images / "pipe")
    everything = node.opened(Root(ACME, Path("/")))
    assert "it is a character device" in node.refusal(Path("/dev/null"), roots=everything)


# ---- between the check and the use


def exchange(node: Node) -> None:
    """Put a link to what is foreign in the place of a volume, and of its folder."""
    node.volume.unlink()
    node.volume.symlink_to(node.others / "volume")
    node.images.rename(node.top / "moved")
    node.images.symlink_to(node.others)


def test_what_was_opened_stays_what_it_was(node: Node) -> None:
    source = node.roots.open(ACME, node.volume)
    exchange(node)
    assert node.volume.read_bytes() == FOREIGN
    with contextlib.closing(LocalView(source)) as view:
        buffer = bytearray(4096)
        view.read_into(0, memoryview(buffer))
        assert buffer.startswith(MINE)
        assert stat.S_ISREG(os.fstat(source.descriptor).st_mode)
        direct = SourceReader(source.descriptor, is_device=False, cached=False)
        assert direct.read(0, memoryview(buffer), len(MINE)) == len(MINE)
        assert buffer.startswith(MINE)
        direct.close()


@needs_mounts
def test_a_clone_is_of_what_was_opened_and_beside_it(tmp_path: Path) -> None:
    with mounted(tmp_path / "image", tmp_path / "mount", "xfs", 400) as xfs:
        node = Node(xfs)
        with contextlib.closing(node.roots.open(ACME, node.volume)) as source:
            exchange(node)
            copy = clone(source)
            assert copy is not None
            assert os.pread(copy.descriptor, 100, 0) == MINE
            copy.close()


def test_whoever_exchanges_folders_all_the_time_wins_nothing(node: Node) -> None:
    """The kernel resolves while another thread renames: a tenant's folder, and a link out of it."""
    aside, link = node.images / "aside", node.images / "link"
    (node.images / "turn").mkdir()
    (node.images / "turn" / "volume").write_bytes(MINE)
    link.symlink_to(node.others)
    over = False

    def turn() -> None:
        while not over:
            (node.images / "turn").rename(aside)
            link.rename(node.images / "turn")
            (node.images / "turn").rename(link)
            aside.rename(node.images / "turn")

    thread = start_thread("turn", turn, daemon=True)
    found, refused = 0, 0
    try:
        for _ in range(2_000):
            try:
                assert node.read(node.images / "turn" / "volume") == MINE
                found += 1
            except SourceError:
                refused += 1
    finally:
        over = True
        thread.join(10)
    assert found, "never was it the tenant's own: a poor test"
    assert refused, "never was it exchanged: a poor test"


# ---- mount points, devices, and a kernel that cannot


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "image", tmp_path / "guest") as mount:
        yield mount


@needs_mounts
def test_only_what_is_open_to_a_tenant_is_frozen_for_it(
    node: Node, missing: str, guest: Path
) -> None:
    roots = node.opened(Root(ACME, guest), Root(OTHER, node.others))
    with contextlib.closing(open_mount_point(roots, ACME, str(guest))) as mount:
        assert mount.path == str(guest)
    for tenant, path in ((OTHER, guest), (ACME, Path("/")), (ACME, guest / "nothing")):
        with pytest.raises(SourceError) as refused:
            open_mount_point(roots, tenant, str(path))
        told = str(refused.value).replace(repr(str(path)), "PATH").replace("mount point", "volume")
        assert told == missing.replace(ACME, tenant)


@needs_mounts
def test_a_mount_point_that_was_opened_stays_what_it_was(
    node: Node, guest: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to("guest")
    roots = node.opened(Root(ACME, tmp_path))
    mount = open_mount_point(roots, ACME, str(tmp_path / "link"))
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(node.others)
    device = os.fstat(mount.descriptor).st_dev
    mount.close()
    assert (mount.path, device) == (str(guest), guest.stat().st_dev)
    assert is_done("mountpoint", str(guest))


def test_a_device_is_opened_by_its_name_or_a_link_to_it(
    loop: LoopDevice, node: Node, missing: str
) -> None:
    content = MINE.ljust(1 << 20, b"\0")
    node.volume.write_bytes(content)
    loop.attach(node.volume)
    link = loop.path.with_name(f"backcast-test-{os.getpid()}")
    link.symlink_to(loop.path.name)
    try:
        roots = node.opened(Root(ACME, link), Root(OTHER, Path("/dev")))
        for tenant, path in ((ACME, link), (OTHER, link), (OTHER, loop.path)):
            assert content.startswith(node.read(path, tenant, roots))
        assert node.refusal(loop.path, ACME, roots) == missing
    finally:
        link.unlink()


def test_a_kernel_that_cannot_resolve_safely_stops_the_agent(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(libc, "_open_resolved", refuse)
    with pytest.raises(ConfigurationError, match=r"openat2.*needs Linux 5\.6"):
        node.opened()


@pytest.mark.parametrize(
    "entry", ["/srv", "acme", "acme=", "=/srv", "acme=srv", "acme=/srv/../etc", "A B=/srv", "**=/"]
)
def test_a_root_that_is_no_root_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="root "):
        parse_roots([entry])


def test_roots_are_written_as_tenant_and_path() -> None:
    assert parse_roots(["acme=/srv/a=b", "*=/dev/vg0"]) == (
        Root("acme", Path("/srv/a=b")),
        Root("*", Path("/dev/vg0")),
    )
