"""Types of event fields: the bounds that the codec enforces when it writes and when it reads."""

from typing import Annotated, Literal, get_args

from msgspec import Meta

#: Bytes of a BLAKE3 digest: chunk ids, map roots, batch digests.
DIGEST_SIZE_BYTES = 32
#: Longest message that an event carries, in characters; who writes one cuts it.
MESSAGE_LENGTH_MAX = 2000
#: Longest name of something or somebody, in characters.
NAME_LENGTH_MAX = 63

#: Damaged extents that an event or an answer lists at most.
DAMAGED_EXTENTS_MAX = 100

#: Number of things or bytes; fits the signed 64-bit integers of every consumer.
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
#: Elapsed time; never negative. Infinity and NaN are no durations either.
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
Digest = Annotated[bytes, Meta(min_length=DIGEST_SIZE_BYTES, max_length=DIGEST_SIZE_BYTES)]
#: A name that a person typed; `libs.ids.check_name` has the exact rule.
Name = Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH_MAX)]
#: A stable word for programs, such as the code of an error.
Code = Annotated[str, Meta(min_length=1, max_length=63)]
#: A name of any kind of object, such as a generation, a topic or ``node/NAME``.
Subject = Annotated[str, Meta(min_length=1, max_length=200)]
#: Text for people.
Message = Annotated[str, Meta(max_length=MESSAGE_LENGTH_MAX)]
ObjectKey = Annotated[str, Meta(min_length=1, max_length=1024)]

#: How sure the cut is: ``frozen`` = read from a frozen view; ``quiet`` = the source did not change
#: while it was read; ``unvouched`` = nobody can say whether it did (a block device, a file that
#: other hosts may write); ``fuzzy`` = it did.
Consistency = Literal["frozen", "quiet", "unvouched", "fuzzy"]

#: By what means a node held writes at a barrier, the weakest first: ``none`` = nothing could hold
#: them, and the node could only tell afterwards whether something wrote; ``filter`` = the filter in
#: front of each volume held them; ``fsfreeze`` = it froze the file systems that were asked for.
HoldMeans = Literal["none", "filter", "fsfreeze"]
HOLD_MEANS = get_args(HoldMeans)

#: How much of a snapshot is looked at: ``structural`` = manifest, block maps, and each pack's size
#: and self-description; ``sampled`` = also a random sample of frames; ``full`` = every byte.
VerificationLevel = Literal["structural", "sampled", "full"]
