"""Our client against our server, through streams that are cut anywhere."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.errors import BadInputError
from libs.nbd.client.events import (
    Describe,
    Described,
    Enter,
    Listed,
    ListExports,
    Negotiated,
    Refused,
)
from libs.nbd.client.pending import Pending
from libs.nbd.client.session import ClientSession
from libs.nbd.export import BASE_ALLOCATION, BlockSizes, Export, Extent
from libs.nbd.layout import CommandFlag, ErrorNumber, Feature, Option, OptionReply
from tests.support.nbd_serving import BITMAP, BLOCK_SIZE_BYTES, WRITABLE, NbdDisk, disk
from tests.unit.nbd.wire import BOTH, Wire

_SIZE = 16 * BLOCK_SIZE_BYTES
_cuts = st.lists(st.integers(1, 40), min_size=1, max_size=6) | st.just([1 << 30])
_range = st.tuples(st.integers(0, _SIZE - 1), st.integers(1, _SIZE)).map(
    lambda pair: (pair[0], min(pair[1], _SIZE - pair[0]))
)
_request = st.tuples(
    st.sampled_from(["read", "read-whole", "write", "zero", "trim", "cache", "flush", "status"]),
    _range,
    st.integers(0, 2**32),
)


def entered(wire: Wire) -> Negotiated:
    wire.run()
    assert isinstance(wire.heard, Negotiated)
    return wire.heard


class Model:
    """What a disk must hold, computed without any protocol."""

    def __init__(self) -> None:
        self.data = bytearray(_SIZE)
        self.expected: list[tuple[Pending, bytes | None]] = []

    def ask(self, client: ClientSession, what: str, at: tuple[int, int], seed: int) -> None:
        offset, length = at
        if what.startswith("read"):
            into = memoryview(bytearray(b"\xee" * length))
            flags = CommandFlag.DF if what == "read-whole" else 0
            held = bytes(self.data[offset : offset + length])
            self.expected.append((client.read(offset, into, flags), held))
            return
        if what == "write":
            data = random.Random(seed).randbytes(length)
            pending = client.write(offset, data, CommandFlag.FUA * (seed % 2))
        elif what in ("zero", "trim"):
            data = bytes(length)
            pending = (client.write_zeroes if what == "zero" else client.trim)(offset, length)
        else:
            data = self.data[offset : offset + length]
            ask: dict[str, Callable[[], Pending]] = {
                "cache": lambda: client.cache(offset, length),
                "flush": client.flush,
                "status": lambda: client.block_status(offset, length),
            }
            pending = ask[what]()
        self.data[offset : offset + length] = data
        self.expected.append((pending, None))


@settings(deadline=None, max_examples=60)
@given(st.lists(_request, max_size=12), _cuts, _cuts)
def test_the_client_reads_what_it_wrote_however_the_streams_are_cut(
    requests: list[tuple[str, tuple[int, int], int]], to_client: list[int], to_server: list[int]
) -> None:
    wire = Wire(disk(size_bytes=_SIZE), to_client=to_client, to_server=to_server)
    entered(wire)
    model = Model()
    has_status = False
    for what, at, seed in requests:
        if what == "status" and has_status:
            wire.run()  # one may be in flight
        has_status |= what == "status"
        model.ask(wire.client, what, at, seed)
    wire.run()
    assert {id(pending) for pending in wire.done} == {id(one) for one, _ in model.expected}
    for pending, held in model.expected:
        assert pending.is_done
        assert pending.error is None
        if held is not None:
            assert pending.into == held
    assert wire.disks["disk"].data == model.data
    assert wire.client.in_flight_count == wire.serving.session.replies.count == 0
    assert wire.serving.session.replies.payload_bytes == 0


@settings(deadline=None, max_examples=25)
@given(_cuts, _cuts, st.sets(st.integers(0, 15)))
def test_a_block_status_tells_what_was_written(
    to_client: list[int], to_server: list[int], blocks: set[int]
) -> None:
    wire = Wire(disk(size_bytes=_SIZE), to_client=to_client, to_server=to_server)
    contexts = entered(wire).contexts
    for block in blocks:
        wire.client.write(block * BLOCK_SIZE_BYTES, b"x" * BLOCK_SIZE_BYTES)
    wire.run()
    status = wire.client.block_status(0, _SIZE)
    one = wire.run().client.block_status(0, _SIZE, CommandFlag.REQ_ONE)
    wire.run()
    dirty = {
        block
        for extent in status.extents(contexts[BITMAP])
        if extent.flags
        for block in range(extent.offset // BLOCK_SIZE_BYTES, extent.end // BLOCK_SIZE_BYTES)
    }
    assert dirty == blocks
    extents = list(status.extents(contexts[BASE_ALLOCATION]))
    assert sum(extent.length for extent in extents) == _SIZE
    assert sum(extent.length for extent in extents if not extent.flags) == (
        len(blocks) * BLOCK_SIZE_BYTES
    )
    assert len(list(one.extents(contexts[BITMAP]))) == 1


def test_the_handshake_tells_all_that_the_server_knows_of_an_export() -> None:
    negotiated = entered(Wire())
    assert negotiated.is_structured
    assert set(negotiated.contexts) == set(BOTH)
    export = negotiated.export
    assert (export.name, export.size_bytes, export.description) == (
        "disk",
        1 << 20,
        "the disk disk",
    )
    assert export.features == WRITABLE | Feature.HAS_FLAGS | Feature.SEND_DF
    assert export.block_sizes == BlockSizes()


def test_a_description_is_given_without_entering() -> None:
    wire = Wire(purpose=Describe("disk")).run()
    assert isinstance(wire.heard, Described)
    assert wire.heard.export.contexts == BOTH
    assert wire.serving.has_ended


def test_exports_are_listed_with_their_descriptions() -> None:
    wire = Wire(disk("a"), disk("ö"), purpose=ListExports()).run()
    assert wire.heard == Listed((("a", "the disk a"), ("ö", "the disk ö")))
    assert wire.serving.has_ended


def test_an_unknown_export_is_refused_in_words() -> None:
    wire = Wire(purpose=Enter("other")).run()
    assert wire.heard == Refused(Option.GO, OptionReply.ERR_UNKNOWN, "no export 'other'")
    assert str(wire.heard) == "GO refused with ERR_UNKNOWN: no export 'other'"
    assert wire.serving.has_ended


def test_contexts_that_the_export_lacks_are_left_out() -> None:
    asked = Enter("disk", ("qemu:dirty-bitmap:none", BITMAP))
    assert list(entered(Wire(purpose=asked)).contexts) == [BITMAP]


@pytest.mark.parametrize("failed_at", [0, 5000, 3 * BLOCK_SIZE_BYTES])
def test_a_failed_read_names_its_error_and_offset(failed_at: int) -> None:
    failing = disk()
    failing.data[: 4 * BLOCK_SIZE_BYTES] = b"x" * 4 * BLOCK_SIZE_BYTES
    failing.failures[failed_at] = ErrorNumber.EIO
    wire = Wire(failing)
    entered(wire)
    whole = wire.client.read(0, memoryview(bytearray(1 << 16)))
    unfragmented = wire.client.read(0, memoryview(bytearray(1 << 16)), CommandFlag.DF)
    beside = wire.client.read(1 << 16, memoryview(bytearray(1 << 16)))
    wire.run()
    assert (whole.error, whole.error_offset, whole.message) == (
        ErrorNumber.EIO,
        failed_at,
        "planted",
    )
    assert (unfragmented.error, unfragmented.error_offset) == (ErrorNumber.EIO, None)
    assert beside.error is None


@pytest.mark.parametrize("length", [4096, 4097])  # one is taken in pieces, one in place
def test_a_failed_write_is_answered_after_its_payload(length: int) -> None:
    failing = disk()
    failing.failures[10] = ErrorNumber.ENOSPC
    wire = Wire(failing, to_server=[1000])
    entered(wire)
    failed = wire.client.write(0, b"x" * length)
    beside = wire.client.write(8192, b"y" * length)
    wire.run()
    assert (failed.error, beside.error) == (ErrorNumber.ENOSPC, None)
    assert failing.data[:8193] == bytes(8192) + b"y"


def test_what_is_not_fast_is_said_to_fast_zeroing_alone() -> None:
    wire = Wire()
    entered(wire)
    fast = wire.client.write_zeroes(0, 4096, CommandFlag.FAST_ZERO | CommandFlag.NO_HOLE)
    slow = wire.client.write_zeroes(0, 4096, CommandFlag.NO_HOLE)
    wire.run()
    assert (fast.error, slow.error) == (ErrorNumber.ENOTSUP, None)


def _small(features: Feature, minimum: int = 512) -> NbdDisk:
    sizes = BlockSizes(minimum, 4096, 1 << 16)
    return NbdDisk(Export(name="disk", size_bytes=1 << 20, features=features, block_sizes=sizes))


@pytest.mark.parametrize(
    ("features", "ask", "said"),
    [
        (WRITABLE, lambda one: one.read(1 << 20, memoryview(bytearray(512))), "within 1048576"),
        (WRITABLE, lambda one: one.read(0, memoryview(b"")), "a range within"),
        (WRITABLE, lambda one: one.read(-512, memoryview(bytearray(512))), "a range within"),
        (WRITABLE, lambda one: one.read(0, memoryview(bytearray(100))), "multiples of 512"),
        (WRITABLE, lambda one: one.write(100, bytes(512)), "multiples of 512"),
        (WRITABLE, lambda one: one.write(0, bytes(1 << 17)), "65536 bytes at most"),
        (WRITABLE, lambda one: one.block_status(0, 512), "chosen context"),
        (Feature.HAS_FLAGS, lambda one: one.flush(), "SEND_FLUSH"),
        (Feature.HAS_FLAGS, lambda one: one.trim(0, 512), "SEND_TRIM"),
        (Feature.HAS_FLAGS, lambda one: one.write_zeroes(0, 512), "SEND_WRITE_ZEROES"),
        (Feature.HAS_FLAGS, lambda one: one.cache(0, 512), "SEND_CACHE"),
        (Feature.HAS_FLAGS, lambda one: one.write(0, bytes(512), CommandFlag.FUA), "SEND_FUA"),
        (Feature.READ_ONLY, lambda one: one.write(0, bytes(512)), "writing"),
    ],
)
def test_the_client_does_not_ask_for_what_the_server_must_refuse(
    features: Feature, ask: Callable[[ClientSession], object], said: str
) -> None:
    wire = Wire(_small(features), purpose=Enter("disk"))
    entered(wire)
    with pytest.raises(BadInputError, match=said):
        ask(wire.client)
    assert not wire.client.take_output()
    assert not wire.client.in_flight_count


def test_requests_in_flight_are_bounded_at_the_client() -> None:
    wire = Wire()
    entered(wire)
    client = wire.client
    while client.can_ask:
        client.read(0, memoryview(bytearray(512)))
    assert client.in_flight_count == 128
    with pytest.raises(BadInputError, match="128 requests"):
        client.read(0, memoryview(bytearray(512)))
    assert wire.run().client.can_ask


def test_after_the_goodbye_nothing_is_asked_and_all_is_answered() -> None:
    wire = Wire()
    entered(wire)
    pending = wire.client.write(0, b"x" * 512)
    wire.client.leave()
    with pytest.raises(BadInputError, match="goodbye"):
        wire.client.flush()
    wire.run()
    assert pending.is_done
    assert wire.serving.has_ended
    assert not wire.serving.session.can_receive


def test_extents_know_where_they_end() -> None:
    assert Extent(4096, 512, 0).end == 4608
