"""Events of `backcast.packs`: the life of the objects that hold chunks and map nodes."""

from dataclasses import dataclass
from uuid import UUID

from libs.events.fields import Count, Name


@dataclass(frozen=True, slots=True, kw_only=True)
class PackStored:
    """Emitted when a pack was registered: its object is durable and its items may be referenced.

    Stream key: generation. Ordering: first event of its generation. A duplicate is harmless.
    """

    generation: UUID
    domain: UUID
    tenant: Name
    size_bytes: Count
    #: Items that are chunks; map nodes are not counted.
    chunk_count: Count
    #: The session that stored it first; the pack may serve any number of others.
    session: UUID
