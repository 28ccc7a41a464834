"""Keys are changed under a living catalog, and the bucket alone still gives everything back."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import Depends

from deploy.local.cluster import LocalCluster
from libs.checkpoints.shelf import CheckpointShelf
from libs.copies.stores import PRIMARY, Stores
from libs.errors import ConflictError, NotFoundError, WrongKeyError
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.packs.manifest import parse_manifest_header
from libs.rest.auth import Caller, Tokens, authenticated, digest_of
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from libs.runtime.signals import Stop
from libs.store.folder import FolderStore
from libs.store.layout import KEYS_PREFIX, MANIFESTS_PREFIX
from services.catalog.keys.data_keys import DataKeys
from services.catalog.keys.endpoints import KeyTools, add_key_routes
from services.catalog.keys.rotation import KekRotation, RotationState, keys_to_wrap
from services.catalog.recovery.checkpoints import Checkpoints
from services.catalog.verification.verifier import Thoroughness, Verifier
from tests.integration.catalog.protected import TENANT
from tests.integration.catalog.recovery.timeline import Timeline, timeline

ADMIN = "admin's"
SECONDS_MAX = 60.0


@pytest.fixture
def line(servers: LocalCluster, tmp_path: Path) -> Iterator[Timeline]:
    """Two tenants with a snapshot each, and checkpoints under the first key."""
    with timeline(servers.postgres.dsn, FolderStore(tmp_path)) as made:
        made.checkpoints.compare()
        made.protected.protect("disk")
        made.protected.protect("theirs", tenant="other")
        made.protected.take("disk", 1, 2)
        made.checkpoints.write()
        made.protected.take("theirs", 3, 4)
        made.checkpoints.write()
        yield made


def data_keys(line: Timeline) -> DataKeys:
    return DataKeys(line.site.catalog, Stores(line.store), line.kek, line.checkpoints.write)


def restart_with(line: Timeline, kek: KeyEncryptionKey) -> None:
    """All processes are others, which were given this key."""
    line.kek, line.shelf = kek, CheckpointShelf(line.store, kek)
    line.go_back(line.dump())
    line.reconcile()


def rebuild_with(line: Timeline, kek: KeyEncryptionKey) -> None:
    """Only the bucket and this key are left."""
    line.kek, line.shelf = kek, CheckpointShelf(line.store, kek)
    live = set(line.protected.live)
    line.lose_everything()
    line.reconcile()
    assert line.live() == live
    line.protected.check()


def manifest_keys(line: Timeline) -> list[object]:
    listed = sorted(line.store.list(MANIFESTS_PREFIX), key=lambda stat: stat.modified_at)
    return [parse_manifest_header(line.store.get(stat.key)).key_id for stat in listed]


def used(line: Timeline) -> list[object]:
    """Data keys of live packs, in their order."""
    return [row[0] for row in line.site.sql("SELECT key_id FROM pack ORDER BY pack_no")]


def test_new_packs_and_manifests_are_sealed_under_the_new_data_key(line: Timeline) -> None:
    before = used(line)
    (done,) = data_keys(line).rotate(TENANT)
    assert (done.tenant, done.before) == (TENANT, before[0])
    line.protected.take("disk", 1, 2, 5)
    assert used(line) == [*before, done.key_id]
    assert manifest_keys(line)[-1] == done.key_id
    line.protected.check()
    # What is stored is found by its ids, and not stored again.
    line.protected.take("disk", 1, 2)
    assert len(used(line)) == len(before) + 1 or used(line)[-1] == done.key_id
    rebuild_with(line, line.kek)
    assert line.site.sql("SELECT key_id FROM domain WHERE domain = %s", done.domain) == [
        (done.key_id,)
    ]


def test_snapshots_from_before_a_new_data_key_stay_intact(line: Timeline) -> None:
    data_keys(line).rotate(None)
    line.protected.take("disk", 1, 6)
    protected = line.protected
    verifier = Verifier(line.site.catalog, protected.stores, protected.vault, 60, 0, Stop())
    for (volume, _), session in protected.sessions.items():
        tenant = protected.tenant_of(volume)
        verdict = verifier.verify(tenant, session, Thoroughness("full", sample=1.0))
        assert type(verdict).__name__ == "Intact"


def test_a_new_data_key_is_known_to_the_store_when_it_is_answered(line: Timeline) -> None:
    done = data_keys(line).rotate(None)
    assert [one.tenant for one in done] == [TENANT, "other"]
    rebuild_with(line, line.kek)
    keys = {row[0] for row in line.site.sql("SELECT key_id FROM domain")}
    assert keys == {one.key_id for one in done}


def test_a_crash_before_a_new_data_key_is_used_leaves_the_old_one(
    line: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as dying:
        dying.setattr("services.catalog.keys.data_keys.use_data_key", _killed)
        with pytest.raises(KeyboardInterrupt):
            data_keys(line).rotate(TENANT)
    assert len(list(line.store.list(KEYS_PREFIX))) == 3
    line.protected.take("disk", 7)
    assert used(line)[-1] == used(line)[0]
    rebuild_with(line, line.kek)
    assert data_keys(line).rotate(TENANT)


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_nobody_gets_a_new_data_key_while_the_kek_is_changed(line: Timeline) -> None:
    both = KeyEncryptionKey(b"n" * 32, line.kek)
    keys = DataKeys(line.site.catalog, Stores(line.store), both, line.checkpoints.write)
    with pytest.raises(ConflictError, match="rotate-kek"):
        keys.rotate(TENANT)
    with pytest.raises(NotFoundError):
        data_keys(line).rotate("nosuch")


def rotation(line: Timeline) -> KekRotation:
    stores = Stores(line.store)
    return KekRotation(
        stores,
        line.kek,
        lambda: keys_to_wrap(line.site.catalog, stores),
        line.checkpoints.write,
        lambda store_no: store_no == PRIMARY,
    )


def test_after_a_change_the_bucket_and_the_new_kek_give_everything_back(line: Timeline) -> None:
    old, new = line.kek, KeyEncryptionKey(b"n" * 32)
    restart_with(line, KeyEncryptionKey(new.secret, old))
    line.protected.take("disk", 8)
    state = RotationState()
    rotation(line).rotate(state)
    assert (state.keys, state.left) == (2, 0)
    with pytest.raises(WrongKeyError):
        CheckpointShelf(line.store, old).newest_state()
    line.protected.take("disk", 9)
    line.checkpoints.write()
    rebuild_with(line, new)
    line.protected.take("disk", 10)
    line.protected.check()


@pytest.mark.parametrize("step", ["put", "write", "delete"])
def test_a_change_that_was_killed_goes_on_and_a_rebuild_needs_no_old_kek(
    line: Timeline, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    old, new = line.kek, KeyEncryptionKey(b"n" * 32)
    restart_with(line, KeyEncryptionKey(new.secret, old))
    with monkeypatch.context() as dying:
        where = line.checkpoints if step == "write" else line.store
        dying.setattr(where, step, _killed)
        with pytest.raises(KeyboardInterrupt):
            rotation(line).rotate(RotationState())
    rebuild_with(line, KeyEncryptionKey(new.secret, old))
    state = RotationState()
    rotation(line).rotate(state)
    assert state.left == 0
    rebuild_with(line, new)


def test_a_chain_of_the_old_kek_ends_with_a_base_of_the_new_one(line: Timeline) -> None:
    both = KeyEncryptionKey(b"n" * 32, line.kek)
    shelf = CheckpointShelf(line.store, both)
    line.protected.take("disk", 11)
    Checkpoints(line.site.catalog, line.store, shelf, keep_count=10).write()
    newest = CheckpointShelf(line.store, both.alone).newest_state()
    assert newest is not None
    assert newest.head.chain == ()


def test_a_store_that_is_not_configured_stops_a_change(line: Timeline) -> None:
    line.site.sql("INSERT INTO store (store_no, name) VALUES (2, 'second')")
    with pytest.raises(ConflictError, match="store second"):
        rotation(line).rotate(RotationState())
    assert len(list(line.store.list(KEYS_PREFIX))) == 2
    assert KeyVault(line.store, line.kek).check() is None  # type: ignore[func-returns-value] # opens


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """Whoever runs the tests in the background has SIGINT ignored, and what they start with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def serving_keys(line: Timeline) -> Iterator[str]:
    """The catalog service's endpoints of keys, and the address by which the command finds them."""
    settings, urls = ServiceSettings(listen="127.0.0.1:0"), []
    admin = {"sha256": digest_of(ADMIN), "tenant": "*", "roles": ["admin"]}
    tokens = Tokens(json.dumps([admin]))
    app = create_app("test", settings, Health(), new_registry(), tokens)
    add_key_routes(app, KeyTools(rotation(line), data_keys(line)))

    @app.get("/v1")
    def links(_: Annotated[Caller, Depends(authenticated)]) -> dict[str, str]:
        return {"catalog": urls[0]}

    with serving(app, settings) as url:
        urls.append(url)
        yield url


def begin(url: str, *arguments: str) -> subprocess.Popen[str]:
    environ = {name: value for name, value in os.environ.items() if "BACKCAST_" not in name}
    return subprocess.Popen(
        [sys.executable, "-m", "services.cli.entry", *arguments],
        env=environ | {"BACKCAST_URL": url, "BACKCAST_TOKEN": ADMIN},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Gate:
    """Makes one step of an object wait until the test lets it go on."""

    def __init__(self, patch: pytest.MonkeyPatch, where: object, step: str) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        self._real = getattr(where, step)
        patch.setattr(where, step, self._wait)

    def _wait(self, *arguments: object) -> object:
        self.reached.set()
        assert self.go_on.wait(SECONDS_MAX)
        return self._real(*arguments)


def interrupt_in(gate: Gate, url: str, *arguments: str) -> str:
    """Begin a command, end it by SIGINT in the middle of its work; what it said."""
    try:
        with begin(url, *arguments) as process:
            assert gate.reached.wait(SECONDS_MAX)
            process.send_signal(signal.SIGINT)
            out, said = process.communicate(timeout=SECONDS_MAX)
    finally:
        gate.go_on.set()
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("step", ["put", "write", "delete"])
def test_a_change_whose_command_was_interrupted_is_seen_through_by_the_next_one(
    line: Timeline, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    old, new = line.kek, KeyEncryptionKey(b"n" * 32)
    restart_with(line, KeyEncryptionKey(new.secret, old))
    with monkeypatch.context() as patch:
        gate = Gate(patch, line.checkpoints if step == "write" else line.store, step)
        with serving_keys(line) as url:
            assert "run the command again" in interrupt_in(gate, url, "keys", "rotate-kek")
            with begin(url, "keys", "rotate-kek", "--json") as process:
                out, said = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0, said
    state = json.loads(out)
    assert (state["keys"], state["left"], state["error"]) == (2, 0, "")
    rebuild_with(line, new)
    line.protected.take("disk", 12)
    line.protected.check()


def data_keys_in_use(line: Timeline) -> list[str]:
    return [str(row[0]) for row in line.site.sql("SELECT key_id FROM domain")]


@pytest.mark.parametrize("step", ["put", "get"])
def test_data_keys_whose_command_was_interrupted_are_changed_once_more(
    line: Timeline, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = set(data_keys_in_use(line))
    with monkeypatch.context() as patch, serving_keys(line) as url:
        gate = Gate(patch, line.store, step)
        assert "does no harm" in interrupt_in(gate, url, "keys", "rotate-data")
        deadline = time.monotonic() + SECONDS_MAX
        while before.intersection(data_keys_in_use(line)):  # the service does what it was asked for
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with begin(url, "keys", "rotate-data", "--json") as process:
            out, said = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0, said
    fresh = [json.loads(row)["key_id"] for row in out.splitlines()]
    assert sorted(fresh) == sorted(
        str(row[0]) for row in line.site.sql("SELECT key_id FROM domain")
    )
    line.protected.take("disk", 1, 13)
    line.protected.check()
    rebuild_with(line, line.kek)
