"""Tagged ids: bare in the tenant's own domain, with the tag in others, never equal across both."""

from hypothesis import given
from hypothesis import strategies as st

from libs.blockmap.node import decode_node, encode_node
from libs.blockmap.tagged import (
    are_all_own,
    bare_id,
    id_text,
    positions_by_tag,
    tag_of,
    tagged_entry,
    tagged_ids,
    with_tag,
)

ENTRIES = st.lists(st.tuples(st.integers(0, 255), st.binary(min_size=32, max_size=32)), max_size=40)


@given(ENTRIES)
def test_a_tagged_id_says_what_the_leaf_said(entries: list[tuple[int, bytes]]) -> None:
    tags = bytes(tag for tag, _ in entries)
    tagged = tagged_ids(tags, b"".join(id_ for _, id_ in entries))
    assert [(tag_of(one), bare_id(one)) for one in tagged] == entries
    assert tagged == [with_tag(tag, id_) for tag, id_ in entries]
    assert are_all_own(tagged) == (not any(tags))
    if entries:
        leaf = decode_node(encode_node(0, {n: bytes([t]) + i for n, (t, i) in enumerate(entries)}))
        assert [tagged_entry(one) for one in leaf.entries().values()] == tagged


@given(ENTRIES)
def test_positions_are_those_of_each_tag(entries: list[tuple[int, bytes]]) -> None:
    tagged = [with_tag(tag, id_) for tag, id_ in entries]
    positions = positions_by_tag(tagged)
    assert sorted(n for some in positions.values() for n in some) == list(range(len(tagged)))
    assert all(tag_of(tagged[n]) == tag for tag, some in positions.items() for n in some)


def test_the_same_id_in_two_domains_is_two() -> None:
    assert len({with_tag(tag, bytes(32)) for tag in range(256)}) == 256
    assert tagged_ids(b"", bytes(64)) == [bytes(32)] * 2
    assert id_text(with_tag(3, bytes(32))) == f"{bytes(32).hex()} of domain tag 3"
