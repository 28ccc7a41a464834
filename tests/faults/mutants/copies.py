"""Planted bugs that break the rules of copies."""

from tests.faults.mutants.mutant import Mutant

_ENDS = "tests/integration/catalog/copies/test_ends.py"

COPIES = (
    Mutant(
        name="a copy is recorded although its pack was condemned",
        file="libs/catalogdb/packs/copies.py",
        old="""\"\"\"SELECT pack_no FROM pack WHERE pack_no = ANY(%s) AND state = 'l'
               ORDER BY pack_no FOR SHARE\"\"\"""",
        new="""\"\"\"SELECT pack_no FROM pack WHERE pack_no = ANY(%s)
               ORDER BY pack_no FOR SHARE\"\"\"""",
        rule="a copy is recorded of a live pack only, under its lock",
        tests=_ENDS,
        chosen="condemned_revives_nothing or after_its_pack_is_dead",
    ),
    Mutant(
        name="a pack is dead when its first copy is buried",
        file="libs/catalogdb/deletion/tombstones.py",
        old="""
             AND NOT EXISTS (SELECT FROM tombstone t WHERE t.pack_no = p.pack_no)""",
        new="",
        rule="a pack is dead when all of its copies are buried",
        tests=_ENDS,
        chosen="when_all_of_its_copies",
    ),
    Mutant(
        name="two who bury at once do not see each other",
        file="libs/catalogdb/deletion/tombstones.py",
        old="""               ORDER BY pack_no FOR UPDATE\"\"\",
            [list(packs)],""",
        new="""               ORDER BY pack_no\"\"\",
            [list(packs)],""",
        rule="burying locks the pack before it looks for other tombstones",
        tests=_ENDS,
        chosen="bury_the_last_copies_at_once",
    ),
    Mutant(
        name="a copy that is being made gets no tombstone",
        file="libs/catalogdb/deletion/condemning.py",
        old="AND y.store_no = online.store_no)",
        new="AND y.store_no = online.store_no AND y.state <> 'm')",
        rule="condemning writes a tombstone for every copy, whatever its state",
        tests=_ENDS,
        chosen="condemned_revives_nothing",
    ),
    Mutant(
        name="a lost store holds dead packs back",
        file="libs/catalogdb/stores.py",
        old="            return bury_copies(tx, store_no, [row[0] for row in condemned])",
        new="            return 0",
        rule="nothing waits for a store that a person has given up",
        tests=_ENDS,
        chosen="lost_store_holds",
    ),
    Mutant(
        name="a copy is recorded at a store that was given up",
        file="libs/catalogdb/packs/copies.py",
        old="    if online is None:",
        new="    if online is None and packs is None:",
        rule="nothing is recorded at a store that a person has given up",
        tests=_ENDS,
        chosen="given_up",
    ),
    Mutant(
        name="a snapshot is called whole with one copy",
        file="libs/catalogdb/stores.py",
        old="AND s.manifest_copied AND s.session NOT IN (SELECT session FROM lacking)",
        new="AND s.manifest_copied",
        rule="a snapshot is whole at a store when each pack that it may read from is there",
        tests=_ENDS,
        chosen="not_called_whole",
    ),
    Mutant(
        name="a copy that does not exist is read",
        file="libs/catalogdb/packs/copies.py",
        old="y.pack_no = p.pack_no AND y.state IN ('p', 'x')\n",
        new="y.pack_no = p.pack_no\n",
        rule="only copies that were made and not buried are read",
        tests=_ENDS,
        chosen="only_copies_that_were_made",
    ),
    Mutant(
        name="what does not answer is taken for gone",
        file="libs/copies/stores.py",
        old="        for store_no in unavailable:  # nothing else is left: now it is waited for",
        new="        for store_no in unavailable[:0]:",
        rule="a pack is damaged only if all of its copies are",
        tests="tests/unit/copies/test_stores.py",
        chosen="cannot_be_asked",
    ),
)
