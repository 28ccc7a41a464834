"""Checking one copy of a pack: its size, what it says about itself, and its frames.

Byte code: synchronous, one pack in memory at a time, at most 34 MiB.
"""

import random
from collections import defaultdict
from dataclasses import dataclass, field

from libs.blockmap.node import NodeHasher
from libs.catalogdb.packs.damage import WHOLE_PACK
from libs.catalogdb.packs.location import PackLocation
from libs.copies.stores import Copy
from libs.errors import DamagedDataError, NotFoundError
from libs.events.fields import VerificationLevel
from libs.keys.opening import read_known_pack
from libs.keys.vault import KeyVault
from libs.packs.chunk import ChunkHasher
from libs.packs.frame import FrameCipher
from libs.packs.layout import split_place
from libs.packs.trailer import (
    FrameEntry,
    Item,
    ItemKind,
    PackIndex,
    encode_frame_table,
)
from libs.ranges import ByteRange

#: Whoever sees which frames were read must not know from that which ones are read next.
_CHANCE = random.SystemRandom()


@dataclass(slots=True)
class PackFindings:
    """What a check of a pack found."""

    #: Item, or `WHOLE_PACK`, and what is wrong with it.
    damaged: dict[bytes, str] = field(default_factory=dict)
    #: Items whose bytes were read and are what they must be.
    intact: list[bytes] = field(default_factory=list)
    #: Everything that lies in the pack, by its own account; empty if that cannot be read.
    items: tuple[Item, ...] = ()
    frames: int = 0
    fetched_bytes: int = 0


def check_copy(
    copy: Copy,
    vault: KeyVault,
    pack: PackLocation,
    level: VerificationLevel,
    sample: float,
) -> PackFindings:
    """Check one copy of a pack that is pinned.

    Args:
        copy: its object at one store.
        vault: gives the domain's keys.
        pack: what the catalog knows of it.
        level: "full" reads the object once, whole; the others read its ends, and frames of the
            sample one by one.
        sample: share of its frames that is read at level "sampled", 0 to 1.

    Raises:
        WrongKeyError: the keys at hand are not those of the domain.
        UnavailableError: the store does not answer.
    """
    return _CopyCheck(copy, vault, pack).run(level, sample)


def read_intact(copy: Copy, vault: KeyVault, pack: PackLocation) -> memoryview:
    """Every byte of a copy, if all of it is as it must be.

    Raises:
        DamagedDataError: something is not.
        NotFoundError: its object is gone.
    """
    check = _CopyCheck(copy, vault, pack)
    found = check.run("full", 1.0)
    for reason in found.damaged.values():
        raise DamagedDataError(reason)
    return check.body


class _CopyCheck:
    def __init__(self, copy: Copy, vault: KeyVault, pack: PackLocation) -> None:
        self._copy = copy
        self._pack = pack
        self._vault = vault
        keys = vault.get(pack.domain, pack.key_id)
        self._cipher = FrameCipher(pack.generation, keys.pack_key(pack.generation))
        self._chunks = ChunkHasher(keys.id_key)
        self._nodes = NodeHasher(keys.id_key)
        self.body = memoryview(b"")
        self._found = PackFindings()

    def run(self, level: VerificationLevel, sample: float) -> PackFindings:
        try:
            index = self._read_index(whole=level == "full")
        except (DamagedDataError, NotFoundError) as err:
            self._found.damaged[WHOLE_PACK] = str(err)
            return self._found
        self._found.items = index.items
        items = defaultdict[int, list[Item]](list)
        for item in index.items:
            items[split_place(item.place)[0]].append(item)
        for number, entry in enumerate(index.frames):
            if level == "full" or (level == "sampled" and _CHANCE.random() < sample):
                self._check_frame(number, entry, items[number])
        return self._found

    def _read_index(self, *, whole: bool) -> PackIndex:
        expected = self._pack.size_bytes
        stat = self._copy.stat()
        if stat is None:
            raise NotFoundError(f"object {self._copy.key} is gone")
        if stat.size_bytes != expected:
            raise DamagedDataError(
                f"object {self._copy.key}: expected {expected} bytes, it has {stat.size_bytes}"
            )
        if whole:
            self.body = memoryview(self._read(ByteRange(0, expected)))
        index = read_known_pack(self._pack, self._read, self._vault)
        if encode_frame_table(index.frames) != self._pack.frames:
            raise DamagedDataError(
                f"object {self._copy.key}: its frames are not those that the catalog has"
            )
        return index

    def _check_frame(self, number: int, entry: FrameEntry, items: list[Item]) -> None:
        self._found.frames += 1
        try:
            sealed = self._read(entry.byte_range)
            plain = memoryview(self._cipher.open(number, sealed, entry.plain_size_bytes))
        except (DamagedDataError, NotFoundError) as err:
            self._found.damaged |= dict.fromkeys([item.id for item in items], str(err))
            return
        for item in items:
            position = split_place(item.place)[1]
            content = plain[position : position + item.size_bytes]
            if item.kind is ItemKind.CHUNK:
                id_: bytes = self._chunks.chunk_id(content)
            else:
                id_ = self._nodes.node_id(bytes(content))
            if id_ == item.id:
                self._found.intact.append(item.id)
            else:
                self._found.damaged[item.id] = (
                    f"{item.kind.name.lower()} {item.id.hex()} in frame {number} of pack "
                    f"{self._pack.generation.hex} has other bytes"
                )

    def _read(self, wanted: ByteRange) -> memoryview:
        if self.body:
            return self.body[wanted.start : wanted.end]
        self._found.fetched_bytes += wanted.length
        return memoryview(self._copy.get_range(wanted))
