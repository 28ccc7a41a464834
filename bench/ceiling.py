"""The ceiling: how fast the bare data path goes in Python here, with no service, event or catalog.

64 KiB chunks named by keyed BLAKE3, frames of up to 1 MiB, zstd, AES-256-GCM, 32 MiB packs PUT by
obstore; an xxh3 fingerprint per chunk finds what changed; a restore verifies every chunk. The dedup
index is a dict, and nothing survives the process: it is a yardstick, not a backup program.

Run by the benchmark as its own process, with the settings of `ceiling_subject.MALLOC`: it reads a
JSON request per line, does it, and answers with a line.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

import blake3
import obstore
import xxhash
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from obstore.store import S3Store

from bench.datasets import data_extents

KEY = b"k" * 32
CHUNK, FRAME, SPAN, PACK = 64 << 10, 1 << 20, 8 << 20, 32 << 20
CHUNKS_PER_FRAME = FRAME // CHUNK
ZERO = bytes(CHUNK)
#: Three threads keep two cores busy while one waits for the server.
THREADS = 3
#: The project's own zstd level.
LEVEL = 2

#: Chunk index → chunk id, or → fingerprint.
BlockMap = dict[int, bytes]
#: Position in the frame, chunk index in the volume, chunk id.
Place = tuple[int, int, bytes]

T = TypeVar("T")


class Shared(Generic[T]):
    """An iterator that several threads take from."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._lock:
            return next(self._items)


class Ceiling:
    """The store, the dedup index, and the block maps and fingerprints of the volumes."""

    def __init__(self, store: S3Store) -> None:
        self.store = store
        self.index: dict[bytes, tuple[int, int, int]] = {}  # id → (pack, frame, position)
        self.packs: list[list[tuple[int, int]]] = []  # (offset, size) of each pack's frames
        self._pack_lock = threading.Lock()
        self._maps: dict[str, BlockMap] = {}
        self._fingerprints: dict[str, BlockMap] = {}
        self._sizes: dict[str, int] = {}

    def new_pack(self) -> int:
        """Returns the number of a pack that only its caller fills."""
        with self._pack_lock:
            self.packs.append([])
            return len(self.packs) - 1

    def backup(self, volume: str, image: Path) -> None:
        """Stores what changed since the volume's last backup; everything the first time."""
        block_map = self._maps.setdefault(volume, {})
        old, new = self._fingerprints.get(volume, {}), BlockMap()
        with image.open("rb", buffering=0) as file:
            spans = Shared(_spans(image))
            _in_threads(lambda: self._store_spans(file.fileno(), spans, old, new, block_map))
        for index in old.keys() - new.keys():
            block_map.pop(index, None)
        self._fingerprints[volume] = new
        self._sizes[volume] = image.stat().st_size

    def restore(self, volume: str, target: Path) -> None:
        """Writes the volume's last backup to `target`, every chunk verified."""
        wanted: dict[int, dict[int, list[Place]]] = {}
        for index, chunk_id in self._maps[volume].items():
            pack, frame, position = self.index[chunk_id]
            places = wanted.setdefault(pack, {}).setdefault(frame, [])
            places.append((position, index, chunk_id))
        with target.open("wb", buffering=0) as file:
            file.truncate(self._sizes[volume])
            packs = Shared(iter(sorted(wanted)))
            _in_threads(lambda: self._restore_packs(file.fileno(), packs, wanted))

    def read(self, volume: str, offset: int, size_bytes: int) -> bytes:
        """Returns a range of the volume's last backup; each frame that it needs is fetched once."""
        opener, frames = Opener(), dict[tuple[int, int], memoryview]()
        parts = []
        first, last = offset // CHUNK, (offset + size_bytes - 1) // CHUNK
        for index in range(first, last + 1):
            chunk_id = self._maps[volume].get(index)
            if chunk_id is None:
                parts.append(ZERO)
                continue
            pack, frame, position = self.index[chunk_id]
            if (pack, frame) not in frames:
                frames[pack, frame] = opener.open(pack, frame, self._fetch(pack, frame))
            chunk = frames[pack, frame][position * CHUNK : (position + 1) * CHUNK]
            _verify(chunk, chunk_id)
            parts.append(bytes(chunk))
        skip = offset - first * CHUNK
        return b"".join(parts)[skip : skip + size_bytes]

    def _store_spans(
        self,
        file: int,
        spans: Shared[tuple[int, int]],
        old: BlockMap,
        new: BlockMap,
        block_map: BlockMap,
    ) -> None:
        buffer = memoryview(bytearray(SPAN))
        packer = Packer(self)
        fingerprint, digest, index = xxhash.xxh3_128_digest, blake3.blake3, self.index
        for offset, size in spans:
            os.preadv(file, [buffer[:size]], offset)
            for start in range(0, size, CHUNK):
                at = (offset + start) // CHUNK
                view = buffer[start : start + CHUNK]
                new[at] = mark = fingerprint(view)
                if old.get(at) == mark:
                    continue
                chunk = bytes(view)
                if chunk == ZERO:
                    block_map.pop(at, None)
                    continue
                block_map[at] = chunk_id = digest(chunk, key=KEY).digest()
                if chunk_id not in index:
                    packer.add(chunk_id, chunk)
        packer.flush()

    def _restore_packs(
        self,
        file: int,
        packs: Shared[int],
        wanted: dict[int, dict[int, list[Place]]],
    ) -> None:
        opener = Opener()
        for pack in packs:
            # Where most of a pack is wanted, one GET of all of it is cheaper than ranges.
            whole = None
            if len(wanted[pack]) * 2 > len(self.packs[pack]):
                whole = memoryview(obstore.get(self.store, _key(pack)).bytes())
            for frame, places in wanted[pack].items():
                offset, size = self.packs[pack][frame]
                sealed = (
                    self._fetch(pack, frame) if whole is None else whole[offset : offset + size]
                )
                _write_runs(file, opener.open(pack, frame, sealed), places)

    def _fetch(self, pack: int, frame: int) -> memoryview:
        offset, size = self.packs[pack][frame]
        return memoryview(obstore.get_range(self.store, _key(pack), start=offset, length=size))


class Packer:
    """Fills packs for one thread: chunks into frames, frames into packs, packs into the store."""

    def __init__(self, ceiling: Ceiling) -> None:
        self._ceiling = ceiling
        self._compressor = zstandard.ZstdCompressor(level=LEVEL)
        self._cipher = AESGCM(KEY)
        self._buffer = memoryview(bytearray(PACK + 2 * FRAME))
        self._begin()

    def add(self, chunk_id: bytes, chunk: bytes) -> None:
        """Takes a chunk that is not in the index yet, and enters it there."""
        frame = len(self._ceiling.packs[self._pack])
        self._ceiling.index[chunk_id] = (self._pack, frame, len(self._chunks))
        self._chunks.append(chunk)
        if len(self._chunks) == CHUNKS_PER_FRAME:
            self._seal_frame()

    def flush(self) -> None:
        """Stores what was added so far."""
        if self._chunks:
            self._seal_frame()
        if self._size:
            body = bytes(self._buffer[: self._size])
            obstore.put(self._ceiling.store, _key(self._pack), body, use_multipart=False)
            self._begin()

    def _begin(self) -> None:
        self._pack = self._ceiling.new_pack()
        self._size = 0
        self._chunks: list[bytes] = []

    def _seal_frame(self) -> None:
        frames = self._ceiling.packs[self._pack]
        compressed = self._compressor.compress(b"".join(self._chunks))
        sealed = self._cipher.encrypt(_nonce(self._pack, len(frames)), compressed, None)
        self._buffer[self._size : self._size + len(sealed)] = sealed
        frames.append((self._size, len(sealed)))
        self._size += len(sealed)
        self._chunks = []
        if self._size >= PACK:
            self.flush()


class Opener:
    """Opens frames for one thread."""

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor()
        self._cipher = AESGCM(KEY)

    def open(self, pack: int, frame: int, sealed: memoryview) -> memoryview:
        """Returns a frame's plain bytes."""
        compressed = self._cipher.decrypt(_nonce(pack, frame), sealed, None)
        return memoryview(self._decompressor.decompress(compressed))


def serve() -> None:
    """Does the requests of standard input, one JSON object a line, and answers each with a line."""
    ceiling = Ceiling(
        S3Store(
            os.environ["CEILING_S3_BUCKET"],
            endpoint=os.environ["CEILING_S3_ENDPOINT"],
            access_key_id=os.environ["CEILING_S3_ACCESS_KEY"],
            secret_access_key=os.environ["CEILING_S3_SECRET_KEY"],
            region="us-east-1",
            client_options={"allow_http": True},
        )
    )
    for line in sys.stdin:
        match json.loads(line):
            case {"do": "backup", "volume": volume, "path": path}:
                ceiling.backup(volume, Path(path))
            case {"do": "restore", "volume": volume, "path": path}:
                ceiling.restore(volume, Path(path))
            case {"do": "read", "volume": volume, "path": path, "offset": at, "size_bytes": size}:
                Path(path).write_bytes(ceiling.read(volume, at, size))
        print("done", flush=True)


def _spans(image: Path) -> Iterator[tuple[int, int]]:
    """Yields (offset, size) of the chunk-aligned pieces with data, up to 8 MiB each."""
    done = 0
    for data_start, data_end in data_extents(image):
        start, end = max(data_start // CHUNK * CHUNK, done), -(-data_end // CHUNK) * CHUNK
        for offset in range(start, end, SPAN):
            yield offset, min(SPAN, end - offset)
        done = max(done, end)


def _in_threads(work: Callable[[], None]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(work) for _ in range(THREADS)]:
            future.result()


def _write_runs(file: int, frame: memoryview, places: list[Place]) -> None:
    """Verifies the wanted chunks of a frame and writes them, neighbours by one large write."""
    run = 0
    for number, (position, index, chunk_id) in enumerate(places):
        _verify(frame[position * CHUNK : (position + 1) * CHUNK], chunk_id)
        following = places[number + 1][:2] if number + 1 < len(places) else None
        if following != (position + 1, index + 1):
            first, at, _ = places[run]
            os.pwrite(file, frame[first * CHUNK : (position + 1) * CHUNK], at * CHUNK)
            run = number + 1


def _verify(chunk: memoryview, chunk_id: bytes) -> None:
    if blake3.blake3(chunk, key=KEY).digest() != chunk_id:
        raise ValueError(f"chunk {chunk_id.hex()} came back as other bytes")


def _nonce(pack: int, frame: int) -> bytes:
    return pack.to_bytes(6, "big") + frame.to_bytes(6, "big")


def _key(pack: int) -> str:
    return f"packs/{pack}"


if __name__ == "__main__":
    serve()
