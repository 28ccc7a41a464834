"""Whoever answers at a QMP socket may be no QEMU: a tenant's program, or a guest that broke out.

What it says is bounded, opens nothing outside of the tenant's roots, and reads no other process.
"""

import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from libs.errors import BackcastError, DamagedDataError, SourceError
from libs.machines.archive import unpack_archive
from libs.machines.places import machine_of, machine_path
from services.change_capture.drivers.local.roots import Root, Roots
from services.change_capture.drivers.qemu.driver import QemuDriver
from services.change_capture.drivers.qemu.machine.command_line import command_line

TENANT = "tenant"
GREETING = {"QMP": {"version": {"qemu": {"major": 8, "minor": 2}}, "capabilities": []}}


class FakeMachine:
    """A program that answers as a VM with no disks does, but for what a test changes."""

    def __init__(self) -> None:
        #: Sockets have short names.
        self.folder = Path(tempfile.mkdtemp(prefix="fake", dir="/tmp"))
        self.socket = self.folder / "vm.qmp"
        self.answers: dict[str, Any] = {
            "qmp_capabilities": {},
            "query-cpus-fast": [{}],
            "query-version": {"qemu": {"major": 8, "minor": 2, "micro": 0}},
            "query-memory-size-summary": {"base-memory": 1 << 20},
            "query-target": {"arch": "x86_64"},
            "qom-get": "pc-q35-8.2-machine",
            "qom-list": [],
            "query-uuid": {"UUID": "00000000-0000-0000-0000-000000000000"},
            "query-name": {},
            "query-block": [],
            "query-named-block-nodes": [],
            "x-debug-query-block-graph": {"nodes": [], "edges": []},
            "query-block-exports": [],
        }
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self.socket))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def flash(self, file: str, *, is_read_only: bool = False) -> None:
        """Say that a store of variables is in a file."""
        inserted = {"drv": "raw", "ro": is_read_only, "image": {"filename": file}}
        told = {"qdev": "/machine/system.flash1", "inserted": inserted}
        self.answers["query-block"] = [told]

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
        for one in (self.socket, *self.folder.iterdir()):
            one.unlink(missing_ok=True)
        self.folder.rmdir()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            with client, client.makefile("rwb") as talk:
                try:
                    self._talk(talk)
                except (OSError, ValueError):
                    continue

    def _talk(self, talk: Any) -> None:
        talk.write(json.dumps(GREETING).encode() + b"\n")
        talk.flush()
        for line in talk:
            asked = json.loads(line)
            answer = {"return": self.answers[asked["execute"]], "id": asked["id"]}
            talk.write(json.dumps(answer).encode() + b"\n")
            talk.flush()


@pytest.fixture
def fake() -> Iterator[FakeMachine]:
    made = FakeMachine()
    yield made
    made.close()


@pytest.fixture
def driver(fake: FakeMachine, tmp_path: Path) -> QemuDriver:
    """An agent that opens the folder of the socket to the tenant, and nothing else."""
    return QemuDriver(tmp_path / "state", Roots([Root(TENANT, fake.folder)]))


def archive_of(driver: QemuDriver, path: Path) -> bytes:
    view = driver.view(TENANT, path)
    buffer = bytearray(-(-view.size_bytes // 65536) * 65536)
    view.read_into(0, memoryview(buffer))
    return bytes(buffer[: view.size_bytes])


def test_a_program_that_answers_well_is_a_vm(fake: FakeMachine, driver: QemuDriver) -> None:
    (fake.folder / "variables").write_bytes(b"mine")
    fake.flash(str(fake.folder / "variables"))
    definition, files = unpack_archive(archive_of(driver, machine_path(fake.socket, None)))
    assert files == {"flash1": b"mine"}
    # It is this very process, whose command line does not name the socket.
    assert (definition.options, definition.withheld) == ((), ())


@pytest.mark.parametrize("is_read_only", [False, True])
def test_no_file_outside_of_the_roots_is_opened(
    fake: FakeMachine, driver: QemuDriver, tmp_path: Path, is_read_only: bool
) -> None:
    """Neither by its path, nor through a link or `..` in the root."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"of another tenant")
    (fake.folder / "link").symlink_to(secret)
    paths = [
        str(secret),
        str(fake.folder / "link"),
        f"{fake.folder}/../..{secret}",
        "/proc/self/environ",
        "/etc/shadow",
        "relative",
        "json:{}",
        "\0",
        "",
    ]
    for path in paths:
        fake.flash(path, is_read_only=is_read_only)
        with pytest.raises(SourceError) as refused:
            driver.view(TENANT, machine_path(fake.socket, None))
        assert "nothing there for tenant" in str(refused.value)
        with pytest.raises(SourceError):
            driver.machine(TENANT, machine_path(fake.socket, None))
    for path in (str(secret), str(fake.folder / "link")):
        with pytest.raises(SourceError):
            driver.view(TENANT, machine_path(fake.socket, Path(path)))


def test_a_file_that_is_too_large_is_not_read(fake: FakeMachine, driver: QemuDriver) -> None:
    large = fake.folder / "large"
    large.touch()
    os.truncate(large, 1 << 40)
    fake.flash(str(large))
    with pytest.raises(SourceError, match="expected at most"):
        driver.view(TENANT, machine_path(fake.socket, None))


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket"])
def test_a_file_that_is_none_holds_nobody_up(
    fake: FakeMachine, driver: QemuDriver, kind: str
) -> None:
    odd = fake.folder / "odd"
    if kind == "pipe":
        os.mkfifo(odd)
    fake.flash(str({"pipe": odd, "folder": fake.folder, "socket": fake.socket}[kind]))
    with pytest.raises(SourceError):
        driver.view(TENANT, machine_path(fake.socket, None))


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("query-target", {"arch": "x; reboot"}),
        ("query-target", []),
        ("qom-get", "q35,pflash0=/etc/shadow"),
        ("query-uuid", {"UUID": "$(reboot)"}),
        ("query-name", {"name": "x" * 10_000}),
        ("query-cpus-fast", []),
        ("query-cpus-fast", 7),
        ("query-cpus-fast", [{}] * 100_000),
        ("query-memory-size-summary", {"base-memory": -1}),
        ("query-memory-size-summary", {"base-memory": 1 << 80}),
        ("query-version", {"qemu": {}}),
        ("query-block", [{"qdev": "/machine/system.flash99", "inserted": {}}]),
        ("query-block", [{"qdev": "/machine/system.flash/../x", "inserted": {"ro": False}}]),
        ("query-block", [{"qdev": "/machine/peripheral/x", "inserted": {"ro": False}}]),
        ("query-block", [{"qdev": ["x"], "inserted": {"ro": False}}]),
        ("query-block", {"x": 1}),
    ],
)
def test_what_no_vm_says_is_refused(
    fake: FakeMachine, driver: QemuDriver, command: str, answer: Any
) -> None:
    fake.answers[command] = answer
    path = machine_path(fake.socket, None)
    for ask in (driver.view, driver.machine):
        try:
            ask(TENANT, path)
        except (SourceError, DamagedDataError):
            continue
        except BackcastError as err:
            pytest.fail(f"{err!r}")
        # A device that is none of its own list is not there.
        assert unpack_archive(archive_of(driver, path))[0].disks == ()


def process_of(processes: Path, number: int, *arguments: str) -> None:
    """What the kernel tells of a process."""
    folder = processes / str(number)
    folder.mkdir()
    (folder / "cmdline").write_bytes(b"".join(one.encode() + b"\0" for one in arguments))


@pytest.mark.parametrize(
    "argument",
    [
        "unix:/run/other/vm.qmp,server=on",
        "unix:/run/vm.qmp2,server=on",
        "unix:/x/run/vm.qmp,server=on",
        "",
    ],
)
def test_a_process_that_does_not_name_the_socket_is_another_one(
    tmp_path: Path, argument: str
) -> None:
    """The one that listened has ended, and its number is another's."""
    process_of(tmp_path, 7, "qemu-system-x86_64", "-smp", "2", "-qmp", argument)
    user = os.geteuid()
    assert command_line(7, user, Path("/run/vm.qmp"), tmp_path) == ((), ())


def test_a_process_of_another_user_is_another_one(tmp_path: Path) -> None:
    process_of(tmp_path, 7, "qemu", "-smp", "2", "-qmp", "unix:/run/vm.qmp,server=on")
    user, socket_path = os.geteuid(), Path("/run/vm.qmp")
    assert command_line(7, user, socket_path, tmp_path) == ((("smp", "2"),), ("qmp",))
    assert command_line(7, user + 1, socket_path, tmp_path) == ((), ())
    assert command_line(8, user, socket_path, tmp_path) == ((), ())
    assert command_line(0, user, socket_path, tmp_path) == ((), ())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/run/vm.qmp/machine", ("/run/vm.qmp", None)),
        ("/run/vm.qmp/machine/tpm/srv/tpm", ("/run/vm.qmp", "/srv/tpm")),
        ("/run/machine/tpm/vm.qmp/machine", ("/run/machine/tpm/vm.qmp", None)),
        ("/run/vm.qmp/machine/peripheral/vd0", None),
        ("/run/vm.qmp/top", None),
        ("/machine", ("/", None)),
        ("/", None),
    ],
)
def test_a_path_leads_to_one_vm_or_none(path: str, expected: tuple[str, str | None] | None) -> None:
    found = machine_of(Path(path))
    if expected is None:
        assert found is None
    else:
        assert found is not None
        state = None if found.tpm_state is None else str(found.tpm_state)
        assert (str(found.socket), state) == expected
