"""The contract of the object store on each S3 server that starts, and what the probe says."""

import inspect
import os
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from deploy.local.cluster import LocalCluster
from deploy.local.process import wait_until
from deploy.local.servers.s3 import S3Server
from libs.errors import (
    BackcastError,
    BadInputError,
    ConfigurationError,
    ConflictError,
    ForbiddenError,
    UnavailableError,
)
from libs.ranges import ByteRange
from libs.store.buckets import BucketState, bucket_state, make_bucket
from libs.store.checksums import PutChecksum, integrity_headers
from libs.store.port import ChecksumRefusedError, ObjectStore
from libs.store.presigned import PresignedReader
from libs.store.probe import probe_s3
from libs.store.retrying import RetryingStore
from libs.store.s3 import S3Bucket, S3Store
from tests.contract.test_store import BODY, StoreContract
from tests.support.buckets import bucket_at


@pytest.fixture(scope="module", params=["minio", "seaweedfs"])
def server(request: pytest.FixtureRequest) -> S3Server:
    if request.param == "minio":
        cluster: LocalCluster = request.getfixturevalue("servers")
        started: S3Server = cluster.s3
    else:
        started = request.getfixturevalue("seaweedfs")
    # MinIO says that it is ready a moment before it is.
    assert wait_until(lambda: answers(bucket_of(started)), seconds=30)
    return started


def bucket_of(server: S3Server) -> S3Bucket:
    return bucket_at(server, "contract")


def answers(bucket: S3Bucket) -> bool:
    try:
        make_bucket(bucket)
    except UnavailableError:
        return False
    return True


@pytest.fixture
def bucket(server: S3Server) -> S3Bucket:
    """One bucket for all, emptied: a new one would cost SeaweedFS several of its 200 volumes."""
    shared = bucket_of(server)
    store = S3Store(shared)
    for entry in list(store.list("")):
        store.delete(entry.key)
    store.close()
    return shared


@pytest.fixture
def s3(bucket: S3Bucket) -> Iterator[S3Store]:
    store = S3Store(bucket, page_count=3)  # small pages, so that listings go through several
    yield store
    store.close()


class TestS3Store(StoreContract):
    @pytest.fixture
    def store(self, s3: S3Store) -> ObjectStore:
        return s3


class TestRetryingS3Store(StoreContract):
    @pytest.fixture
    def store(self, s3: S3Store) -> ObjectStore:
        return RetryingStore(s3)


@pytest.mark.parametrize("checksum", PutChecksum)
def test_every_checksum_lets_right_bytes_in(bucket: S3Bucket, checksum: PutChecksum) -> None:
    store = S3Store(bucket, put_checksum=checksum)
    store.put("object", BODY)
    assert store.get("object") == BODY


@pytest.mark.parametrize("checksum", [PutChecksum.CRC32C, PutChecksum.CONTENT_MD5])
def test_a_body_damaged_on_its_way_is_refused(s3: S3Store, checksum: PutChecksum) -> None:
    damaged = bytearray(BODY)
    damaged[1_000] ^= 1
    claimed = integrity_headers(checksum, memoryview(BODY))
    with pytest.raises(ChecksumRefusedError):
        s3.put_with_headers("damaged", memoryview(damaged), claimed)
    assert s3.stat("damaged") is None


def test_a_whole_pack_goes_through(s3: S3Store) -> None:
    pack = bytearray(os.urandom(1 << 20) * 32)
    s3.put("pack", pack)
    buffer = bytearray(len(pack))
    s3.get_into("pack", ByteRange(0, len(pack)), memoryview(buffer))
    assert buffer == pack


def test_a_precondition_that_does_not_hold_is_a_conflict(s3: S3Store) -> None:
    body = memoryview(b"once")
    headers = {"If-None-Match": "*", **integrity_headers(PutChecksum.CRC32C, body)}
    s3.put_with_headers("conditional", body, headers)
    with pytest.raises(ConflictError):
        s3.put_with_headers("conditional", body, headers)


def test_a_presigned_url_reads_its_object_only(s3: S3Store) -> None:
    s3.put("given/object", BODY)
    s3.put("other/object", BODY)
    url = s3.presign_get("given/object", expires_seconds=60)
    buffer = bytearray(500)
    PresignedReader().get_into(url, ByteRange(1_000, 1_500), memoryview(buffer))
    assert buffer == BODY[1_000:1_500]
    with urllib.request.urlopen(url, timeout=10) as response:
        assert response.read() == BODY
    with pytest.raises(ForbiddenError) as refused:
        PresignedReader().get_into(
            url.replace("given/", "other/"), ByteRange(0, 500), memoryview(buffer)
        )
    assert "Signature=" not in str(refused.value)


@pytest.mark.parametrize("expires_seconds", [0, -1, 7 * 24 * 3_600 + 1])
def test_a_presigned_url_expires_within_a_week(s3: S3Store, expires_seconds: int) -> None:
    with pytest.raises(BadInputError):
        s3.presign_get("object", expires_seconds)


def test_the_probe_chooses_the_cheapest_checksum_and_leaves_nothing(bucket: S3Bucket) -> None:
    abilities = probe_s3(bucket)
    assert abilities.put_checksum is PutChecksum.CRC32C
    assert list(S3Store(bucket).list("")) == []


def test_the_probe_says_when_there_is_no_bucket(bucket: S3Bucket) -> None:
    absent = replace(bucket, bucket=f"test-{uuid.uuid4().hex}")
    with pytest.raises(ConfigurationError, match="does not exist"):
        probe_s3(absent)
    for _ in range(2):
        make_bucket(absent)
    assert bucket_state(absent) == BucketState(versioning=False, object_lock=False)
    probe_s3(absent)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"secret_key": "wrong-secret"}, ForbiddenError),
        ({"access_key": "nobody"}, ForbiddenError),
        ({"endpoint": "http://127.0.0.1:1"}, UnavailableError),
        ({"bucket": "No_Bucket"}, ConfigurationError),
    ],
)
def test_wrong_settings_are_told_without_the_secret(
    bucket: S3Bucket, change: dict[str, Any], expected: type[BackcastError]
) -> None:
    wrong = replace(bucket, **change)
    probe_once = inspect.unwrap(probe_s3)  # which is tried again for a minute
    for call in (lambda: probe_once(wrong), lambda: S3Store(wrong).get("object")):
        with pytest.raises(expected) as refused:
            call()
        shown = f"{refused.value} {refused.value!r} {wrong!r}"
        assert bucket.secret_key not in shown
        assert wrong.secret_key not in shown


def test_a_bucket_that_is_gone_is_not_a_missing_object(bucket: S3Bucket) -> None:
    store = S3Store(replace(bucket, bucket="gone-" + uuid.uuid4().hex))
    for call in (lambda: store.get("object"), lambda: list(store.list(""))):
        with pytest.raises(ConfigurationError):
            call()
