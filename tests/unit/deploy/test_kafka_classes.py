"""The archive of Kafka's classes: one for each Java and each set of jars."""

from pathlib import Path

import pytest

from deploy.local.servers.kafka_classes import kept_classes
from libs.errors import UnavailableError

FLAG = "-XX:ArchiveClassesAtExit="


class Recorder:
    """What records the classes of a broker: here a file with a number."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.count = 0

    def __call__(self, option: str) -> None:
        self.count += 1
        if self.fails:
            raise UnavailableError("kafka ended while starting")
        assert option.startswith(FLAG)
        Path(option.removeprefix(FLAG)).write_text(str(self.count))


@pytest.fixture
def jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "kafka-1"
    folder.mkdir()
    (folder / "kafka.jar").write_bytes(b"one")
    return folder


def archive(options: list[str]) -> Path:
    return Path(options[0].removeprefix("-XX:SharedArchiveFile="))


def test_the_first_who_asks_makes_the_archive(jars: Path) -> None:
    record = Recorder()
    told: list[str] = []
    first = kept_classes(jars, "17", record, told.append)
    assert first == kept_classes(jars, "17", record, told.append)
    assert (archive(first).read_text(), record.count, len(told)) == ("1", 1, 1)


def test_another_java_and_other_jars_get_another(jars: Path) -> None:
    record = Recorder()
    made = [kept_classes(jars, java, record, print) for java in ("17", "21")]
    (jars / "more.jar").write_bytes(b"two")
    made.append(kept_classes(jars, "21", record, print))
    assert [archive(options).read_text() for options in made] == ["1", "2", "3"]


def test_a_broker_that_could_not_be_recorded_starts_without_and_is_recorded_later(
    jars: Path,
) -> None:
    assert kept_classes(jars, "17", Recorder(fails=True), print) == []
    assert archive(kept_classes(jars, "17", Recorder(), print)).read_text() == "1"


def test_a_java_that_makes_no_archive_is_asked_once(jars: Path) -> None:
    asked: list[str] = []
    assert kept_classes(jars, "17", asked.append, print) == []
    assert kept_classes(jars, "17", asked.append, print) == []
    assert len(asked) == 1


@pytest.mark.parametrize("name", ["classes.jsa", "classes.sha256"])
def test_an_archive_that_is_not_whole_is_made_anew(jars: Path, name: str) -> None:
    record = Recorder()
    made = archive(kept_classes(jars, "17", record, print))
    made.with_name(name).write_bytes(b"")
    assert archive(kept_classes(jars, "17", record, print)) == made
    assert (made.read_text(), record.count) == ("2", 2)
