"""How statements name a domain's index of chunks and map nodes, and ids in it."""

import struct
from collections.abc import Sequence

from psycopg import Connection, sql
from psycopg.adapt import Dumper
from psycopg.pq import Format

#: Bytes of half a chunk or node id: what a uuid holds.
_HALF = 16
_ID = 2 * _HALF
#: Object ids of Postgres' types (pg_type.dat).
_UUID_OID, _UUID_ARRAY_OID = 2950, 2951
#: Dimensions, whether there are nulls, type of elements, their count, index of the first one.
_ARRAY_HEADER = struct.Struct(">iiIii")
#: Before each element.
_HALF_LENGTH = struct.pack(">i", _HALF)


class UuidArray(bytes):
    """A ``uuid[]`` as Postgres sends and receives arrays (``array_recv`` in its source)."""

    __slots__ = ()


class _UuidArrayDumper(Dumper):
    """Hands it to the driver as it is."""

    format = Format.BINARY
    oid = _UUID_ARRAY_OID

    def dump(self, obj: UuidArray) -> bytes:
        return obj


def teach_arrays(connection: Connection) -> None:
    """Let statements on this connection take what `halves` gives."""
    connection.adapters.register_dumper(UuidArray, _UuidArrayDumper)


def chunk_table(domain_no: int) -> sql.Identifier:
    """The table that says where a domain's items lie."""
    return sql.Identifier(f"chunk_{domain_no}")


def halves(ids: Sequence[bytes]) -> tuple[UuidArray, UuidArray]:
    """The two columns of ids as arrays; tags of tagged ids are left out.

    Neither the driver's way (3 µs for each element) nor text, which the server takes apart at about
    a quarter of a look-up's cost.
    """
    header = _ARRAY_HEADER.pack(1, 0, _UUID_OID, len(ids), 1)
    return (
        UuidArray(_HALF_LENGTH.join([header, *[id_[:_HALF] for id_ in ids]])),
        UuidArray(_HALF_LENGTH.join([header, *[id_[_HALF:_ID] for id_ in ids]])),
    )
