"""Objects that were exchanged or altered at the primary store are not copied to the second."""

import pytest

from libs.checkpoints.shelf import CheckpointShelf
from libs.copies.stores import PRIMARY, SECOND
from libs.errors import DamagedDataError
from libs.store.layout import CHECKPOINTS_PREFIX, KEYS_PREFIX, MANIFESTS_PREFIX
from tests.integration.catalog.copies.pair import Pair
from tests.support.exchanging import exchange, replace


def test_exchanged_wrapped_keys_are_not_copied(folders: Pair) -> None:
    folders.protect("disk")
    folders.protect("theirs", tenant="other")
    folders.take("disk", 1)
    folders.take("theirs", 2)
    exchange(folders.one, *folders.keys(PRIMARY, KEYS_PREFIX))
    with pytest.raises(DamagedDataError, match="exchanged"):
        folders.replicate()
    assert folders.keys(SECOND, KEYS_PREFIX) == []
    exchange(folders.one, *folders.keys(PRIMARY, KEYS_PREFIX))
    assert folders.replicate().keys == 2


def test_manifests_are_copied_as_they_were_sealed(folders: Pair) -> None:
    folders.protect("disk")
    folders.take("disk", 1)
    folders.take("disk", 2)
    folders.take("disk", 3)
    first, second, third = sorted(folders.keys(PRIMARY, MANIFESTS_PREFIX))
    sealed = folders.one.get(third)
    exchange(folders.one, first, second)
    replace(folders.one, third, sealed[:100] + bytes([sealed[100] ^ 1]) + sealed[101:])
    assert folders.replicate().manifests == 0
    assert folders.keys(SECOND, MANIFESTS_PREFIX) == []
    exchange(folders.one, first, second)
    replace(folders.one, third, sealed)
    assert folders.replicate().manifests == 3


def test_altered_parts_of_a_checkpoint_are_not_copied(folders: Pair) -> None:
    folders.protect("disk")
    folders.take("disk", 1)
    folders.checkpoints.write()
    (part,) = (key for key in folders.keys(PRIMARY, CHECKPOINTS_PREFIX) if key.count("-"))
    written = folders.one.get(part)
    replace(folders.one, part, written[:-1] + bytes([written[-1] ^ 1]))
    with pytest.raises(DamagedDataError, match="not the bytes that its head names"):
        folders.mirror().copy_checkpoint(SECOND)
    assert folders.keys(SECOND, CHECKPOINTS_PREFIX) == []
    replace(folders.one, part, written)
    assert folders.mirror().copy_checkpoint(SECOND)
    assert CheckpointShelf(folders.two, folders.kek).newest_state()
