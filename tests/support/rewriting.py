"""A rewriter for tests, step by step."""

from collections.abc import Sequence

from libs.catalogdb.deletion.rewriting import Moved, begin_marking, begin_rewrite, commit_rewrite
from libs.catalogdb.packs.registering import PackRecord
from libs.ids import new_generation, uuid7
from tests.support.catalog import CatalogSite


class Rewriting:
    """A rewriter that has begun to mark packs of one domain.

    Args:
        site: the catalog.
        packs: numbers of the packs.
    """

    def __init__(self, site: CatalogSite, *packs: int) -> None:
        self.site = site
        self.token = uuid7()
        marked = begin_marking(site.catalog, self.token, packs, 60)
        self.domain_no = min(marked, default=0)
        #: Numbers of the packs that are being marked.
        self.packs = [pack.pack_no for pack in marked.get(self.domain_no, [])]
        self.generation = new_generation()

    def commit(self, stored: Sequence[bytes], live: Sequence[bytes]) -> bool:
        """Move live items, of all that were stored, to one new pack."""
        begin_rewrite(self.site.catalog, self.token, self.domain_no, self.generation)
        return commit_rewrite(
            self.site.catalog,
            self.token,
            self.domain_no,
            PackRecord(0, self.generation, 1 << 20, b"f"),
            Moved(live, range(len(live)), len(live)),
            dict.fromkeys(self.packs, stored),
        )

    def moved_to(self) -> int:
        """Number of the new pack."""
        ((pack_no,),) = self.site.sql(
            "SELECT pack_no FROM pack WHERE generation = %s", self.generation
        )
        return int(pack_no)
