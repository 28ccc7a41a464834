"""What the tests of one folder share, ended once the tests of another folder begin.

A fixture of session scope would keep a site until the run ends, and a site that nobody asks
anything takes a twelfth of a processor: servers and services look for work all the time.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
_SHARED = pytest.StashKey[dict[Path, tuple[Any, ExitStack]]]()


def shared_in(
    folder: Path, request: pytest.FixtureRequest, make: Callable[[], AbstractContextManager[T]]
) -> T:
    """What ``make`` gives: made for the first test of ``folder`` that asks, the same for others.

    For fixtures of module scope. pytest runs the tests of a folder one after the other, so nothing
    is made twice.
    """
    shared = request.config.stash.setdefault(_SHARED, {})
    if folder not in shared:
        stack = ExitStack()
        shared[folder] = (stack.enter_context(make()), stack)
        request.session.addfinalizer(stack.close)
    found: T = shared[folder][0]
    return found


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """End what other folders have shared."""
    shared = item.config.stash.get(_SHARED, {})
    for folder in [one for one in shared if not item.path.is_relative_to(one)]:
        shared.pop(folder)[1].close()
