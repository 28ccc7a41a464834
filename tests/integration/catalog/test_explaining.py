"""Who uses this chunk, why is this pack there."""

from pathlib import Path
from uuid import UUID

from libs.catalogdb.packs.explanation import explain_packs, pack_of_generation, packs_of_item
from libs.copies.stores import Stores
from libs.packs.chunk import ChunkHasher
from services.catalog.explanation.explainer import ChunkAddress, Explainer
from tests.integration.catalog.protected import TENANT, chunk, in_folder
from tests.support.catalog import CatalogSite, Worker, open_on


def test_a_chunk_is_found_in_every_live_snapshot_that_has_it(
    site: CatalogSite, tmp_path: Path
) -> None:
    protected = in_folder(site, tmp_path)
    protected.protect("disk", "other")
    protected.take("disk", 1, 2, 1)
    protected.take("disk", 3, 2, 1)
    protected.take("other", 0, 0, 1)
    ((domain, key_id),) = site.sql("SELECT domain, key_id FROM domain")
    id_ = ChunkHasher(protected.vault.get(domain, key_id).id_key).chunk_id(chunk(1))
    worker = Worker(site, open_on(site, "disk"))
    (pack_no,) = packs_of_item(site.catalog, id_).values()
    assert worker.look_up(id_) == [pack_no]

    explainer = Explainer(site.catalog, Stores(protected.store), protected.vault)
    addresses = [
        ChunkAddress(TENANT, "disk", 1, 0),
        ChunkAddress(TENANT, "disk", 1, 2 * 65536),
        ChunkAddress(TENANT, "disk", 2, 2 * 65536),
        ChunkAddress(TENANT, "other", 1, 2 * 65536),
    ]
    assert explainer.addresses(id_, 100, 100) == addresses
    assert explainer.addresses(id_, 1, 100) == addresses[:2]
    assert explainer.addresses(id_, 100, 3) == addresses[:3]

    (pack,) = explain_packs(site.catalog, [pack_no])
    assert pack_of_generation(site.catalog, pack.generation) == [pack_no]
    assert pack.state == "live"
    assert [(pin.owner, pin.session) for pin in pack.pins] == [
        (worker.attempt, worker.view.session)
    ]
    assert [(use.volume, use.first_sequence, use.last_sequence) for use in pack.uses] == [
        ("disk", 1, None),
        ("other", 1, None),
    ]


def test_what_nobody_stores_has_no_pack(site: CatalogSite) -> None:
    assert packs_of_item(site.catalog, bytes(32)) == {}
    assert pack_of_generation(site.catalog, UUID(int=1)) == []
