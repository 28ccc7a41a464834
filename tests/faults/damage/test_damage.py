"""Stored objects are damaged in every way: all of it is found, and never are wrong bytes given out.

A restore either gives back what was saved or names the damage; a full verification names every
change of any byte of an object that a snapshot of the tenant needs.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing

import pytest

from libs.catalogdb.migrate import migrate
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.store.layout import (
    KEYS_PREFIX,
    DomainKeyName,
    domain_key_object,
    manifest_folder,
    pack_object,
)
from tests.faults.conftest import Scale
from tests.faults.damage.harm import HARMS, flip
from tests.faults.damage.repository import Repository
from tests.support.catalog import TENANT, CatalogSite, create_logins

SEED = 20261122


def contents() -> list[Mapping[str, bytes]]:
    """Three states of two disks: chunks that compress, one that does not, zeros, changes."""
    chance = random.Random(SEED)
    first = bytearray(8 * CHUNK_SIZE_BYTES + 1000)
    first[:CHUNK_SIZE_BYTES] = chance.randbytes(CHUNK_SIZE_BYTES)
    text = b"".join(b"line %d of a log\n" % chance.randrange(10**6) for _ in range(4000))
    first[2 * CHUNK_SIZE_BYTES : 2 * CHUNK_SIZE_BYTES + len(text)] = text
    second = bytearray(first)
    second[3 * CHUNK_SIZE_BYTES : 3 * CHUNK_SIZE_BYTES + 9] = b"a change!"
    third = second[: 5 * CHUNK_SIZE_BYTES]
    other = bytes(reversed(text))
    return [
        {"disk": bytes(first), "data": other},
        {"disk": bytes(second), "data": other},
        {"disk": bytes(third), "data": other + b"more"},
    ]


def tiny_contents() -> list[Mapping[str, bytes]]:
    """A repository of some 64 KiB."""
    chance = random.Random(SEED)
    first = chance.randbytes(CHUNK_SIZE_BYTES)
    return [{"disk": first}, {"disk": first + b"end"}]


@pytest.fixture
def catalog(database: str) -> Iterator[CatalogSite]:
    migrate(database)
    create_logins(database)
    with closing(CatalogSite(database)) as site:
        yield site


def needed(repository: Repository) -> list[str]:
    """Objects without which a snapshot of the tenant cannot be restored."""
    point = repository.volumes[0].point
    return [
        domain_key_object(DomainKeyName(point.domain, point.key_id)),
        *(pack_object(pack.generation) for pack in repository.packs),
        *(key for key in repository.objects if key.startswith(manifest_folder(TENANT))),
    ]


def test_damage_is_found_and_never_given_out(
    catalog: CatalogSite, scale: Scale, tally: Callable[..., None]
) -> None:
    count = scale.pick(600, 22_000, 500_000)
    begun, chance = time.monotonic(), random.Random(SEED)
    repository = Repository(catalog, contents())
    targets, weights = needed(repository), [harm.weight for harm in HARMS]
    figures = Counter[str]()
    for number in range(count):
        objects = dict(repository.objects)
        (harm,), key = chance.choices(HARMS, weights), chance.choice(targets)
        harm.inflict(objects, key, chance)
        shown = f"seed {SEED}, trial {number}: {harm.inflict.__name__} of {key}"
        try:
            right, refused = repository.restore(objects)
            found = repository.verify(objects)
        except Exception as err:
            raise AssertionError(shown) from err
        changed = any(objects.get(one) != repository.objects[one] for one in targets)
        assert bool(found) == changed, f"{shown}: {found}"
        assert right + refused == len(repository.volumes)
        figures.update(changed=changed, detected=bool(found), refused=bool(refused))
    assert figures["detected"] == figures["changed"] >= 0.9 * count, figures
    assert count / 3 <= figures["refused"] <= figures["changed"], figures
    tally(
        "damage of stored objects",
        tried=count,
        changed=figures["changed"],
        detected=figures["detected"],
        restores_refused=figures["refused"],
        wrong_bytes=0,
        seconds=round(time.monotonic() - begun),
    )


def test_every_bit_of_a_small_repository_may_rot(
    catalog: CatalogSite, scale: Scale, tally: Callable[..., None]
) -> None:
    """All bits in a soak; else one of many, spread evenly."""
    repository = Repository(catalog, tiny_contents())
    targets = needed(repository)
    bits = [(key, bit) for key in targets for bit in range(8 * len(repository.objects[key]))]
    step = scale.pick(2_000, 25, 1)
    tried = bits[::step]
    for key, bit in tried:
        objects = dict(repository.objects)
        flip(objects, key, bit)
        repository.restore(objects)
        assert repository.verify(objects), f"bit {bit} of {key}"
    assert len(tried) >= scale.pick(250, 20_000, 1 << 19)
    tally("every bit of a small repository", bits=len(bits), tried=len(tried), undetected=0)


def test_keys_of_another_tenant_open_nothing(catalog: CatalogSite) -> None:
    repository = Repository(catalog, contents())
    mine = needed(repository)[0]
    (foreign,) = {key for key in repository.objects if key.startswith(KEYS_PREFIX)} - {mine}
    objects = dict(repository.objects) | {mine: repository.objects[foreign]}
    assert repository.restore(objects) == (0, len(repository.volumes))
    assert repository.verify(objects)
