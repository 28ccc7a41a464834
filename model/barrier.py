"""What is searched of the barrier at which the nodes that write one disk are cut."""

from model.searches import Model, Probe, Variant
from model.spin import Defines

_CONFIGURATIONS: dict[str, Defines] = {
    "two sessions": {"SESSIONS": 2, "WRITES": 2, "HOLDS_END": 0},
    "two coordinators": {"SESSIONS": 1, "WRITES": 2, "TWO": 1},
    "three nodes": {"SESSIONS": 1, "WRITES": 2, "NODES": 3},
    "two sessions, a filter crashes": {"SESSIONS": 2, "WRITES": 1, "HOLDS_END": 0, "CRASH": 1},
    "one session": {"SESSIONS": 1, "WRITES": 3},
    "a filter crashes": {"SESSIONS": 1, "WRITES": 2, "CRASH": 1},
}

_ONE = "one session"
_TWO = "two sessions"
_CRASH = "a filter crashes"

_VARIANTS = (
    Variant((4,), "two coordinators", "18", "nodes carry out orders of an older attempt"),
    Variant((1,), _ONE, "18", "a hold does not wait for writes that have begun"),
    Variant((2, 3), _ONE, "18", "cut before all hold; a broken hold counts"),
    Variant((5,), _ONE, "-", "a node overwrites without asking the lead"),
    Variant((6,), _ONE, "-", "the lead overwrites without saving"),
    Variant((7,), _ONE, "-", "a reader does not look for saved bytes afterwards"),
    Variant((8,), _ONE, "-", "nobody asks the nodes whether they broke the view"),
    Variant((9,), _ONE, "-", "a node that got no answer does not say so"),
    Variant((16,), _ONE, "-", "the nodes are asked before all was read"),
    Variant((11,), _ONE, "9", "only the lead's bits are taken"),
    Variant((13,), _ONE, "-", "a write is acknowledged before it is marked"),
    Variant((12,), _TWO, "8", "bits of a session that was not sealed are dropped"),
    Variant((15,), _TWO, "8", "bits of before the cut are dropped whatever the base is"),
    Variant((10,), _CRASH, "10", "a filter confirms what it does not know"),
    Variant((14,), _CRASH, "9", "a filter that was started anew says: nothing changed"),
)

_PROBES = (
    Probe(1, "a session seals", _ONE),
    Probe(2, "a second session seals", _TWO),
    Probe(3, "a snapshot is of neither its first nor its last moment", _ONE),
    Probe(4, "a session seals after a crash", _CRASH),
    Probe(5, "a newer attempt seals", "two coordinators"),
    Probe(6, "a snapshot takes what changed alone", _ONE),
    Probe(7, "a snapshot reads saved bytes", _ONE),
    Probe(8, "a session is rejected", _ONE),
)

BARRIER = Model("barrier", _CONFIGURATIONS, _VARIANTS, _PROBES, states_min=8_000_000)
