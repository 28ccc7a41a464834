"""What a store that refuses our keys is told as: with the setting to look at."""

import pytest

from libs.errors import ForbiddenError
from tests.support.scripted_s3 import refusal, reply, serving


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("InvalidAccessKeyId", "the file of S3_ACCESS_KEY_FILE"),
        ("SignatureDoesNotMatch", "the file of S3_SECRET_KEY_FILE"),
        ("AccessDenied", "what this access key may do"),
        ("RequestTimeTooSkewed", "the clock of this machine or of the store is wrong"),
    ],
)
def test_a_refusal_of_our_keys_names_the_setting(code: str, named: str) -> None:
    refused = refusal("403 Forbidden", code)
    with serving(refused) as store, pytest.raises(ForbiddenError) as told:
        store.get("key")
    assert named in str(told.value)


def test_a_refusal_of_our_keys_without_a_document_names_the_settings() -> None:
    named = "S3_ACCESS_KEY_FILE and S3_SECRET_KEY_FILE"
    with serving(reply("403 Forbidden")) as store, pytest.raises(ForbiddenError, match=named):
        store.stat("key")
