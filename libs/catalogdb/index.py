"""How statements name a domain's index of chunks and map nodes, and ids in it."""

from collections.abc import Sequence

from psycopg import sql

#: Bytes of a chunk or node id.
_ID = 32


def chunk_table(domain_no: int) -> sql.Identifier:
    """The table that says where a domain's items lie."""
    return sql.Identifier(f"chunk_{domain_no}")


def halves(ids: Sequence[bytes]) -> tuple[str, str]:
    """The two columns of ids as array literals: the driver takes 3 µs to quote each element."""
    text = b"".join(ids).hex()
    width = 2 * _ID
    starts = range(0, len(text), width)
    high = ",".join([text[start : start + _ID] for start in starts])
    low = ",".join([text[start + _ID : start + width] for start in starts])
    return f"{{{high}}}", f"{{{low}}}"
