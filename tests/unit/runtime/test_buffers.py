from pathlib import Path

from libs.runtime.buffers import large_buffer

SIZE_BYTES = 32 << 20


def resident_bytes() -> int:
    """Anonymous memory of this process that is resident."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) << 10


def test_a_buffer_is_resident_from_the_start_or_when_it_is_touched() -> None:
    before = resident_bytes()
    lazy = large_buffer(SIZE_BYTES)
    assert resident_bytes() - before < SIZE_BYTES // 4
    resident = large_buffer(SIZE_BYTES, resident=True)
    assert resident_bytes() - before > 3 * SIZE_BYTES // 4
    assert lazy[:] == resident[:] == bytes(SIZE_BYTES)
