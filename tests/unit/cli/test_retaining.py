"""gc, snapshot expire and hold, volume retain: what they ask for, and what they say."""

from uuid import uuid4

import pytest

from tests.unit.cli.conftest import Backcast
from tests.unit.cli.scripted_service import Script, ScriptedService

SESSION = str(uuid4())
CLOCK = {
    "trusted_at": "2026-11-22T10:00:00Z",
    "server_at": "2026-11-22T10:00:01Z",
    "halted": False,
}
FOUND = {
    "reconciled": True,
    "packs": 2,
    "pack_bytes": 2048,
    "tombstones": 1,
    "tombstone_bytes": 1024,
    "manifests": 3,
    "clock": CLOCK,
    "halts": [],
}
HALT = {
    "name": "packs-missing-0a",
    "kind": "packs-missing",
    "since": "2026-11-22T10:00:00Z",
    "suspects": 7,
    "suspect_bytes": 1 << 20,
    "message": "too many. Run: backcast gc --accept packs-missing-0a",
    "examples": ["00ff"],
}
SWEEP = {
    "objects": 9,
    "packs": 2,
    "manifests": 1,
    "freed_bytes": 4096,
    "unnamed": 1,
    "unnamed_bytes": 1024,
    "held_back": 0,
    "held_back_bytes": 0,
    "young": 0,
    "young_bytes": 0,
    "foreign": 0,
}
SURVEYED = {
    "packs": 1,
    "pack_bytes": 3072,
    "live_bytes_estimated": 1024,
    "freed_bytes_estimated": 2048,
    "unsure_packs": 0,
    "unsure_bytes": 0,
    "small_packs": 0,
    "small_bytes": 0,
}
REWRITING = {
    "candidates": 2,
    "small": 0,
    "rewritten": 1,
    "rewritten_bytes": 3072,
    "written": 1,
    "written_bytes": 1024,
    "given_up": 0,
    "damaged": 0,
}
TENANT = "/v1/tenants/default"
UPKEEP = "/v1/upkeep"
STEPS = "/v1/collection/steps"


def step(cursor: str | None, **freed: int) -> dict[str, object]:
    names = ("packs_condemned", "packs_deleted", "freed_bytes", "manifests_deleted", "failures")
    return {**{name: freed.get(name, 0) for name in names}, "cursor": cursor}


def upkeep(state: str) -> dict[str, object]:
    end = {"code": None, "message": None}
    return {"upkeep": "id", "state": state, "sweep": SWEEP, "rewriting": REWRITING, **end}


def snapshot(session: str, sequence: int, group: str, *volumes: str) -> dict[str, object]:
    named = [{"volume": volume} for volume in volumes]
    return {"session": session, "group": group, "sequence": sequence, "volumes": named}


@pytest.fixture(autouse=True)
def _collection(script: Script) -> None:
    script[("GET", "/v1/collection")] = [FOUND]
    script[("GET", f"{UPKEEP}/sweep")] = [{**SWEEP, "cursor": None}]
    script[("GET", f"{UPKEEP}/rewriting")] = [{**SURVEYED, "cursor": None}]
    script[("GET", f"{TENANT}/volumes/vm/points/2")] = [{"session": SESSION}]
    script[("GET", f"{TENANT}/snapshots/{SESSION}")] = [snapshot(SESSION, 2, "vm", "vm")]
    script[("GET", f"{TENANT}/volumes")] = [[{"name": "vm", "group": "vm"}]]


def posts(service: ScriptedService) -> list[tuple[str, dict[str, str]]]:
    return [(path, query) for method, path, query, _ in service.requests if method == "POST"]


class TestGc:
    def test_a_dry_run_only_asks(self, backcast: Backcast, service: ScriptedService) -> None:
        ran = backcast("gc", "--dry-run")
        assert ran.out == (
            "would delete 3 packs (3.00 KiB) and 3 manifests\n"
            "a sweep would delete 3 objects (4.00 KiB), 1 of them (1.00 KiB) that no row names\n"
            "rewriting 1 mostly dead packs (3.00 KiB) would free 2.00 KiB\n"
        )
        assert {method for method, *_ in service.requests} == {"GET"}
        assert backcast("gc", "--dry-run", "--json").objects == [
            {"dry_run": True, **FOUND, "sweep": SWEEP, "rewriting": SURVEYED}
        ]

    def test_a_dry_run_adds_up_the_pieces_of_a_survey(
        self, backcast: Backcast, script: Script, service: ScriptedService
    ) -> None:
        young = {**SWEEP, "young": 2, "young_bytes": 10}
        script[("GET", f"{UPKEEP}/sweep")] = [
            {**young, "cursor": "packs/3:packs/3f"},
            (503, "unavailable"),
            {**young, "cursor": None},
        ]
        script[("GET", f"{UPKEEP}/rewriting")] = [
            {**SURVEYED, "unsure_packs": 1, "unsure_bytes": 2048, "cursor": 7},
            {**SURVEYED, "cursor": None},
        ]
        ran = backcast("gc", "--dry-run")
        assert "6 objects (8.00 KiB), 2 of them" in ran.out
        assert "; 4 (20 B) are too young to judge\n" in ran.out
        assert (
            "rewriting 2 mostly dead packs (6.00 KiB) would free 4.00 KiB, or down to 2.00 KiB, "
            "as older snapshots use 1 of them\n"
        ) in ran.out
        assert service.queries(f"{UPKEEP}/rewriting") == [{}, {"cursor": "7"}]
        again = {"cursor": "packs/3:packs/3f"}
        assert service.queries(f"{UPKEEP}/sweep") == [{}, again, again]

    def test_a_dry_run_judges_no_object_before_the_catalog_is_reconciled(
        self, backcast: Backcast, script: Script, service: ScriptedService
    ) -> None:
        script[("GET", "/v1/collection")] = [{**FOUND, "reconciled": False}]
        ran = backcast("gc", "--dry-run")
        assert ran.out == "would delete 3 packs (3.00 KiB) and 3 manifests\n"
        assert "not reconciled" in ran.err
        (result,) = backcast("gc", "--dry-run", "--json").objects
        assert (result["sweep"], result["rewriting"]) == (None, None)

    def test_goes_through_all_steps(
        self, backcast: Backcast, script: Script, service: ScriptedService
    ) -> None:
        script[("POST", STEPS)] = [
            step("condemn:7", packs_condemned=2),
            step("delete:", packs_condemned=1),
            (503, "unavailable"),
            step("manifests:", packs_deleted=3, freed_bytes=3072),
            step(None, manifests_deleted=3),
        ]
        ran = backcast("gc")
        assert ran.out == "deleted 3 packs (3.00 KiB) and 3 manifests\n"
        cursors = [body["cursor"] for body in service.bodies("POST", STEPS)]
        assert cursors == [None, "condemn:7", "delete:", "delete:", "manifests:"]

    def test_upkeep_is_followed_to_its_end_and_what_it_condemned_is_deleted(
        self, backcast: Backcast, script: Script, service: ScriptedService
    ) -> None:
        script[("POST", STEPS)] = [
            step(None, packs_deleted=3, freed_bytes=3072),
            step(None, packs_deleted=1, freed_bytes=3072),
        ]
        script[("POST", UPKEEP)] = [
            upkeep("waiting"),
            upkeep("sweeping"),
            (503, "unavailable"),
            upkeep("rewriting"),
            upkeep("done"),
        ]
        (result,) = backcast("gc", "--upkeep", "--json").objects
        assert (result["packs_deleted"], result["freed_bytes"]) == (4, 6144)
        assert (result["sweep"], result["rewriting"]) == (SWEEP, REWRITING)
        assert result["failures"] == 0
        assert len({body["upkeep"] for body in service.bodies("POST", UPKEEP)}) == 1
        script[("POST", STEPS)] = [step(None)]
        assert backcast("gc", "--upkeep").out == (
            "deleted 0 packs (0 B) and 0 manifests\n"
            "the sweep deleted 3 objects (4.00 KiB), 1 of them (1.00 KiB) that no row names\n"
            "1 of 2 mostly dead packs (3.00 KiB) were rewritten, to 1 (1.00 KiB)\n"
        )

    def test_upkeep_that_was_put_off_says_what_was_done_and_fails(
        self, backcast: Backcast, script: Script
    ) -> None:
        script[("POST", STEPS)] = [step(None, packs_deleted=1)]
        script[("POST", UPKEEP)] = [{**upkeep("failed"), "code": "unavailable", "message": "no"}]
        ran = backcast("gc", "--upkeep", "--json")
        assert ran.status == 8
        assert ran.objects[0]["packs_deleted"] == 2
        assert "upkeep was put off: no" in ran.err

    def test_without_upkeep_nothing_is_said_of_it(self, backcast: Backcast, script: Script) -> None:
        script[("POST", STEPS)] = [step(None)]
        (result,) = backcast("gc", "--json").objects
        assert (result["sweep"], result["rewriting"]) == (None, None)

    def test_says_what_was_left(self, backcast: Backcast, script: Script) -> None:
        script[("POST", STEPS)] = [step(None, failures=2)]
        assert "2 objects were not deleted" in backcast("gc").err

    def test_warns_of_what_is_held_back_and_accepts_it(
        self, backcast: Backcast, script: Script
    ) -> None:
        script[("GET", "/v1/collection")] = [{**FOUND, "halts": [HALT]}]
        script[("POST", f"/v1/halts/{HALT['name']}/acceptance")] = [{"name": HALT["name"]}]
        assert (
            "warning: 7 held back (1.00 MiB): too many. Run: backcast gc --accept packs-missing-0a"
            in backcast("gc", "--dry-run").err
        )
        assert backcast("gc", "--dry-run", "--json").objects[0]["halts"] == [HALT]
        assert backcast("gc", "--accept", HALT["name"]).out == "packs-missing-0a: accepted\n"


class TestSnapshots:
    def test_expire_gives_up_each_that_may_go(
        self, backcast: Backcast, script: Script, service: ScriptedService
    ) -> None:
        other = str(uuid4())
        script[("GET", f"{TENANT}/snapshots/{other}")] = [snapshot(other, 3, "vm", "vm")]
        script[("POST", f"{TENANT}/snapshots/{other}/expire")] = [(409, "conflict")]
        answer = {"session": SESSION, "sequence": 2}
        script[("POST", f"{TENANT}/snapshots/{SESSION}/expire")] = [answer]
        ran = backcast("snapshot", "expire", other, "vm@2")
        assert ran.out == "vm@2: given up\n"
        assert ran.status != 0

    def test_hold_and_release(
        self, backcast: Backcast, script: Script, service: ScriptedService
    ) -> None:
        path = f"{TENANT}/snapshots/{SESSION}"
        hold = {"session": SESSION, "owner": "ops", "reason": "audit", "placed_at": "…"}
        script[("POST", f"{path}/hold")] = [hold]
        script[("POST", f"{path}/release")] = [None]
        assert (
            backcast("snapshot", "hold", "vm@2", "--reason", "audit").out == "vm@2: held by ops\n"
        )
        assert backcast("snapshot", "hold", "vm@2", "--release", "--owner", "x").status == 0
        assert service.bodies("POST", f"{path}/hold") == [{"reason": "audit", "owner": None}]
        assert service.bodies("POST", f"{path}/release") == [{"owner": "x"}]
        assert backcast("snapshot", "hold", "vm@2").status == 2
        assert "--reason: 0 char" in backcast("snapshot", "hold", "vm@2", "--reason", "").err
        assert "--owner" in backcast("snapshot", "hold", "vm@2", "--release", "--owner", "").err

    def test_a_group_is_named_before_its_snapshot_is_given_up_or_held(
        self, backcast: Backcast, script: Script, service: ScriptedService
    ) -> None:
        path = f"{TENANT}/snapshots/{SESSION}"
        script[("GET", path)] = [snapshot(SESSION, 2, "g", "vm", "db", "logs")]
        script[("POST", f"{path}/expire")] = [{"session": SESSION, "sequence": 2}]
        script[("POST", f"{path}/hold")] = [{"session": SESSION, "owner": "ops"}]
        script[("POST", f"{path}/release")] = [None]
        group = "vm@2 is of snapshot 2 of group g, which is of vm, db and logs"
        for arguments, effect in (
            (("expire", "vm@2"), f"{group}: all of it is given up for good\n"),
            (("hold", "vm@2", "--reason", "x"), f"{group}: all of it is held\n"),
            (("hold", "vm@2", "--release"), f"{group}: all of it is released\n"),
        ):
            ran = backcast("snapshot", *arguments)
            assert (ran.status, ran.err) == (0, effect)
        (result,) = backcast("snapshot", "expire", "vm@2", "--json").objects
        assert result["volumes"] == ["vm", "db", "logs"]

    def test_a_dry_run_changes_nothing(
        self, backcast: Backcast, script: Script, service: ScriptedService
    ) -> None:
        path = f"{TENANT}/snapshots/{SESSION}"
        script[("POST", f"{path}/expire")] = [
            {"session": SESSION, "sequence": 2},
            (409, "conflict"),
        ]
        freed = {"session": SESSION, "sequence": 2, "packs": 3, "freed_bytes": 2048}
        script[("GET", f"{path}/freed")] = [freed]
        assert backcast("snapshot", "expire", "vm@2", "--dry-run").out == (
            "vm@2: would be given up; by itself it frees 2.00 KiB in 3 packs\n"
        )
        assert backcast("snapshot", "expire", "vm@2", "--dry-run").status == 4
        assert service.queries(f"{path}/expire") == [{"dry_run": "true"}] * 2
        ran = backcast("snapshot", "hold", "vm@2", "--reason", "x", "--dry-run", "--json")
        assert ran.objects[0]["dry_run"] is True
        assert service.bodies("POST", f"{path}/hold") == []

    def test_list_shows_what_was_given_up(self, backcast: Backcast, script: Script) -> None:
        expired = {
            "session": SESSION,
            "group": "vm",
            "sequence": 2,
            "sealed_at": "2026-11-22T10:00:00Z",
            "expired_at": None,
        }
        script[("GET", f"{TENANT}/expired")] = [[expired]]
        assert "vm@2" in backcast("snapshot", "list", "--expired").out
        assert backcast("snapshot", "list", "vm", "--expired", "--json").objects == [expired]


class TestRetain:
    @pytest.mark.parametrize(
        ("options", "body", "text"),
        [
            (
                ["--last", "7", "--for", "30d"],
                {"keep_last": 7, "keep_for_seconds": 2_592_000},
                "vm: the newest 7 good recovery points stay, and all up to 30d old\n",
            ),
            (
                ["--forever"],
                {"keep_last": None, "keep_for_seconds": None},
                "vm: every recovery point stays\n",
            ),
        ],
    )
    def test_says_the_rule(
        self,
        backcast: Backcast,
        script: Script,
        service: ScriptedService,
        options: list[str],
        body: dict[str, int | None],
        text: str,
    ) -> None:
        script[("POST", f"{TENANT}/volumes/vm/retention")] = [body | {"copies": 1, "expires": []}]
        assert backcast("volume", "retain", "vm", *options).out == text
        asked = [query for path, query in posts(service) if path.endswith("/retention")]
        assert asked == [{"dry_run": "true"}, {}]
        assert service.bodies("POST", f"{TENANT}/volumes/vm/retention") == [body, body]

    @pytest.mark.parametrize(
        "options",
        [
            ["--for", "30"],
            ["--for", "99999999d"],
            ["--forever", "--last", "2"],
            ["--last", "0"],
            ["--last", "-1"],
            ["--last", "9999999999"],
        ],
    )
    def test_refuses_what_makes_no_sense(
        self, backcast: Backcast, service: ScriptedService, options: list[str]
    ) -> None:
        ran = backcast("volume", "retain", "vm", *options)
        assert ran.status == 2
        assert options[0] in ran.err
        assert service.requests == []

    def test_shows_it(self, backcast: Backcast, script: Script) -> None:
        kept = {"keep_last": 3, "keep_for_seconds": 0, "copies": 2}
        script[("GET", f"{TENANT}/volumes/vm/retention")] = [kept]
        ran = backcast("volume", "retain", "vm")
        assert ran.out == (
            "vm: the newest 3 good recovery points stay; each is to be whole at 2 stores\n"
        )

    def test_the_number_of_copies_is_changed_alone(
        self, backcast: Backcast, script: Script, service: ScriptedService
    ) -> None:
        path, kept = f"{TENANT}/volumes/vm/retention", {"keep_last": 3, "keep_for_seconds": 0}
        script["POST", path] = [kept | {"copies": 2, "expires": []}]
        ran = backcast("volume", "retain", "vm", "--copies", "2")
        assert "the newest 3 good recovery points stay" in ran.out
        assert service.bodies("POST", path) == [{"copies": 2}] * 2

    def test_what_a_rule_does_to_others_is_said_before_it_is_set(
        self, backcast: Backcast, script: Script, service: ScriptedService
    ) -> None:
        path = f"{TENANT}/volumes/vm/retention"
        script["GET", f"{TENANT}/volumes"] = [
            [{"name": name, "group": "g"} for name in ("vm", "db")]
        ]
        kept = {"keep_last": 3, "keep_for_seconds": 0, "copies": 1}
        script["POST", path] = [kept | {"expires": [*range(1, 13)]}]
        ran = backcast("volume", "retain", "vm", "--last", "3")
        assert ran.err == (
            "vm is in group g: the rule is for vm and db\n"
            "retention gives up 12 of its recovery points soon, unless somebody holds or reads "
            "them: @1, @2, @3, @4, @5, @6, @7, @8, @9 and @10 and 2 more\n"
        )
        before = len(service.bodies("POST", path))
        ran = backcast("volume", "retain", "vm", "--last", "3", "--dry-run")
        assert "would be set: the newest 3 good" in ran.out
        assert "@1, @2" in ran.err
        assert len(service.bodies("POST", path)) == before + 1
        assert posts(service)[-1] == (path, {"dry_run": "true"})
        assert backcast("volume", "retain", "vm", "--dry-run").status == 2
