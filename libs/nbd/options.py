"""Messages of the handshake: options of a client, and a server's replies. Bytes in, bytes out.

What cannot be read raises DamagedDataError. A server answers it to its client as invalid; a client
ends the session.
"""

from collections.abc import Iterable, Sequence

from libs.errors import BadInputError, DamagedDataError
from libs.nbd.export import BlockSizes, check_string
from libs.nbd.layout import (
    INFO_BLOCK_SIZE,
    INFO_EXPORT,
    OPTION,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    STRING_SIZE_BYTES_MAX,
    U16,
    U32,
    Info,
    Option,
    OptionReply,
)


def pack_option(option: Option, data: bytes = b"") -> bytes:
    """An option with its data."""
    return OPTION.pack(OPTION_MAGIC, option, len(data)) + data


def pack_option_reply(option: int, reply: OptionReply, data: bytes = b"") -> bytes:
    """A server's reply to an option."""
    return OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, reply, len(data)) + data


def pack_info_request(name: str, infos: Sequence[Info]) -> bytes:
    """Data of INFO and GO."""
    return _string(name) + U16.pack(len(infos)) + b"".join(U16.pack(info) for info in infos)


def unpack_info_request(data: bytes) -> tuple[str, frozenset[int]]:
    """Export name and wanted infos of INFO and GO.

    Raises:
        DamagedDataError: lengths that do not fit, an info twice, or a name that is no string.
    """
    name, at = _read_string(data, 0, "export name")
    if len(data) - at < U16.size:
        raise DamagedDataError(f"no count of infos in {len(data)} bytes")
    (count,) = U16.unpack_from(data, at)
    at += U16.size
    if len(data) - at != count * U16.size:
        raise DamagedDataError(f"{count} infos announced, {len(data) - at} bytes follow")
    infos = frozenset(U16.unpack_from(data, at + n * U16.size)[0] for n in range(count))
    if len(infos) != count:
        raise DamagedDataError("an info is asked for twice")
    return name, infos


def pack_context_query(name: str, queries: Sequence[str]) -> bytes:
    """Data of LIST_META_CONTEXT and SET_META_CONTEXT."""
    return _string(name) + U32.pack(len(queries)) + b"".join(map(_string, queries))


def unpack_context_query(data: bytes) -> tuple[str, list[str]]:
    """Export name and queries of LIST_META_CONTEXT and SET_META_CONTEXT.

    Raises:
        DamagedDataError: lengths that do not fit, or what is no string, or a query without colon.
    """
    name, at = _read_string(data, 0, "export name")
    if len(data) - at < U32.size:
        raise DamagedDataError(f"no count of queries in {len(data)} bytes")
    (count,) = U32.unpack_from(data, at)
    at += U32.size
    if count * U32.size > len(data) - at:
        raise DamagedDataError(f"{count} queries announced, {len(data) - at} bytes follow")
    queries = []
    for _ in range(count):
        query, at = _read_string(data, at, "query")
        if not query.partition(":")[1]:
            raise DamagedDataError(f"query {query!r} has no colon")
        queries.append(query)
    if at != len(data):
        raise DamagedDataError(f"{len(data) - at} bytes follow the last query")
    return name, queries


def pack_listed(name: str, description: str) -> bytes:
    """Data of a SERVER reply."""
    return _string(name) + description.encode()


def unpack_listed(data: bytes) -> tuple[str, str]:
    """Name and description of a SERVER reply.

    Raises:
        DamagedDataError: the length does not fit, or what is no string.
    """
    name, at = _read_string(data, 0, "export name")
    return name, read_text(data[at:], "description")


def pack_context(context_id: int, name: str) -> bytes:
    """Data of a META_CONTEXT reply."""
    return U32.pack(context_id) + name.encode()


def unpack_context(data: bytes) -> tuple[int, str]:
    """Id and name of a META_CONTEXT reply.

    Raises:
        DamagedDataError: too short, or a name that is no string.
    """
    if len(data) < U32.size:
        raise DamagedDataError(f"metadata context of {len(data)} bytes, expected 4 at least")
    return U32.unpack_from(data)[0], read_text(data[U32.size :], "metadata context")


def pack_export_info(size_bytes: int, flags: int) -> bytes:
    """Data of an INFO reply with size and transmission flags."""
    return INFO_EXPORT.pack(Info.EXPORT, size_bytes, flags)


def pack_text_info(info: Info, text: str) -> bytes:
    """Data of an INFO reply with a name or description."""
    return U16.pack(info) + text.encode()


def pack_block_sizes(sizes: BlockSizes) -> bytes:
    """Data of an INFO reply with block sizes."""
    return INFO_BLOCK_SIZE.pack(Info.BLOCK_SIZE, sizes.minimum, sizes.preferred, sizes.payload_max)


def unpack_info(data: bytes) -> tuple[int, tuple[int, int] | BlockSizes | str | None]:
    """Kind of an INFO reply and what it says: size and flags, block sizes or a text.

    Nothing is said by infos of a kind that is not known here.

    Raises:
        DamagedDataError: a length that its kind does not have, or values that break its rules.
    """
    if len(data) < U16.size:
        raise DamagedDataError(f"info of {len(data)} bytes, expected 2 at least")
    (kind,) = U16.unpack_from(data)
    expected = {Info.EXPORT: INFO_EXPORT.size, Info.BLOCK_SIZE: INFO_BLOCK_SIZE.size}.get(kind)
    if expected is not None and len(data) != expected:
        raise DamagedDataError(f"info {kind} of {len(data)} bytes, expected {expected}")
    if kind == Info.EXPORT:
        _, size, flags = INFO_EXPORT.unpack(data)
        return kind, (size, flags)
    if kind == Info.BLOCK_SIZE:
        try:
            return kind, BlockSizes(*INFO_BLOCK_SIZE.unpack(data)[1:])
        except BadInputError as err:
            raise DamagedDataError(str(err)) from err
    if kind in (Info.NAME, Info.DESCRIPTION):
        return kind, read_text(data[U16.size :], "name or description")
    return kind, None


def read_text(raw: bytes, what: str) -> str:
    """A string of the protocol.

    Raises:
        DamagedDataError: it is too long, no UTF-8, or has a NUL.
    """
    if len(raw) > STRING_SIZE_BYTES_MAX:
        raise DamagedDataError(
            f"{what} of {len(raw)} bytes, expected {STRING_SIZE_BYTES_MAX} at most"
        )
    try:
        text = raw.decode()
        check_string(what, text)
    except (UnicodeDecodeError, BadInputError) as err:
        raise DamagedDataError(f"{what}: {err}") from err
    return text


def matching(contexts: Iterable[str], queries: Sequence[str], *, with_wildcards: bool) -> list[str]:
    """Contexts that at least one query names.

    Args:
        contexts: of the export.
        queries: names. One that ends with a colon stands for all names that begin with it.
        with_wildcards: whether it does; a selection takes exact names alone.
    """
    return [
        context
        for context in contexts
        if any(
            context == query
            or (with_wildcards and query.endswith(":") and context.startswith(query))
            for query in queries
        )
    ]


def _string(text: str) -> bytes:
    raw = text.encode()
    return U32.pack(len(raw)) + raw


def _read_string(data: bytes, at: int, what: str) -> tuple[str, int]:
    """A string with its length before it, and where the rest begins."""
    if len(data) - at < U32.size:
        raise DamagedDataError(f"{what}: {len(data) - at} bytes, expected a length of 4 bytes")
    (size,) = U32.unpack_from(data, at)
    at += U32.size
    if size > len(data) - at:
        raise DamagedDataError(f"{what}: {size} bytes announced, {len(data) - at} follow")
    return read_text(data[at : at + size], what), at + size
