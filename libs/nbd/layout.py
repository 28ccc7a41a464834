"""Numbers and structures of the protocol, and our bounds. All integers are big endian."""

import enum
import errno
import struct

GREETING_MAGIC = b"NBDMAGIC"
#: Begins the option haggling, and each option.
OPTION_MAGIC = 0x49484156454F5054
#: What an oldstyle server sends in the place of `OPTION_MAGIC`.
OLDSTYLE_MAGIC = 0x00420281861253
OPTION_REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

#: Greeting: NBDMAGIC, option magic, handshake flags.
GREETING = struct.Struct(">8sQH")
CLIENT_FLAGS = struct.Struct(">I")
#: Option: magic, option, length of its data.
OPTION = struct.Struct(">QII")
#: Reply to an option: magic, option, kind of reply, length of its data.
OPTION_REPLY = struct.Struct(">QIII")
#: Answer to EXPORT_NAME: size, transmission flags; then zeros, unless those were declined.
EXPORT_NAME_REPLY = struct.Struct(">QH")
EXPORT_NAME_ZEROS_SIZE_BYTES = 124
INFO_EXPORT = struct.Struct(">HQH")
INFO_BLOCK_SIZE = struct.Struct(">HIII")
U16 = struct.Struct(">H")
U32 = struct.Struct(">I")
U64 = struct.Struct(">Q")

#: Request: magic, flags, command, cookie, offset, length.
REQUEST = struct.Struct(">IHHQQI")
#: Simple reply: magic, error, cookie.
SIMPLE_REPLY = struct.Struct(">IIQ")
#: Head of a chunk: magic, flags, type, cookie, length of its payload.
CHUNK = struct.Struct(">IHHQI")
#: Head of a data chunk with the offset that its payload begins with.
DATA_CHUNK = struct.Struct(">IHHQIQ")
#: Hole chunk with its payload: offset, length.
HOLE_CHUNK = struct.Struct(">IHHQIQI")
HOLE = struct.Struct(">QI")
#: Begin of the payload of an error chunk: error, length of the message.
CHUNK_ERROR = struct.Struct(">IH")
#: One extent of a block status: length, flags.
STATUS_EXTENT = struct.Struct(">II")

#: Longest string that the specification allows: export names, descriptions, contexts, messages.
STRING_SIZE_BYTES_MAX = 4096
#: What a peer that named no other bound may send and ask for, and what no peer calls an attack.
PAYLOAD_SIZE_BYTES_MAX = 32 << 20
MINIMUM_BLOCK_SIZE_BYTES_MAX = 1 << 16
#: A server supports unfragmented reads of this size at least.
UNFRAGMENTED_SIZE_BYTES = 1 << 16
#: Offsets are signed in most block layers.
EXPORT_SIZE_BYTES_MAX = (1 << 63) - 1
#: Extents of one block status chunk.
STATUS_EXTENTS_MAX = 1 << 20

#: Ours: data of one option. Seven queries of the longest kind fit, beside the longest name.
OPTION_SIZE_BYTES_MAX = 32 << 10
#: Ours: data of an option that is too long is skipped up to here; more is no slip but an attack.
OPTION_SKIP_SIZE_BYTES_MAX = 1 << 20
#: Ours: options in one handshake.
OPTIONS_MAX = 1024
#: Ours: data of one reply to an option; the longest is a name with a description.
OPTION_REPLY_SIZE_BYTES_MAX = 2 * STRING_SIZE_BYTES_MAX + 64
#: Ours: payload of an error chunk, also of one whose type we do not know.
ERROR_CHUNK_SIZE_BYTES_MAX = 2 * STRING_SIZE_BYTES_MAX
#: Ours: exports or contexts that a server lists, and infos about one export.
LISTED_MAX = 4096
INFOS_MAX = 64
#: Ours: metadata contexts of one session. Each may cost a client 8 MiB per block
#: status. An export may have more.
CONTEXTS_MAX = 8


class HandshakeFlag(enum.IntFlag):
    """What a server says of itself first, and what a client answers with the same bits."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Option(enum.IntEnum):
    """What a client asks for during the handshake."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10
    EXTENDED_HEADERS = 11


#: Marks a reply to an option as a refusal.
REFUSAL = 1 << 31


class OptionReply(enum.IntEnum):
    """What a server answers to an option."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = REFUSAL + 1
    ERR_POLICY = REFUSAL + 2
    ERR_INVALID = REFUSAL + 3
    ERR_PLATFORM = REFUSAL + 4
    ERR_TLS_REQD = REFUSAL + 5
    ERR_UNKNOWN = REFUSAL + 6
    ERR_SHUTDOWN = REFUSAL + 7
    ERR_BLOCK_SIZE_REQD = REFUSAL + 8
    ERR_TOO_BIG = REFUSAL + 9
    ERR_EXT_HEADER_REQD = REFUSAL + 10


class Info(enum.IntEnum):
    """What INFO and GO tell about an export."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class Feature(enum.IntFlag):
    """Transmission flags: what an export is, and what may be asked of it."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    ROTATIONAL = 1 << 4
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11


class Command(enum.IntEnum):
    """What a request asks for."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(enum.IntFlag):
    """How a command is to be done."""

    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
    FAST_ZERO = 1 << 4


#: Flag of the last chunk of a structured reply.
CHUNK_DONE = 1
#: Marks the type of a chunk as an error.
CHUNK_IS_ERROR = 1 << 15


class ChunkType(enum.IntEnum):
    """What a chunk of a structured reply holds."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = CHUNK_IS_ERROR + 1
    ERROR_OFFSET = CHUNK_IS_ERROR + 2


class ErrorNumber(enum.IntEnum):
    """The errors that a reply may have, whatever the systems call them."""

    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108


_OTHERS = {
    errno.EACCES: ErrorNumber.EPERM,
    errno.EROFS: ErrorNumber.EPERM,
    errno.EDQUOT: ErrorNumber.ENOSPC,
    errno.EFBIG: ErrorNumber.ENOSPC,
}
_KNOWN = frozenset(map(int, ErrorNumber))


def error_of_errno(number: int) -> ErrorNumber:
    """What a server answers when the system reported ``number``; EIO for what has no other."""
    if number in _KNOWN:
        return ErrorNumber(number)
    return _OTHERS.get(number, ErrorNumber.EIO)


def error_of_reply(number: int) -> ErrorNumber:
    """The error that a reply names; EINVAL for any that the specification does not have."""
    return ErrorNumber(number) if number in _KNOWN else ErrorNumber.EINVAL
