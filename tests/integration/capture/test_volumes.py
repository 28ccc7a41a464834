"""What may lie at a volume's path, what may happen to it while it is read, and many at once."""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from libs.errors import BackcastError, ConflictError, SourceError
from libs.ids import uuid7
from tests.support.running import RunningSite, eventually

MIB = 1 << 20
CHUNK = 1 << 16


def make_nothing(path: Path) -> None:
    assert not path.exists()


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_character_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (make_nothing, "nothing there for tenant"),
        (Path.mkdir, "a directory"),
        (os.mkfifo, "a pipe"),
        (make_character_device, "a character device"),
        (make_loop, "nothing there for tenant"),
    ],
)
def test_what_is_no_volume_is_refused_by_name(
    site: RunningSite, tmp_path: Path, make: object, says: str
) -> None:
    path = tmp_path / "thing"
    make(path)  # type: ignore[operator]  # one of the functions above
    with pytest.raises(SourceError, match=says) as refused:
        site.protect("thing", path)
    assert str(path) in str(refused.value)


def test_a_path_that_no_file_system_takes_is_refused(site: RunningSite) -> None:
    for path in ("/tmp/\0", "/tmp/" + "x" * 5000):
        with pytest.raises(BackcastError) as refused:
            site.coordinator.post("/v1/tenants/default/volumes", {"name": "odd", "path": path})
        assert refused.value.code in ("source", "bad-input")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(site: RunningSite, tmp_path: Path) -> None:
    path = tmp_path / "closed"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(SourceError, match="Permission denied"):
        site.protect("closed", path)


def test_a_volume_that_went_away_is_rejected_and_its_return_is_captured(site: RunningSite) -> None:
    path = site.volume("going", MIB)
    assert site.take("going")["state"] == "sealed"
    path.rename(path.with_suffix(".away"))
    rejected = site.take("going")
    assert (rejected["state"], rejected["code"]) == ("rejected", "source")
    assert str(path) in rejected["message"]
    path.with_suffix(".away").rename(path)
    assert site.take("going")["state"] == "sealed"
    assert site.matches("going", path)


def test_another_file_under_the_same_path_is_captured_whole(site: RunningSite) -> None:
    path = site.volume("replaced", 2 * MIB)
    site.take("replaced")
    path.unlink()
    site.volume("replaced", 3 * MIB, seed=2)
    taken = site.take("replaced")
    assert taken["parts"][0]["changed_bytes"] == 3 * MIB
    assert site.matches("replaced", path)


@pytest.mark.parametrize("size_bytes", [0, 1, CHUNK + 1])
def test_small_and_odd_sizes_come_back(site: RunningSite, size_bytes: int) -> None:
    name = f"small-{size_bytes}"
    path = site.volume(name, size_bytes)
    assert site.take(name)["state"] == "sealed"
    assert site.matches(name, path)
    path.write_bytes(b"grown" * 20_000)
    assert site.take(name)["state"] == "sealed"
    assert site.matches(name, path)
    path.write_bytes(b"")
    assert site.take(name)["state"] == "sealed"
    assert site.matches(name, path)


def test_a_volume_that_shrinks_and_grows_again_has_zeros_there(site: RunningSite) -> None:
    path = site.volume("elastic", 9 * MIB)
    site.take("elastic")
    os.truncate(path, MIB + 5)
    site.take("elastic")
    assert site.matches("elastic", path)
    os.truncate(path, 12 * MIB)
    assert site.take("elastic")["state"] == "sealed"
    assert site.matches("elastic", path)


def test_a_volume_that_becomes_zeros_sends_nothing(site: RunningSite) -> None:
    path = site.volume("cleared", 9 * MIB)
    site.take("cleared")
    path.write_bytes(bytes(9 * MIB))
    taken = site.take("cleared")
    assert taken["state"] == "sealed"
    assert taken["parts"][0]["sent_bytes"] == 0
    assert site.matches("cleared", path)


@contextmanager
def meanwhile(step: object) -> Iterator[None]:
    """Repeats ``step`` in another thread while the context lasts."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            step()  # type: ignore[operator]  # a function without arguments

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_volume_that_is_written_while_it_is_read_is_marked_fuzzy(site: RunningSite) -> None:
    path = site.volume("busy", 16 * MIB)
    site.take("busy")

    def write() -> None:
        with path.open("r+b") as file:
            for offset in range(0, 16 * MIB, MIB):
                file.seek(offset)
                file.write(os.urandom(CHUNK))

    with meanwhile(write):
        taken = site.take("busy")
    assert taken["state"] == "sealed"
    assert taken["parts"][0]["consistency"] == "fuzzy"
    quiet = site.take("busy")
    assert quiet["parts"][0]["consistency"] == "quiet"
    assert site.matches("busy", path)


def test_a_volume_that_shrinks_and_grows_while_it_is_read_is_fuzzy_or_rejected(
    site: RunningSite,
) -> None:
    path = site.volume("restless", 16 * MIB)

    def breathe() -> None:
        os.truncate(path, 5 * MIB)
        os.truncate(path, 20 * MIB)

    with meanwhile(breathe):
        taken = site.take("restless")
    if taken["state"] == "sealed":
        assert taken["parts"][0]["consistency"] == "fuzzy"
    else:
        assert taken["code"] == "source"
        assert "shrank" in taken["message"]
    assert site.take("restless")["state"] == "sealed"
    assert site.matches("restless", path)


def test_a_second_client_is_told_that_the_group_is_busy(site: RunningSite) -> None:
    site.volume("wanted", 32 * MIB)
    session = site.begin("wanted")
    with pytest.raises(ConflictError, match=str(session)):
        site.begin("wanted")
    assert site.end(session)["state"] == "sealed"


def test_the_same_request_twice_makes_one_snapshot(site: RunningSite) -> None:
    site.volume("twice", 2 * MIB)
    session = uuid7()
    for _ in range(2):
        site.begin("twice", session)
    first = site.end(session)
    site.begin("twice", session)
    assert site.end(session) == first
    assert first["sequence"] == 1
    assert site.take("twice")["sequence"] == 2


def test_a_session_of_another_group_is_not_given_out(site: RunningSite) -> None:
    site.volume("mine", MIB)
    site.volume("other", MIB)
    session = site.begin("mine")
    with pytest.raises(ConflictError):
        site.begin("other", session)
    assert site.end(session)["state"] == "sealed"


def test_many_volumes_at_once_are_all_sealed(site: RunningSite) -> None:
    paths = {f"many-{number}": site.volume(f"many-{number}", 8 * MIB) for number in range(8)}
    sessions = {name: site.begin(name) for name in paths}
    for name, path in paths.items():
        assert site.end(sessions[name])["state"] == "sealed"
        assert site.matches(name, path)


def test_equal_volumes_taken_at_once_are_stored_once(site: RunningSite) -> None:
    original = site.volume("twin-a", 8 * MIB)
    copy = site.folder / "twin-b"
    copy.write_bytes(original.read_bytes())
    site.protect("twin-b", copy)
    sessions = [site.begin("twin-a"), site.begin("twin-b")]
    assert [site.end(session)["state"] for session in sessions] == ["sealed", "sealed"]
    assert site.matches("twin-a", original)
    assert site.matches("twin-b", copy)


def test_fifty_snapshots_leave_no_threads_connections_or_files_behind(site: RunningSite) -> None:
    path = site.volume("often", 2 * MIB)

    def take(count: int) -> None:
        for number in range(count):
            with path.open("r+b") as file:
                file.write(os.urandom(CHUNK * (1 + number % 3)))
            assert site.take("often")["state"] == "sealed"

    def held() -> dict[str, tuple[int, int]]:
        return {
            name: _threads_and_files(site, name) for name in ("agent", "chunker", "coordinator")
        }

    take(5)
    before = held()
    take(50)
    eventually(
        f"no more threads and files than before: {before}",
        lambda: all(
            now <= then + 4
            for name, found in held().items()
            for now, then in zip(found, before[name], strict=True)
        ),
        seconds=20,
    )
    folder = site.cluster.home.data("agent") / "fingerprints"
    volume = site.sql("SELECT volume_id FROM volume WHERE name = 'often'")[0][0]
    assert len(list((folder / str(volume)).iterdir())) <= 2


def _threads_and_files(site: RunningSite, name: str) -> tuple[int, int]:
    process = Path(f"/proc/{site.server(name).process.pid}")
    files = [link for link in (process / "fd").iterdir() if stat.S_ISLNK(link.lstat().st_mode)]
    return len(list((process / "task").iterdir())), len(files)
