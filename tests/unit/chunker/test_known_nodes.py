"""Map nodes that a chunker keeps."""

from typing import Any

import pytest

from libs.blockmap.node import NodeId
from services.chunker.parts import nodes
from services.chunker.parts.nodes import KnownNodes


class Asked:
    """Notes which nodes are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ids: list[bytes] = []
        monkeypatch.setattr(nodes, "read_node", self.read)

    def read(self, _catalog: object, _frames: object, domain_no: int, node_id: bytes) -> bytes:
        self.ids.append(node_id)
        return bytes([domain_no]) * 10


def known(size_bytes_max: int) -> KnownNodes:
    nothing: Any = None  # `Asked` reads
    return KnownNodes(nothing, nothing, size_bytes_max)


def node(number: int) -> NodeId:
    return NodeId(bytes([number]) * 32)


def test_a_node_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, kept = Asked(monkeypatch), known(1000)
    kept.keep(1, node(2), b"written")
    assert kept.read(1, node(2)) == b"written"
    assert [kept.read(1, node(1)) for _ in range(2)] == [b"\1" * 10] * 2
    assert asked.ids == [node(1)]


def test_nodes_of_two_domains_are_different(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, kept = Asked(monkeypatch), known(1000)
    assert kept.read(1, node(1)) != kept.read(2, node(1))
    assert asked.ids == [node(1), node(1)]


def test_what_was_not_used_for_longest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, kept = Asked(monkeypatch), known(3 * 310)
    for number in (1, 2, 3, 1, 4):
        kept.read(1, node(number))
    assert asked.ids == [node(number) for number in (1, 2, 3, 4)]
    kept.read(1, node(1))
    kept.read(1, node(2))
    assert asked.ids[4:] == [node(2)]
    kept.keep(1, node(5), bytes(631))
    assert kept.read(1, node(5)) != bytes(631)
