"""The digest that ties a capture's completion to exactly its batches."""

import blake3


class BatchesDigest:
    """BLAKE3 over the BLAKE3 digests of a capture's `ExtentsChanged` values, in order of number.

    The agent computes it while it publishes, the chunker while it receives; a capture is complete
    only if both come to the same result. Not safe for use by two threads at once.
    """

    def __init__(self) -> None:
        self._outer = blake3.blake3()
        #: Number of batches added.
        self.count = 0

    def add(self, value: bytes) -> None:
        """Add the encoded value of the next batch."""
        self._outer.update(blake3.blake3(value).digest())
        self.count += 1

    def digest(self) -> bytes:
        """The 32 bytes for `CaptureCompleted.batches_digest`; more batches may still be added."""
        return self._outer.digest()
