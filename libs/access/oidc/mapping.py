"""Who may do what by which value of a claim: the mapping file of an installation."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from libs.errors import BadInputError
from libs.ids import check_name
from libs.rest.auth import ALL_TENANTS, PEOPLE, Role, check_roles

#: A longer file is a mistake.
_SIZE_BYTES_MAX = 1 << 20


class MappingEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry: ``{"value": …, "tenant": …, "roles": […], "groups": […]}``."""

    #: A value of the claim, exactly.
    value: str
    #: The one tenant that it is for, or '*' for all.
    tenant: str
    #: Roles of a person; those of machines are for tokens of files alone.
    roles: tuple[Role, ...]
    #: The groups of the tenant that it is for; empty: all.
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what belongs together.

        Raises:
            ValueError: no value, roles that no person may have, groups of all tenants.
        """
        if not self.value:
            raise ValueError("an entry has an empty value")
        try:
            check_roles(self.roles)
        except ValueError as err:
            raise ValueError(f"value {self.value}: {err}") from None
        for role in self.roles:
            if role not in PEOPLE:
                raise ValueError(f"value {self.value}: role {role} is for no person")
        if self.tenant != ALL_TENANTS:
            try:
                check_name("tenant", self.tenant)
            except BadInputError as err:
                raise ValueError(f"value {self.value}: {err}") from None
        elif self.groups:
            raise ValueError(f"value {self.value}: has groups, but no tenant whose they are")


class Mapping:
    """Entries in the order of their file. The first one that fits decides alone.

    So nobody gets by two values what no token may have, such as to back up and to delete.

    Args:
        entries: as the file has them.
    """

    def __init__(self, entries: Iterable[MappingEntry] = ()) -> None:
        self._entries = tuple(entries)

    def find(self, values: Iterable[str]) -> MappingEntry | None:
        """The entry that the values of a token lead to; None: to nothing."""
        held = frozenset(values)
        return next((one for one in self._entries if one.value in held), None)


def read_mapping(file: Path) -> Mapping:
    """The mapping in a file: a JSON list of `MappingEntry`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such list, or has the same value twice.
    """
    with file.open("rb") as opened:
        text = opened.read(_SIZE_BYTES_MAX + 1)
    if len(text) > _SIZE_BYTES_MAX:
        raise ValueError(f"longer than {_SIZE_BYTES_MAX} bytes")
    try:
        entries = msgspec.json.decode(text, type=tuple[MappingEntry, ...])
    except (msgspec.MsgspecError, RecursionError) as err:
        raise ValueError(str(err)) from None
    if len({one.value for one in entries}) < len(entries):
        raise ValueError("the same value stands in it twice")
    return Mapping(entries)
