"""One volume with chunks of two domains, through all that can happen to a snapshot.

Tenant `images` owns a domain and stores an image in it; tenant `acme` was granted that domain, and
its snapshots of `vm` name chunks of the image there, under domain tag 1, instead of storing them.
"""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from deploy.local.cluster import LocalCluster
from libs.catalogdb.domains import grant_domain
from libs.catalogdb.protected import find_tenant
from libs.catalogdb.verification import Damaged, Intact
from libs.errors import ForbiddenError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.runtime.signals import Stop
from libs.store.folder import FolderStore
from libs.store.layout import CHECKPOINTS_PREFIX, pack_object
from libs.store.port import ObjectStore
from services.catalog.deletion.rewriter import RewritePolicy
from services.catalog.recovery.check import CatalogCheck
from services.catalog.verification.verifier import Thoroughness, Verifier
from tests.integration.catalog.protected import TENANT, Protected
from tests.integration.catalog.recovery.timeline import Timeline, timeline

OWNER = "images"
#: The image's chunks; those that `vm` has of it, announced under domain tag 1.
IMAGE = range(1, 41)
CLAIMED = dict.fromkeys((1, 2, 3, 4), 1)
POLICY = RewritePolicy(
    live_share_max=0.5, again_seconds=0, deadline_seconds=60, merge_young_seconds=3600
)


@pytest.fixture
def line(servers: LocalCluster, tmp_path: Path) -> Iterator[Timeline]:
    with timeline(servers.postgres.dsn, FolderStore(tmp_path)) as made:
        made.protected.protect("image", tenant=OWNER)
        made.protected.protect("vm")
        made.protected.take("image", *IMAGE)
        grant(made.protected)
        yield made


def grant(protected: Protected) -> None:
    grant_domain(protected.site.coordinator, domain_of(protected), TENANT)


def domain_of(protected: Protected) -> UUID:
    owner = find_tenant(protected.site.coordinator, OWNER)
    assert owner is not None
    return owner.domain


def image_packs(protected: Protected, state: str = "l") -> list[int]:
    """Numbers of packs of the image's domain."""
    rows = protected.site.sql(
        """SELECT pack_no FROM pack JOIN domain USING (domain_no)
           WHERE state = %s AND domain = %s ORDER BY pack_no""",
        state,
        domain_of(protected),
    )
    return [pack_no for (pack_no,) in rows]


def named_elsewhere(protected: Protected, volume: str) -> int:
    """How many addresses of a volume's head are in packs of the image's domain."""
    ((addresses,),) = protected.site.sql(
        """SELECT coalesce(sum(addresses), 0)::int FROM pack_use JOIN volume USING (volume_no)
           WHERE name = %s AND last_sequence IS NULL AND pack_no = ANY(%s)""",
        volume,
        image_packs(protected),
    )
    return int(addresses)


def verify(protected: Protected, volume: str, sequence: int) -> Intact | Damaged:
    verifier = Verifier(protected.site.catalog, protected.stores, protected.vault, 60, 0, Stop())
    session = protected.sessions[volume, sequence]
    return verifier.verify(protected.tenant_of(volume), session, Thoroughness("full", 1.0))


def remove_all(store: ObjectStore, prefix: str) -> None:
    for stat in list(store.list(prefix)):
        store.delete(stat.key)


def test_chunks_of_another_domain_are_named_and_not_stored(line: Timeline) -> None:
    protected = line.protected
    protected.take("vm", 1, 2, 101, 0, 3, 4, tags=CLAIMED)
    protected.check()
    (own,) = set(protected.packs()) - set(image_packs(protected))
    assert protected.site.sql("SELECT items FROM pack WHERE pack_no = %s", own) == [(2,)], (
        "its own chunk and its leaf"
    )
    (image,) = image_packs(protected)
    counted = dict(
        protected.site.sql(
            """SELECT pack_no, addresses::int FROM pack_use JOIN volume USING (volume_no)
               WHERE name = 'vm'"""
        )
    )
    assert counted == {own: 2, image: 4}


def test_the_life_of_a_volume_of_two_domains(line: Timeline) -> None:
    protected = line.protected
    protected.take("vm", 1, 2, 101, 0, 3, 4, tags=CLAIMED)
    protected.take("vm", 1, 2, 102, 0, 3, 104, tags=CLAIMED)

    # The owner gives its snapshot up: the pack stays, as another tenant's snapshots use it.
    protected.take("image", 5, *range(51, 90))
    (pack, *_) = image_packs(protected)
    assert protected.expire("image", 1)
    protected.collect()
    assert pack in image_packs(protected)
    protected.check()

    # Little of it is needed: what either tenant needs moves to a new pack of the same domain.
    tally = protected.rewriter(POLICY).run()
    assert (tally.rewritten, tally.given_up) == (1, 0)
    assert image_packs(protected, "c") == [pack]
    protected.collect()
    protected.check()

    # Snapshots go on upon what was moved: chunk 3 leaves, chunk 4 has left, chunk 5 comes.
    protected.take("vm", 1, 2, 102, 0, 105, 104, 5, tags=CLAIMED | {5: 1})
    assert protected.expire("vm", 1)
    assert protected.expire("vm", 2)
    protected.rewriter(POLICY).run()
    protected.collect()
    protected.check()
    for volume, sequence in protected.live:
        assert isinstance(verify(protected, volume, sequence), Intact)

    check_against_the_store(line)
    line.lose_everything()
    report = line.reconcile()
    assert (report.damaged, report.unreadable) == ([], [])
    rebuilt = line.protected
    assert line.live() == set(rebuilt.live)
    rebuilt.check()
    rebuilt.take("vm", 1, 2, 102, 0, 106, 104, 5, tags=CLAIMED | {5: 1})
    rebuilt.collect()
    rebuilt.check()
    check_against_the_store(line)


def check_against_the_store(line: Timeline) -> None:
    """The catalog and one that is rebuilt from the bucket are the same, row by row."""
    checking = CatalogCheck(
        line.site.catalog,
        line.site.dsn_of("catalog"),
        line.protected.stores,
        line.protected.vault,
        line.checkpoints,
    )
    result = checking.check()
    assert result.told == []
    assert result.rows > 15


def test_what_the_last_tenant_gives_up_goes(line: Timeline) -> None:
    protected = line.protected
    protected.take("image", 50)
    assert protected.expire("image", 1)
    protected.take("vm", 1, 2, tags=CLAIMED)
    protected.collect()
    assert len(image_packs(protected)) == 2
    protected.take("vm", 101)
    assert protected.expire("vm", 1)
    protected.collect()
    assert len(image_packs(protected)) == 1, "that of the owner's head"
    protected.check()


def test_manifests_alone_bring_the_list_of_domains_back(line: Timeline) -> None:
    """Grants are in checkpoints only: what was stored is there, what is new must be granted."""
    protected = line.protected
    protected.take("vm", 1, 101, tags=CLAIMED)
    remove_all(line.store, CHECKPOINTS_PREFIX)
    line.lose_everything()
    report = line.reconcile()
    assert (report.damaged, report.unreadable) == ([], [])
    rebuilt = line.protected
    rebuilt.check()
    with pytest.raises(
        ForbiddenError, match="domain tag 1 were announced, which the tenant may not use"
    ):
        rebuilt.take("vm", 1, 2, 101, tags=CLAIMED)
    reject_open(line)
    grant(rebuilt)
    rebuilt.take("vm", 1, 2, 101, tags=CLAIMED)
    rebuilt.check()


def test_the_users_manifests_alone_are_enough(line: Timeline) -> None:
    """Of the image's owner nothing is left but keys and packs; events are the user's then."""
    protected = line.protected
    protected.take("vm", 1, 101, tags=CLAIMED)
    remove_all(line.store, CHECKPOINTS_PREFIX)
    remove_all(line.store, f"manifests/{OWNER}/")
    line.lose_everything()
    assert line.reconcile().damaged == []
    rebuilt = line.protected
    del rebuilt.live["image", 1]
    rebuilt.check()
    rebuilt.take("vm", 102)
    assert rebuilt.expire("vm", 1)
    assert rebuilt.collect() > 0
    rebuilt.check()


def reject_open(line: Timeline) -> None:
    line.site.sql("UPDATE session SET state = 'r' WHERE state = 'o'")
    line.site.sql("UPDATE attempt SET open = false")
    line.site.sql("DELETE FROM pin")


def test_damage_in_a_pack_of_another_domain_is_named_where_it_is_read(line: Timeline) -> None:
    protected = line.protected
    protected.take("vm", 101, 1, 102, tags=CLAIMED)
    protected.protect("apart")
    protected.take("apart", 201)
    (pack,) = image_packs(protected)
    ((generation, frames),) = protected.site.sql(
        "SELECT generation, frames FROM pack WHERE pack_no = %s", pack
    )
    key = pack_object(generation)
    body = bytearray(protected.store.get(key))
    body[int.from_bytes(frames[:4], "little") + 100] ^= 1
    protected.store.put(key, bytes(body))

    verdict = verify(protected, "vm", 1)
    assert isinstance(verdict, Damaged)
    (extent,) = verdict.extents
    assert (extent.offset_bytes, extent.length_bytes) == (CHUNK_SIZE_BYTES, CHUNK_SIZE_BYTES)
    assert extent.generation == generation
    named = {
        (tenant, name)
        for tenant, name in protected.site.sql(
            """SELECT t.name, g.name FROM verification v JOIN snapshot s USING (session)
               JOIN volume_group g USING (group_no) JOIN tenant t USING (tenant_no)
               WHERE v.damaged"""
        )
    }
    assert named == {(TENANT, "vm"), (OWNER, "image")}, "and not what is apart"

    # Whoever claims it meanwhile stores it as its own; only its owner mends the pack.
    protected.take("vm", 101, 1, 103, tags=CLAIMED)
    assert named_elsewhere(protected, "vm") == 0
    assert isinstance(verify(protected, "vm", 2), Intact)
    protected.take("image", *IMAGE)
    protected.check()
    assert isinstance(verify(protected, "vm", 1), Intact)


def test_a_chunk_that_another_domain_lacks_is_stored_as_the_tenants_own(line: Timeline) -> None:
    """It is here already, or it is not, and is announced twice."""
    protected = line.protected
    protected.take("vm", 90, 101, 0, tags=CLAIMED)
    (own,) = set(protected.packs()) - set(image_packs(protected))
    image = image_packs(protected)
    lacking = dict.fromkeys((90, 91, 92), 1)  # 90 is the tenant's own already
    protected.take("vm", 90, 91, 1, 91, 92, 101, 0, tags=CLAIMED | lacking)
    (new,) = set(protected.packs()) - {own, *image}
    assert image_packs(protected) == image, "nothing was stored in the other domain"
    assert protected.site.sql("SELECT items FROM pack WHERE pack_no = %s", new) == [(3,)], (
        "chunks 91 and 92, each once, and the leaf"
    )
    assert named_elsewhere(protected, "vm") == 1
    protected.check()
    assert isinstance(verify(protected, "vm", 2), Intact)
    protected.take("vm", 90, 91, 1, 93, 92, 101, 0, tags=CLAIMED | lacking)
    for sequence in (1, 2):
        assert protected.expire("vm", sequence)
    protected.collect()
    protected.check()
    check_against_the_store(line)


def test_two_groups_may_give_a_tag_two_meanings(line: Timeline) -> None:
    """A marking asks what the tag means in the group whose map it reads."""
    protected = line.protected
    protected.protect("other-image", tenant="more-images")
    protected.take("other-image", *IMAGE)
    other = find_tenant(protected.site.coordinator, "more-images")
    assert other is not None
    protected.take("vm", 1, 2, tags=CLAIMED)
    grant_domain(protected.site.coordinator, other.domain, TENANT)
    protected.protect("late")
    protected.site.sql(
        """INSERT INTO group_domain (group_no, tag, domain_no)
           SELECT group_no, 1, %s FROM volume_group WHERE name = 'late'""",
        other.domain_no,
    )
    protected.take("late", 1, 2, 3, tags=CLAIMED)
    protected.check()
    protected.take("vm", 1, 2, 3, 4, tags={1: 1, 2: 2, 3: 1, 4: 2})
    protected.check()
    for name in ("image", "other-image"):
        protected.take(name, 60)
        assert protected.expire(name, 1)
    assert protected.rewriter(POLICY).run().rewritten == 2
    protected.collect()
    protected.check()
    check_against_the_store(line)
