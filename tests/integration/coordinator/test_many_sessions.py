"""What open sessions cost a coordinator: it grows with their number, not with its square."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from uuid import UUID

import pytest

from libs.catalogdb.listening import Listener
from libs.catalogdb.nodes.announcing import announce_node
from libs.catalogdb.protected import Node, add_volume
from libs.catalogdb.sessions.session import SESSION_CHANNEL, SessionView
from libs.ids import NodeIdentity, uuid7
from libs.keys.kek import KeyEncryptionKey
from libs.keys.nodes import NodeKey
from libs.keys.vault import KeyVault
from libs.runtime.signals import Stop
from libs.store.memory import MemoryStore
from services.change_capture.coordinator.agents import Agents
from services.change_capture.coordinator.conductor import Conductor
from services.change_capture.coordinator.routes import add_routes
from services.change_capture.coordinator.tenants import ensure_tenant
from services.change_capture.rpc import CaptureStatus
from tests.support.catalog import TENANT, CatalogSite
from tests.support.conducting import conductor_of
from tests.support.counting import CountingCatalog
from tests.support.polling import Poll, application, served
from tests.support.running import eventually

#: Rounds of the coordinator, each after a push of its agent.
ROUNDS = 3
NODE = Node("node-1", "http://node-1:1", "node-1:2", UUID(int=7))


class QuietAgents(Agents):
    """An agent that begins whatever is ordered, and reports by itself."""

    def __init__(self) -> None:
        self.asked = 0

    def begin(self, *_: object) -> CaptureStatus:
        return CaptureStatus(
            session=UUID(int=0), capture=UUID(int=0), boot=NODE.boot, state="reading", read_bytes=0
        )

    def status(self, *_: object) -> CaptureStatus:
        self.asked += 1
        raise AssertionError("an agent that reports is not asked")


class Crowd:
    """A coordinator with open sessions, each of which somebody waits for."""

    def __init__(self, site: CatalogSite, count: int) -> None:
        self.catalog, self.agents = CountingCatalog(site.coordinator), QuietAgents()
        vault = KeyVault(MemoryStore(), KeyEncryptionKey.generate())
        self.vault = vault
        ensure_tenant(site.coordinator, vault, TENANT)
        announce_node(site.coordinator, NODE)
        self.threads = ThreadPoolExecutor(4)
        self.conductor: Conductor = conductor_of(
            self.catalog, vault, self.agents, self.threads, orders=ThreadPoolExecutor(4)
        )
        self.views = []
        for number in range(count):
            add_volume(
                site.coordinator, TENANT, f"v{number}", f"v{number}", NODE.name, f"/dev/v{number}"
            )
            view = self.conductor.request(TENANT, f"v{number}", uuid7(), full=False)
            assert isinstance(view, SessionView)
            self.views.append(view)

    def report(self, read_bytes: int) -> None:
        """The agent pushes how far all captures are."""
        node = NodeIdentity(NODE.name, NODE.credential)
        self.conductor.hear(
            (
                node,
                CaptureStatus(
                    session=view.session,
                    capture=view.parts[0].capture,
                    boot=NODE.boot,
                    state="reading",
                    read_bytes=read_bytes,
                ),
            )
            for view in self.views
        )


def cost(site: CatalogSite, count: int) -> tuple[int, int, int]:
    """Of open sessions: waiters woken and transactions when all have news, and of a round."""
    site.empty()
    crowd, stop = Crowd(site, count), Stop()
    news_of, bells = crowd.conductor.news, crowd.conductor.news.bells
    listening = threading.Event()
    listener = Listener(
        crowd.catalog, SESSION_CHANNEL, lambda text: news_of.tell(UUID(text)), news_of.tell_all
    )
    crowd.threads.submit(listener.round, stop, listening.set)
    app = application(8 * count)
    add_routes(app, crowd.catalog, crowd.vault, crowd.agents, crowd.conductor, NodeKey("k" * 64))
    try:
        crowd.report(1)
        crowd.conductor.watch(1)  # takes in what is open
        assert listening.wait(20)
        polls: list[Poll] = []
        with served(app) as url, ExitStack() as stack:
            for view in crowd.views:
                path = f"/v1/tenants/{TENANT}/sessions/{view.session}?wait_seconds=30"
                polls.append(stack.enter_context(Poll(url, path)))
                if len(polls) % 50 == 0:  # no more at once than may be in line
                    eventually("they wait", lambda: bells.waiting_count == len(polls))
            woken, transactions = bells.wake_count, crowd.catalog.count
            crowd.report(2)
            for poll in polls:
                status, session = poll.answer()
                assert (status, session["parts"][0]["read_bytes"]) == (200, 2)
        news = crowd.catalog.count - transactions
        before, rounds = crowd.catalog.count, 0
        crowd.report(3)
        while rounds < ROUNDS:  # each waits for news, or a second
            crowd.conductor.watch(1)
            crowd.report(4 + rounds)
            rounds += 1
        assert crowd.agents.asked == 0
        return bells.wake_count - woken, news, crowd.catalog.count - before
    finally:
        stop.request()
        crowd.threads.shutdown()


@pytest.mark.parametrize("count", [50, 100, 200])
def test_news_wakes_who_waits_for_it_and_a_round_asks_once(site: CatalogSite, count: int) -> None:
    woken, news, round_ = cost(site, count)
    assert woken == count
    #: One push of the agent, and each waiter reads its session once more.
    assert news <= count + 3
    #: A push is two transactions; a round looks at what is open, and at those with news.
    assert round_ <= 2 * (ROUNDS + 1) + 2 * ROUNDS
