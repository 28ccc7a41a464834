import base64
import json
import random
import resource
import signal
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import urllib3

from libs.catalogdb.snapshots.leases import drop_overdue_leases
from libs.errors import (
    BackcastError,
    ConflictError,
    DamagedDataError,
    ForbiddenError,
    NotFoundError,
    UnavailableError,
)
from libs.points import RecoveryPoint
from libs.rest.client import RestClient
from libs.restoring import restore as restoring
from libs.restoring.restore import RestoreFigures
from tests.integration.restore.conftest import (
    SECONDS_MAX,
    TENANT,
    RestoreSite,
    free_address,
    serving,
)


def restore(
    site: RestoreSite, out: Path, point: str = "latest", name: str = "disk", **options: Any
) -> RestoreFigures:
    client = options.pop("client", None) or site.client()
    how: dict[str, Any] = {"force": False, "progressed": lambda done, total: None} | options
    return restoring.restore(client, TENANT, RecoveryPoint(name, point), out, **how)


@pytest.mark.parametrize("sequence", [1, 2, 3])
def test_a_restored_file_is_the_volume_with_holes_for_zeros(
    site: RestoreSite, tmp_path: Path, sequence: int
) -> None:
    out, content, told = tmp_path / "out", site.disk[sequence - 1], []
    figures = restore(site, out, str(sequence), progressed=lambda *bytes_: told.append(bytes_))
    assert out.read_bytes() == content
    assert (figures.bytes, figures.verified) == (len(content), True)
    assert max(told) == (len(content), len(content))
    assert out.stat().st_blocks * 512 < len(content) // 4
    assert 0 < figures.fetched_bytes < len(content) // 4


def test_a_restore_is_told_in_events_and_leaves_no_pins(site: RestoreSite, tmp_path: Path) -> None:
    topic = "backcast.restores"
    before = site.get("/events", topic=topic, limit=1000)["next"]
    restore(site, tmp_path / "out", "1")
    events = site.get("/events", topic=topic, after=before)["events"]
    names = [event["type"].rpartition(".")[2] for event in events]
    assert names[0] == "restore_requested"
    assert set(names[1:-1]) == {"restore_planned"}
    assert names[-1] == "restore_completed"
    end = events[-1]["data"]
    planned = sum(event["data"]["planned_bytes"] for event in events[1:-1])
    assert end["restored_bytes"] == len(site.disk[0])
    assert planned <= end["fetched_bytes"]
    assert not site.catalog.sql("SELECT FROM pin WHERE owner = %s", uuid.UUID(end["restore"]))


def test_an_existing_file_is_overwritten_only_with_force(site: RestoreSite, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"\xff" * len(site.disk[0]))
    with pytest.raises(ConflictError, match="--force"):
        restore(site, out, "1")
    assert out.read_bytes() == b"\xff" * len(site.disk[0])
    restore(site, out, "3", force=True)
    assert out.read_bytes() == site.disk[2]


def test_a_volume_without_a_byte_is_restored(site: RestoreSite, tmp_path: Path) -> None:
    site.taker.protect(TENANT, "empty", "empty")
    site.taker.take(TENANT, "empty", {"empty": b""})
    assert restore(site, tmp_path / "out", name="empty").bytes == 0
    assert (tmp_path / "out").read_bytes() == b""
    assert site.download("/volumes/empty/points/1/bytes").data == b""


def test_damage_is_named_and_the_unfinished_file_removed(site: RestoreSite, tmp_path: Path) -> None:
    site.taker.protect(TENANT, "broken", "broken")
    site.taker.take(TENANT, "broken", {"broken": random.Random(2).randbytes(3 << 20)})
    storage = site.get("/volumes/broken/points/1/translate", offset=2 << 20)["storage"]
    body = bytearray(site.store.get(storage["object_key"]))
    body[storage["frame_offset_bytes"] + 1000] ^= 0x80
    site.store.put(storage["object_key"], body)
    out = tmp_path / "out"
    with pytest.raises(DamagedDataError) as damaged:
        restore(site, out, name="broken")
    assert not list(tmp_path.iterdir())
    for part in ("volume broken@1", str(2 << 20), storage["generation"], str(storage["frame"])):
        assert part in str(damaged.value)
    last = site.get("/events", topic="backcast.restores", limit=1000)["events"][-1]
    assert last["type"] == "backcast.restores.restore_failed"
    assert last["data"]["code"] == "damaged-data"
    demanded = "SELECT demanded FROM verification WHERE session = %s"
    session = uuid.UUID(site.get("/volumes/broken/points/1")["session"])
    assert site.catalog.sql(demanded, session) == [(True,)]


class _Tampering(RestClient):
    """A client whose plans are altered on the way."""

    def __init__(self, url: str, alter: Any) -> None:
        super().__init__(url, "restorer")
        self._alter = alter

    def get_raw(self, path: str, query: Any = None) -> bytes:
        answer = json.loads(super().get_raw(path, query))
        self._alter(answer)
        return json.dumps(answer).encode()


def _wrong_signature(window: Any) -> None:
    for pack in window["packs"]:
        pack["url"] = pack["url"].replace("X-Amz-Signature=", "X-Amz-Signature=0")


def _nobody_there(window: Any) -> None:
    for pack in window["packs"]:
        pack["url"] = "http://127.0.0.1:1/" + pack["url"].split("/", 3)[3]


def _other_ids(window: Any) -> None:
    ids = bytearray(base64.b64decode(window["ids"]))
    ids[0] ^= 1
    window["ids"] = base64.b64encode(ids).decode()


def _other_key(window: Any) -> None:
    window["packs"][0]["key"] = base64.b64encode(bytes(32)).decode()


def _frames_beyond(window: Any) -> None:
    window["packs"][0]["frames"][0][1] = 1 << 40


def _ids_missing(window: Any) -> None:
    window["ids"] = window["ids"][:-44]


@pytest.mark.parametrize(
    ("alter", "expected", "said"),
    [
        (_wrong_signature, ForbiddenError, "expired"),
        (_nobody_there, UnavailableError, "reachable from here"),
        (_other_ids, DamagedDataError, "volume disk@1 at byte 0"),
        (_other_key, DamagedDataError, "belongs to another key"),
        (_frames_beyond, DamagedDataError, "no window of a plan"),
        (_ids_missing, DamagedDataError, "no window of a plan"),
    ],
)
def test_a_plan_that_does_not_hold_is_an_error_and_no_file(
    site: RestoreSite,
    tmp_path: Path,
    alter: Any,
    expected: type[BackcastError],
    said: str,
) -> None:
    client = _Tampering(site.url, alter)
    with pytest.raises(expected, match=said) as refused:
        restore(site, tmp_path / "out", "1", client=client, retry_seconds_max=0.0)
    assert not list(tmp_path.iterdir())
    assert "X-Amz-Signature" not in str(refused.value)


def test_reads_that_expire_while_a_restore_goes_on_are_renewed(
    site: RestoreSite, tmp_path: Path
) -> None:
    """Every URL of a window has expired when the window is first read."""
    asked: list[int] = []

    def expire_at_first(window: Any) -> None:
        asked.append(window["first_chunk"])
        if len(asked) == 1:
            _wrong_signature(window)

    client = _Tampering(site.url, expire_at_first)
    restore(site, tmp_path / "out", "1", client=client, retry_seconds_max=0.0)
    restore(site, tmp_path / "expected", "1")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "expected").read_bytes()
    assert len(asked) > 1


def test_a_full_disk_is_told_and_the_unfinished_file_removed(
    site: RestoreSite, tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(BackcastError) as refused:
            restore(site, tmp_path / "out", "1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert refused.value.code == "out-of-space"
    assert not list(tmp_path.iterdir())


def test_an_interrupted_restore_leaves_no_file_and_is_logged(
    site: RestoreSite, tmp_path: Path
) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(site, tmp_path / "out", "1", progressed=interrupt)
    assert not list(tmp_path.iterdir())
    last = site.get("/events", topic="backcast.restores", limit=1000)["events"][-1]
    assert last["data"]["code"] == "interrupted"


def test_presigned_reads_end_with_their_expiry(site: RestoreSite) -> None:
    short = replace(site.settings, listen=free_address(), plan_expiry_seconds=1)
    with serving(short) as url:
        client = site.client(url=url)
        plan = _plan(client, _begin(client))
        deadline = time.monotonic() + SECONDS_MAX
        while (status := urllib3.request("GET", plan["packs"][0]["url"]).status) == 200:
            assert time.monotonic() < deadline
        assert status == 403


def test_clients_may_reach_the_store_under_another_name(site: RestoreSite) -> None:
    settings = replace(
        site.settings, listen=free_address(), client_s3_endpoint="https://s3.example:9000"
    )
    with serving(settings) as url:
        client = site.client(url=url)
        plan = _plan(client, _begin(client))
    assert all(pack["url"].startswith("https://s3.example:9000/") for pack in plan["packs"])


def test_a_plan_names_only_what_its_window_needs(site: RestoreSite) -> None:
    client = site.client()
    restore_id = _begin(client)
    window = _plan(client, restore_id, first_chunk=605, chunk_count=2)
    (pack,) = window["packs"]
    assert len(base64.b64decode(pack["key"])) == 32
    assert len(pack["frames"]) == 1
    assert base64.b64decode(window["runs"]) != b""
    zeros = _plan(client, restore_id, first_chunk=300, chunk_count=100)
    assert zeros["packs"] == []
    assert zeros["ids"] == ""
    for first_chunk, chunk_count in ((1281, 1), (-1, 1), (0, 0), (0, 32_769)):
        with pytest.raises(BackcastError):
            _plan(client, restore_id, first_chunk=first_chunk, chunk_count=chunk_count)


def test_a_restore_belongs_to_its_tenant_and_needs_the_right(site: RestoreSite) -> None:
    restore_id = _begin(site.client())
    for token in ("reader", "stranger"):
        with pytest.raises(ForbiddenError):
            _plan(site.client(token), restore_id)
        with pytest.raises(ForbiddenError):
            _begin(site.client(token))
    with pytest.raises(NotFoundError):
        site.client("stranger").get(
            f"/v1/tenants/other/restores/{restore_id}/plan", {"first_chunk": 0, "chunk_count": 1}
        )


def test_beginning_twice_is_harmless_unless_it_means_something_else(site: RestoreSite) -> None:
    client = site.client()
    restore_id = _begin(client)
    before = site.get("/events", topic="backcast.restores", limit=1000)["next"]
    assert _begin(client, restore_id) == restore_id
    with pytest.raises(ConflictError):
        _begin(client, restore_id, point="2")
    assert site.get("/events", after=before)["events"] == []
    outcome = {"restored_bytes": 1, "fetched_bytes": 1, "seconds": 1.0}
    client.post(f"/v1/tenants/{TENANT}/restores/{restore_id}/outcome", outcome)
    with pytest.raises(NotFoundError):
        _plan(client, restore_id)
    ended = site.get("/events", after=before)["events"]
    client.post(f"/v1/tenants/{TENANT}/restores/{restore_id}/outcome", outcome)  # its answer lost
    again = site.get("/events", after=before)["events"]
    assert [event["id"] for event in again] == [event["id"] for event in ended]
    failed = outcome | {"failure": {"code": "interrupted", "message": "no"}}
    with pytest.raises(NotFoundError):
        client.post(f"/v1/tenants/{TENANT}/restores/{restore_id}/outcome", failed)
    with pytest.raises(ConflictError):
        _begin(client, restore_id)


def test_progress_never_goes_back_and_holds_off_the_deadline(site: RestoreSite) -> None:
    client = site.client()
    restore_id = _begin(client)
    path = f"/v1/tenants/{TENANT}/restores/{restore_id}/progress"
    for restored in (100, 50):
        client.post(path, {"restored_bytes": restored, "fetched_bytes": 7})
    last = site.get("/events", topic="backcast.restores", limit=1000)["events"][-1]
    assert last["data"]["restored_bytes"] == 100
    assert drop_overdue_leases(site.catalog.catalog) == 0
    site.catalog.sql("UPDATE lease SET deadline = now() - interval '1 s' WHERE state = 'o'")
    assert drop_overdue_leases(site.catalog.catalog) > 0
    failed = site.get("/events", topic="backcast.restores", limit=1000)["events"]
    codes = {e["data"]["restore"]: e["data"].get("code") for e in failed}
    assert codes[restore_id] == "deadline"
    with pytest.raises(NotFoundError):
        client.post(path, {"restored_bytes": 200, "fetched_bytes": 7})


def _begin(client: RestClient, restore_id: str | None = None, point: str = "1") -> str:
    path = f"/v1/tenants/{TENANT}/volumes/disk/points/{point}/restores"
    answer: str = client.post(path, {"restore": restore_id or str(uuid.uuid4())})["restore"]
    return answer


def _plan(
    client: RestClient, restore_id: str, first_chunk: int = 0, chunk_count: int = 1000
) -> Any:
    query = {"first_chunk": first_chunk, "chunk_count": chunk_count}
    return client.get(f"/v1/tenants/{TENANT}/restores/{restore_id}/plan", query)
