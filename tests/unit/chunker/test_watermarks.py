import random

from services.chunker.parts.mapping import Watermarks


def test_a_watermark_holds_once_all_batches_before_it_are_through() -> None:
    watermarks = Watermarks()
    assert watermarks.through(1, 200) == 0
    assert watermarks.through(2, 300) == 0
    assert watermarks.through(0, 100) == 300
    assert watermarks.through(3, 300) == 300


def test_in_any_order_it_is_that_of_the_batches_without_a_gap() -> None:
    for seed in range(100):
        rng = random.Random(seed)
        marks = sorted(rng.randrange(1000) for _ in range(20))
        watermarks, through = Watermarks(), set[int]()
        for batch in rng.sample(range(20), 20):
            through.add(batch)
            whole = next(n for n in range(21) if n not in through)
            expected = marks[whole - 1] if whole else 0
            assert watermarks.through(batch, marks[batch]) == expected, f"seed {seed}"
    assert watermarks.early_count == 0
