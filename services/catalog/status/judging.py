"""What of the facts is a problem, and what is a remark: pure, so that one screen can be trusted.

A problem is what somebody should look at now: a recovery point is missing or doubtful, or soon will
be. A remark is what somebody should know. All is well if there is no problem.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from libs.catalogdb.deletion.brake import Halt
from libs.catalogdb.sessions.chunkers import ChunkerState, why_none_reads
from libs.catalogdb.status import GroupStatus, InstallationStatus, NodeStatus
from libs.catalogdb.stores import StoreFigures, StoreState
from libs.sizes import human_bytes

#: An agent announces itself every 15 s (`BACKCAST_AGENT_ANNOUNCE_INTERVAL_SECONDS`).
NODE_SILENT_SECONDS_MAX = 120.0
#: A chunker takes a capture within a second of its beginning, and a rebalance takes a few.
UNTAKEN_SECONDS_MAX = 30.0
#: From this share of a quota on a tenant will soon be full.
NEARLY_FULL = 0.8
#: Copies lag behind by seconds while all is well.
LAG_SECONDS_MAX = 3600.0


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to look at, or to know."""

    #: A stable word for programs.
    code: str
    #: What it is about: a group, a node, a store; empty: the installation.
    about: str
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found."""

    problems: list[Finding]
    remarks: list[Finding]


def judge_tenant(
    groups: Iterable[GroupStatus], nodes: Iterable[NodeStatus], age_seconds_max: float | None
) -> Verdict:
    """How a tenant's backups stand.

    Args:
        groups: facts of its groups.
        nodes: facts of the nodes that have its volumes.
        age_seconds_max: how old a group's newest recovery point may be, also that of a paused one;
            None: nobody has said, so only groups without any are problems.
    """
    groups, nodes = list(groups), list(nodes)
    problems = [one for group in groups for one in _problems_of(group, age_seconds_max)]
    problems += [
        Finding(
            "node-silent",
            node.node,
            f"its agent was last heard of {_ago(node.silent_seconds)} ago; {node.volumes} volumes "
            f"are there",
        )
        for node in nodes
        if node.silent_seconds > NODE_SILENT_SECONDS_MAX
    ]
    remarks = [
        Finding("paused", group.group, f"{group.paused_by} has paused it: {group.paused_reason}")
        for group in groups
        if group.paused_by is not None
    ]
    if not groups:
        remarks.append(Finding("no-volumes", "", "no volume is protected"))
    return Verdict(problems, remarks)


def judge_quota(stored_bytes: int | None, quota_bytes: int | None) -> Verdict:
    """How much of its quota a tenant uses: from 80 % on a remark, at the quota a problem."""
    if stored_bytes is None or quota_bytes is None or stored_bytes < NEARLY_FULL * quota_bytes:
        return Verdict([], [])
    quota = human_bytes(quota_bytes)
    share = f"it stores {stored_bytes / quota_bytes:.0%} of its quota of {quota}"
    if stored_bytes < quota_bytes:
        return Verdict([], [Finding("quota-nearly-full", "", share)])
    return Verdict([Finding("quota-full", "", f"{share}: no session opens")], [])


def _problems_of(group: GroupStatus, age_seconds_max: float | None) -> Iterator[Finding]:
    if group.age_seconds is None:
        if group.paused_by is None:
            yield Finding("no-recovery-point", group.group, "it has no recovery point")
    elif age_seconds_max is not None and group.age_seconds > age_seconds_max:
        yield Finding(
            "recovery-point-old",
            group.group,
            f"its newest recovery point @{group.sequence} was sealed {_ago(group.age_seconds)} ago",
        )
    if group.failed_session is not None:
        yield Finding(
            "session-rejected",
            group.group,
            f"its last session {group.failed_session} was rejected: {group.failed_code}: "
            f"{group.failed_message or 'unknown'}",
        )
    if group.untaken_volume is not None and (group.untaken_seconds or 0) > UNTAKEN_SECONDS_MAX:
        yield Finding(
            "session-waits",
            group.group,
            f"its open session {group.open_session} makes no progress: no chunker has taken volume "
            f"{group.untaken_volume}, which the agent of node {group.untaken_node} captures, for "
            f"{_ago(group.untaken_seconds or 0)}",
        )
    if group.damaged:
        yield Finding(
            "damaged",
            group.group,
            f"{group.damaged} of its recovery points are known to be damaged; `backcast snapshot "
            f"list {group.group}` says which",
        )
    if group.lacking_copies:
        yield Finding(
            "copies-missing",
            group.group,
            f"{group.lacking_copies} of its recovery points are not yet whole at the second store",
        )


def judge_installation(
    status: InstallationStatus,
    halts: Sequence[Halt],
    stores: Sequence[tuple[StoreState, StoreFigures]],
    chunkers: Sequence[ChunkerState],
    waits_for_person: str,
) -> Verdict:
    """How the installation stands: catalog, chunkers, brakes and stores.

    Args:
        status: of the catalog.
        halts: of the brake.
        stores: those that the catalog knows.
        chunkers: those that were heard of lately.
        waits_for_person: why the catalog does nothing until a person does something; empty: it
            does not wait.
    """
    problems = []
    if waits_for_person:
        problems.append(Finding("catalog-waits", "", waits_for_person))
    elif not status.is_reconciled:
        problems.append(
            Finding(
                "not-reconciled", "", "the catalog is being compared with the store; sessions wait"
            )
        )
    chunking = judge_chunkers(chunkers)
    problems += chunking.problems
    if status.is_clock_halted:
        problems.append(
            Finding("clock-jump", "", "a clock has jumped, so retention gives up nothing")
        )
    problems += [
        Finding("halted", halt.name, halt.message) for halt in halts if halt.kind != "clock-jump"
    ]
    problems += [one for state, figures in stores for one in _problems_of_store(state, figures)]
    return Verdict(problems, chunking.remarks)


def judge_chunkers(chunkers: Sequence[ChunkerState]) -> Verdict:
    """Whether captures are taken, and which chunkers cannot do all of their work."""
    none_reads = why_none_reads(chunkers)
    problems = [Finding("no-chunker", "", none_reads)] if none_reads else []
    problems += [
        Finding("chunker-not-ready", f"chunker {one.name}", f"is not ready: {one.trouble}")
        for one in chunkers
        if one.is_heard and one.trouble
    ]
    remarks = [
        Finding(
            "chunker-silent",
            f"chunker {one.name}",
            f"was last heard of {_ago(one.silent_seconds)} ago; others do its work",
        )
        for one in chunkers
        if not one.is_heard and not none_reads
    ]
    return Verdict(problems, remarks)


def _problems_of_store(state: StoreState, figures: StoreFigures) -> Iterator[Finding]:
    if state.state == "lost":
        yield Finding("store-lost", state.name, "it was declared lost; `backcast store repair`")
    elif figures.damaged:
        yield Finding("copies-damaged", state.name, f"{figures.damaged} copies are damaged there")
    elif figures.lag_seconds > LAG_SECONDS_MAX:
        yield Finding(
            "copies-late", state.name, f"its copies are {_ago(figures.lag_seconds)} behind"
        )


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
