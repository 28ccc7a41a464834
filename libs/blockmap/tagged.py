"""Ids together with the domain tag that a block map's leaf gives them.

A chunk id means something only within its domain, so whatever looks ids up, counts or compares them
carries the tag. A *tagged id* is written so that the ordinary case costs nothing: an id of the
tenant's own domain (tag 0), and the id of every map node, are the 32 bytes themselves; an id of
another domain is followed by its tag, one byte. The lengths differ, so no two of them are equal
unless tag and id are.
"""

from collections.abc import Sequence

from libs.blockmap.node import ID_SIZE_BYTES

#: Domain tag of the tenant's own domain.
OWN_TAG = 0
#: Domain tags are single bytes.
DOMAIN_COUNT_MAX = 256


def tagged_ids(tags: bytes, ids: bytes) -> list[bytes]:
    """Columns of a leaf as tagged ids.

    Args:
        tags: one byte for each id; may be empty if all ids are of the tenant's own domain.
        ids: 32 bytes each.
    """
    width = ID_SIZE_BYTES
    plain = [ids[at : at + width] for at in range(0, len(ids), width)]
    if not tags.strip(b"\0"):
        return plain
    return [id_ + tags[n : n + 1] if tags[n] else id_ for n, id_ in enumerate(plain)]


def tagged_entry(entry: bytes) -> bytes:
    """A leaf's entry, as `Node.entries` has it, as a tagged id."""
    return entry[1:] if entry[0] == OWN_TAG else entry[1:] + entry[:1]


def with_tag(tag: int, id_: bytes) -> bytes:
    """A bare id of 32 bytes as a tagged id."""
    return id_ if tag == OWN_TAG else id_ + bytes([tag])


def bare_id(tagged: bytes) -> bytes:
    """The 32 bytes of the id itself."""
    return tagged[:ID_SIZE_BYTES]


def tag_of(tagged: bytes) -> int:
    """The domain tag."""
    return tagged[ID_SIZE_BYTES] if len(tagged) > ID_SIZE_BYTES else OWN_TAG


def id_text(tagged: bytes) -> str:
    """The id for people."""
    tag = tag_of(tagged)
    return f"{bare_id(tagged).hex()} of domain tag {tag}" if tag else tagged.hex()


def are_all_own(tagged: Sequence[bytes]) -> bool:
    """Whether all of these ids are of the tenant's own domain."""
    return sum(map(len, tagged)) == ID_SIZE_BYTES * len(tagged)


def positions_by_tag(tagged: Sequence[bytes]) -> dict[int, Sequence[int]]:
    """Domain tag → positions of the ids that have it, ascending."""
    if are_all_own(tagged):
        return {OWN_TAG: range(len(tagged))}
    positions: dict[int, list[int]] = {}
    for position, id_ in enumerate(tagged):
        positions.setdefault(tag_of(id_), []).append(position)
    return {tag: positions[tag] for tag in sorted(positions)}
