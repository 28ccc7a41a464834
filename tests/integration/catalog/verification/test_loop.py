"""The loop verifies what is new, what was damaged and may be repaired, and what is old."""

import uuid

import pytest

from libs.catalogdb.packs.damage import record_damage
from libs.catalogdb.protected import require_tenant
from libs.catalogdb.snapshots.points import find_volume_at
from libs.catalogdb.verification import demand_verification
from libs.errors import NotFoundError, NotReconciledError
from libs.events.snapshots import SnapshotVerified
from libs.points import RecoveryPoint
from services.catalog.verification.jobs import VerifyJobs
from services.catalog.verification.loop import VerificationLoop
from services.catalog.verification.verifier import Thoroughness
from tests.integration.catalog.verification.conftest import TENANT, VerifySite, random_chunks

_PERIOD_SECONDS = 86_400.0


@pytest.fixture
def loop(site: VerifySite) -> VerificationLoop:
    return VerificationLoop(site.verifier, _PERIOD_SECONDS, sample=1.0)


def levels(site: VerifySite) -> list[tuple[int, str, bool]]:
    """Number, level and damage of what was verified."""
    return site.catalog.sql(
        """SELECT sequence, level, damaged FROM verification JOIN snapshot USING (session)
           ORDER BY sequence"""
    )


def age(site: VerifySite, session: uuid.UUID) -> None:
    site.catalog.sql(
        "UPDATE verification SET verified_at = now() - interval '2 days' WHERE session = %s",
        session,
    )


def test_new_snapshots_are_verified_once(site: VerifySite, loop: VerificationLoop) -> None:
    site.taker.protect(TENANT, "disk", "disk")
    site.take("disk", disk=random_chunks(1, 8))
    assert loop.step()
    site.take("disk", disk=random_chunks(2, 8))
    assert loop.step()
    assert not loop.step()
    assert levels(site) == [(1, "structural", False), (2, "structural", False)]


def test_of_a_new_snapshot_only_what_is_new_is_looked_at(
    site: VerifySite, loop: VerificationLoop
) -> None:
    site.taker.protect(TENANT, "disk", "disk")
    kept = random_chunks(1, 512)  # one leaf of the map
    site.take("disk", disk=kept + random_chunks(2, 8))
    loop.step()
    changed = site.take("disk", disk=kept + random_chunks(3, 8))
    loop.step()
    packs = [one.packs for one in site.verdicts() if isinstance(one, SnapshotVerified)]
    stored = site.place(changed, "disk", 512).pack
    assert site.catalog.sql(
        "SELECT checked_at IS NOT NULL FROM copy WHERE pack_no = %s", stored.pack_no
    ) == [(True,)]
    assert packs[1] == 1


def test_old_snapshots_are_verified_again_with_a_sample(
    site: VerifySite, loop: VerificationLoop
) -> None:
    site.taker.protect(TENANT, "disk", "disk")
    session = site.take("disk", disk=random_chunks(1, 8))
    loop.step()
    site.flip_frame_of(site.place(session, "disk", 0))
    age(site, session)
    site.catalog.sql("UPDATE copy SET checked_at = NULL")
    assert loop.step()
    assert levels(site) == [(1, "sampled", True)]


def test_damage_that_others_met_names_the_snapshots_that_contain_it(
    site: VerifySite, loop: VerificationLoop
) -> None:
    site.taker.protect(TENANT, "disk", "disk")
    sessions = [site.take("disk", disk=random_chunks(1, 8) + random_chunks(n, 8)) for n in (2, 3)]
    while loop.step():
        pass
    placed = site.place(sessions[1], "disk", 12)
    record_damage(site.catalog.restore, placed.pack.pack_no, [placed.id], "met by a restore")
    assert not loop.step()
    assert set(site.damaged()) == {sessions[1]}
    assert levels(site) == [(1, "structural", False), (2, "structural", True)]
    before = len(site.verdicts())
    assert not loop.step()
    assert len(site.verdicts()) == before


def test_a_damaged_snapshot_is_verified_again_after_the_next_capture(
    site: VerifySite, loop: VerificationLoop
) -> None:
    site.taker.protect(TENANT, "disk", "disk")
    content = random_chunks(1, 8)
    session = site.take("disk", disk=content)
    site.flip_frame_of(site.place(session, "disk", 0))
    site.verify(session)
    assert not loop.step()
    site.take("disk", disk=content)
    assert loop.step()
    assert loop.step()
    assert not loop.step()
    assert levels(site) == [(1, "sampled", False), (2, "structural", False)]


def test_a_job_is_run_once_and_tells_its_verdict(site: VerifySite) -> None:
    site.taker.protect(TENANT, "disk", "disk")
    session = site.take("disk", disk=random_chunks(1, 8))
    jobs, id_ = VerifyJobs(site.verifier, 1), uuid.uuid4()
    job = jobs.begin(id_, TENANT, session, Thoroughness("full"))
    assert jobs.begin(id_, TENANT, session, Thoroughness("full")) is job
    assert job.ended.wait(20)
    jobs.close()
    assert (job.state, job.progress.packs_done, job.progress.frames) == ("intact", 1, 2)
    assert len(site.verdicts()) == 1


def test_what_could_not_be_restored_is_verified_in_full(
    site: VerifySite, loop: VerificationLoop
) -> None:
    site.taker.protect(TENANT, "disk", "disk")
    sessions = [site.take("disk", disk=random_chunks(n, 4)) for n in (1, 2)]
    while loop.step():
        pass
    demand_verification(site.catalog.restore, sessions[0])
    assert loop.step()
    assert not loop.step()
    assert levels(site) == [(1, "full", False), (2, "structural", False)]


def test_what_a_rebuild_has_not_put_back_yet_is_not_damaged(
    site: VerifySite, loop: VerificationLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild puts back the row of a snapshot before the items that its packs have."""
    for catalog in (site.verifier.catalog, site.readers.catalog):
        monkeypatch.setattr(catalog, "patience_seconds", 0)
    site.taker.protect(TENANT, "disk", "disk")
    session = site.take("disk", disk=random_chunks(1, 8))
    [(domain_no,)] = site.catalog.sql("SELECT domain_no FROM domain")
    index = f"chunk_{domain_no}"
    site.catalog.sql("UPDATE incarnation SET reconciled = false")
    site.catalog.sql(f"CREATE TABLE later AS TABLE {index}")
    site.catalog.sql(f"DELETE FROM {index}")

    with pytest.raises(NotReconciledError):
        loop.step()
    with pytest.raises(NotReconciledError):
        site.verify(session)
    with pytest.raises(NotReconciledError):
        site.read(session, "disk")
    assert levels(site) == []
    assert site.catalog.sql("SELECT counted_damage < 0 FROM volume") == [(False,)]

    site.catalog.sql(f"INSERT INTO {index} TABLE later")
    site.catalog.sql("UPDATE incarnation SET reconciled = true")
    site.catalog.sql("DROP TABLE later")
    assert loop.step() or loop.step()  # what could not be verified waits until the others are
    assert levels(site) == [(1, "structural", False)]


def test_a_name_that_a_rebuild_has_not_put_back_yet_is_not_called_unknown(
    site: VerifySite,
) -> None:
    latest = RecoveryPoint.parse("disk@latest")
    for reconciled, error in ((False, NotReconciledError), (True, NotFoundError)):
        site.catalog.sql(f"UPDATE incarnation SET reconciled = {reconciled}")
        with pytest.raises(error):
            require_tenant(site.catalog.catalog, "nobody")
        with pytest.raises(error):
            find_volume_at(site.catalog.catalog, TENANT, latest)
