"""Coordinators and the nodes' side of barriers, wired as their `__main__` does."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path

from libs.catalogdb.pool import Catalog
from libs.keys.vault import KeyVault
from libs.rest.client import Json
from services.change_capture.barrier.barrier import Barriers as NodeBarriers
from services.change_capture.coordinator.agents import Agents
from services.change_capture.coordinator.barriers import Barriers
from services.change_capture.coordinator.conductor import Conductor
from services.change_capture.drivers.table import drivers
from services.change_capture.rpc import PrepareRequest
from tests.support.roots import EVERYTHING


def node_barriers(
    state_folder: Path,
    outcome_timeout_seconds: float = 60,
    clock: Callable[[], float] = time.time,
) -> NodeBarriers:
    """What an agent process holds and has cut."""
    known = drivers(state_folder, EVERYTHING)
    holds = state_folder / "holds"
    return NodeBarriers(known, EVERYTHING, holds, outcome_timeout_seconds, clock)


def prepare_request(
    attempt: int,
    tenant: str,
    sources: Sequence[Json],
    hold_seconds: float,
    volume_count: int,
) -> PrepareRequest:
    """What an agent makes of the coordinator's request, without HTTP between them."""
    return PrepareRequest.model_validate(
        {
            "attempt": attempt,
            "tenant": tenant,
            "sources": sources,
            "hold_seconds": hold_seconds,
            "volume_count": volume_count,
        }
    )


def conductor_of(
    catalog: Catalog,
    vault: KeyVault,
    agents: Agents,
    executor: Executor,
    *,
    orders: Executor | None = None,
    hold_seconds: float = 10,
    barrier_seconds: float = 30,
    deadline_seconds: float = 60,
) -> Conductor:
    """A coordinator without its loops.

    Args:
        catalog: in the coordinator's role.
        vault: gives keys.
        agents: the agents' RPC.
        executor: runs what is done for one session.
        orders: runs orders to agents; the same one where that runs everything at once.
        hold_seconds: see `Barriers`.
        barrier_seconds: see `Barriers`.
        deadline_seconds: of sessions.
    """
    orders = orders or executor
    barriers = Barriers(catalog, agents, orders, hold_seconds, barrier_seconds, deadline_seconds)
    return Conductor(catalog, vault, agents, barriers, executor, orders, deadline_seconds)
