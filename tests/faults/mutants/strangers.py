"""Planted bugs that let strangers in: to the memory of a server, or to another tenant's keys."""

from tests.faults.mutants.mutant import Mutant

STRANGERS = (
    Mutant(
        name="what the parser keeps is not counted",
        file="libs/rest/protocol.py",
        old="            self._withheld_bytes += len(piece)\n",
        new="",
        rule="a request costs no more memory than a head may have",
        tests="tests/unit/rest/test_attacks.py",
        chosen="has_no_end or fields_at_most",
    ),
    Mutant(
        name="a tenant uses all threads",
        file="libs/rest/shares.py",
        old="            working_count_max=max(1, thread_count // 2),\n",
        new="            working_count_max=2 * thread_count,\n",
        rule="requests of one tenant leave half of the threads to others",
        tests="tests/unit/rest/test_shares.py",
        chosen="greedy_one",
    ),
    Mutant(
        name="whose keys the store gave is not compared",
        file="libs/keys/keyring.py",
        old="    expect_object(domain_key_object(name), domain_key_object(said))\n",
        new="",
        rule="an object is opened only by its own name",
        tests="tests/unit/keys",
        chosen="exchanged",
    ),
    Mutant(
        name="old keys are deleted before their successors were opened",
        file="services/catalog/keys/rotation.py",
        old='        state.step = "comparing"\n',
        new="        self._delete_old_keys(state, {self._object_of(one)[0] for one in keys})\n",
        rule="nothing is deleted in any store before everything was opened in every store",
        tests="tests/unit/catalog/test_kek_rotation.py",
        chosen="successor_is_damaged or killed_at_any_step",
    ),
    Mutant(
        name="the checkpoint is not written anew when the key-encryption key changes",
        file="services/catalog/keys/rotation.py",
        old="        self._renew_checkpoint()\n",
        new="",
        rule="what the new key-encryption key must open is sealed under it before the old one goes",
        tests="tests/unit/catalog/test_kek_rotation.py",
        chosen="new_key_alone or checkpoint_is_damaged",
    ),
    Mutant(
        name="a delta builds on a checkpoint of the previous key",
        file="libs/checkpoints/shelf.py",
        old=" and is_sealed_under(data, self._kek)\n",
        new="\n",
        rule="what the new key-encryption key must open is sealed under it before the old one goes",
        tests="tests/unit/catalog/test_kek_rotation.py",
        chosen="no_delta",
    ),
    Mutant(
        name="which manifest the store gave is not compared",
        file="libs/keys/opening.py",
        old="        expect_object(key, manifest_object(said))\n",
        new="        manifest_object(said)\n",
        rule="an object is opened only by its own name",
        tests="tests/unit/keys",
        chosen="exchanged_manifests",
    ),
)
