"""Reading a map node without a pin of its own: for whoever's session keeps it."""

from libs.blockmap.node import node_size_bytes
from libs.catalogdb.packs.damage import WHOLE_PACK, record_damage
from libs.catalogdb.packs.index import find_item
from libs.catalogdb.pool import Catalog
from libs.errors import DamagedDataError, NotFoundError, WrongKeyError
from libs.reading.frames import FrameReader


def read_node(catalog: Catalog, frames: FrameReader, domain_no: int, node_id: bytes) -> bytes:
    """Read a node of the base.

    What cannot be read is looked for again: a pack that was rewritten meanwhile has moved it, and
    bytes may be damaged on their way. The second time it is recorded as damaged: then the next
    session does without this base and stores the node anew.

    Raises:
        DamagedDataError: the node cannot be read, or the catalog has lost it.
        NotFoundError: its pack's object is gone.
        UnavailableError: the catalog or the store does not answer.
    """
    try:
        return _read(catalog, frames, domain_no, node_id, last_try=False)
    except WrongKeyError:
        raise
    except (DamagedDataError, NotFoundError):
        return _read(catalog, frames, domain_no, node_id, last_try=True)


def _read(
    catalog: Catalog, frames: FrameReader, domain_no: int, node_id: bytes, *, last_try: bool
) -> bytes:
    pack, place = find_item(catalog, domain_no, node_id)
    try:
        item = frames.item(pack, place)
    except WrongKeyError:
        raise
    except (DamagedDataError, NotFoundError) as err:
        if last_try:
            items = [WHOLE_PACK if isinstance(err, NotFoundError) else node_id]
            record_damage(catalog, pack.pack_no, items, str(err))
        raise
    return item[: node_size_bytes(item)]
