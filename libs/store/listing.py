"""Whether the pages of a listing make a whole one: what is deleted or buried may depend on it.

A listing ends where the server says so, never where an answer is odd. Servers and proxies have been
seen to say that more follows without saying how to go on, to hand out the same token for ever, to
begin again from the first key, to roll keys up into folders, and to answer with another page than
the one that was asked for. Each of these is an error, so that nobody takes half a listing for all
of it. No page can show that an end comes too early, so whoever concludes that an object is gone
asks for that object by itself (`ObjectStore.stat`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn
from xml.etree import ElementTree as ET

from libs.errors import UnavailableError
from libs.store.port import ObjectStat

#: Empty pages in a row that say that more follows. A bucket with many deleted versions has some;
#: each takes a request, so this many take minutes.
EMPTY_PAGES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class ListedPage:
    """One answer to ListObjectsV2."""

    entries: tuple[ObjectStat, ...]
    #: Whether the server says that more follows.
    truncated: bool
    #: What to ask for the next page with; empty: none was given.
    token: str

    @property
    def is_last(self) -> bool:
        """Whether the listing ends here.

        A token beside "not truncated" contradicts it. It is followed, and leads to the rest or to
        an empty page: some servers name the last key so, though nothing follows.
        """
        return not self.truncated and not (self.token and self.entries)


def parse_page(what: str, prefix: str, root: ET.Element) -> ListedPage:
    """What an answer to ListObjectsV2 says.

    Args:
        what: the operation, for messages.
        prefix: what was asked for.
        root: the document.

    Raises:
        UnavailableError: it is no listing, or not the one that was asked for.
    """
    kind = root.tag.rpartition("}")[2]
    if kind != "ListBucketResult":
        _refuse(what, "a ListBucketResult", f"a document {kind!r}")
    echoed = root.findtext("{*}Prefix") or ""
    if echoed != prefix:
        _refuse(what, f"keys that begin with {prefix!r}", f"an answer for {echoed[:80]!r}")
    if root.findtext("{*}EncodingType") == "url":
        _refuse(what, "keys as they are", "keys in URL encoding, which nobody asked for")
    truncated = root.findtext("{*}IsTruncated", "").lower()
    if truncated not in ("true", "false"):
        _refuse(what, "IsTruncated true or false", repr(truncated))
    rolled_up = len(root.findall("{*}CommonPrefixes"))
    if rolled_up:
        _refuse(what, "every key by itself", f"{rolled_up} folders instead of their keys")
    entries = tuple(_entry(what, element) for element in root.iterfind("{*}Contents"))
    counted = root.findtext("{*}KeyCount") or ""
    if counted and counted != str(len(entries)):
        _refuse(what, f"as many keys as its KeyCount of {counted}", f"{len(entries)}")
    return ListedPage(entries, truncated == "true", root.findtext("{*}NextContinuationToken") or "")


class ListingCheck:
    """Looks at the pages of one listing in turn.

    Args:
        what: the operation, for messages.
        prefix: what every key begins with.
        start_after: what every key comes after; may be empty.
    """

    def __init__(self, what: str, prefix: str, start_after: str) -> None:
        self._what = what
        self._order = KeyOrder(what, prefix, start_after)
        #: Tokens of the last page with keys and of the empty ones since.
        self._tokens: set[str] = set()

    def take(self, page: ListedPage) -> None:
        """Look at the next page.

        Raises:
            UnavailableError: with it, the listing is not what a listing must be.
        """
        for entry in page.entries:
            self._order.take(entry.key)
        if page.is_last:
            return
        if not page.token:
            _refuse(self._what, "a NextContinuationToken, as more follows", "none")
        if page.token in self._tokens:
            _refuse(self._what, "a token for the next page", "one that led here already")
        if page.entries:
            self._tokens.clear()
        self._tokens.add(page.token)
        if len(self._tokens) > EMPTY_PAGES_MAX:
            _refuse(self._what, "keys", f"{EMPTY_PAGES_MAX} empty pages in a row, and no end")


class KeyOrder:
    """Whether keys ascend, so that none is listed twice, and all begin with what they must.

    Whole keys ascend by byte value (S3), or folder goes by folder (SeaweedFS): either is right, but
    one of them throughout.

    Args:
        what: the operation, for messages.
        prefix: what every key begins with.
        start_after: what every key comes after; may be empty.
    """

    def __init__(self, what: str, prefix: str, start_after: str) -> None:
        self._what = what
        self._prefix = prefix
        self._last = start_after
        self._orders: list[Callable[[str], object]] = [str.encode, _folder_by_folder]

    def take(self, key: str) -> None:
        """Look at the next key.

        Raises:
            UnavailableError: it must not come here.
        """
        if not key or not key.startswith(self._prefix):
            _refuse(self._what, f"keys that begin with {self._prefix!r}", f"key {key[:80]!r}")
        self._orders = [order for order in self._orders if order(self._last) < order(key)]  # type: ignore[operator] # bytes, or tuples of text
        if not self._orders:
            _refuse(self._what, f"a key after {self._last[:80]!r}", f"key {key[:80]!r}")
        self._last = key


def _folder_by_folder(key: str) -> tuple[str, ...]:
    return tuple(key.split("/"))


def _entry(what: str, element: ET.Element) -> ObjectStat:
    try:
        entry = ObjectStat(
            key=element.findtext("{*}Key", ""),
            size_bytes=int(element.findtext("{*}Size", "")),
            modified_at=datetime.fromisoformat(element.findtext("{*}LastModified", "")),
        )
    except ValueError as error:
        raise UnavailableError(f"{what}: an entry has no size or no date") from error
    if entry.size_bytes < 0 or entry.modified_at.tzinfo is None:
        _refuse(what, "a size from 0 and a time in UTC", f"{entry}")
    return entry


def _refuse(what: str, expected: str, got: str) -> NoReturn:
    raise UnavailableError(
        f"{what}: this is no whole listing: expected {expected}, got {got}; ask the store again, "
        f"and look for what lies between if it stays so"
    )
