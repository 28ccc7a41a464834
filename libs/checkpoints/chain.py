"""How far a delta reaches back, so that checkpoints cost what changed and chains stay short. Pure.

A catalog's newest checkpoint is a chain: a base with all rows, then deltas, each with the rows that
changed after the one before it. A new delta replaces the last deltas of the chain that are not at
least twice as long as it is, by carrying what they carry, as a log-structured merge does. So:

* each delta of a chain is at least twice as long as the next: a chain has at most
  log2(longest delta) + 2 links, below 32 for a billion rows;
* when a row is written again, the delta that it lies in has grown by half at least: a change is
  written O(log n) times in all, and most deltas have only what changed since the one before;
* a new base is written when the deltas together would exceed a quarter of the base, or
  `FEW_ROWS`: 4 rows of a base for each change at most.
"""

from collections.abc import Sequence

#: Deltas of so many rows are never a reason to write a base.
FEW_ROWS = 1000
#: A base is written anew when the deltas exceed this share of it.
_BASE_SHARE = 4


def links_kept(rows: Sequence[int], changed: int, few_rows: int = FEW_ROWS) -> int:
    """How many links of a chain the next delta builds on; 0: a base is to be written.

    Args:
        rows: number of rows of each link, the base first; empty: there is no chain.
        changed: rows that changed after the last of them.
        few_rows: `FEW_ROWS`, unless a test says otherwise.
    """
    if not rows:
        return 0
    base, *deltas = rows
    length = changed
    while deltas and deltas[-1] < 2 * length:
        length += deltas.pop()
    if sum(deltas) + length > max(base // _BASE_SHARE, few_rows):
        return 0
    return 1 + len(deltas)
