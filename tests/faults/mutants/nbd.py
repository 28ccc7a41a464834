"""Planted bugs in NBD: what a hostile end could do if a bound or a rule were missing."""

from tests.faults.mutants.mutant import Mutant

_CLIENT = "libs/nbd/client"
_SERVER = "libs/nbd/server"
_TESTS = "tests/unit/nbd"


def _nbd(name: str, file: str, old: str, new: str, rule: str, tests: str, chosen: str) -> Mutant:
    return Mutant(
        name=f"nbd: {name}",
        file=file,
        old=old,
        new=new,
        rule=rule,
        tests=f"{_TESTS}/{tests}.py",
        chosen=chosen,
    )


NBD = (
    _nbd(
        "chunks may overlap",
        f"{_CLIENT}/pending.py",
        "        if start < self.end:\n            return False\n",
        "",
        "each byte of a read comes once",
        "test_client_bounds",
        "breaks_a_read or coverage",
    ),
    _nbd(
        "a gap is read as data",
        f"{_CLIENT}/replies.py",
        "                if come != pending.length:\n",
        "                if come > pending.length:\n",
        "all bytes of a read come before it is done",
        "test_client_bounds",
        "breaks_a_read",
    ),
    _nbd(
        "extents are not counted before they are received",
        f"{_CLIENT}/replies.py",
        "not 1 <= count <= (1 if is_one else STATUS_EXTENTS_MAX)",
        "not 1 <= count",
        "a length is bounded before anything is allocated",
        "test_client_bounds",
        "breaks_a_block_status",
    ),
    _nbd(
        "who waits to send receives nothing",
        "libs/nbd/connection/connection.py",
        "                self._receive(lambda: False, deadline, waits=False)\n",
        "                continue\n",
        "a server that cannot send its replies takes no requests",
        "test_connection",
        "lets_replies_in",
    ),
    _nbd(
        "flags that nobody knows are accepted",
        f"{_SERVER}/handshake.py",
        "        if flags & ~_OFFERED or not flags & _REQUIRED:\n",
        "        if not flags & _REQUIRED:\n",
        "a server ends a session whose client flags it does not know",
        "test_server_handshake",
        "fixed_newstyle",
    ),
    _nbd(
        "what was said before TLS counts",
        f"{_SERVER}/handshake.py",
        "        if self._inbox.end != self._inbox.start:\n",
        "        if self._inbox.end < self._inbox.start:\n",
        "bytes before TLS may be anybody's",
        "test_server_handshake",
        "before_tls",
    ),
    _nbd(
        "TLS is required of nobody",
        f"{_SERVER}/handshake.py",
        "self._tls is TlsMode.REQUIRED and not self._has_tls",
        "self._tls is TlsMode.NONE and self._has_tls",
        "a server that requires TLS grants nothing before",
        "test_server_handshake",
        "requires_tls",
    ),
    _nbd(
        "output is not counted",
        f"{_SERVER}/session.py",
        "replies.payload_bytes + outbox.size_bytes >= self._bytes_max",
        "replies.payload_bytes >= self._bytes_max",
        "a client that does not take its replies gets no more of them",
        "test_server_bounds",
        "bytes_in_flight or refused_are_bounded",
    ),
    _nbd(
        "a read-only export is written",
        f"{_SERVER}/rules.py",
        "        ErrorNumber.EPERM if is_refused else None,\n",
        "        None,\n",
        "a server refuses every write to a read-only export",
        "test_server_bounds",
        "read_only",
    ),
    _nbd(
        "a range may wrap beyond the export",
        f"{_SERVER}/rules.py",
        "        if offset + length > self._size_bytes:\n",
        "        if offset > self._size_bytes:\n",
        "a request lies within the export",
        "test_server_bounds",
        "not_allowed",
    ),
)
