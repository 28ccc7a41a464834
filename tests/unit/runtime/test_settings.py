import dataclasses
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.errors import ConfigurationError
from libs.runtime.groups import KafkaSettings, PostgresSettings, S3Settings, ServiceSettings
from libs.runtime.settings import Secret, load, render


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    pool_size_max: int = 8
    password: Secret


@dataclasses.dataclass(frozen=True, kw_only=True)
class Everything:
    inner: Inner
    name: str
    ratio: float = 0.5
    fast: bool = False
    folder: Path | None = None
    mode: Literal["slow", "quick"] = "slow"
    nodes: tuple[str, ...] = ()
    sizes_bytes: tuple[int, ...] = (1, 2)


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("  hunter2\n")
    return file


@pytest.fixture
def least(password_file: Path) -> dict[str, str]:
    return {
        "BACKCAST_TRY_NAME": "x",
        "BACKCAST_TRY_INNER_PASSWORD_FILE": str(password_file),
    }


def test_every_type_is_read(least: dict[str, str], tmp_path: Path) -> None:
    settings = load(
        Everything,
        "try",
        least
        | {
            "BACKCAST_TRY_RATIO": "2.25",
            "BACKCAST_TRY_FAST": "True",
            "BACKCAST_TRY_FOLDER": str(tmp_path),
            "BACKCAST_TRY_MODE": "quick",
            "BACKCAST_TRY_NODES": "a, b",
            "BACKCAST_TRY_SIZES_BYTES": "4096,65536",
            "BACKCAST_TRY_INNER_POOL_SIZE_MAX": "3",
        },
    )
    assert settings.inner.pool_size_max == 3
    assert settings.inner.password.reveal() == "hunter2"
    assert (settings.ratio, settings.fast, settings.folder) == (2.25, True, tmp_path)
    assert (settings.mode, settings.nodes, settings.sizes_bytes) == (
        "quick",
        ("a", "b"),
        (4096, 65536),
    )


def test_defaults_hold_when_nothing_is_set(least: dict[str, str]) -> None:
    settings = load(Everything, "try", least)
    assert (settings.ratio, settings.nodes, settings.folder) == (0.5, (), None)


def test_variables_of_other_services_are_ignored(least: dict[str, str]) -> None:
    load(Everything, "try", least | {"BACKCAST_HOME": "/x", "BACKCAST_OTHER_NAME": "y"})


def test_an_unknown_variable_is_refused_and_its_near_match_named(least: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"_RATE: unknown.*did you mean .*_RATIO\?"):
        load(Everything, "try", least | {"BACKCAST_TRY_RATE": "1"})


def test_a_secret_in_the_environment_is_refused_without_repeating_it(
    least: dict[str, str],
) -> None:
    with pytest.raises(ConfigurationError, match="INNER_PASSWORD_FILE") as caught:
        load(Everything, "try", least | {"BACKCAST_TRY_INNER_PASSWORD": "hunter3"})
    assert "hunter3" not in str(caught.value)


def test_all_that_is_wrong_is_reported_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(Everything, "try", {"BACKCAST_TRY_RATIO": "fast", "BACKCAST_TRY_BOGUS": ""})
    for name in ("TRY_NAME", "INNER_PASSWORD_FILE", "TRY_RATIO", "TRY_BOGUS"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RATIO", "nan"),
        ("RATIO", "-1"),
        ("RATIO", "inf"),
        ("FAST", "yes"),
        ("MODE", "Quick"),
        ("SIZES_BYTES", "1,two"),
        ("INNER_POOL_SIZE_MAX", "-1"),
        ("INNER_POOL_SIZE_MAX", "8.0"),
    ],
)
def test_a_malformed_value_is_refused(least: dict[str, str], name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"BACKCAST_TRY_{name}: expected"):
        load(Everything, "try", least | {f"BACKCAST_TRY_{name}": value})


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"x" * 65_537])
def test_a_secret_file_that_holds_no_secret_is_refused(
    least: dict[str, str], password_file: Path, content: bytes
) -> None:
    password_file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"secret file {password_file}"):
        load(Everything, "try", least)


def test_a_missing_secret_file_is_refused(least: dict[str, str], password_file: Path) -> None:
    password_file.unlink()
    with pytest.raises(ConfigurationError, match="No such file"):
        load(Everything, "try", least)


def test_no_rendering_shows_a_secret(least: dict[str, str]) -> None:
    settings = load(Everything, "try", least)
    assert "hunter2" not in repr(settings) + str(settings) + render(settings, "try")


def test_rendered_settings_load_as_the_same_settings(least: dict[str, str]) -> None:
    settings = load(Everything, "try", least | {"BACKCAST_TRY_NODES": "a,b"})
    again = load(Everything, "try", dict(_lines(render(settings, "try"))))
    assert render(again, "try") == render(settings, "try")
    assert (again.nodes, again.folder, again.fast) == (("a", "b"), None, False)


@given(st.integers(min_value=0), st.floats(min_value=0, allow_infinity=False))
def test_numbers_survive_rendering(count: int, seconds: float) -> None:
    @dataclasses.dataclass(frozen=True)
    class Numbers:
        count: int = 0
        wait_seconds: float = 0.0

    settings = Numbers(count, seconds)
    assert load(Numbers, "try", dict(_lines(render(settings, "try")))) == settings


@pytest.mark.parametrize("endpoint", ["localhost:9000", "ftp://host", "http://", "http://h/x"])
def test_an_s3_endpoint_must_be_the_url_of_a_server(endpoint: str) -> None:
    with pytest.raises(ValueError, match="S3_ENDPOINT"):
        S3Settings(endpoint=endpoint, bucket="b", access_key=Secret("a"), secret_key=Secret("s"))


def test_sasl_needs_user_and_password(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class WithKafka:
        kafka: KafkaSettings

    with pytest.raises(ConfigurationError, match="KAFKA_SASL_PASSWORD_FILE"):
        load(
            WithKafka,
            "try",
            {
                "BACKCAST_TRY_KAFKA_BOOTSTRAP": "127.0.0.1:9092",
                "BACKCAST_TRY_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            },
        )


def test_a_service_composes_inherited_fields_and_groups(password_file: Path) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(ServiceSettings):
        postgres: PostgresSettings
        kek: Secret

    settings = load(
        Settings,
        "chunker",
        {
            "BACKCAST_CHUNKER_LISTEN": "[::]:8080",
            "BACKCAST_CHUNKER_PLAINTEXT": "anywhere",
            "BACKCAST_CHUNKER_POSTGRES_DSN_FILE": str(password_file),
            "BACKCAST_CHUNKER_KEK_FILE": str(password_file),
        },
    )
    assert settings.listen == "[::]:8080"
    assert settings.postgres.pool_size_max == 8


def _lines(text: str) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (line.partition("=") for line in text.split("\n"))]
