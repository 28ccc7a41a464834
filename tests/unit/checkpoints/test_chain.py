"""Chains of deltas: what they stand for, how long they become, and what thinning leaves of them."""

import contextlib
import dataclasses
import datetime as dt
import itertools
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.checkpoints.chain import FEW_ROWS, links_kept
from libs.checkpoints.checkpoint import CHAIN_LENGTH_MAX, Head, Link, open_head, parts_of, seal_head
from libs.checkpoints.rows import (
    KINDS,
    CondemnedRow,
    GoneRow,
    HoldRow,
    NodeRow,
    Row,
    RowKey,
    TenantRow,
    key_of,
    kind_of,
)
from libs.checkpoints.shelf import CheckpointShelf
from libs.errors import DamagedDataError
from libs.store.folder import FolderStore
from libs.store.layout import CheckpointName, checkpoint_object
from libs.store.port import ObjectStore
from tests.golden.make_formats import KEK

AT = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)


class Catalog:
    """An independent model of a catalog and its checkpoints: a dict, and what changed in it.

    Args:
        store: where checkpoints go.
        few_rows: so many changed rows never make a base necessary.
    """

    def __init__(self, store: ObjectStore, few_rows: int) -> None:
        self.shelf = CheckpointShelf(store, KEK)
        self.rows: dict[RowKey, Row] = {}
        self.chain: list[tuple[Link, int]] = []
        self.dirty: list[set[RowKey]] = [set()]
        self.number = 0
        self.written = 0
        self._few_rows = few_rows

    def put(self, row: Row) -> None:
        self.rows[kind_of(row), key_of(row)] = row
        self.dirty[-1].add((kind_of(row), key_of(row)))

    def remove(self, key: RowKey) -> None:
        if self.rows.pop(key, None):
            self.dirty[-1].add(key)

    def checkpoint(self) -> CheckpointName:
        """Write one. Its number is one that a crash may have skipped."""
        self.number += 1
        name = CheckpointName(0, self.number)
        kept = links_kept([rows for _, rows in self.chain], len(self.dirty[-1]), self._few_rows)
        keys = set().union(*self.dirty[kept:]) if kept else set(self.rows)
        ordered = sorted(keys, key=lambda key: (KINDS.index(key[0]), key[1]))
        rows = [self.rows.get(key) or GoneRow(kind=key[0], key=key[1]) for key in ordered]
        digests = [
            self.shelf.put_part(dataclasses.replace(name, part=part), plain)
            for part, plain in enumerate(parts_of(rows))
        ]
        links = tuple(link for link, _ in self.chain[:kept])
        head = Head(kind="state", made_at=AT, positions={}, parts=tuple(digests), chain=links)
        link = self.shelf.put_head(name, head)
        self.chain = [*self.chain[:kept], (link, len(rows))]
        # dirty[n] is what the nth link carries; the last one is what none does.
        self.dirty = [*self.dirty[:kept], keys if kept else set(), set()]
        self.written += len(rows)
        return name

    def restored(self) -> dict[RowKey, Row]:
        newest = self.shelf.newest_state()
        assert newest is not None
        rows = list(self.shelf.rows(newest))
        places = [KINDS.index(kind_of(row)) for row in rows]
        assert places == sorted(places), "whoever applies a row must find what it refers to"
        return {(kind_of(row), key_of(row)): row for row in rows}


def row(kind: int, number: int, value: int) -> Row:
    if kind == 0:
        return TenantRow(name=f"t/{number}", domain=UUID(int=value))
    if kind == 1:
        return NodeRow(name=str(number), rpc_url="", span_address="", boot=UUID(int=value))
    if kind == 2:
        owner = f"owner/{number}"
        return HoldRow(session=UUID(int=1), owner=owner, reason=str(value), placed_at=AT)
    return CondemnedRow(generation=UUID(int=number))


KEYS = st.tuples(st.integers(0, 3), st.integers(0, 12))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.integers(0, 99)),
        st.tuples(st.just("remove"), KEYS, st.just(0)),
        st.tuples(st.just("checkpoint"), st.just((0, 0)), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=30, deadline=None)
@given(steps=STEPS, few_rows=st.sampled_from([1, 4, 1000]))
def test_a_base_and_its_deltas_stand_for_all_rows(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, tuple[int, int], int]],
    few_rows: int,
) -> None:
    catalog = Catalog(FolderStore(tmp_path_factory.mktemp("store")), few_rows)
    for step, (kind, number), value in steps:
        if step == "put":
            catalog.put(row(kind, number, value))
        elif step == "remove":
            gone = row(kind, number, 0)
            catalog.remove((kind_of(gone), key_of(gone)))
        else:
            catalog.checkpoint()
            assert catalog.restored() == catalog.rows
            catalog.shelf.thin_out(2)
            assert catalog.restored() == catalog.rows


@given(changes=st.lists(st.integers(1, 5000), min_size=1, max_size=300))
def test_chains_stay_short_and_a_change_is_written_a_few_times(changes: list[int]) -> None:
    total = 1_000_000
    rows, written = [total], 0
    for changed in changes:
        kept = links_kept(rows, changed)
        length = changed + sum(rows[max(1, kept) :]) if kept else total
        rows = [*rows[:kept], length]
        written += length if kept else 0
        assert all(one >= 2 * next_ for one, next_ in itertools.pairwise(rows[1:]))
        assert len(rows) <= 32 <= CHAIN_LENGTH_MAX
    # Each time that a row is written again, what it lies in has grown by half at least.
    assert written <= 32 * sum(changes)


def test_one_change_costs_one_row_until_many_add_up() -> None:
    assert links_kept([], 1) == 0
    assert links_kept([110_000], 1) == 1
    assert links_kept([110_000, 8], 1) == 2
    assert links_kept([110_000, 8, 1], 1) == 2
    assert links_kept([110_000, 20_000], 7600) == 0
    assert links_kept([0], FEW_ROWS) == 1
    assert links_kept([0], FEW_ROWS + 1) == 0


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    made = Catalog(FolderStore(tmp_path), 1000)
    for number in range(20):
        made.put(row(0, number, 0))
    made.checkpoint()
    for number in range(3):
        made.put(row(0, number, 1))
        if number != 1:
            made.checkpoint()
    return made


def test_a_chain_whose_base_is_gone_or_another_is_not_restored(
    catalog: Catalog, tmp_path: Path
) -> None:
    store = FolderStore(tmp_path)
    newest = catalog.shelf.newest_state()
    assert newest is not None
    base = checkpoint_object(CheckpointName(0, newest.head.chain[0].number))
    data = store.get(base)
    other = Head(kind="state", made_at=AT, positions={}, parts=())
    store.put(base, seal_head(CheckpointName(0, 1), other, KEK, b"h" * 16))
    with pytest.raises(DamagedDataError, match="another"):
        list(catalog.shelf.rows(newest))
    store.delete(base)
    with pytest.raises(DamagedDataError, match="not in the store"):
        list(catalog.shelf.rows(newest))
    store.put(base, data)
    assert catalog.restored() == catalog.rows


def test_a_head_does_not_build_on_itself_or_on_what_is_newer() -> None:
    name = CheckpointName(0, 5)
    for numbers in ((5,), (6,), (3, 2), (3, 3)):
        links = tuple(Link(number=number, digest=b"d" * 32) for number in numbers)
        head = Head(kind="state", made_at=AT, positions={}, parts=(), chain=links)
        with pytest.raises(DamagedDataError, match="builds on"):
            open_head(seal_head(name, head, KEK, b"h" * 16), name, KEK)


def test_rows_out_of_order_are_refused_and_not_left_out(tmp_path: Path) -> None:
    shelf = CheckpointShelf(FolderStore(tmp_path), KEK)
    name = CheckpointName(0, 1)
    (plain,) = parts_of([row(1, 1, 1), row(0, 1, 1)])
    digest = shelf.put_part(dataclasses.replace(name, part=0), plain)
    shelf.put_head(name, Head(kind="state", made_at=AT, positions={}, parts=(digest,)))
    newest = shelf.newest_state()
    assert newest is not None
    with pytest.raises(DamagedDataError, match="order"):
        list(shelf.rows(newest))


class DiesAfter(FolderStore):
    """A store whose client is killed after so many deletions.

    Fault model: the catalog service is killed while it thins out checkpoints.
    """

    def __init__(self, folder: Path, deletions: int) -> None:
        super().__init__(folder)
        self.left = deletions

    def delete(self, key: str) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        super().delete(key)


def test_thinning_that_was_killed_leaves_only_heads_that_can_be_restored(tmp_path: Path) -> None:
    for deletions in range(0, 30, 4):
        folder = tmp_path / str(deletions)
        folder.mkdir()
        catalog = Catalog(FolderStore(folder), few_rows=6)
        for number in range(24):
            catalog.put(row(0, number % 10, number))
            catalog.checkpoint()
        shelf = CheckpointShelf(DiesAfter(folder, deletions), KEK)
        with contextlib.suppress(KeyboardInterrupt):
            shelf.thin_out(3)
        for name in shelf.names():
            store = FolderStore(folder)
            head = open_head(store.get(checkpoint_object(name)), name, KEK)
            there = {one.number for one in shelf.names()}
            assert {link.number for link in head.chain} <= there
        assert catalog.restored() == catalog.rows
