"""Every kind of damage is found, named exactly, and repaired by the next capture."""

import uuid

import pytest

from libs.errors import DamagedDataError
from libs.events.fields import VerificationLevel
from libs.events.snapshots import SnapshotVerified
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.store.layout import pack_object
from services.catalog.verification.verifier import Thoroughness
from tests.integration.catalog.verification.conftest import TENANT, VerifySite, random_chunks


@pytest.fixture
def history(site: VerifySite) -> tuple[list[uuid.UUID], list[bytes]]:
    """Three snapshots of a disk of 40 chunks: 0-19 never change, 20-39 do each time."""
    site.taker.protect(TENANT, "disk", "disk")
    contents = [random_chunks(0, 20) + random_chunks(n, 20) for n in (1, 2, 3)]
    return [site.take("disk", disk=content) for content in contents], contents


def extents_of(site: VerifySite, session: uuid.UUID) -> list[tuple[int, int]]:
    """Damaged extents of a snapshot, in chunks."""
    return [
        (one.offset_bytes // CHUNK_SIZE_BYTES, one.length_bytes // CHUNK_SIZE_BYTES)
        for one in site.damaged()[session].extents
    ]


@pytest.mark.parametrize("level", ["structural", "sampled", "full"])
def test_what_is_intact_is_verified(
    site: VerifySite, history: tuple[list[uuid.UUID], list[bytes]], level: VerificationLevel
) -> None:
    (first, *_), _ = history
    assert site.verify(first, level) == "intact"
    (event,) = site.verdicts()
    assert isinstance(event, SnapshotVerified)
    assert (event.level, event.packs) == (level, 1)
    assert site.catalog.sql("SELECT FROM lease WHERE state = 'o'") == []
    assert site.catalog.sql("SELECT FROM pin") == []


@pytest.mark.parametrize("level", ["sampled", "full"])
def test_a_flipped_bit_in_a_shared_frame_names_all_snapshots_that_share_it(
    site: VerifySite, history: tuple[list[uuid.UUID], list[bytes]], level: VerificationLevel
) -> None:
    sessions, _ = history
    site.flip_frame_of(site.place(sessions[0], "disk", 5))
    assert site.verify(sessions[1], "structural") == "intact"
    assert site.verify(sessions[1], level) == "damaged"
    assert set(site.damaged()) == set(sessions)
    assert all(extents_of(site, session) == [(0, 16)] for session in sessions)
    with pytest.raises(DamagedDataError):
        site.read(sessions[2], "disk")


def test_a_flipped_bit_in_a_frame_of_one_snapshot_names_only_that_one(
    site: VerifySite, history: tuple[list[uuid.UUID], list[bytes]]
) -> None:
    sessions, _ = history
    site.flip_frame_of(site.place(sessions[1], "disk", 35))
    assert [site.verify(session) for session in sessions] == ["intact", "damaged", "intact"]
    assert extents_of(site, sessions[1]) == [(32, 8)]


@pytest.mark.parametrize("spoil", ["delete", "truncate", "swap", "header", "trailer", "footer"])
def test_damage_of_a_whole_object_is_found_by_its_structure_and_repaired(
    site: VerifySite, history: tuple[list[uuid.UUID], list[bytes]], spoil: str
) -> None:
    sessions, contents = history
    key = pack_object(site.place(sessions[0], "disk", 5).pack.generation)
    other = pack_object(site.place(sessions[1], "disk", 35).pack.generation)
    body = site.store.get(key)
    match spoil:
        case "delete":
            site.store.delete(key)
        case "truncate":
            site.store.put(key, body[:-1])
        case "swap":
            site.store.put(key, site.store.get(other))
        case "header":
            site.flip(key, 20)
        case "trailer":
            site.flip(key, len(body) - 200)
        case "footer":
            site.flip(key, len(body) - 3)
    assert site.verify(sessions[2], "structural") == "damaged"
    assert set(site.damaged()) == set(sessions)
    repair_and_check(site, sessions[1:], contents[1:])
    # Chunks 20-39 of the first snapshot are in no later capture.
    assert site.verify(sessions[0], "structural") == "damaged"
    assert extents_of(site, sessions[0]) in ([(0, 40)], [(20, 20)])


def repair_and_check(site: VerifySite, sessions: list[uuid.UUID], contents: list[bytes]) -> None:
    """The next capture repairs what it contains; older snapshots outlive its expiry."""
    repaired = site.take("disk", disk=contents[-1])
    assert site.verify(repaired) == "intact"
    readable = [
        (session, content)
        for session, content in zip(sessions, contents, strict=True)
        if site.verify(session) == "intact"
    ]
    assert sessions[-1] in dict(readable)
    for session, content in readable:
        assert site.read(session, "disk") == content
    site.take("disk", disk=random_chunks(99, 40))  # needs nothing of the repairing pack
    site.expire_and_collect(repaired)
    for session, content in readable:
        assert site.read(session, "disk") == content


def test_a_flipped_bit_is_repaired_for_older_snapshots_and_outlives_the_repairing_one(
    site: VerifySite, history: tuple[list[uuid.UUID], list[bytes]]
) -> None:
    """The trap: the older ones are counted in the damaged pack, but read the new one."""
    sessions, contents = history
    site.flip_frame_of(site.place(sessions[0], "disk", 5))
    site.verify(sessions[0])
    repair_and_check(site, sessions, contents)
    assert site.damaged() == {}


def test_the_strongest_verification_is_shown_as_long_as_it_holds(
    site: VerifySite, history: tuple[list[uuid.UUID], list[bytes]]
) -> None:
    sessions, contents = history

    def shown(session: uuid.UUID) -> tuple[str | None, bool]:
        point = site.volume(session, "disk")
        assert (point.verified_at is None) == (point.verified_level is None)
        return point.verified_level, point.damaged

    assert shown(sessions[0]) == (None, False)
    strengths: list[tuple[VerificationLevel, str]] = [
        ("structural", "structural"),
        ("sampled", "sampled"),
        ("structural", "sampled"),
        ("full", "full"),
        ("sampled", "full"),
    ]
    for level, strongest in strengths:
        site.verify(sessions[0], level)
        assert shown(sessions[0]) == (strongest, False)
    site.flip_frame_of(site.place(sessions[0], "disk", 5))
    site.verify(sessions[2])
    assert shown(sessions[0]) == (None, True)
    site.take("disk", disk=contents[2])
    site.verify(sessions[0], "structural")
    assert shown(sessions[0]) == ("structural", False)


def test_damage_that_was_repaired_is_not_found_again_and_makes_nobody_count_anew(
    site: VerifySite, history: tuple[list[uuid.UUID], list[bytes]]
) -> None:
    """The pack stays, as the head needs others of its frames, and it stays as damaged as it was."""
    sessions, contents = history
    site.flip_frame_of(site.place(sessions[0], "disk", 5))
    assert site.verify(sessions[2]) == "damaged"
    repairing = site.take("disk", disk=contents[2])
    assert [site.verify(session) for session in (*sessions, repairing)] == ["intact"] * 4
    following = site.take("disk", disk=contents[2])
    bases = dict(site.catalog.sql("SELECT session, base FROM snapshot"))
    assert bases[repairing] is None  # it had to count anew
    assert bases[following] == repairing


def test_a_damaged_map_node_is_repaired(
    site: VerifySite, history: tuple[list[uuid.UUID], list[bytes]]
) -> None:
    sessions, contents = history
    point = site.volume(sessions[2], "disk")
    assert point.root is not None
    ((pack_no, place),) = site.catalog.sql(
        f"SELECT pack_no, place FROM chunk_{point.domain_no} WHERE id_high = %s",
        uuid.UUID(bytes=point.root[:16]),
    )
    ((generation, frames),) = site.catalog.sql(
        "SELECT generation, frames FROM pack WHERE pack_no = %s", pack_no
    )
    number = place >> 20
    at = int.from_bytes(frames[number * 12 : number * 12 + 4], "little")
    site.flip(pack_object(generation), at + 20)
    assert site.verify(sessions[2], "structural") == "damaged"
    assert extents_of(site, sessions[2]) == [(0, 40)]
    assert set(site.damaged()) == {sessions[2]}
    repair_and_check(site, sessions, contents)


def test_a_damaged_manifest_is_damage_without_extents(
    site: VerifySite, history: tuple[list[uuid.UUID], list[bytes]]
) -> None:
    sessions, contents = history
    ((key,),) = site.catalog.sql("SELECT manifest_key FROM snapshot WHERE sequence = 2")
    whole = site.store.get(key)
    for at in (10, 30, 90, len(whole) - 5):
        site.flip(key, at)
        assert site.verify(sessions[1], "structural") == "damaged"
        assert site.damaged()[sessions[1]].manifest
        assert site.damaged()[sessions[1]].extents == ()
        site.flip(key, at)
    ((first,),) = site.catalog.sql("SELECT manifest_key FROM snapshot WHERE sequence = 1")
    site.store.put(key, site.store.get(first))
    assert site.verify(sessions[1], "structural") == "damaged"
    assert site.read(sessions[1], "disk") == contents[1]
    site.store.put(key, whole)
    assert site.verify(sessions[1], "structural") == "intact"


def test_an_object_that_comes_back_is_intact_again(
    site: VerifySite, history: tuple[list[uuid.UUID], list[bytes]]
) -> None:
    sessions, _ = history
    key = pack_object(site.place(sessions[0], "disk", 5).pack.generation)
    body = site.store.get(key)
    site.store.delete(key)
    assert site.verify(sessions[0]) == "damaged"
    site.store.put(key, body)
    assert [site.verify(session) for session in sessions] == ["intact"] * 3
    assert site.damaged() == {}


def test_two_volumes_that_share_the_damaged_chunk_are_both_named_and_both_repaired(
    site: VerifySite,
) -> None:
    shared = random_chunks(7, 4)
    contents = {"a": shared + random_chunks(8, 4), "b": random_chunks(9, 4) + shared}
    site.taker.protect(TENANT, "pair", "a", "b")
    site.taker.protect(TENANT, "alone", "c")
    pair = site.take("pair", **contents)
    alone = site.take("alone", c=random_chunks(10, 2) + shared[: 2 * CHUNK_SIZE_BYTES])
    site.flip_frame_of(site.place(pair, "a", 0))
    assert site.verify(alone) == "damaged"
    volumes = {site.volume(pair, name).volume: name for name in "ab"}
    extents = {volumes[one.volume]: one for one in site.damaged()[pair].extents}
    assert extents["b"].offset_bytes == 4 * CHUNK_SIZE_BYTES
    assert set(extents) == {"a", "b"}
    site.take("alone", c=shared)  # another volume of the domain has the bytes
    assert site.read(pair, "b") == contents["b"]
    site.take("pair", **contents)
    for name, content in contents.items():
        assert site.read(pair, name) == content
    assert site.verify(pair) == "intact"


def test_a_verification_that_begins_again_skips_what_it_has_checked(
    site: VerifySite, history: tuple[list[uuid.UUID], list[bytes]]
) -> None:
    sessions, _ = history
    site.verify(sessions[2])
    how = Thoroughness("full", skip_checked_seconds=3600)
    before = site.catalog.sql("SELECT max(checked_in_full_at) FROM copy")
    site.verifier.verify(TENANT, sessions[2], how)
    assert site.catalog.sql("SELECT max(checked_in_full_at) FROM copy") == before
