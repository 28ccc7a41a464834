"""The server's end of the fixed newstyle handshake."""

from collections.abc import Iterable

from libs.errors import DamagedDataError, InvariantViolation
from libs.nbd.export import Export
from libs.nbd.layout import (
    CLIENT_FLAGS,
    CONTEXTS_MAX,
    EXPORT_NAME_REPLY,
    EXPORT_NAME_ZEROS_SIZE_BYTES,
    GREETING,
    GREETING_MAGIC,
    OPTION,
    OPTION_MAGIC,
    OPTION_SIZE_BYTES_MAX,
    OPTION_SKIP_SIZE_BYTES_MAX,
    OPTIONS_MAX,
    Feature,
    HandshakeFlag,
    Info,
    Option,
    OptionReply,
)
from libs.nbd.options import (
    matching,
    pack_block_sizes,
    pack_context,
    pack_export_info,
    pack_listed,
    pack_option_reply,
    pack_text_info,
    read_text,
    unpack_context_query,
    unpack_info_request,
)
from libs.nbd.server.events import (
    Disconnected,
    Entered,
    ExportAsked,
    ListAsked,
    TlsAsked,
    TlsMode,
)
from libs.nbd.streams import Inbox, Outbox

HandshakeEvent = TlsAsked | ListAsked | ExportAsked | Entered | Disconnected

#: Numbers, because the complement of a flag enumeration has its known members alone.
_OFFERED = int(HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)
#: Without them the client could not be told apart from one of the unfixed newstyle.
_REQUIRED = int(HandshakeFlag.FIXED_NEWSTYLE)
#: These never have data; they are refused as invalid if they do.
_BARE = frozenset({Option.LIST, Option.STARTTLS, Option.STRUCTURED_REPLY})
#: Replies that wait to be sent stop the reading of more options.
_OUTPUT_SIZE_BYTES_MAX = 1 << 20


class ServerHandshake:
    """From the greeting to the transmission, or to the end.

    One option is read at a time. An option that needs the transport waits for its answer, and
    meanwhile no other is read.

    Args:
        peer: names the client in errors.
        inbox: what the client sends.
        outbox: what it is sent.
        tls: whether STARTTLS is granted, or required.
    """

    def __init__(self, peer: str, inbox: Inbox, outbox: Outbox, tls: TlsMode) -> None:
        self._peer = peer
        self._inbox = inbox
        self._outbox = outbox
        self._tls = tls
        self._has_tls = False
        self._is_greeted = False
        self._sends_zeros = True
        self._option_count = 0
        self._skip_bytes = 0
        self.is_structured = False
        #: Export name and ids of the contexts that the newest SET_META_CONTEXT chose.
        self._chosen: tuple[str, dict[int, str]] = ("", {})
        self._asked: TlsAsked | ListAsked | ExportAsked | None = None
        self._infos: frozenset[int] = frozenset()
        self._queries: list[str] = []
        outbox.put(GREETING.pack(GREETING_MAGIC, OPTION_MAGIC, _OFFERED))

    def next_event(self) -> HandshakeEvent | None:
        """What the client asks for next; None if more must be received, sent or answered first.

        Raises:
            DamagedDataError: the client breaks the protocol; the connection must end.
        """
        if not self._is_greeted and not self._read_client_flags():
            return None
        while self._asked is None and self._outbox.size_bytes < _OUTPUT_SIZE_BYTES_MAX:
            if self._skip_bytes:
                self._skip_bytes -= len(self._inbox.piece(self._skip_bytes))
                if self._skip_bytes:
                    return None
            found = self._read_option()
            if found is None:
                return None
            event = self._answer(*found)
            if event is not None:
                return event
        return None

    def tls_started(self) -> None:
        """TLS is on. Nothing that was said before counts.

        Raises:
            DamagedDataError: the client sent more before TLS was on, which anybody may have added.
        """
        self._expect(TlsAsked)
        self._has_tls = True
        self.is_structured = False
        self._chosen = ("", {})
        self._expect_silence()

    def list_exports(self, exports: Iterable[Export]) -> None:
        """Answer LIST."""
        self._expect(ListAsked)
        for export in exports:
            data = pack_listed(export.name, export.description)
            self._reply(Option.LIST, OptionReply.SERVER, data)
        self._reply(Option.LIST, OptionReply.ACK)

    def refuse(self, reply: OptionReply, message: str = "") -> None:
        """Answer LIST, or a question about an export, with a refusal.

        Raises:
            DamagedDataError: the option is EXPORT_NAME, to which no refusal exists but the end.
        """
        asked = self._expect(ListAsked, ExportAsked)
        if not isinstance(asked, ExportAsked):
            self._reply(Option.LIST, reply, message.encode())
        elif asked.option is Option.EXPORT_NAME:
            raise self._violation(
                "EXPORT_NAME", "an export that may be entered", f"{asked.name!r} ({message})"
            )
        else:
            if asked.option is Option.SET_META_CONTEXT:
                self._chosen = ("", {})
            self._reply(asked.option, reply, message.encode())

    def offer(self, export: Export) -> Entered | None:
        """Answer a question about an export. Returns what begins if the client enters it."""
        asked = self._expect(ExportAsked)
        assert isinstance(asked, ExportAsked)
        match asked.option:
            case Option.LIST_META_CONTEXT | Option.SET_META_CONTEXT:
                self._offer_contexts(asked, export)
                return None
            case Option.EXPORT_NAME:
                flags = self._flags(export)
                self._outbox.put(EXPORT_NAME_REPLY.pack(export.size_bytes, flags))
                if self._sends_zeros:
                    self._outbox.put(bytes(EXPORT_NAME_ZEROS_SIZE_BYTES))
                return self._enter(asked.name, export)
        self._offer_infos(asked, export)
        return self._enter(asked.name, export) if asked.option is Option.GO else None

    def _read_client_flags(self) -> bool:
        inbox = self._inbox
        if inbox.end - inbox.start < CLIENT_FLAGS.size:
            return False
        (flags,) = CLIENT_FLAGS.unpack(inbox.take(CLIENT_FLAGS.size))
        if flags & ~_OFFERED or not flags & _REQUIRED:
            raise self._violation(
                "greeting", "client flags 1 or 3, of the fixed newstyle", f"{flags:#x}"
            )
        self._sends_zeros = not flags & HandshakeFlag.NO_ZEROES
        self._is_greeted = True
        return True

    def _read_option(self) -> tuple[int, bytes | None] | None:
        """An option with its data, or with None where they are too long and will be skipped."""
        inbox = self._inbox
        if inbox.end - inbox.start < OPTION.size:
            return None
        magic, option, size = OPTION.unpack_from(inbox.memory, inbox.start)
        if magic != OPTION_MAGIC:
            raise self._violation("option", f"magic {OPTION_MAGIC:#x}", f"{magic:#x}")
        is_long = size > OPTION_SIZE_BYTES_MAX
        if size > OPTION_SKIP_SIZE_BYTES_MAX or (is_long and option == Option.EXPORT_NAME):
            raise self._violation(
                f"option {option}", f"{OPTION_SIZE_BYTES_MAX} bytes of data at most", f"{size}"
            )
        if not is_long and inbox.end - inbox.start < OPTION.size + size:
            return None
        self._option_count += 1
        if self._option_count > OPTIONS_MAX:
            raise self._violation("handshake", f"{OPTIONS_MAX} options at most", "more")
        inbox.start += OPTION.size
        if is_long:
            self._skip_bytes = size
            return option, None
        return option, inbox.take(size)

    def _answer(self, option: int, data: bytes | None) -> HandshakeEvent | None:
        """Answer what needs nobody else, and tell the rest."""
        if option == Option.ABORT:
            self._reply(option, OptionReply.ACK)
            return Disconnected()
        if self._tls is TlsMode.REQUIRED and not self._has_tls and option != Option.STARTTLS:
            if option == Option.EXPORT_NAME:
                raise self._violation("EXPORT_NAME", "STARTTLS before it", "none")
            self._reply(option, OptionReply.ERR_TLS_REQD, b"this server requires TLS")
        elif option not in Option.__members__.values() or option == Option.EXTENDED_HEADERS:
            self._reply(option, OptionReply.ERR_UNSUP)
        elif data is None:
            self._reply(
                option, OptionReply.ERR_TOO_BIG, b"more data than this server reads of an option"
            )
        else:
            try:
                return self._told(Option(option), data)
            except _Invalid as err:
                self._reply(option, err.reply, str(err).encode()[:1024])
            except DamagedDataError as err:
                if option == Option.STARTTLS:
                    raise
                if option == Option.EXPORT_NAME:
                    raise self._violation("EXPORT_NAME", "a name", str(err)) from err
                self._reply(option, OptionReply.ERR_INVALID, str(err).encode()[:1024])
        return None

    def _told(self, option: Option, data: bytes) -> HandshakeEvent | None:
        if option in _BARE and data:
            raise _Invalid(f"{option.name} has data; expected none")
        match option:
            case Option.STRUCTURED_REPLY:
                self.is_structured = True
                self._reply(option, OptionReply.ACK)
            case Option.STARTTLS:
                self._check_tls()
                self._expect_silence()  # also before the transport waits for TLS
                self._reply(option, OptionReply.ACK)
                self._asked = TlsAsked()
            case Option.LIST:
                self._asked = ListAsked()
            case Option.EXPORT_NAME:
                self._asked = ExportAsked(read_text(data, "export name"), option)
            case Option.INFO | Option.GO:
                name, self._infos = unpack_info_request(data)
                self._asked = ExportAsked(name, option)
            case _:
                if option is Option.SET_META_CONTEXT:
                    self._chosen = ("", {})  # it replaces what was chosen, even if it fails
                    if not self.is_structured:
                        raise _Invalid("contexts need STRUCTURED_REPLY before them")
                name, self._queries = unpack_context_query(data)
                self._asked = ExportAsked(name, option)
        return self._asked

    def _check_tls(self) -> None:
        if self._has_tls:
            raise _Invalid("TLS is on already")
        if self._tls is TlsMode.NONE:
            raise _Invalid("this server has no certificate", OptionReply.ERR_POLICY)

    def _expect_silence(self) -> None:
        if self._inbox.end != self._inbox.start:
            raise self._violation("STARTTLS", "nothing until TLS is on", "more bytes")

    def _offer_contexts(self, asked: ExportAsked, export: Export) -> None:
        is_list = asked.option is Option.LIST_META_CONTEXT
        found = matching(export.contexts, self._queries, with_wildcards=is_list)
        if is_list and not self._queries:
            found = list(export.contexts)
        if not is_list and len(found) > CONTEXTS_MAX:
            message = f"{len(found)} contexts, expected {CONTEXTS_MAX} at most"
            self._reply(asked.option, OptionReply.ERR_TOO_BIG, message.encode())
            return
        ids = {number: name for number, name in enumerate(export.contexts, 1) if name in found}
        for number, name in ids.items():
            data = pack_context(0 if is_list else number, name)
            self._reply(asked.option, OptionReply.META_CONTEXT, data)
        if not is_list:
            self._chosen = (asked.name, ids)
        self._reply(asked.option, OptionReply.ACK)

    def _offer_infos(self, asked: ExportAsked, export: Export) -> None:
        infos = [pack_export_info(export.size_bytes, self._flags(export))]
        if Info.NAME in self._infos or export.name != asked.name:
            infos.append(pack_text_info(Info.NAME, export.name))
        if Info.DESCRIPTION in self._infos and export.description:
            infos.append(pack_text_info(Info.DESCRIPTION, export.description))
        infos.append(pack_block_sizes(export.block_sizes))
        for info in infos:
            self._reply(asked.option, OptionReply.INFO, info)
        self._reply(asked.option, OptionReply.ACK)

    def _enter(self, name: str, export: Export) -> Entered:
        chosen_for, contexts = self._chosen
        return Entered(export, contexts if chosen_for == name else {})

    def _flags(self, export: Export) -> int:
        flags = (export.features | Feature.HAS_FLAGS) & ~Feature.SEND_DF
        return flags | Feature.SEND_DF if self.is_structured else flags

    def _expect(self, *kinds: type) -> TlsAsked | ListAsked | ExportAsked:
        asked = self._asked
        if asked is None or not isinstance(asked, kinds):
            raise InvariantViolation(f"{self._peer}: an answer to {kinds}, but it asked {asked}")
        self._asked = None
        return asked

    def _reply(self, option: int, reply: OptionReply, data: bytes = b"") -> None:
        self._outbox.put(pack_option_reply(option, reply, data))

    def _violation(self, what: str, expected: str, got: str) -> DamagedDataError:
        return DamagedDataError(f"{self._peer}: {what}: expected {expected}, got {got}")


class _Invalid(Exception):  # noqa: N818 -- an answer that leaves the function early, no error
    """The option is known and refused."""

    def __init__(self, message: str, reply: OptionReply = OptionReply.ERR_INVALID) -> None:
        super().__init__(message)
        self.reply = reply
