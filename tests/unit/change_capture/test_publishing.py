"""The agent's one producer: whatever breaks it, captures hear of it and the next one is fresh."""

from collections.abc import Iterator
from pathlib import Path
from typing import Self
from uuid import uuid4

import pytest

from libs.errors import UnavailableError
from libs.events.block_changes import CaptureAborted
from libs.events.record import EventRecord
from libs.runtime.groups import KafkaSettings
from services.change_capture.agent import publishing
from services.change_capture.agent.order import CaptureOrder
from services.change_capture.agent.publishing import EventSender
from tests.unit.change_capture.capturing import order_for


class Producer:
    """Stands for a producer, which breaks as often as the test says."""

    def __init__(self) -> None:
        self.failures = 0
        self.made = 0
        self.taken: list[EventRecord] = []

    def __call__(self, _: KafkaSettings) -> Self:
        self.made += 1
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def publish(self, record: EventRecord) -> None:
        if self.failures:
            self.failures -= 1
            raise ValueError("a bug in a library")
        self.taken.append(record)

    async def flush(self) -> None:
        pass


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> Producer:
    producer = Producer()
    monkeypatch.setattr(publishing, "Publisher", producer)
    return producer


@pytest.fixture
def sender(producer: Producer) -> Iterator[EventSender]:
    sender = EventSender(KafkaSettings(bootstrap="in-memory:1"), "node")
    yield sender
    sender.close()


def send(sender: EventSender, order: CaptureOrder) -> None:
    event = CaptureAborted(
        session=order.session, capture=order.capture, volume=order.volume, code="x", message="x"
    )
    sender.send(order, event)


def test_an_error_that_nobody_foresaw_fails_its_capture_and_nothing_else(
    sender: EventSender, producer: Producer, caplog: pytest.LogCaptureFixture
) -> None:
    order = order_for(Path("disk"), uuid4(), None)
    producer.failures = 1
    send(sender, order)
    with pytest.raises(UnavailableError, match="a bug in a library"):
        sender.flush(order)
    assert "events not published" in caplog.messages
    assert caplog.records[0].exc_info
    later = order_for(Path("disk"), uuid4(), None)
    send(sender, later)
    sender.flush(later)
    assert len(producer.taken) == 1
    assert producer.made == 2
