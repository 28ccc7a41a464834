"""The intake: a position is noted only for records that were handled."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from libs.errors import UnavailableError
from libs.kafka.consumer import LostRecords, Partition
from libs.runtime.health import Check, Health
from libs.runtime.signals import Stop
from services.chunker import intake as intake_module
from services.chunker.intake import Intake

P = Partition("backcast.block-changes", 0)


class Consumer:
    """Delivers one batch of three records, and counts them as read, as `EventConsumer` does."""

    partitions = frozenset({P})

    def __init__(self) -> None:
        self.missing: list[str] = []
        self._batches = [[LostRecords(P, at, at) for at in range(3)]]

    async def batch(self, _timeout_seconds: float) -> list[LostRecords]:
        return self._batches.pop() if self._batches else []

    def positions(self) -> Mapping[Partition, int]:
        return {P: 3}

    def missing_topics(self) -> list[str]:
        return self.missing


class Attempts:
    """Is told of every record and position; asks to stop after some records."""

    def __init__(self, stop: Stop, records: int) -> None:
        self._stop = stop
        self._records = records
        self.handled = 0
        self.noted: list[Mapping[Partition, int]] = []

    def fail_partition(self, _partition: Partition, _code: str, _message: str) -> None:
        self.handled += 1
        if self.handled == self._records:
            self._stop.request()

    def to_read_again(self) -> Mapping[Partition, int]:
        return {}

    def note_read(self, positions: Mapping[Partition, int]) -> None:
        self.noted.append(positions)


def read_until_stopped(after: int) -> Attempts:
    stop = Stop()
    attempts = Attempts(stop, after)
    catalog: Any = None
    consumer: Any = Consumer()
    told: Any = attempts
    intake = Intake(catalog, told, told, "chunker", CollectorRegistry())
    asyncio.run(intake._read(consumer, stop, Health().loop("intake", 60)))
    return attempts


def test_records_left_unhandled_when_it_stops_are_behind_no_position() -> None:
    """A successor would begin after them: their captures would wait for their deadline."""
    attempts = read_until_stopped(after=2)
    assert (attempts.handled, attempts.noted) == (2, [])


def test_records_that_were_all_handled_are_behind_the_position() -> None:
    attempts = read_until_stopped(after=3)
    assert (attempts.handled, attempts.noted) == (3, [{P: 3}])


def test_a_record_that_waits_for_the_catalog_is_told_and_is_no_reason_to_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process was restarted again and again while Postgres was away."""
    monkeypatch.setattr(intake_module, "_AGAIN_SECONDS", 0.0)
    clock, seen = [100.0], list[tuple[Check, Check]]()
    health, stop = Health(clock=lambda: clock[0]), Stop()
    loop = health.loop("intake", 60)

    class Waiting(Attempts):
        def fail_partition(self, partition: Partition, code: str, message: str) -> None:
            if clock[0] == 100.0:
                clock[0] += 61
                raise UnavailableError("catalog: refused")
            seen.append((health.alive()[0], health.ready()[1]))
            super().fail_partition(partition, code, message)

    attempts: Any = Waiting(stop, 3)
    catalog: Any = None
    consumer: Any = Consumer()
    intake = Intake(catalog, attempts, attempts, "chunker", CollectorRegistry())
    asyncio.run(intake._read(consumer, stop, loop))
    alive, told = seen[0]
    assert alive.ok
    assert (told.name, told.ok, told.is_needed) == ("intake", False, False)


def test_without_partitions_it_is_not_ready_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A topic that was deleted: /readyz was green, and sessions failed at their deadlines."""
    consumer, health = Consumer(), Health()
    health.started()
    loop = health.loop("intake", 60)
    nothing: Any = None
    intake = Intake(nothing, nothing, nothing, "chunker", CollectorRegistry())
    as_consumer: Any = consumer
    consumer.missing = ["backcast.block-changes"]
    for _ in range(3):
        intake._look_for_topics(as_consumer, loop)
    (check,) = [one for one in health.ready() if one.name == "intake"]
    assert not check.ok
    assert "backcast.block-changes: has no partitions" in check.detail
    assert all(one.ok for one in health.alive())
    consumer.missing = []
    intake._look_for_topics(as_consumer, loop)
    assert all(one.ok for one in health.ready())
    said = [record.message for record in caplog.records]
    assert said.count("topic has no partitions") == 1
