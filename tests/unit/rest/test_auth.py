"""Token files."""

import pytest

from libs.errors import ConfigurationError
from libs.rest.auth import Tokens


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "nonsense",
        '[{"sha256": "AB", "tenant": "*", "role": "admin"}]',
        '[{"sha256": "%s", "tenant": "*", "role": "root"}]' % ("a" * 64),
        '[{"sha256": "%s", "tenant": "*", "role": "admin", "x": 1}]' % ("a" * 64),
        "[%s, %s]" % (('{"sha256": "%s", "tenant": "*", "role": "admin"}' % ("a" * 64),) * 2),
    ],
)
def test_a_malformed_token_file_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="token file"):
        Tokens(text)
