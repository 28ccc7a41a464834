"""The packer: puts frames of many attempts into packs, uploads and registers them.

For each pack, in this order: row `uploading` (the generation is claimed) → frames → PUT → register.
The last two are done by threads of the packer's own, so that lanes go on meanwhile.
A crash after any step leaves at most a row that the sweep marks dead and an object that it then
deletes.

The attempts at the parts of one session fill one pack together. Each frame is of one attempt. The
pack is registered for those attempts that are current by then: one that was taken over loses
nothing of what the others stored, and what it stored itself is there for its successor.
"""

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import UUID

from libs.catalogdb.packs.registering import PackRecord, begin_pack, register
from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.attempts import Stale
from libs.copies.stores import Stores
from libs.ids import new_generation
from libs.keys.keyring import DomainKeys
from libs.packs.frame import CompressedFrame
from libs.packs.layout import PACK_SIZE_BYTES_MAX
from libs.packs.pack import FrameItem, FrameSlot, PackBuilder
from libs.packs.trailer import ItemKind
from libs.runtime.buffers import BufferPool
from libs.runtime.threads import end_with
from services.chunker.domains import OtherDomain
from services.chunker.ledger import Ledger

log = logging.getLogger(__name__)


class StaleAttemptError(Exception):
    """The attempt is not the current one any more; whoever meets this drops the work, silently."""


@dataclass(slots=True)
class SharedPack:
    """The pack that the attempts at the parts of one session are filling."""

    open_pack: "OpenPack | None" = None
    #: Guards `open_pack`, and whether its sharers are over; may be held while a new pack waits for
    #: a buffer.
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class AttemptPacks:
    """What the packer needs to know of an attempt, and the pack that it is filling."""

    attempt: UUID
    session: UUID
    tenant: str
    #: The tenant's own domain, where everything is stored.
    domain_no: int
    keys: DomainKeys
    ledger: Ledger
    #: Domains of others that the group's block maps may name, by their tags from 1 on.
    others: Sequence[OtherDomain] = ()
    #: Packs that are pinned by the attempt: ours and those of known chunks.
    pinned: set[int] = field(default_factory=set)
    #: Its share of the packs that are registered.
    stored_bytes: int = 0
    #: Nothing more is stored for it.
    over: bool = False
    #: With attempts at other parts of the session.
    shared: SharedPack = field(default_factory=SharedPack)
    #: Packs that hold frames of it and are neither registered nor given up. Guarded by the packer.
    unregistered: int = 0
    #: Why one of its packs could not be stored, whoever uploaded it. Guarded by the packer.
    failure: BaseException | None = None

    @property
    def domains(self) -> list[int]:
        """Numbers of the domains that tags mean."""
        return [self.domain_no, *[other.domain_no for other in self.others]]


@dataclass(slots=True)
class Contribution:
    """What one attempt has put into a pack."""

    owner: AttemptPacks
    #: Its items, each once; another attempt may have put the same one into the pack.
    ids: list[bytes] = field(default_factory=list)
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class OpenPack:
    """A pack under construction."""

    claimed_by: AttemptPacks
    pack_no: int
    builder: PackBuilder
    buffer: memoryview
    #: By attempt. Guarded by the packer.
    contributions: dict[UUID, Contribution] = field(default_factory=dict)

    @property
    def shared(self) -> SharedPack:
        """What it is the open pack of."""
        return self.claimed_by.shared

    def owners(self) -> list[AttemptPacks]:
        """Attempts that have put something into it."""
        return [one.owner for one in list(self.contributions.values())]


class Packer:
    """Thread-safe; shared by all lanes.

    Args:
        catalog: the catalog.
        stores: packs go to the primary one.
        buffer_count_max: packs under construction or upload at once, at least 1. When all buffers
            are taken, another attempt's pack is closed early and uploaded, so nobody waits for
            somebody who waits.
    """

    def __init__(self, catalog: Catalog, stores: Stores, buffer_count_max: int) -> None:
        self._catalog = catalog
        self._stores = stores
        self._buffers = BufferPool(PACK_SIZE_BYTES_MAX, buffer_count_max)
        self._open: list[OpenPack] = []
        #: Packs that were open and whose buffers will be free, and threads that wait for a buffer.
        self._closing = 0
        self._waiting = 0
        self._changed = self._buffers.changed
        self._uploads = ThreadPoolExecutor(buffer_count_max, "upload")

    def preallocate(self) -> None:
        """See `BufferPool.preallocate`. It spares the first backup 2 % of its CPU time."""
        self._buffers.preallocate()

    @property
    def free_buffer_count(self) -> int:
        """Packs that may be begun now."""
        return self._buffers.free_count

    def store(
        self, owner: AttemptPacks, frame: CompressedFrame, items: Sequence[FrameItem]
    ) -> None:
        """Put a frame into the attempt's pack; packs that became full are uploaded meanwhile.

        Raises:
            StaleAttemptError: the attempt is over.
            BackcastError: the catalog fails for longer than retries last, or one of the attempt's
                packs could not be stored.
        """
        while True:
            pack = self._pack_of(owner)
            slot = pack.builder.reserve(frame, items)
            if slot is None:
                self._close(pack)
            else:
                try:
                    self._note(pack, owner, slot, items)
                    is_last = pack.builder.fill(slot, frame)
                except BaseException as err:  # all owners meet it: the pack is lost
                    self._fail([owner, *pack.owners()], err)
                    pack.builder.spoil()
                    self._close(pack)
                    raise
                if is_last:
                    self._begin_upload(pack)
                return

    def flush(self, owner: AttemptPacks) -> None:
        """Begin to upload the open pack, if something of the attempt is in it."""
        pack = owner.shared.open_pack
        if pack and owner.attempt in pack.contributions:
            self._close(pack)

    def finish(self, owner: AttemptPacks) -> None:
        """Return when all packs of the attempt are registered; no frame is stored meanwhile.

        Raises:
            StaleAttemptError: the attempt is over.
            BackcastError: one of its packs could not be stored.
        """
        self.flush(owner)
        with self._changed:
            self._changed.wait_for(lambda: owner.failure or owner.over or owner.unregistered == 0)
        if owner.failure:
            raise owner.failure
        if owner.over:  # what was in its open pack may have been thrown away
            raise StaleAttemptError

    def abandon(self, owner: AttemptPacks) -> None:
        """Store nothing more for an attempt.

        An open pack that holds nothing of others is forgotten; its row, and what was uploaded, are
        swept later.
        """
        with owner.shared.lock:
            with self._changed:  # its `finish` may wait
                owner.over = True
                self._changed.notify_all()
            pack = owner.shared.open_pack
            if pack is None or any(not other.over for other in pack.owners()):
                return
            owner.shared.open_pack = None
        self._withdraw(pack)
        if not pack.builder.close():
            return
        if all(owner.over for owner in pack.owners()):
            self._release(pack)
        else:  # somebody had it in hand already, and has put a frame into it meanwhile
            self._begin_upload(pack)

    def close(self) -> None:
        """End the uploads; those that have not begun are left out. Nobody stores any more."""
        self._uploads.shutdown(cancel_futures=True)

    def _pack_of(self, owner: AttemptPacks) -> OpenPack:
        shared = owner.shared
        with shared.lock:
            if owner.over:
                raise StaleAttemptError
            if owner.failure:
                raise owner.failure
            if shared.open_pack is None:
                shared.open_pack = self._begin(owner)
            return shared.open_pack

    def _note(
        self,
        pack: OpenPack,
        owner: AttemptPacks,
        slot: FrameSlot,
        items: Sequence[FrameItem],
    ) -> None:
        """A frame is an attempt's; before it is filled, so before the pack can be uploaded."""
        with self._changed:
            if owner.attempt not in pack.contributions:
                pack.contributions[owner.attempt] = Contribution(owner)
                owner.unregistered += 1
            contribution = pack.contributions[owner.attempt]
            contribution.ids += [item.id for item in items]
            contribution.size_bytes += slot.stored_size_bytes

    def _begin(self, owner: AttemptPacks) -> OpenPack:
        generation = new_generation()
        buffer = self._take_buffer()
        try:
            pack_no = begin_pack(
                self._catalog, owner.attempt, owner.domain_no, owner.keys.key_id, generation
            )
            if isinstance(pack_no, Stale):
                raise StaleAttemptError
        except BaseException:
            self._buffers.give_back(buffer)
            raise
        builder = PackBuilder(
            generation,
            owner.keys.domain,
            owner.keys.key_id,
            owner.keys.pack_key(generation),
            buffer,
        )
        pack = OpenPack(owner, pack_no, builder, buffer)
        with self._changed:
            self._open.append(pack)
        return pack

    def _close(self, pack: OpenPack) -> None:
        # No longer a candidate for closing early: whoever closes one waits for its sharers' lock,
        # and who holds that to begin a new pack must have none left to wait for.
        self._withdraw(pack)
        with pack.shared.lock:
            if pack.shared.open_pack is pack:
                pack.shared.open_pack = None
        if pack.builder.close():
            self._begin_upload(pack)

    def _begin_upload(self, pack: OpenPack) -> None:
        end_with("upload", self._uploads.submit(self._upload, pack))

    def _upload(self, pack: OpenPack) -> None:
        """PUT and register a finished pack; exactly one thread gets here for each pack."""
        try:
            if not pack.builder.is_empty:
                self._put_and_register(pack)
        except BaseException as err:  # its owners meet it; without that, it would count as stored
            log.info("pack not stored", extra={"detail": repr(err)})
            self._fail(pack.owners(), err)
            if not isinstance(err, Exception):
                raise
        finally:
            self._release(pack)

    def _put_and_register(self, pack: OpenPack) -> None:
        claimer, builder = pack.claimed_by, pack.builder
        sharers = [owner.attempt for owner in pack.owners() if not owner.over]
        if not sharers:
            raise StaleAttemptError
        body = builder.finish()
        generation = builder.header.generation
        self._stores.copy(generation).put(body)
        items = builder.items
        ids, places = [item.id for item in items], [item.place for item in items]
        record = PackRecord(pack.pack_no, generation, len(body), builder.frame_table())
        registered = register(
            self._catalog,
            claimer.attempt,
            claimer.domain_no,
            claimer.tenant,
            claimer.session,
            record,
            ids,
            places,
            sum(item.kind is ItemKind.CHUNK for item in items),
            sharers,
        )
        if isinstance(registered, Stale):
            raise StaleAttemptError
        winners = {ids[position]: winner for position, winner in registered.winners.items()}
        rest = len(body) - sum(one.size_bytes for one in pack.contributions.values())
        for contribution in pack.contributions.values():
            owner = contribution.owner
            if owner.attempt not in registered.current:
                self._fail([owner], StaleAttemptError())
                continue
            with self._changed:  # not the sharers' lock: who holds that may wait for our buffer
                owner.pinned.update(winners.values(), [pack.pack_no])
                owner.stored_bytes += contribution.size_bytes + rest
            rest = 0  # the first of them counts the pack's head and trailer
            owner.ledger.registered(contribution.ids, pack.pack_no, winners)

    def _fail(self, owners: Sequence[AttemptPacks], err: BaseException) -> None:
        with self._changed:
            for owner in owners:
                owner.failure = owner.failure or err
            self._changed.notify_all()

    def _take_buffer(self) -> memoryview:
        with self._changed:
            self._waiting += 1
        try:
            while True:
                with self._changed:
                    if (buffer := self._buffers.try_take()) is not None:
                        return buffer
                    fullest = max(
                        self._open, key=lambda pack: pack.builder.size_bytes, default=None
                    )
                    if fullest is None or self._closing >= self._waiting:
                        self._changed.wait(1)
                        continue
                    self._withdraw(fullest)
                self._close(fullest)
        finally:
            with self._changed:
                self._waiting -= 1

    def _withdraw(self, pack: OpenPack) -> None:
        """It is no longer a candidate for closing early."""
        with self._changed:
            if pack in self._open:
                self._open.remove(pack)
                self._closing += 1

    def _release(self, pack: OpenPack) -> None:
        """It is stored or given up: its buffer is free."""
        with self._changed:
            self._closing -= 1
            for owner in pack.owners():
                owner.unregistered -= 1
            self._buffers.give_back(pack.buffer)
