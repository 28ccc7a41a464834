"""What a chunker works with; wired in `__main__`, the same for all its parts."""

import random
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from libs.catalogdb.pool import Catalog
from libs.keys.vault import KeyVault
from services.chunker.packer import Packer
from services.chunker.parts.fetching import Dial
from services.chunker.parts.nodes import KnownNodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """All of it is thread-safe."""

    #: The catalog, in the chunker's role.
    catalog: Catalog
    #: Gives the keys of domains.
    vault: KeyVault
    #: Stores frames.
    packer: Packer
    #: Reads map nodes back.
    nodes: KnownNodes
    #: One of so many known chunks is asked for and checked.
    known_chunk_sample: int
    #: Begins a step on a lane that has nothing to do; None if there is none. It must not queue the
    #: step behind others, as the end of a part waits for it.
    share: Callable[[Callable[[], None]], Future[None] | None]
    #: Draws from [0, 1) whether a known chunk is asked for. From the system, because an agent that
    #: sees what is asked for must not know from that what is asked for next.
    chance: Callable[[], float] = random.SystemRandom().random
    #: Connects to agents.
    dial: Dial
