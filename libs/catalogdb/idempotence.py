"""Trying again what a function of the catalog does: declared where it is known to be harmless."""

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from libs.catalogdb.pool import Catalog
from libs.runtime.retries import retried

P = ParamSpec("P")
T = TypeVar("T")


def idempotent(
    call: Callable[Concatenate[Catalog, P], T],
) -> Callable[Concatenate[Catalog, P], T]:
    """Declare that calling a function again, after its answer was lost, does no harm.

    For functions that make transactions of their own. It is tried again for as long as the catalog
    it is given is patient (`Catalog`): work in the background waits for Postgres to come back,
    and a request is answered at once that the catalog does not answer.
    """

    @functools.wraps(call)
    def patient(catalog: Catalog, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return retried(lambda: call(catalog, *args, **kwargs), catalog.patience_seconds)

    return patient
