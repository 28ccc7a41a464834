"""Nodes of block maps that are needed again soon, by their ids.

What a snapshot's map has, the next snapshot's capture reads: its sample is compared with the base,
and its changes replace nodes. A node's id is a keyed hash of its bytes, so one that was kept is as
good as one that was read. Nodes that were written are kept like those that were read.
"""

import threading
from collections import OrderedDict

from libs.blockmap.node import NodeId
from libs.catalogdb.pool import Catalog
from libs.reading.frames import FrameReader
from libs.reading.nodes import read_node

#: Bytes of memory that are kept at most: leaves of 30 GiB of volumes.
_KEPT_SIZE_BYTES_MAX = 16 << 20
#: What an entry takes beside the node's bytes. The smallest nodes have 105.
_ENTRY_SIZE_BYTES = 300


class KnownNodes:
    """Thread-safe; shared by all parts.

    Args:
        catalog: the catalog, in the chunker's role.
        frames: reads what is not kept.
        size_bytes_max: how much is kept.
    """

    def __init__(
        self, catalog: Catalog, frames: FrameReader, size_bytes_max: int = _KEPT_SIZE_BYTES_MAX
    ) -> None:
        self._catalog = catalog
        self._frames = frames
        self._size_bytes_max = size_bytes_max
        self._size_bytes = 0
        #: Least recently used first.
        self._kept: OrderedDict[tuple[int, NodeId], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, domain_no: int, node_id: NodeId) -> bytes:
        """A node of a base; see `libs.reading.nodes.read_node`."""
        with self._lock:
            if (encoded := self._kept.get((domain_no, node_id))) is not None:
                self._kept.move_to_end((domain_no, node_id))
                return encoded
        encoded = read_node(self._catalog, self._frames, domain_no, node_id)
        self.keep(domain_no, node_id, encoded)
        return encoded

    def keep(self, domain_no: int, node_id: NodeId, encoded: bytes) -> None:
        """Remember a node's bytes, which have this id."""
        with self._lock:
            if (domain_no, node_id) in self._kept:
                return
            self._kept[domain_no, node_id] = bytes(encoded)
            self._size_bytes += len(encoded) + _ENTRY_SIZE_BYTES
            while self._size_bytes > self._size_bytes_max:
                _, dropped = self._kept.popitem(last=False)
                self._size_bytes -= len(dropped) + _ENTRY_SIZE_BYTES
