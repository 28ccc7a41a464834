"""Planted bugs in what carries the domain of an id."""

from tests.faults.mutants.mutant import Mutant

_LISTS = "tests/integration/catalogdb/test_domains.py"
_LIVES = "tests/integration/catalog/test_two_domains.py"

DOMAINS = (
    Mutant(
        name="the tag is ignored at look-up",
        file="libs/catalogdb/packs/index.py",
        old="query.format(table=chunk_table(domains[tag])), [high, low], binary=True",
        new="query.format(table=chunk_table(domains[0])), [high, low], binary=True",
        rule="an id is looked up in the domain of its tag and in no other",
        tests=_LISTS,
        chosen="nowhere_else",
    ),
    Mutant(
        name="a chunk that its domain lacks keeps the name that it was announced by",
        file="services/chunker/parts/work.py",
        old="self._map.enter(renamed(event, ids, own) if own else event, runs)",
        new="self._map.enter(event, runs)",
        rule="what is stored in the tenant's own domain is named there",
        tests=_LIVES,
        chosen="another_domain_lacks",
    ),
    Mutant(
        name="a chunk that its domain lacks is stored though it is here already",
        file="services/chunker/parts/work.py",
        old="        claimed, _ = self._missing(list(names.values()))\n",
        new="        claimed = set(names.values())\n",
        rule="what another domain lacks is stored only if the tenant's own lacks it, too",
        tests=_LIVES,
        chosen="another_domain_lacks",
    ),
    Mutant(
        name="the tag is ignored by the ledger",
        file="services/chunker/ledger.py",
        old="entered = tagged_ids(change.entered_tags, change.entered_ids)",
        new='entered = tagged_ids(b"", change.entered_ids)',
        rule="addresses are counted where the chunk of their domain lies",
        tests="tests/unit/chunker/test_ledger.py",
        chosen="says_nothing_of_another",
    ),
    Mutant(
        name="the tag is ignored at uses",
        file="libs/blockmap/uses.py",
        old="            tagged_entry(entry) for slot, entry in after.items()",
        new="            entry[1:] for slot, entry in after.items()",
        rule="a volume counted anew is counted as sealing counted it",
        tests=_LIVES,
        chosen="the_life_of",
    ),
    Mutant(
        name="the tag is ignored at marking",
        file="services/catalog/deletion/rewriter.py",
        old="named[tag] = {with_tag(tag, id_) for id_ in wanted}",
        new="named[tag] = wanted",
        rule="a pack is marked by the maps of every tenant that may name its chunks",
        tests=_LIVES,
        chosen="the_life_of or two_meanings",
    ),
    Mutant(
        name="the list of domains is replaced",
        file="libs/catalogdb/domains.py",
        old="listed.count + row_number()",
        new="row_number()",
        rule="a group's list of domains only grows",
        tests=_LISTS,
        chosen="for_ever",
    ),
    Mutant(
        name="a manifest's list of domains is believed",
        file="libs/catalogdb/sessions/sealing.py",
        old="    if listed != list(said):",
        new="    if not said:",
        rule="the seal compares the manifest's list with the group's",
        tests=_LISTS,
        chosen="another_list",
    ),
    Mutant(
        name="a list from the store overwrites in silence",
        file="libs/catalogdb/domains.py",
        old="        if known != other:",
        new="        if not other:",
        rule="lists of manifests and checkpoints continue each other, or are named",
        tests=_LISTS,
        chosen="continues_the_list",
    ),
    Mutant(
        name="a hash grants a domain",
        file="services/chunker/domains.py",
        old="        if tag > len(others) or not others[tag - 1].granted:",
        new="        if tag > len(others):",
        rule="a chunk of a domain that the tenant may not use is refused",
        tests=_LIVES,
        chosen="manifests_alone_bring",
    ),
    Mutant(
        name="what another domain lacks is stored for it",
        file="services/chunker/parts/work.py",
        old="        lacking = set[bytes]() if are_all_own(missing) else "
        "{id_ for id_ in missing if tag_of(id_)}\n",
        new="        lacking = set[bytes]()\n",
        rule="nothing is ever stored in another tenant's domain",
        tests=_LIVES,
        chosen="another_domain_lacks",
    ),
)
