import threading
from pathlib import Path

import pytest

from libs.runtime.buffers import BufferPool, large_buffer

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


def test_a_pool_makes_no_more_than_it_may_whether_beforehand_or_when_needed() -> None:
    for beforehand in (False, True):
        pool = BufferPool(4096, 2)
        if beforehand:
            pool.preallocate()
            pool.preallocate()
        first, second = pool.try_take(), pool.try_take()
        assert first is not None
        assert second is not None
        assert first is not second
        assert (len(first), len(second)) == (4096, 4096)
        assert (pool.try_take(), pool.free_count) == (None, 0)
        pool.give_back(first)
        assert (pool.free_count, pool.try_take() is first) == (1, True)


def test_who_waits_for_a_buffer_and_for_something_else_gets_either() -> None:
    pool, said = BufferPool(4096, 1), list[object]()
    taken = pool.try_take()
    assert taken is not None

    def wait() -> None:
        with pool.changed:
            said.append(pool.changed.wait_for(pool.try_take, 10))

    waiting = threading.Thread(target=wait)
    waiting.start()
    pool.give_back(taken)
    waiting.join(10)
    assert said == [taken]


def test_a_buffer_that_comes_back_twice_is_a_defect() -> None:
    pool = BufferPool(4096, 2)
    buffer = pool.try_take()
    assert buffer is not None
    pool.give_back(buffer)
    with pytest.raises(AssertionError, match="twice"):
        pool.give_back(buffer)
