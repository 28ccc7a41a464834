import io
import json
import logging
from collections.abc import Iterator

import pytest

from libs.runtime.logs import RepetitionFilter, configure_logs, log_context
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


def test_what_a_library_repeats_is_logged_once_and_counted() -> None:
    now, stream = 100.0, io.StringIO()
    configure_logs("agent", stream=stream)
    (handler,) = logging.getLogger().handlers
    handler.filters[:] = [RepetitionFilter(lambda: now)]
    library = logging.getLogger("aiokafka.cluster")
    for _ in range(700):
        library.error("Topic %s not found in cluster metadata", "backcast.block-changes")
        log.warning("ours")
    library.error("Topic %s not found in cluster metadata", "other")
    now += 31
    library.error("Topic %s not found in cluster metadata", "backcast.block-changes")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    of_library = [line for line in lines if line["logger"] == "aiokafka.cluster"]
    assert [line.get("repeated") for line in of_library] == [None, None, 699]
    assert sum(line["message"] == "ours" for line in lines) == 700


def test_a_trace_on_a_terminal_moves_no_cursor() -> None:
    stream = Terminal()
    configure_logs("chunker", stream=stream)
    try:
        raise ValueError("\x1b[2Jforged")
    except ValueError:
        log.exception("failed")
    assert "\x1b" not in stream.getvalue()
    assert "Traceback (most recent call last):\n" in stream.getvalue()


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
