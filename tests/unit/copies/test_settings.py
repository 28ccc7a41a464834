"""The settings of the second store: all of them or none, and never the bucket of the first one."""

import pytest

from libs.copies.opening import open_stores
from libs.errors import ConfigurationError
from libs.runtime.groups import NO_SECOND_STORE, S3Settings, SecondS3Settings
from libs.runtime.settings import Secret

PRIMARY = S3Settings(
    endpoint="http://127.0.0.1:1", bucket="b", access_key=Secret("a"), secret_key=Secret("s")
)


def test_without_settings_there_is_no_second_store() -> None:
    assert NO_SECOND_STORE.store is None


def test_half_of_the_settings_is_refused() -> None:
    with pytest.raises(ValueError, match="must be set together"):
        SecondS3Settings(endpoint="http://127.0.0.1:1", bucket="b")


def test_an_endpoint_that_is_no_server_is_refused() -> None:
    with pytest.raises(ValueError, match="SECOND_S3_ENDPOINT"):
        SecondS3Settings(
            endpoint="store", bucket="b", access_key=Secret("a"), secret_key=Secret("s")
        )


def test_one_bucket_is_not_two_stores() -> None:
    second = SecondS3Settings(
        endpoint=PRIMARY.endpoint, bucket="b", access_key=Secret("x"), secret_key=Secret("y")
    )
    with pytest.raises(ConfigurationError, match="both stores"):
        open_stores(PRIMARY, second)
