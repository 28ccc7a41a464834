"""What is searched of the protocol that keeps acknowledged snapshots.

All workers at once are too many states for CI, so the protocol is checked as a set of
configurations; each interleaves everything that it has with all housekeeping.
"""

from model.searches import Model, Probe, Variant
from model.spin import Defines

#: WORKERS has bit k for attempt k, see the model's first comment.
_CONFIGURATIONS: dict[str, Defines] = {
    "catalog falls back": {"WORKERS": 9, "FALL": 1},
    "three sessions, two groups": {"WORKERS": 25},
    "two groups, rewriting": {"WORKERS": 17, "REWRITER": 1},
    "old contents return, rewriting": {"WORKERS": 9, "BACK": 1, "REWRITER": 1},
    "group of two volumes, take-over": {"WORKERS": 7, "GROUP2": 1},
    "group of two volumes, one pack": {"WORKERS": 7, "GROUP2": 1, "SHARED": 1},
    "one session, rewriting, reader": {"WORKERS": 8, "REWRITER": 1, "READER": 1},
    "take-over": {"WORKERS": 3},
    "two sessions": {"WORKERS": 9},
    "two sessions, one pack": {"WORKERS": 9, "LAYOUT": 1},
    "old contents return": {"WORKERS": 9, "BACK": 1},
    "two groups": {"WORKERS": 17},
    "a session, rewriting, reader": {"WORKERS": 1, "REWRITER": 1, "READER": 1},
    "a session, rewriting": {"WORKERS": 1, "REWRITER": 1},
    "a session, reader": {"WORKERS": 1, "READER": 1},
    "a session, the catalog falls back": {"WORKERS": 1, "FALL": 1},
    "rewriting, two stores": {"WORKERS": 0, "REWRITER": 1, "COPIES": 1},
    "a session, two stores": {"WORKERS": 1, "COPIES": 1},
}


_TWO = "two sessions"
_BACK = "old contents return"
_GROUPS = "two groups"
_TAKE = "take-over"
_REWRITE = "a session, rewriting"
_READ = "a session, rewriting, reader"
_FALL = "a session, the catalog falls back"
_COPIES = "a session, two stores"

_VARIANTS = (
    Variant((1, 2, 3), _TAKE, "1", "a stale attempt finishes; no pins, no `live`"),
    Variant((2, 3, 5), _TAKE, "1", "single pins are reaped; no pins, no `live`"),
    Variant((6, 7), _TWO, "2", "base not pinned, not asked for at the seal"),
    Variant((8,), _BACK, "3", "map nodes are looked up like chunks"),
    Variant((2, 3, 9), _GROUPS, "5, 22", "winner not pinned; no pins, no `live`"),
    Variant((10,), _GROUPS, "5, 22", "the loser is not told of the winner"),
    Variant((11,), _TWO, "6", "condemn checks first and locks later"),
    Variant((3, 12), _TWO, "6", "pins without a lock; no `live` at the seal"),
    Variant((3, 27), _TWO, "6", "pins what is not live; no `live` at the seal"),
    Variant((13,), _TAKE, "7", "no row before the PUT"),
    Variant((14, 15), _TAKE, "7", "a stale attempt registers, in any state"),
    Variant((16,), _TAKE, "7", "the sweep deletes without writing `dead`"),
    Variant((36,), "group of two volumes, take-over", "11", "sealed with a part missing"),
    Variant((17,), _TWO, "17", "two sessions continue one head"),
    Variant((17, 35), _TWO, "-", "a repeated seal is not recognised"),
    Variant((18,), _REWRITE, "4, 27", "pins that came while marking are ignored"),
    Variant((19,), _REWRITE, "4, 27", "pins that stood when marking began are ignored"),
    Variant((33,), _REWRITE, "27", "rewriting in two transactions"),
    Variant((20,), _READ, "29", "a reader pins only the snapshot"),
    Variant((21,), _READ, "29", "a reader pins only packs"),
    Variant((22,), "old contents return, rewriting", "24", "moved_to is not followed"),
    Variant((23,), _BACK, "23", "an older base when the head has expired"),
    Variant((32,), _TWO, "23", "without a base, open rows stay open"),
    Variant((24,), _GROUPS, "22", "the last writer of an equal node wins"),
    Variant((25,), _GROUPS, "22", "the second writer counts its own node"),
    Variant((37,), _GROUPS, "5, 22", "a repeated registration takes winners' rows"),
    Variant((26,), _TAKE, "28", "what lands under a dead generation stays"),
    Variant((28,), _GROUPS, "5", "index rows of others go with a dead pack"),
    Variant((29,), _TWO, "25", "a row that counts zero is deleted, not closed"),
    Variant((30,), _TWO, "25", "expiry looks at rows that end there, shortens none"),
    Variant((31,), _TWO, "26", "the seal takes no lock on its packs"),
    Variant((38,), _FALL, "12, 17", "manifests do not bring snapshots back"),
    Variant((39,), _FALL, "12", "collection does not wait for the reconciliation"),
    Variant((40,), _FALL, "12", "packs that are gone stay live"),
    Variant((41,), _FALL, "12", "DELETE does not wait for a checkpoint"),
    Variant((43,), _FALL, "12", "the reconciliation does not wait for DELETEs"),
    Variant((42,), _FALL, "17", "expiry is not in the checkpoint"),
    Variant((34,), _FALL, "12", "sessions do not wait for the reconciliation"),
    Variant((44,), _COPIES, "7, 28", "a copy is recorded of a pack that is not live"),
    Variant((45,), _COPIES, "28", "a pack is dead when its first copy is buried"),
    Variant((46,), _COPIES, "6", "burying looks for the other tombstone without a lock"),
    Variant((47,), _COPIES, "28", "the second store is not swept"),
    Variant((48,), _COPIES, "-", "said to be whole with one copy"),
    Variant((49,), "rewriting, two stores", "-", "a rewrite withdraws nothing"),
)

_PROBES = (
    Probe(1, "session 0 seals", _TWO),
    Probe(2, "an attempt that took over finishes the part", _TAKE),
    Probe(3, "a second session seals on top of the first", _TWO),
    Probe(4, "the other group seals", _GROUPS),
    Probe(5, "a session without a base seals", _TWO),
    Probe(6, "a registration meets a winner", _GROUPS),
    Probe(7, "a pack is rewritten", _REWRITE),
    Probe(8, "a reader reads a new snapshot to its end", _READ),
    Probe(9, "a reconciliation brings a snapshot back", _FALL),
    Probe(10, "a session seals after a pack was rewritten", _REWRITE),
    Probe(11, "a reconciliation brings two snapshots back", "catalog falls back"),
    Probe(12, "a reconciliation leaves an expired snapshot expired", _FALL),
    Probe(13, "a copy is recorded", _COPIES),
    Probe(14, "a copy comes after its pack was condemned", _COPIES),
    Probe(15, "the second store has a new snapshot whole, and not the one before", _COPIES),
    Probe(
        16, "a shared pack is registered without who claimed it", "group of two volumes, one pack"
    ),
    Probe(17, "a shared pack is registered for both", "group of two volumes, one pack"),
)

PROTOCOL = Model("protocol", _CONFIGURATIONS, _VARIANTS, _PROBES, states_min=8_000_000)
