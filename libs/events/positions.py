"""Positions in the log of a relayed topic: the catalog's incarnation, then a gapless count.

A catalog that went back in time would give positions again that consumers have seen with other
events (scenario 12). So each incarnation has positions of its own, above all earlier ones, and no
consumer needs to know how much the earlier one had published.
"""

#: Low bits of a position: events of one topic in one incarnation; 22 are left for incarnations.
COUNT_BITS = 40


def positions_begin(incarnation: int) -> int:
    """The position before the first one of an incarnation."""
    return incarnation << COUNT_BITS


def incarnation_of(position: int) -> int:
    """The incarnation of the catalog that gave a position."""
    return position >> COUNT_BITS


def follows(last: int, position: int) -> bool:
    """Whether an event is the next one after ``last``: without a gap, or the first of a later life.

    The first of a later incarnation tells its consumer that the catalog went back in time: events
    before it that the consumer missed are not in the log any more, so whoever keeps more than the
    events themselves reads the catalog anew.
    """
    first_of_its_incarnation = position & ((1 << COUNT_BITS) - 1) == 1
    return position == last + 1 or (first_of_its_incarnation and position > last)
