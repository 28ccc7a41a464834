"""A node's barriers, as an agent process has them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.change_capture.barrier.barrier import Barriers
from tests.support.conducting import node_barriers


@pytest.fixture
def barriers(tmp_path: Path) -> Iterator[Barriers]:
    made = node_barriers(tmp_path / "state")
    yield made
    made.close()
