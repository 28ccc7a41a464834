"""What client and server know about an export, and what metadata says about its extents."""

from dataclasses import dataclass, field

from libs.errors import BadInputError
from libs.nbd.layout import (
    EXPORT_SIZE_BYTES_MAX,
    LISTED_MAX,
    MINIMUM_BLOCK_SIZE_BYTES_MAX,
    PAYLOAD_SIZE_BYTES_MAX,
    STRING_SIZE_BYTES_MAX,
    Feature,
)

#: The context of what is allocated: flags `STATE_HOLE` and `STATE_ZERO`.
BASE_ALLOCATION = "base:allocation"
STATE_HOLE = 1
STATE_ZERO = 2
#: QEMU's context of how many layers up the chain of images the data of an extent are.
QEMU_ALLOCATION_DEPTH = "qemu:allocation-depth"
#: Flag of a dirty extent in the context of a dirty bitmap.
STATE_DIRTY = 1


def dirty_bitmap(name: str) -> str:
    """QEMU's context of the dirty bitmap ``name``: flag `STATE_DIRTY`."""
    return f"qemu:dirty-bitmap:{name}"


@dataclass(frozen=True, slots=True)
class BlockSizes:
    """Block sizes and the longest payload of an export, in bytes.

    Raises:
        BadInputError: they break the specification's rules.
    """

    #: Offsets and lengths are multiples of it. A power of two up to 64 KiB.
    minimum: int = 1
    #: Requests that are multiples of it are cheapest. A power of two from 512.
    preferred: int = 4096
    #: Longest payload of one request, and of the data of one reply.
    payload_max: int = PAYLOAD_SIZE_BYTES_MAX

    def __post_init__(self) -> None:
        if not (_is_power_of_two(self.minimum) and self.minimum <= MINIMUM_BLOCK_SIZE_BYTES_MAX):
            raise BadInputError(
                f"NBD block sizes: minimum of {self.minimum} bytes, expected a power of two up to "
                f"{MINIMUM_BLOCK_SIZE_BYTES_MAX}"
            )
        least = max(self.minimum, 512)
        if not (_is_power_of_two(self.preferred) and self.preferred >= least):
            raise BadInputError(
                f"NBD block sizes: preferred size of {self.preferred} bytes, expected a power of "
                f"two from {least}"
            )
        if not self.preferred <= self.payload_max <= 0xFFFFFFFF:
            raise BadInputError(
                f"NBD block sizes: payload of {self.payload_max} bytes, expected "
                f"{self.preferred} to 4294967295"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An export as a server offers it, and as a client has found it.

    Raises:
        BadInputError: a name, size or combination that the protocol does not allow.
    """

    #: Up to 4096 bytes; the empty one is the default export.
    name: str
    size_bytes: int
    #: HAS_FLAGS is always set. A server's session sets SEND_DF itself.
    features: Feature = Feature.HAS_FLAGS
    block_sizes: BlockSizes = field(default_factory=BlockSizes)
    #: For people.
    description: str = ""
    #: Metadata contexts that may be asked for.
    contexts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.size_bytes <= EXPORT_SIZE_BYTES_MAX:
            raise BadInputError(
                f"NBD export {self.name!r}: size of {self.size_bytes} bytes, "
                f"expected 0 to {EXPORT_SIZE_BYTES_MAX}"
            )
        for what, text in (("name", self.name), ("description", self.description)):
            check_string(f"NBD export {self.name!r}: {what}", text)
        if not len(set(self.contexts)) == len(self.contexts) <= LISTED_MAX:
            raise BadInputError(
                f"NBD export {self.name!r}: {len(self.contexts)} metadata contexts, "
                f"expected {LISTED_MAX} different ones at most"
            )
        for context in self.contexts:
            check_context(context)
        if Feature.SEND_FAST_ZERO in self.features and Feature.SEND_WRITE_ZEROES not in (
            self.features
        ):
            raise BadInputError(
                f"NBD export {self.name!r}: it offers fast zeroing but no zeroing at all"
            )

    @property
    def is_read_only(self) -> bool:
        """Whether every command that writes is refused."""
        return Feature.READ_ONLY in self.features


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of an export that have the same flags in one metadata context."""

    offset: int
    length: int
    flags: int

    @property
    def end(self) -> int:
        """The offset after its last byte."""
        return self.offset + self.length


def check_string(what: str, text: str) -> None:
    """Refuse a text that cannot be a string of the protocol.

    Raises:
        BadInputError: it is longer than 4096 bytes of UTF-8, has a NUL, or is no UTF-8.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as err:
        raise BadInputError(f"{what}: no UTF-8 ({err.reason} at {err.start})") from err
    if size > STRING_SIZE_BYTES_MAX or "\0" in text:
        raise BadInputError(
            f"{what} of {size} bytes: expected {STRING_SIZE_BYTES_MAX} at most, without NUL"
        )


def check_context(name: str) -> None:
    """Refuse a text that cannot be the name of a metadata context: namespace, colon, leaf name.

    Raises:
        BadInputError: it cannot.
    """
    check_string("NBD metadata context", name)
    namespace, colon, _ = name.partition(":")
    if not (colon and namespace and namespace.isprintable() and " " not in namespace):
        raise BadInputError(
            f"NBD metadata context {name!r}: expected a namespace, a colon and a leaf name"
        )


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
