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


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRewritten:
    """Emitted when the live items of mostly dead packs were moved to a new pack.

    Stream key: generation of the new pack. Ordering: first event of its generation; a PackCondemned
    of each replaced pack follows at once. A duplicate is harmless.
    """

    generation: UUID
    domain: UUID
    tenant: Name
    size_bytes: Count
    #: Items that are chunks; map nodes are not counted.
    chunk_count: Count
    #: Generations of the packs that it replaces.
    replaced: tuple[UUID, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackCondemned:
    """Emitted when a pack was found unused: nothing may refer to it from now on.

    Stream key: generation. Ordering: after its PackStored, if it had one. A duplicate is harmless.
    """

    generation: UUID
    size_bytes: Count
    #: The pack that a rewrite moved its live items to.
    moved_to: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PackDeleted:
    """Emitted when the object of a condemned pack was deleted; its generation is dead for ever.

    Stream key: generation. Ordering: last event of its generation. A duplicate is harmless.
    """

    generation: UUID
