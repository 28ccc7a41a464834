"""Planted bugs: what was given up meanwhile is taken for broken, or what is broken for given up."""

from tests.faults.mutants.mutant import Mutant

_ASKS = "whoever finds an object gone or damaged asks first whether its pack is still live"

GONE = (
    Mutant(
        name="a pack that is collected while it is copied is taken for a broken store",
        file="services/catalog/copies/maker.py",
        old="            if is_live(self._catalog, pack.generation):",
        new="            if pack.generation:",
        rule=_ASKS,
        tests="tests/integration/catalog/copies/test_ends.py",
        chosen="collected_while_its_copy_is_made",
    ),
    Mutant(
        name="a store that loses what it took is not told of",
        file="services/catalog/copies/maker.py",
        old="            if is_live(self._catalog, pack.generation):",
        new="            if not pack.generation:",
        rule="what a store has taken is looked at before it counts as a copy",
        tests="tests/integration/catalog/copies/test_ends.py",
        chosen="loses_the_copy_of_a_live_pack",
    ),
    Mutant(
        name="a pack that is collected while it is marked is called damaged",
        file="services/catalog/deletion/rewriter.py",
        old="        if not is_live(self._catalog, pack.generation):",
        new="        if not pack.generation:",
        rule=_ASKS,
        tests="tests/integration/catalog/deletion/test_rewriter.py",
        chosen="not_called_damaged",
    ),
    Mutant(
        name="what another collector has buried is a failure",
        file="services/catalog/deletion/collector.py",
        old='                return "nothing to do"\n',
        new='                return "failed"\n',
        rule="a deletion has failed only if the pack is still condemned",
        tests="tests/integration/catalog/deletion/test_collector.py",
        chosen="buried_meanwhile_is_no_failure",
    ),
    Mutant(
        name="the manifest of a snapshot that expired meanwhile is missed",
        file="services/catalog/copies/mirror.py",
        old="                read_manifest_record(self._catalog, manifest.session)\n",
        new="",
        rule="whoever finds a manifest gone asks first whether its snapshot is still live",
        tests="tests/integration/catalog/copies/test_replicator.py",
        chosen="expires_while_manifests_are_copied",
    ),
)
