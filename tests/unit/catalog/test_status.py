"""What is a problem and what is a remark."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from libs.catalogdb.deletion.brake import Amount, Halt, Kind
from libs.catalogdb.sessions.chunkers import ChunkerState
from libs.catalogdb.status import GroupStatus, InstallationStatus, NodeStatus
from libs.catalogdb.stores import StoreFigures, StoreState
from services.catalog.status.judging import judge_installation, judge_quota, judge_tenant

DAY = 86_400.0
NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


def group(**changed: object) -> GroupStatus:
    well: dict[str, object] = {
        "group": "db",
        "volumes": ["data", "log"],
        "paused_by": None,
        "paused_reason": None,
        "sequence": 7,
        "sealed_at": NOW,
        "age_seconds": DAY / 2,
        "open_session": None,
        "open_seconds": None,
        "untaken_seconds": None,
        "untaken_volume": None,
        "untaken_node": None,
        "failed_session": None,
        "failed_at": None,
        "failed_code": None,
        "failed_message": None,
        "damaged": 0,
        "lacking_copies": 0,
    }
    return GroupStatus(**(well | changed))  # type: ignore[arg-type] # columns by their names


FAILED = {"failed_session": UUID(int=1), "failed_code": "source", "failed_message": "no such file"}
NEVER = {"sequence": None, "sealed_at": None, "age_seconds": None}
PAUSED = {"paused_by": "ops", "paused_reason": "the array moves"}


@pytest.mark.parametrize(
    ("changed", "codes"),
    [
        ({}, []),
        (NEVER, ["no-recovery-point"]),
        (NEVER | PAUSED, []),
        ({"age_seconds": 1.5 * DAY}, ["recovery-point-old"]),
        ({"age_seconds": 1.5 * DAY} | PAUSED, ["recovery-point-old"]),
        (FAILED, ["session-rejected"]),
        ({"damaged": 2}, ["damaged"]),
        ({"lacking_copies": 2}, ["copies-missing"]),
        ({"open_session": UUID(int=2), "open_seconds": 5.0}, []),
        (NEVER | FAILED, ["no-recovery-point", "session-rejected"]),
    ],
)
def test_what_is_wrong_with_a_group_is_a_problem(
    changed: dict[str, object], codes: list[str]
) -> None:
    verdict = judge_tenant([group(**changed)], [], DAY)
    assert [one.code for one in verdict.problems] == codes
    assert {one.about for one in verdict.problems} <= {"db"}


def test_nobody_has_said_how_old_a_point_may_be() -> None:
    assert judge_tenant([group(age_seconds=900 * DAY)], [], None).problems == []


def test_a_pause_is_a_remark_that_says_who_and_why() -> None:
    (remark,) = judge_tenant([group(**PAUSED)], [], None).remarks
    assert remark.message == "ops has paused it: the array moves"
    assert [one.code for one in judge_tenant([], [], None).remarks] == ["no-volumes"]


def test_a_silent_agent_is_a_problem() -> None:
    nodes = [NodeStatus("node-1", 3, 20.0), NodeStatus("node-2", 1, 7200.0)]
    (problem,) = judge_tenant([group()], nodes, None).problems
    assert (problem.code, problem.about) == ("node-silent", "node-2")
    assert "2 h ago" in problem.message


def halt(kind: Kind) -> Halt:
    return Halt(f"{kind}-0a", kind, NOW, Amount(5, 5), "too many", [])


def store(state: str = "online") -> StoreState:
    return StoreState(2, None, "second", state, 0, refill=False)  # type: ignore[arg-type] # by name


@pytest.mark.parametrize(
    ("status", "halts", "stores", "codes"),
    [
        (InstallationStatus(True, False), [], [], []),
        (InstallationStatus(False, False), [], [], ["not-reconciled"]),
        (InstallationStatus(True, True), [halt(Kind.CLOCK)], [], ["clock-jump"]),
        (InstallationStatus(True, False), [halt(Kind.OVERDUE)], [], ["halted"]),
        (InstallationStatus(True, False), [], [("lost", 0, 0.0)], ["store-lost"]),
        (InstallationStatus(True, False), [], [("online", 3, 0.0)], ["copies-damaged"]),
        (InstallationStatus(True, False), [], [("online", 0, 9000.0)], ["copies-late"]),
        (InstallationStatus(True, False), [], [("online", 0, 9.0)], []),
    ],
)
def test_what_is_wrong_with_the_installation_is_a_problem(
    status: InstallationStatus,
    halts: list[Halt],
    stores: list[tuple[str, int, float]],
    codes: list[str],
) -> None:
    figures = [
        (store(state), StoreFigures(wanted=0, damaged=damaged, tombstones=0, lag_seconds=lag))
        for state, damaged, lag in stores
    ]
    verdict = judge_installation(status, halts, figures, [READING], "")
    assert [one.code for one in verdict.problems] == codes


READING = ChunkerState("one", 12, "", 2.0, None)
STARTED = ChunkerState("started", 0, "", 2.0, 10.0)
IDLE = ChunkerState("idle", 0, "", 2.0, 31.0)
KILLED = ChunkerState("killed", 12, "", 300.0, None)
TROUBLED = ChunkerState("ill", 3, "kafka: no answer for 3 s", 2.0, None)


@pytest.mark.parametrize(
    ("chunkers", "problems", "remarks"),
    [
        ([READING], [], []),
        ([READING, IDLE], [], []),
        ([STARTED, IDLE], [], []),
        ([READING, KILLED], [], ["chunker-silent"]),
        ([READING, TROUBLED], ["chunker-not-ready"], []),
        ([], ["no-chunker"], []),
        ([IDLE], ["no-chunker"], []),
        ([KILLED], ["no-chunker"], []),
    ],
)
def test_somebody_must_take_captures(
    chunkers: list[ChunkerState], problems: list[str], remarks: list[str]
) -> None:
    verdict = judge_installation(InstallationStatus(True, False), [], [], chunkers, "")
    assert [one.code for one in verdict.problems] == problems
    assert [one.code for one in verdict.remarks] == remarks


def test_a_catalog_that_waits_for_a_person_says_for_what() -> None:
    status = InstallationStatus(is_reconciled=False, is_clock_halted=False)
    verdict = judge_installation(status, [], [], [READING], "run `backcast catalog rebuild`")
    assert [(one.code, one.message) for one in verdict.problems] == [
        ("catalog-waits", "run `backcast catalog rebuild`")
    ]


@pytest.mark.parametrize(("seconds", "codes"), [(29.0, []), (31.0, ["session-waits"])])
def test_a_session_that_no_chunker_takes_is_a_problem(seconds: float, codes: list[str]) -> None:
    open_now = {"open_session": UUID(int=2), "open_seconds": seconds, "untaken_seconds": seconds}
    untaken = group(**open_now, untaken_volume="data", untaken_node="node-2")
    verdict = judge_tenant([untaken], [], None)
    assert [one.code for one in verdict.problems] == codes
    taken = group(**open_now)
    assert judge_tenant([taken], [], None).problems == []


@pytest.mark.parametrize(
    ("stored_bytes", "quota_bytes", "problems", "remarks"),
    [
        (None, None, [], []),
        (79, 100, [], []),
        (80, 100, [], ["quota-nearly-full"]),
        (100, 100, ["quota-full"], []),
    ],
)
def test_a_quota_is_a_remark_first(
    stored_bytes: int | None, quota_bytes: int | None, problems: list[str], remarks: list[str]
) -> None:
    verdict = judge_quota(stored_bytes, quota_bytes)
    assert [one.code for one in verdict.problems] == problems
    assert [one.code for one in verdict.remarks] == remarks


def test_a_quota_is_told_as_people_read_sizes() -> None:
    (problem,) = judge_quota(3 << 40, 3 << 40).problems
    assert problem.message == "it stores 100% of its quota of 3.00 TiB: no session opens"
