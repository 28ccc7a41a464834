"""Whoever meets damage while it works says so: downloads, and captures that read their base."""

import pytest

from libs.catalogdb.packs.damage import WHOLE_PACK, known_damage
from libs.catalogdb.sessions.session import reject_session
from libs.errors import DamagedDataError, NotFoundError
from libs.store.layout import pack_object
from services.catalog.verification.loop import VerificationLoop
from tests.integration.catalog.verification.conftest import TENANT, VerifySite, random_chunks
from tests.support.snapshots import SnapshotTaker


def test_a_download_that_meets_a_flipped_bit_records_it(site: VerifySite) -> None:
    site.taker.protect(TENANT, "disk", "disk")
    content = random_chunks(1, 20)
    session = site.take("disk", disk=content)
    placed = site.place(session, "disk", 17)
    site.flip_frame_of(placed)
    with pytest.raises(DamagedDataError):
        site.read(session, "disk")
    known = known_damage(site.catalog.catalog, [placed.pack.pack_no])
    assert len(known) == 4  # chunks 16 to 19
    assert placed.id in {damage.item for damage in known}
    site.take("disk", disk=content)
    assert site.read(session, "disk") == content


def test_a_download_that_finds_no_object_records_the_whole_pack(site: VerifySite) -> None:
    site.taker.protect(TENANT, "disk", "disk")
    session = site.take("disk", disk=random_chunks(1, 4))
    placed = site.place(session, "disk", 0)
    site.store.delete(pack_object(placed.pack.generation))
    with pytest.raises(DamagedDataError):
        site.read(session, "disk")
    (known,) = known_damage(site.catalog.catalog, [placed.pack.pack_no])
    assert known.item == WHOLE_PACK
    VerificationLoop(site.verifier, 86_400, sample=1).step()
    assert set(site.damaged()) == {session}


def test_a_capture_whose_base_cannot_be_read_leaves_the_next_one_without_it(
    site: VerifySite,
) -> None:
    site.taker.protect(TENANT, "disk", "disk")
    content = random_chunks(1, 4)
    session = site.take("disk", disk=content)
    site.store.delete(pack_object(site.place(session, "disk", 0).pack.generation))
    restarted = SnapshotTaker(site.catalog, site.store, site.kek)  # with nothing in its memory
    with pytest.raises(NotFoundError):
        restarted.take(TENANT, "disk", {"disk": random_chunks(2, 4)})
    ((failed,),) = site.catalog.sql("SELECT session FROM session WHERE state = 'o'")
    reject_session(site.catalog.chunker, "chunker", failed, "damaged-data", "as captures do")
    assert restarted.take(TENANT, "disk", {"disk": content}).base is None
    assert site.read(session, "disk") == content
