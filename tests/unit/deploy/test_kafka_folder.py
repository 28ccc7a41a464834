"""A local Kafka of a release that had no users is not started: nobody could log in to it."""

from pathlib import Path

import pytest

from deploy.local.home import BackcastHome
from deploy.local.servers.kafka import USER, KafkaServer
from libs.errors import ConfigurationError, InvariantViolation

#: What Kafka's tool writes: names of features, and the users that it was given.
WITHOUT_USERS = b"\0\0metadata.version\0\x1dgroup.version\0\1"


def spawn_in(tmp_path: Path, prepared: bytes) -> Path:
    server = KafkaServer(BackcastHome(tmp_path / "home"))
    folder = server.home.data("kafka")
    (folder / "log").mkdir(parents=True)
    (folder / "log" / "bootstrap.checkpoint").write_bytes(prepared)
    server.spawn()
    return folder


def test_a_folder_without_our_user_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no user.*dev down.*remove this folder.*dev up"):
        spawn_in(tmp_path, WITHOUT_USERS)


def test_a_folder_with_our_user_is_started(tmp_path: Path) -> None:
    with pytest.raises(InvariantViolation, match="before prepare"):  # the next step, without jars
        spawn_in(tmp_path, WITHOUT_USERS + b"\0\x09" + USER.encode() + b"\2")
