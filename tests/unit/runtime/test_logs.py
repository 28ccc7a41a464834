import io
import json
import logging
from collections.abc import Iterator

import pytest

from libs.runtime.logs import configure_logs, log_context
from libs.runtime.settings import Secret

log = logging.getLogger("tested")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore_root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)


def test_a_line_for_machines_is_one_json_object_with_context_and_fields() -> None:
    stream = io.StringIO()
    configure_logs("chunker", stream=stream)
    with log_context(session="s1"), log_context(volume="vm"):
        log.info("sealed\nindeed", extra={"sequence": 12})
    log.info("after")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["message"] == "sealed\nindeed"
    assert (first["service"], first["level"], first["logger"]) == ("chunker", "info", "tested")
    assert (first["session"], first["volume"], first["sequence"]) == ("s1", "vm", 12)
    assert first["time"].endswith("Z")
    assert "session" not in second


def test_an_exception_is_part_of_its_line() -> None:
    stream = io.StringIO()
    configure_logs("chunker", stream=stream)
    try:
        {}["lost"]
    except KeyError:
        log.exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["error"] == "KeyError"
    assert "lost" in json.loads(line)["traceback"]


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_secrets_are_not_logged(stream: io.StringIO) -> None:
    configure_logs("chunker", stream=stream)
    log.info("connected %s", Secret("s3cr3t"), extra={"bearer_token": "s3cr3t", "dsn": "s3cr3t"})
    assert "s3cr3t" not in stream.getvalue()
    assert "***" in stream.getvalue()


def test_a_line_for_people_cannot_be_forged_by_what_it_reports() -> None:
    stream = Terminal()
    configure_logs("chunker", stream=stream)
    log.info("opened", extra={"path": "a\n12:00 ERROR forged \x1b[2J"})
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_libraries_do_not_talk_below_warning() -> None:
    stream = io.StringIO()
    configure_logs("chunker", stream=stream)
    logging.getLogger("uvicorn.error").info("chatter")
    logging.getLogger("uvicorn.error").warning("news")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["news"]
