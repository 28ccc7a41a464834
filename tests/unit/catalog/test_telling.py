import logging
from uuid import UUID

import pytest

from libs.catalogdb.log.log import Entry
from libs.catalogdb.sessions.telling import tell_rejected
from libs.events.snapshots import SnapshotRejected, SnapshotRequested


def test_what_was_rejected_is_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    session, group = UUID(int=1), UUID(int=2)
    event = SnapshotRejected(
        session=session, group=group, code="source", message="the disk is gone"
    )
    requested = SnapshotRequested(session=session, group=group, base=None)
    with caplog.at_level(logging.INFO):
        assert not tell_rejected([Entry(requested, "acme", str(group), session)])
        assert caplog.records == []
        assert tell_rejected([Entry(event, "acme", str(group), session)])
    (record,) = caplog.records
    assert record.message == "session rejected"
    told = vars(record)
    assert (told["tenant"], told["session"], told["code"], told["detail"]) == (
        "acme",
        str(session),
        "source",
        "the disk is gone",
    )
