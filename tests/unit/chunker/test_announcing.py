"""A chunker tells what keeps it from its work, and nothing that passes by itself."""

import pytest

from libs.runtime.health import Check
from services.chunker.announcing import _told


def check(name: str, *, needed: bool = True, server: bool = False) -> Check:
    return Check(name, False, None, "no answer", "", is_needed=needed, is_server=server)


@pytest.mark.parametrize(
    ("failed", "told"),
    [
        (check("startup"), []),
        (check("announce"), []),
        (check("renew", needed=False), []),
        (check("intake"), ["intake: no answer"]),
        (check("kafka", server=True), ["kafka: no answer"]),
    ],
)
def test_only_what_keeps_it_from_its_work_is_told(failed: Check, told: list[str]) -> None:
    assert _told([Check("relay", True, 0.0), failed]) == told
