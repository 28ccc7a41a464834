"""The broker's jars: fetched by Maven once, compared with jars.sha256 before each use.

After a change of pom.xml, ``python -m deploy.local lock-jars`` writes jars.sha256 anew.
"""

import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from deploy.local.cache import cache_folder, cached
from deploy.local.lock import Tell
from deploy.local.servers.debian import ensure_installed
from libs.errors import ConfigurationError, DamagedDataError, UnavailableError

_POM = Path(__file__).with_name("pom.xml")
_LOCK = Path(__file__).with_name("jars.sha256")
_JAVA_VERSION_MIN = 17


def ensure_java(tell: Tell) -> str:
    """Have a Java that can run the broker on PATH; what it says of its version.

    Raises:
        ConfigurationError: there is none and it cannot be installed, or it is too old.
    """
    ensure_installed({"java": "default-jre-headless"}, tell)
    said = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    if not found or int(found[1]) < _JAVA_VERSION_MIN:
        raise ConfigurationError(
            f"{shutil.which('java')}: Kafka needs Java {_JAVA_VERSION_MIN} or newer, found "
            f"{found[1] if found else said.strip()!r}; put a newer java first on PATH"
        )
    return said


def kafka_jars(tell: Tell) -> Path:
    """The folder of the broker's jars, all present and verified.

    Raises:
        UnavailableError: Maven could not fetch them.
        DamagedDataError: a jar is not the one that jars.sha256 names.
    """
    lock = _LOCK.read_text()
    name = f"kafka-{hashlib.sha256(lock.encode()).hexdigest()[:12]}"

    def make(folder: Path) -> None:
        _resolve(folder, tell)
        _verify(folder, lock)

    if not (cache_folder() / name).exists():
        tell("fetching Kafka from Maven Central (43 MB, once)")
    folder = cached(name, make, tell)
    _verify(folder, lock)
    return folder


def write_lock(tell: Tell) -> None:
    """Resolve pom.xml anew and record the digests of what came."""
    with tempfile.TemporaryDirectory() as scratch:
        _resolve(Path(scratch), tell)
        _LOCK.write_text(_digests(Path(scratch)))


def _resolve(folder: Path, tell: Tell) -> None:
    ensure_installed({"mvn": "maven"}, tell)
    argv = ["mvn", "-q", "-B", "-f", str(_POM), "dependency:copy-dependencies"]
    argv += ["-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
    finished = subprocess.run(argv, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise UnavailableError(
            f"Maven could not fetch Kafka; {' '.join(argv)} said: {finished.stdout.strip()[-2000:]}"
        )


def _verify(folder: Path, lock: str) -> None:
    found = _digests(folder)
    if found != lock:
        differing = sorted(set(found.splitlines()) ^ set(lock.splitlines()))
        names = sorted({line.split()[1] for line in differing})
        raise DamagedDataError(
            f"{folder}: {', '.join(names)} differ from {_LOCK.name}; delete the folder, try again"
        )


def _digests(folder: Path) -> str:
    """One line per jar, in the format of sha256sum."""
    jars = sorted(folder.glob("*.jar"))
    return "".join(f"{hashlib.sha256(jar.read_bytes()).hexdigest()}  {jar.name}\n" for jar in jars)
