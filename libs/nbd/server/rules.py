"""Which requests are allowed on an export, and which error answers the others."""

from typing import NamedTuple

from libs.nbd.export import Export
from libs.nbd.layout import Command, CommandFlag, ErrorNumber, Feature

#: Commands that an export must offer before a client may use them.
_OFFERED_BY = {
    Command.FLUSH: Feature.SEND_FLUSH,
    Command.TRIM: Feature.SEND_TRIM,
    Command.CACHE: Feature.SEND_CACHE,
    Command.WRITE_ZEROES: Feature.SEND_WRITE_ZEROES,
}
_WRITING = frozenset({Command.WRITE, Command.TRIM, Command.WRITE_ZEROES})


class _Rule(NamedTuple):
    #: Flags that the command may have.
    flags: int
    #: What answers a range beyond the export.
    beyond: ErrorNumber
    #: What answers every such command.
    refusal: ErrorNumber | None


class Rules:
    """What may be asked of one export in one session.

    Args:
        export: with its features, size and block sizes.
        is_structured: whether replies are.
        has_contexts: whether metadata contexts were chosen.
    """

    def __init__(self, export: Export, *, is_structured: bool, has_contexts: bool) -> None:
        self._size_bytes = export.size_bytes
        self._unaligned = export.block_sizes.minimum - 1
        self.payload_size_bytes_max = export.block_sizes.payload_max
        #: A READ that is too large may be tried again in parts where errors say more.
        self._too_large = ErrorNumber.EOVERFLOW if is_structured else ErrorNumber.EINVAL
        self._of: dict[int, _Rule] = {
            command: _rule_of(command, export, is_structured=is_structured)
            for command in Command
            if command is not Command.DISC
            and _OFFERED_BY.get(command, Feature.HAS_FLAGS) in export.features | Feature.HAS_FLAGS
            and (command is not Command.BLOCK_STATUS or has_contexts)
        }

    def judge(self, command: int, flags: int, offset: int, length: int) -> ErrorNumber | None:
        """The error that answers a request; None if it is to be served.

        Lengths of zero are unspecified. They are refused, so that no backend meets them.
        """
        rule = self._of.get(command)
        if rule is None or flags & ~rule.flags:
            return ErrorNumber.EINVAL
        if rule.refusal is not None:
            return rule.refusal
        if offset + length > self._size_bytes:
            return rule.beyond
        # A FLUSH has neither offset nor length, and everything else has a length.
        is_empty = bool(offset) if command == 3 else not length
        if is_empty or (offset | length) & self._unaligned or (command == 3 and length):
            return ErrorNumber.EINVAL
        if length > self.payload_size_bytes_max and command <= Command.WRITE:
            return ErrorNumber.EINVAL if command else self._too_large
        return None


def _rule_of(command: Command, export: Export, *, is_structured: bool) -> _Rule:
    features = export.features
    flags = CommandFlag.FUA if Feature.SEND_FUA in features else CommandFlag(0)
    match command:
        case Command.READ:
            flags |= CommandFlag.DF if is_structured else CommandFlag(0)
        case Command.WRITE_ZEROES:
            flags |= CommandFlag.NO_HOLE
            if Feature.SEND_FAST_ZERO in features:
                flags |= CommandFlag.FAST_ZERO
        case Command.BLOCK_STATUS:
            flags |= CommandFlag.REQ_ONE
    is_refused = export.is_read_only and command in _WRITING
    grows = command in (Command.WRITE, Command.WRITE_ZEROES)
    return _Rule(
        int(flags),
        ErrorNumber.ENOSPC if grows else ErrorNumber.EINVAL,
        ErrorNumber.EPERM if is_refused else None,
    )
