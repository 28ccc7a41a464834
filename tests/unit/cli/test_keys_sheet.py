from pathlib import Path

import pytest

from libs.keys.kek import KeyEncryptionKey
from libs.keys.sheet import read_sheet
from tests.unit.cli.conftest import Backcast


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "kek"
    path.write_text(KeyEncryptionKey(bytes(range(32))).text())
    return path


def test_the_sheet_of_a_key_file_can_be_read_back(backcast: Backcast, key_file: Path) -> None:
    ran = backcast(
        "keys", "sheet", "--key-file", str(key_file), "--endpoint", "http://s3", "--bucket", "b"
    )
    sheet = read_sheet(ran.out)
    assert (sheet.kek.secret, sheet.endpoint, sheet.bucket) == (bytes(range(32)), "http://s3", "b")
    assert "has lost the data" in ran.out


def test_a_key_alone_is_not_a_sheet(backcast: Backcast, key_file: Path) -> None:
    assert backcast("keys", "sheet", "--key-file", str(key_file)).status == 2


def test_a_key_file_that_is_none_is_refused_without_showing_it(
    backcast: Backcast, tmp_path: Path
) -> None:
    places = ("--endpoint", "http://s3", "--bucket", "b")
    assert backcast("keys", "sheet", "--key-file", str(tmp_path / "no"), *places).status == 2
    wrong = tmp_path / "wrong"
    wrong.write_text("not-so-secret")
    ran = backcast("keys", "sheet", "--key-file", str(wrong), *places)
    assert ran.status == 11
    assert "not-so-secret" not in ran.err


def test_without_local_servers_the_key_file_must_be_named(backcast: Backcast) -> None:
    ran = backcast("keys", "sheet")
    assert ran.status == 3
    assert "--key-file" in ran.err
