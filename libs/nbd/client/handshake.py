"""The client's end of the fixed newstyle handshake."""

from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

from libs.errors import BadInputError, DamagedDataError, InvariantViolation
from libs.nbd.client.events import (
    Describe,
    Described,
    Enter,
    HandshakeEvent,
    Listed,
    ListExports,
    Negotiated,
    Purpose,
    Refused,
    TlsGranted,
)
from libs.nbd.export import BlockSizes, Export, check_context, check_string
from libs.nbd.layout import (
    CLIENT_FLAGS,
    CONTEXTS_MAX,
    EXPORT_NAME_REPLY,
    EXPORT_NAME_ZEROS_SIZE_BYTES,
    GREETING,
    GREETING_MAGIC,
    INFOS_MAX,
    LISTED_MAX,
    OLDSTYLE_MAGIC,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    OPTION_REPLY_SIZE_BYTES_MAX,
    REFUSAL,
    Feature,
    HandshakeFlag,
    Info,
    Option,
    OptionReply,
)
from libs.nbd.options import (
    pack_context_query,
    pack_info_request,
    pack_option,
    read_text,
    unpack_context,
    unpack_info,
    unpack_listed,
)
from libs.nbd.streams import Inbox, Outbox

T = TypeVar("T")

#: Kind and data of each reply to one option; the last one is final.
_Replies: TypeAlias = list[tuple[int, bytes]]
_Script: TypeAlias = Generator[tuple[Option, bytes] | HandshakeEvent, _Replies, None]

#: Those that are known here; others are ignored, as the specification wants it.
_FEATURES = sum(Feature)
_INFOS = (Info.EXPORT, Info.NAME, Info.DESCRIPTION, Info.BLOCK_SIZE)


class ClientHandshake:
    """From the server's greeting to an export, or to an answer about exports.

    Args:
        peer: names the server in errors.
        inbox: what the server sends.
        outbox: what it is sent.
        purpose: what the session is for.
        has_tls: whether TLS is asked for; a server without it is refused then.

    Raises:
        BadInputError: a name that cannot be a string of the protocol, or too many contexts.
    """

    def __init__(
        self, peer: str, inbox: Inbox, outbox: Outbox, purpose: Purpose, *, has_tls: bool
    ) -> None:
        if isinstance(purpose, Enter):
            for context in purpose.contexts:
                check_context(context)
            if not len(set(purpose.contexts)) == len(purpose.contexts) <= CONTEXTS_MAX:
                raise BadInputError(
                    f"{peer}: metadata contexts {', '.join(purpose.contexts)}; expected "
                    f"{CONTEXTS_MAX} different ones at most"
                )
        if not isinstance(purpose, ListExports):
            check_string(f"{peer}: export name", purpose.export)
        self._peer = peer
        self._inbox = inbox
        self._outbox = outbox
        self._purpose = purpose
        self._has_tls = has_tls
        self._has_zeros = True
        self._is_structured = False
        self._script: _Script = self._run()
        self._is_greeted = False
        self._option: Option | None = None
        self._replies: _Replies = []
        self._waits_for_tls = False

    def next_event(self) -> HandshakeEvent | None:
        """What has come of it; None until more is received.

        Raises:
            DamagedDataError: the server breaks the protocol.
        """
        if not self._is_greeted:
            if not self._read_greeting():
                return None
            self._go_on([])  # no purpose ends before its first option
        while self._option is not None:
            if self._option is Option.EXPORT_NAME:
                return self._read_export_name_reply()
            if not self._read_reply():
                return None
            if self._replies[-1][0] & REFUSAL or self._replies[-1][0] == OptionReply.ACK:
                replies, self._replies = self._replies, []
                event = self._go_on(replies)
                if event is not None:
                    return event
        return None

    def tls_started(self) -> None:
        """TLS is on; the handshake goes on within it.

        Raises:
            DamagedDataError: the server sent more before TLS was on, which anybody may have added.
        """
        if not self._waits_for_tls:
            raise InvariantViolation(f"{self._peer}: TLS has started that nobody asked for")
        self._waits_for_tls = False
        if self._inbox.end != self._inbox.start:
            raise self._violation("STARTTLS", "nothing until TLS is on", "more bytes")
        event = self._go_on([])
        assert event is None, "an option follows STARTTLS"

    def _go_on(self, replies: _Replies) -> HandshakeEvent | None:
        """Let the script have the replies; send the option that it asks for, or tell its event."""
        step = next(self._script) if self._option is None else self._script.send(replies)
        if isinstance(step, tuple):
            option, data = step
            self._option = option
            self._outbox.put(pack_option(option, data))
            return None
        if isinstance(step, TlsGranted):
            self._waits_for_tls = True
            return step
        self._option = None
        if not isinstance(step, Negotiated):  # the answer may come or not; nobody waits for it
            self._outbox.put(pack_option(Option.ABORT))
        return step

    def _run(self) -> _Script:
        """Options in their order; ends with an event."""
        if self._has_tls:
            refused = _refusal(Option.STARTTLS, (yield Option.STARTTLS, b""))
            if refused:
                yield refused
                return
            yield TlsGranted()
        purpose = self._purpose
        if isinstance(purpose, ListExports):
            yield self._listed((yield Option.LIST, b""))
            return
        replies = yield Option.STRUCTURED_REPLY, b""
        self._is_structured = not _refusal(Option.STRUCTURED_REPLY, replies)
        if isinstance(purpose, Describe):
            yield from self._describe(purpose)
            return
        contexts: dict[str, int] = {}
        if purpose.contexts and self._is_structured:
            query = pack_context_query(purpose.export, purpose.contexts)
            contexts = self._chosen(purpose.contexts, (yield Option.SET_META_CONTEXT, query))
        request = pack_info_request(purpose.export, _INFOS)
        replies = yield Option.GO, request
        refused = _refusal(Option.GO, replies)
        if refused and refused.reply == OptionReply.ERR_UNSUP:
            ((_, data),) = yield Option.EXPORT_NAME, purpose.export.encode()
            found: tuple[int, int] = EXPORT_NAME_REPLY.unpack_from(data)
            export = self._export(purpose.export, found, BlockSizes(), "")
        elif refused:
            yield refused
            return
        else:
            export = self._informed(purpose.export, replies)
        yield Negotiated(export, contexts, self._is_structured)

    def _describe(self, purpose: Describe) -> _Script:
        contexts: tuple[str, ...] = ()
        if self._is_structured:
            query = pack_context_query(purpose.export, ())
            replies = yield Option.LIST_META_CONTEXT, query
            if not _refusal(Option.LIST_META_CONTEXT, replies):
                contexts = tuple(name for _, name in self._contexts(replies))
        replies = yield Option.INFO, pack_info_request(purpose.export, _INFOS)
        refused = _refusal(Option.INFO, replies)
        yield refused or Described(self._informed(purpose.export, replies, contexts))

    def _read_greeting(self) -> bool:
        inbox = self._inbox
        if inbox.end - inbox.start < GREETING.size:
            return False
        magic, options, flags = GREETING.unpack(inbox.take(GREETING.size))
        if magic != GREETING_MAGIC or options != OPTION_MAGIC:
            old = " (oldstyle, which is not spoken here)" if options == OLDSTYLE_MAGIC else ""
            raise self._violation(
                "greeting", f"{GREETING_MAGIC!r} {OPTION_MAGIC:#x}", f"{magic!r} {options:#x}{old}"
            )
        if not flags & HandshakeFlag.FIXED_NEWSTYLE:
            raise self._violation("greeting", "the fixed newstyle", f"flags {flags:#x}")
        self._has_zeros = not flags & HandshakeFlag.NO_ZEROES
        answer = flags & (HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)
        self._outbox.put(CLIENT_FLAGS.pack(answer))
        self._is_greeted = True
        return True

    def _read_reply(self) -> bool:
        inbox, option = self._inbox, self._option
        assert option is not None
        if inbox.end - inbox.start < OPTION_REPLY.size:
            return False
        magic, about, reply, size = OPTION_REPLY.unpack_from(inbox.memory, inbox.start)
        if magic != OPTION_REPLY_MAGIC or about != option:
            raise self._violation(
                f"reply to {option.name}",
                f"magic {OPTION_REPLY_MAGIC:#x} and option {option}",
                f"{magic:#x} and {about}",
            )
        if size > OPTION_REPLY_SIZE_BYTES_MAX:
            raise self._violation(
                f"reply to {option.name}", f"{OPTION_REPLY_SIZE_BYTES_MAX} bytes at most", f"{size}"
            )
        if reply not in _REPLIES[option] and not reply & REFUSAL:
            raise self._violation(f"reply to {option.name}", "a reply of its own", f"{reply}")
        if inbox.end - inbox.start < OPTION_REPLY.size + size:
            return False
        inbox.start += OPTION_REPLY.size
        self._replies.append((reply, inbox.take(size)))
        bound = INFOS_MAX if option in (Option.GO, Option.INFO) else LISTED_MAX
        if len(self._replies) > bound:
            raise self._violation(f"replies to {option.name}", f"{bound} at most", "more")
        return True

    def _read_export_name_reply(self) -> HandshakeEvent | None:
        size = EXPORT_NAME_REPLY.size + EXPORT_NAME_ZEROS_SIZE_BYTES * self._has_zeros
        if self._inbox.end - self._inbox.start < size:
            return None
        return self._go_on([(OptionReply.ACK, self._inbox.take(size))])

    def _listed(self, replies: _Replies) -> Listed | Refused:
        refused = _refusal(Option.LIST, replies)
        if refused:
            return refused
        return Listed(
            tuple(self._parse(Option.LIST, unpack_listed, data) for data in _data(replies))
        )

    def _contexts(self, replies: _Replies) -> list[tuple[int, str]]:
        option = Option.SET_META_CONTEXT
        return [self._parse(option, unpack_context, data) for data in _data(replies)]

    def _chosen(self, wanted: tuple[str, ...], replies: _Replies) -> dict[str, int]:
        if _refusal(Option.SET_META_CONTEXT, replies):
            return {}
        chosen: dict[str, int] = {}
        for number, name in self._contexts(replies):
            if name not in wanted or name in chosen or number in chosen.values():
                raise self._violation(
                    "SET_META_CONTEXT",
                    f"each of {', '.join(wanted)} once at most, with an id of its own",
                    f"{name!r} with id {number}",
                )
            chosen[name] = number
        return chosen

    def _informed(self, asked: str, replies: _Replies, contexts: tuple[str, ...] = ()) -> Export:
        said: dict[int, tuple[int, int] | BlockSizes | str | None] = {}
        for data in _data(replies):
            kind, what = self._parse(Option.GO, unpack_info, data)
            said.setdefault(kind, what)
        found = said.get(Info.EXPORT)
        if not isinstance(found, tuple):
            raise self._violation(f"export {asked!r}", "its size and flags", "none")
        sizes = said.get(Info.BLOCK_SIZE)
        name, description = said.get(Info.NAME), said.get(Info.DESCRIPTION)
        return self._export(
            name if isinstance(name, str) else asked,
            found,
            sizes if isinstance(sizes, BlockSizes) else BlockSizes(),
            description if isinstance(description, str) else "",
            contexts,
        )

    def _export(
        self,
        name: str,
        size_and_flags: tuple[int, int],
        sizes: BlockSizes,
        description: str,
        contexts: tuple[str, ...] = (),
    ) -> Export:
        size, flags = size_and_flags
        known = Feature(flags & _FEATURES) | Feature.HAS_FLAGS
        try:
            return Export(
                name=name,
                size_bytes=size,
                features=known,
                block_sizes=sizes,
                description=description,
                contexts=contexts,
            )
        except BadInputError as err:
            raise DamagedDataError(f"{self._peer}: {err}") from err

    def _parse(self, option: Option, unpack: Callable[[bytes], T], data: bytes) -> T:
        try:
            return unpack(data)
        except DamagedDataError as err:
            raise DamagedDataError(f"{self._peer}: reply to {option.name}: {err}") from err

    def _violation(self, what: str, expected: str, got: str) -> DamagedDataError:
        return DamagedDataError(f"{self._peer}: {what}: expected {expected}, got {got}")


#: Replies besides refusals that an option may have; ACK ends them.
_REPLIES: dict[Option, tuple[OptionReply, ...]] = {
    Option.STARTTLS: (OptionReply.ACK,),
    Option.STRUCTURED_REPLY: (OptionReply.ACK,),
    Option.LIST: (OptionReply.ACK, OptionReply.SERVER),
    Option.INFO: (OptionReply.ACK, OptionReply.INFO),
    Option.GO: (OptionReply.ACK, OptionReply.INFO),
    Option.LIST_META_CONTEXT: (OptionReply.ACK, OptionReply.META_CONTEXT),
    Option.SET_META_CONTEXT: (OptionReply.ACK, OptionReply.META_CONTEXT),
}


def _data(replies: _Replies) -> list[bytes]:
    """Data of all replies but the final one."""
    return [data for _, data in replies[:-1]]


def _refusal(option: Option, replies: _Replies) -> Refused | None:
    """The refusal that the replies end with."""
    reply, data = replies[-1]
    if not reply & REFUSAL:
        return None
    try:
        message = read_text(data, "message")
    except DamagedDataError:
        message = repr(data[:200])
    return Refused(option, reply, message)
