"""Small live packs: which ones a rewriter merges. Nothing is written.

Every snapshot leaves a pack at least, however little changed: after years of them a volume would
lie in more packs of some KiB than its bytes explain, and each costs a row, an object and a request
of every restore. So small packs are merged, as in a log-structured store: packs of one domain and
size class, when there are `FAN_IN` of them, become one pack of a larger class at least. A class is
four times as large as the one before, so each byte is moved at most once for each class, and fewer
than `FAN_IN` packs of each class are left, besides those that are half full or more.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from libs.catalogdb.pool import Catalog
from libs.catalogdb.rows import all_rows

#: So many packs of a class are merged, and fewer are left alone.
FAN_IN = 8
#: Largest size of each class in bytes, ascending; a pack of more is not small. Packs have 32 MiB.
CLASS_BYTES = (16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20)
#: Small packs that are looked at in one pass. More are left for the next one.
_COUNT_MAX = 20_000


@dataclass(frozen=True, slots=True)
class SmallPack:
    """A live pack that is small, and that a rewriter may move."""

    size_bytes: int
    items: int


def find_small(catalog: Catalog, young_seconds: float) -> list[dict[int, SmallPack]]:
    """Small packs that are worth merging, by their numbers; those of one domain are together.

    Args:
        catalog: the catalog.
        young_seconds: packs that are younger are left alone: snapshots that will soon be expired
            are among those that use them, and others like them are about to come.
    """
    domains: dict[int, dict[int, SmallPack]] = {}

    def add(domain_no: int, pack_no: int, **figures: int) -> None:
        domains.setdefault(domain_no, {})[pack_no] = SmallPack(**figures)

    with catalog.reading() as tx:
        all_rows(
            tx,
            add,
            """SELECT p.domain_no, p.pack_no, p.size_bytes, p.items FROM pack p
               WHERE p.state = 'l' AND p.size_bytes <= 16777216 AND p.items > 0
                 AND p.created_at < now() - make_interval(secs => %s)
                 AND NOT EXISTS (SELECT FROM pin WHERE pin.pack_no = p.pack_no)
                 AND NOT EXISTS (SELECT FROM marking m
                                 WHERE m.pack_no = p.pack_no AND m.again_at > now())
                 AND EXISTS (SELECT FROM pack_use u WHERE u.pack_no = p.pack_no)
                 AND may_be_moved(p.pack_no)
               ORDER BY p.domain_no, p.pack_no LIMIT %s""",
            [young_seconds, _COUNT_MAX],
        )
    return [chosen for packs in domains.values() if (chosen := choose_small(packs))]


def choose_small(packs: Mapping[int, SmallPack]) -> dict[int, SmallPack]:
    """Those of a domain's small packs that are worth merging, in order of their numbers.

    What smaller classes merge to counts as one more pack of its class.
    """
    classes: dict[int, list[int]] = {}
    for pack_no, pack in packs.items():
        classes.setdefault(_class_of(pack.size_bytes), []).append(pack_no)
    chosen: list[int] = []
    for number in range(len(CLASS_BYTES)):
        members = classes.get(number, [])
        merged_bytes = sum(packs[pack_no].size_bytes for pack_no in chosen)
        joins = bool(chosen) and _class_of(merged_bytes) == number
        if members and len(members) + joins >= FAN_IN:
            chosen += members
    return {pack_no: packs[pack_no] for pack_no in sorted(chosen)}


def _class_of(size_bytes: int) -> int:
    """Number of a size's class; that after the last one if it is not small."""
    return sum(size_bytes > largest for largest in CLASS_BYTES)
