"""One cluster with all services for the tests of this folder."""

from pathlib import Path

import pytest

from tests.support.folder_share import shared_in
from tests.support.running import RunningSite, running_site


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunningSite:
    return shared_in(Path(__file__).parent, request, lambda: running_site(tmp_path_factory))
