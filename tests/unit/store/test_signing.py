"""Signatures are AWS's: its examples, and what the minio SDK makes of the same requests."""

import subprocess
import sys
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.store.signing import Signer, amz_date

#: Of "Authenticating Requests (AWS Signature Version 4)" in the reference of Amazon S3.
NOW = datetime(2013, 5, 24, tzinfo=UTC)
SIGNER = Signer("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
HOST = "examplebucket.s3.amazonaws.com"
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
PUT = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"

EXAMPLES = {
    "GET with a range": (
        *("GET", "/test.txt", {"Range": "bytes=0-9"}, EMPTY),
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    ),
    "PUT": (
        "PUT",
        "/test%24file.text",
        {
            "Date": "Fri, 24 May 2013 00:00:00 GMT",
            "x-amz-storage-class": "REDUCED_REDUNDANCY",
        },
        PUT,
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    ),
    "a listing": (
        *("GET", "/?max-keys=2&prefix=J", {}, EMPTY),
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_aws_are_signed_as_aws_says(name: str) -> None:
    method, target, headers, content_sha256, expected = EXAMPLES[name]
    sent = {
        **headers,
        "Host": HOST,
        "x-amz-content-sha256": content_sha256,
        "x-amz-date": amz_date(NOW),
    }
    url = urlsplit(f"https://{HOST}{target}")
    said = SIGNER.authorization(method, url, sent, content_sha256, NOW)
    names = ";".join(sorted(one.lower() for one in sent))
    assert said == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        f"SignedHeaders={names}, Signature={expected}"
    )


def test_the_presigned_example_of_aws_is_signed_as_aws_says() -> None:
    url = urlsplit(f"https://{HOST}/test.txt")
    assert SIGNER.presigned("GET", url, NOW, 86_400) == (
        f"https://{HOST}/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


words = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1, max_size=12)
values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
#: Names of which one begins like another, which text and pairs put in another order.
names = st.one_of(words, st.sampled_from(["a", "a-b", "a.b"]))
queries = st.dictionaries(names, words, max_size=4)


@given(
    method=st.sampled_from(["GET", "PUT", "HEAD", "DELETE"]),
    key=words,
    query=queries,
    headers=st.dictionaries(st.sampled_from(["Range", "If-None-Match", "x-amz-meta"]), values),
    secret=words,
    now=st.integers(0, 1 << 32).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
)
def test_the_sdk_signs_the_same(
    method: str,
    key: str,
    query: dict[str, str],
    headers: dict[str, str],
    secret: str,
    now: datetime,
) -> None:
    from minio.credentials.credentials import Credentials
    from minio.signer import presign_v4, sign_v4_s3

    signer, credentials = Signer("me", secret, "eu-1"), Credentials("me", secret)
    # In the order of names, as `S3Store` sends it.
    asked = sorted((quote(name, safe=""), quote(value, safe="")) for name, value in query.items())
    text = "&".join("=".join(pair) for pair in asked)
    bare = urlsplit(f"http://h:1/bucket/{quote(key)}")
    url = bare._replace(query=text)
    sent = {**headers, "Host": "h:1", "x-amz-content-sha256": "u", "x-amz-date": amz_date(now)}
    signed = sign_v4_s3(
        method=method,
        url=url,
        region="eu-1",
        headers={**sent},
        credentials=credentials,
        content_sha256="u",
        date=now,
    )
    assert signer.authorization(method, url, sent, "u", now) == signed["Authorization"]
    given_away = presign_v4(
        method=method, url=bare, region="eu-1", credentials=credentials, date=now, expires=60
    )
    assert signer.presigned(method, bare, now, 60) == given_away.geturl()


def test_a_secret_is_not_shown() -> None:
    assert SIGNER.secret_key not in repr(SIGNER)


def test_a_store_is_used_without_the_sdk() -> None:
    code = "import sys, libs.copies.opening; sys.exit('minio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
