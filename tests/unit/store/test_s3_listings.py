"""Listings that real servers and proxies have got wrong: an error each, and never the end.

A scripted server gives the answers; `tests/contract` lists on the real ones.
"""

import pytest

from libs.errors import UnavailableError
from libs.store import listing
from libs.store.retrying import RetryingStore
from tests.support.scripted_s3 import reply, serving

A, B, C = ("packs/00/a", "packs/00/b", "packs/01/c")


def page(
    *keys: str,
    truncated: str | None = "false",
    token: str | None = None,
    prefix: str = "packs/",
    count: int | None = -1,
    extra: str = "",
    root: str = "ListBucketResult",
) -> bytes:
    """A page as a server writes it; None leaves an element out, a count of -1 is the right one."""
    document = f"<?xml version='1.0'?><{root} xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>"
    document += f"<Name>b</Name><Prefix>{prefix}</Prefix>{extra}"
    if truncated is not None:
        document += f"<IsTruncated>{truncated}</IsTruncated>"
    if token is not None:
        document += f"<NextContinuationToken>{token}</NextContinuationToken>"
    if count is not None:
        document += f"<KeyCount>{len(keys) if count < 0 else count}</KeyCount>"
    for key in keys:
        document += (
            f"<Contents><Key>{key}</Key><Size>5</Size>"
            f"<LastModified>2026-11-22T10:00:00.000Z</LastModified></Contents>"
        )
    return reply("200 OK", f"{document}</{root}>".encode())


def listed(*pages: bytes, prefix: str = "packs/", start_after: str = "") -> list[str]:
    with serving(*pages, keep_open=True) as store:
        return [entry.key for entry in store.list(prefix, start_after)]


WHOLE = {
    "one page": [page(A, B, C)],
    "several pages": [page(A, B, truncated="true", token="1"), page(C)],
    "nothing": [page()],
    # Deleted versions and empty folders fill a page: AWS, GCS and MinIO have been seen to do so.
    "an empty page in the middle": [
        page(A, truncated="true", token="1"),
        page(truncated="true", token="2"),
        page(truncated="true", token="3"),
        page(B, C),
    ],
    "an empty page at the beginning": [page(truncated="true", token="1"), page(A)],
    # MinIO and versitygw: the page with the last key says that more follows.
    "an empty page at the end": [page(A, truncated="true", token="1"), page()],
    # Seen by rust-s3's users: the last page has a token all the same.
    "a token beside not truncated, and nothing more": [
        page(A, token="1"),
        page(token="1"),
    ],
    "a token beside not truncated, and more": [page(A, token="1"), page(B)],
    "without a KeyCount": [page(A, B, count=None)],
    "folder by folder": [page("packs/a/1", "packs/a-b/1", "packs/a.b/c", "packs/b")],
    "by whole keys": [page("packs/a-b/1", "packs/a.b/c", "packs/a/1", "packs/b")],
}

BROKEN = {
    # Ceph (awscr-s3), a server that answers as for version 1 (AWS.jl), mocks: the trial's case.
    "truncated without a token": [page(A, truncated="true")],
    "truncated, empty and without a token": [
        page(A, truncated="true", token="1"),
        page(truncated="true"),
    ],
    "truncated with an empty token": [page(A, truncated="true", token="")],
    # MEGA S4: the same token over and over, with the same page or the next one.
    "the token repeats": [
        page(A, truncated="true", token="1"),
        page(B, truncated="true", token="1"),
        page(C),
    ],
    "tokens of empty pages go in a circle": [
        page(A, truncated="true", token="1"),
        page(truncated="true", token="2"),
        page(truncated="true", token="1"),
        page(B),
    ],
    # Scality, Swift: what a listing starts after is ignored, so the first page comes again.
    "the first page again": [page(A, B, truncated="true", token="1"), page(A, B)],
    "a key twice": [page(A, A)],
    "the last key of the page before": [page(A, B, truncated="true", token="1"), page(B, C)],
    "not in order": [page(B, A)],
    "two orders in one listing": [page("packs/a/1", "packs/a-b/1", "packs/aa/1", "packs/a.b/1")],
    "another prefix's keys": [page("manifests/x")],
    "another prefix's answer": [page(prefix="manifests/")],
    "no key": [page("")],
    "encoded keys": [page("packs%2F00%2Fa")],
    "an encoding that nobody asked for": [page(A, extra="<EncodingType>url</EncodingType>")],
    "fewer keys than counted": [page(A, count=2)],
    "more keys than counted": [page(A, B, count=1)],
    "rolled up into folders": [
        page(extra="<CommonPrefixes><Prefix>packs/00/</Prefix></CommonPrefixes>", count=1)
    ],
    "neither truncated nor not": [page(A, truncated=None)],
    "nothing but an answer": [page(truncated="")],
    # A page of a proxy may be well-formed, and an error may come with status 200.
    "a page of a proxy": [reply("200 OK", b"<html><body>maintenance</body></html>")],
    "an error with status 200": [reply("200 OK", b"<Error><Code>SlowDown</Code></Error>")],
    "another result": [page(root="ListVersionsResult")],
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_whole_listing_is_given(case: str) -> None:
    keys = listed(*WHOLE[case])
    assert len(keys) == len(set(keys)) == b"".join(WHOLE[case]).count(b"<Key>")


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_listing_is_an_error_and_never_the_end(case: str) -> None:
    with pytest.raises(UnavailableError, match=r"expected .+, got .+"):
        listed(*BROKEN[case])


def test_what_a_listing_starts_after_is_not_listed() -> None:
    assert listed(page(B, C), start_after=A) == [B, C]
    with pytest.raises(UnavailableError, match="a key after"):
        listed(page(A, B), start_after=A)


def test_empty_pages_do_not_go_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "EMPTY_PAGES_MAX", 5)
    with pytest.raises(UnavailableError, match="empty pages in a row"):
        listed(*(page(truncated="true", token=str(n)) for n in range(7)))


def test_trying_again_makes_a_listing_whole() -> None:
    """The page that was wrong is asked for again, from the last key that was given."""
    pages = [page(A, truncated="true", token="1"), page(truncated="true"), page(B, C)]
    with serving(*pages, keep_open=True) as store:
        retrying = RetryingStore(store, sleep=lambda _: None)
        assert [entry.key for entry in retrying.list("packs/")] == [A, B, C]
