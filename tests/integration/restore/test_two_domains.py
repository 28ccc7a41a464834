"""A volume with chunks of another tenant's domain, given back by the service and by its plans."""

import random
from pathlib import Path

import pytest

from libs.catalogdb.domains import grant_domain
from libs.catalogdb.protected import find_tenant
from libs.errors import DamagedDataError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.points import RecoveryPoint
from libs.restoring.plan import decode_window
from libs.restoring.restore import restore
from tests.integration.restore.conftest import TENANT, RestoreSite

OWNER, IMAGE, VM = "images", "image", "mixed"
OTHERS = [random.Random(f"image {n}").randbytes(CHUNK_SIZE_BYTES) for n in range(40)]
OWN = [random.Random(f"own {n}").randbytes(CHUNK_SIZE_BYTES) for n in range(10)]
#: Own chunks between those of the image, zeros, and a chunk of the image twice.
CONTENT = b"".join(
    [
        *OTHERS[:20],
        OWN[0],
        OTHERS[20],
        bytes(3 * CHUNK_SIZE_BYTES),
        *OWN[1:],
        *OTHERS[15:40],
        b"end",
    ]
)


@pytest.fixture(scope="module", autouse=True)
def mixed(site: RestoreSite) -> str:
    """Takes the snapshots; the domain of the image."""
    site.taker.protect(OWNER, IMAGE, IMAGE)
    site.taker.take(OWNER, IMAGE, {IMAGE: b"".join(OTHERS)})
    owner = find_tenant(site.catalog.coordinator, OWNER)
    assert owner is not None
    grant_domain(site.catalog.coordinator, owner.domain, TENANT)
    site.taker.protect(TENANT, VM, VM)
    site.taker.take(TENANT, VM, {VM: CONTENT}, lambda chunk: int(chunk in OTHERS))
    return str(owner.domain)


def run(site: RestoreSite, out: Path) -> bytes:
    point = RecoveryPoint(VM, "latest")
    restore(site.client(), TENANT, point, out, force=False, progressed=lambda done, total: None)
    return out.read_bytes()


def test_a_restore_by_the_plan_gives_every_byte_back(site: RestoreSite, tmp_path: Path) -> None:
    assert run(site, tmp_path / "out") == CONTENT


def test_downloads_give_every_byte_back(site: RestoreSite) -> None:
    assert site.download(f"/volumes/{VM}/points/1/bytes").data == CONTENT
    headers = {"Range": f"bytes={19 * CHUNK_SIZE_BYTES + 5}-{21 * CHUNK_SIZE_BYTES + 7}"}
    part = site.download(f"/volumes/{VM}/points/1/bytes", headers).data
    assert part == CONTENT[19 * CHUNK_SIZE_BYTES + 5 : 21 * CHUNK_SIZE_BYTES + 8]


def test_a_plan_hands_out_the_id_key_of_another_domain_with_its_packs(
    site: RestoreSite, mixed: str
) -> None:
    client = site.client()
    path = f"/v1/tenants/{TENANT}/volumes/{VM}/points/1/restores"
    restore_id = "00000000-0000-7000-8000-000000000099"
    begun = client.post(path, {"restore": restore_id})
    query = {"first_chunk": 0, "chunk_count": 100}
    answer = client.get_raw(f"/v1/tenants/{TENANT}/restores/{restore_id}/plan", query)
    window = decode_window(answer, 0, 2**47)
    domains = {
        generation.hex: str(domain)
        for generation, domain in site.catalog.sql(
            "SELECT generation, domain FROM pack JOIN domain USING (domain_no)"
        )
    }
    keyed = {domains[pack.generation]: pack.id_key for pack in window.packs}
    own = site.catalog.sql(
        "SELECT domain FROM tenant JOIN domain USING (domain_no) WHERE name = %s", TENANT
    )
    assert keyed.pop(str(own[0][0])) is None
    assert list(keyed) == [mixed]
    assert keyed[mixed] != begun["id_key"]


def test_addresses_are_translated_in_both_directions(site: RestoreSite, mixed: str) -> None:
    offset = 16 * CHUNK_SIZE_BYTES + 77
    down = site.get(f"/volumes/{VM}/points/1/translate", offset=offset)
    assert down["domain"] == mixed
    assert down["chunk"] == site.get(f"/volumes/{VM}/points/1/translate", offset=offset)["chunk"]
    storage = down["storage"]
    up = site.get(
        f"/volumes/{VM}/points/1/translate",
        generation=storage["generation"],
        frame=storage["frame"],
        position=storage["position"],
    )
    at = [run["offset_bytes"] for run in up["addresses"]]
    again = CONTENT.index(OTHERS[16], offset)
    assert at == [offset, again + 77]
    own = site.get(f"/volumes/{VM}/points/1/translate", offset=20 * CHUNK_SIZE_BYTES)
    assert own["domain"] not in (None, mixed)


def test_what_is_damaged_in_another_domain_is_never_written(
    site: RestoreSite, tmp_path: Path
) -> None:
    where = site.get(f"/volumes/{VM}/points/1/translate", offset=0)["storage"]
    intact = site.store.get(where["object_key"])
    body = bytearray(intact)
    body[where["frame_offset_bytes"] + 1000] ^= 0x80
    site.store.put(where["object_key"], body)
    try:
        with pytest.raises(DamagedDataError, match=f"volume {VM}@1 at byte"):
            run(site, tmp_path / "out")
        assert not list(tmp_path.iterdir())
    finally:
        site.store.put(where["object_key"], intact)
