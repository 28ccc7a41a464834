"""A small repository with everything in it, read and verified without asking the catalog again.

Snapshots are made by the chunker's own code on a real catalog. Where chunks and nodes lie is asked
once; each trial then reads as `libs.reading` and checks packs as the catalog's verification do, on
a store that was damaged meanwhile, with nothing remembered from before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from libs.catalogdb.packs.location import PackLocation
from libs.catalogdb.snapshots.points import SnapshotVolume, find_volume_at
from libs.copies.stores import Stores
from libs.errors import DamagedDataError
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.packs.manifest import manifest_mac, open_manifest
from libs.points import RecoveryPoint
from libs.ranges import ByteRange
from libs.reading.frames import FrameReader
from libs.reading.volume import VolumeReader, VolumeReaders, chunks_of
from libs.store.layout import manifest_folder, parse_manifest_object
from libs.store.memory import MemoryStore
from services.catalog.verification.packs import check_copy
from tests.support.catalog import TENANT, CatalogSite
from tests.support.snapshots import SnapshotTaker

GROUP = "vm"
Place = tuple[PackLocation, int]


class _DirectReader(VolumeReader):
    """A volume's reader that knows where everything lies."""

    places: Mapping[bytes, Place]

    def _resolve(self, ids: Sequence[bytes]) -> list[Place]:
        return [self.places[one] for one in ids]


class _NotingReader(VolumeReader):
    """A volume's reader that remembers what it asked the catalog."""

    places: dict[bytes, Place]

    def _resolve(self, ids: Sequence[bytes]) -> list[Place]:
        found = super()._resolve(ids)
        self.places.update(zip(ids, found, strict=True))
        return found


@dataclass(frozen=True)
class Volume:
    """A volume at one of its snapshots."""

    point: SnapshotVolume
    content: bytes


class Repository:
    """Two volumes at three snapshots: packs, maps, manifests, a wrapped key.

    Args:
        site: an empty catalog.
        contents: content of each volume at each snapshot.
    """

    def __init__(self, site: CatalogSite, contents: Sequence[Mapping[str, bytes]]) -> None:
        self._site = site
        self._kek = KeyEncryptionKey.generate()
        store = MemoryStore()
        taker = SnapshotTaker(site, store, self._kek)
        taker.protect(TENANT, GROUP, *contents[0])
        taker.protect("other", GROUP, "disk")
        taker.take("other", GROUP, {"disk": b"f" * CHUNK_SIZE_BYTES})
        for content in contents:
            taker.take(TENANT, GROUP, content)
        self.objects = {one.key: store.get(one.key) for one in store.list("")}
        self.volumes = [
            Volume(find_volume_at(site.restore, TENANT, RecoveryPoint(name, str(number))), data)
            for number, content in enumerate(contents, start=1)
            for name, data in content.items()
        ]
        self._macs = {
            key: manifest_mac(data)
            for key, data in self.objects.items()
            if key.startswith(manifest_folder(TENANT))
        }
        self._places: dict[bytes, Place] = {}
        self._learn(store)
        assert not self.verify(self.objects)
        assert self.restore(self.objects) == (len(self.volumes), 0)

    @property
    def packs(self) -> list[PackLocation]:
        """Every pack that a snapshot uses."""
        return list({pack.pack_no: pack for pack, _ in self._places.values()}.values())

    def restore(self, objects: Mapping[str, bytes]) -> tuple[int, int]:
        """Restore everything: how many volumes came back right, how many were refused by name.

        Raises:
            AssertionError: wrong bytes were given out.
            Exception: an error that does not say that data is damaged.
        """
        right = refused = 0
        store = _store_of(objects)
        vault = KeyVault(store, self._kek)
        for volume in self.volumes:
            try:
                content = self._read(store, vault, volume)
            except DamagedDataError:
                refused += 1
                continue
            assert content == volume.content, "wrong bytes were given out"
            right += 1
        return right, refused

    def verify(self, objects: Mapping[str, bytes]) -> list[str]:
        """What a full verification finds."""
        store = _store_of(objects)
        found = []
        vault = KeyVault(store, self._kek)
        for key, mac in self._macs.items():
            try:
                self._check_manifest(vault, key, objects, mac)
            except DamagedDataError as err:
                found.append(str(err))
        for pack in self.packs:
            try:
                copy = Stores(store).copy(pack.generation)
                found += check_copy(copy, vault, pack, "full", 1.0).damaged.values()
            except DamagedDataError as err:
                found.append(str(err))
        return found

    def _check_manifest(
        self, vault: KeyVault, key: str, objects: Mapping[str, bytes], mac: bytes
    ) -> None:
        if key not in objects:
            raise DamagedDataError(f"object {key} is gone")
        data, name = objects[key], parse_manifest_object(key)
        point = self.volumes[0].point
        keys = vault.get(point.domain, point.key_id)
        manifest = open_manifest(data, point.key_id, keys.manifest_key())
        if manifest.session != name.session or manifest_mac(data) != mac:
            raise DamagedDataError(f"object {key}: another manifest")

    def _learn(self, store: MemoryStore) -> None:
        vault = KeyVault(store, self._kek)
        frames = FrameReader(Stores(store), vault)
        readers = VolumeReaders(self._site.restore, vault, frames, frames, 60)
        for volume in self.volumes:
            with readers.open(volume.point) as opened:
                noting = _NotingReader(readers, volume.point, opened.lease)
                noting.places = self._places
                noting.locate(chunks_of(ByteRange(0, volume.point.size_bytes)))

    def _read(self, store: MemoryStore, vault: KeyVault, volume: Volume) -> bytes:
        frames = FrameReader(Stores(store), vault)
        readers = VolumeReaders(self._site.restore, vault, frames, frames, 60)
        reader = _DirectReader(readers, volume.point, UUID(int=0))
        reader.places = self._places
        wanted = ByteRange(0, volume.point.size_bytes)
        return reader.read(reader.locate(chunks_of(wanted)), wanted)


def _store_of(objects: Mapping[str, bytes]) -> MemoryStore:
    store = MemoryStore()
    for key, content in objects.items():
        store.put(key, content)
    return store
