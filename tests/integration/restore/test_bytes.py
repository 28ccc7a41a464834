import contextlib
import random
import socket
import time
import uuid
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from libs.errors import WrongKeyError
from libs.keys.kek import KeyEncryptionKey
from libs.keys.keyring import unwrap, wrap
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.runtime.settings import Secret
from libs.runtime.signals import Stop
from libs.store.layout import parse_domain_key_object
from services.restore.__main__ import main
from tests.integration.restore.conftest import (
    SECONDS_MAX,
    SEED,
    TENANT,
    RestoreSite,
    free_address,
    serving,
)

BYTES = "/volumes/disk/points/1/bytes"


def test_a_whole_volume_is_streamed(site: RestoreSite) -> None:
    for sequence, content in enumerate(site.disk, start=1):
        answer = site.download(f"/volumes/disk/points/{sequence}/bytes")
        assert answer.status == 200
        assert answer.headers["Content-Length"] == str(len(content))
        assert answer.data == content


def test_any_range_is_exactly_those_bytes(site: RestoreSite) -> None:
    content, dice = site.disk[0], random.Random(SEED)
    edges = [0, 1, CHUNK_SIZE_BYTES, 39 * CHUNK_SIZE_BYTES, 512 * CHUNK_SIZE_BYTES, len(content)]
    for _ in range(40):
        start = max(0, min(dice.choice(edges) + dice.randint(-70_000, 70_000), len(content) - 1))
        end = min(start + dice.choice([1, 100, 70_000, 3_000_000]), len(content))
        answer = site.download(BYTES, {"Range": f"bytes={start}-{end - 1}"})
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(content)}"
        assert answer.data == content[start:end], f"seed {SEED}: {start}-{end}"


def test_what_the_client_has_is_not_sent_again(site: RestoreSite) -> None:
    etag = site.download(BYTES, {"Range": "bytes=0-0"}).headers["ETag"]
    for headers in ({}, {"Range": "bytes=0-9"}):
        answer = site.download(BYTES, headers | {"If-None-Match": f'"other", W/{etag}'})
        assert (answer.status, answer.data) == (304, b"")
        assert answer.headers["ETag"] == etag
    assert site.download(BYTES, {"If-None-Match": '"other"', "Range": "bytes=0-9"}).status == 206


def test_open_and_suffix_ranges_and_head(site: RestoreSite) -> None:
    content = site.disk[0]
    size = len(content)
    assert site.download(BYTES, {"Range": f"bytes={size - 9}-"}).data == content[-9:]
    assert site.download(BYTES, {"Range": "bytes=-5"}).data == b"tail!"
    assert site.download(BYTES, {"Range": f"bytes={size - 5}-{2 * size}"}).data == b"tail!"
    head = site.download(BYTES, method="HEAD")
    assert (head.status, head.headers["Content-Length"]) == (200, str(size))
    assert head.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize(
    "header",
    [
        "bytes=5-2",
        "bytes=-0",
        "bytes=abc",
        "bytes=",
        "bytes=0-1,5-6",
        "bytes=999999999999-",
        "bytes=" + "9" * 30 + "-",
        "bytes=-1-2",
    ],
)
def test_ranges_that_cannot_be_given_are_refused_with_the_size(
    site: RestoreSite, header: str
) -> None:
    answer = site.download(BYTES, {"Range": header})
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(site.disk[0])}"
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_download_is_continued_only_of_the_same_recovery_point(site: RestoreSite) -> None:
    tag = site.download(BYTES, method="HEAD").headers["ETag"]
    path = "/volumes/disk/points/latest/bytes"
    latest = site.disk[-1]
    one_byte = {"Range": "bytes=0-0"}
    assert site.download(BYTES, one_byte | {"If-Range": tag}).status == 206
    again = site.download(path, one_byte | {"If-Range": tag})
    assert (again.status, again.data) == (200, latest)


def test_a_cold_mebibyte_reads_its_frames_and_the_path_of_map_nodes_once(
    site: RestoreSite,
) -> None:
    with serving(replace(site.settings, listen=free_address())) as url:
        wanted = {"Range": f"bytes={8 * CHUNK_SIZE_BYTES}-{24 * CHUNK_SIZE_BYTES - 1}"}
        begun = time.perf_counter()
        cold = site.download(BYTES, wanted, url=url)
        seconds = time.perf_counter() - begun
        warm = site.download(BYTES, wanted, url=url)
        metrics = site.download("/../../../metrics", url=url).data.decode()
    assert cold.data == site.disk[0][8 * CHUNK_SIZE_BYTES : 24 * CHUNK_SIZE_BYTES]
    # Two frames of chunks, and one that has the root and the leaf.
    assert int(cold.headers["Backcast-Fetched-Frames"]) <= 3
    assert warm.headers["Backcast-Fetched-Frames"] == "0"
    assert 'backcast_restore_fetched_frames_total{kind="chunk"} 2.0' in metrics
    assert 'backcast_restore_fetched_frames_total{kind="node"} 1.0' in metrics
    print(f"cold 1 MiB: {1000 * seconds:.0f} ms")


def test_downloads_that_nobody_takes_are_few_and_end_with_their_clients(site: RestoreSite) -> None:
    host, port = site.settings.listen.split(":")
    requests = (
        f"GET /v1/tenants/{TENANT}{BYTES} HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
        for token in ["restorer"] * 8 + ["restorer-too"] * 4
    )
    with contextlib.ExitStack() as stack:
        statuses = []
        for request in requests:
            client = stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
            client.sendall(request.encode())
            statuses.append(client.recv(12))
        # One token has three quarters of what its tenant has.
        expected = [200] * 6 + [429] * 2 + [200] * 2 + [429] * 2
        assert statuses == [b"HTTP/1.1 %d" % status for status in expected]
        assert site.get("/volumes")
    deadline = time.monotonic() + SECONDS_MAX
    while (again := site.download(BYTES)).status == 429:
        assert time.monotonic() < deadline
    assert again.data == site.disk[0]


def test_damaged_bytes_are_reported_and_never_given(site: RestoreSite) -> None:
    site.taker.protect(TENANT, "damaged", "damaged")
    site.taker.take(TENANT, "damaged", {"damaged": random.Random(1).randbytes(1 << 20)})
    path = "/volumes/damaged/points/1"
    storage = site.get(f"{path}/translate", offset=70_000)["storage"]
    body = bytearray(site.store.get(storage["object_key"]))
    body[storage["frame_offset_bytes"] + storage["frame_size_bytes"] // 2] ^= 1
    site.store.put(storage["object_key"], body)
    answer = site.download(f"{path}/bytes")
    assert answer.status == 502
    problem = answer.json()
    assert problem["code"] == "damaged-data"
    assert "volume damaged@1 at byte 0" in problem["detail"]
    assert storage["generation"] in problem["detail"]
    site.store.delete(storage["object_key"])
    with serving(replace(site.settings, listen=free_address())) as url:
        lost = site.download(f"{path}/bytes", url=url)
    assert (lost.status, lost.json()["code"]) == (502, "damaged-data")


def test_the_service_refuses_to_start_with_a_wrong_key_encryption_key(site: RestoreSite) -> None:
    kek = KeyEncryptionKey.generate()
    wrong = replace(site.settings, listen=free_address(), kek=Secret(kek.text()))
    with pytest.raises(WrongKeyError) as refused:
        main(wrong, Stop())
    assert kek.fingerprint.hex() in str(refused.value)
    assert kek.text().strip() not in str(refused.value)


def test_keys_that_are_lost_or_wrapped_otherwise_give_nothing(site: RestoreSite) -> None:
    (volume,) = site.taker.protect("locked", "locked", "locked")
    site.taker.take("locked", "locked", {"locked": b"secret"})
    ((domain,),) = site.catalog.sql(
        "SELECT domain FROM domain JOIN tenant USING (domain_no) WHERE name = 'locked'"
    )
    (key,) = [stat.key for stat in site.store.list(f"keys/{domain}/")]
    wrapped = site.store.get(key)
    other = wrap(
        unwrap(wrapped, parse_domain_key_object(key), site.kek), KeyEncryptionKey.generate()
    )
    below = f"/volumes/{volume.name}/points/1"
    path = f"/v1/tenants/locked{below}"
    begin = {"restore": str(uuid.uuid4())}
    client = site.client("everyone")
    for body in (other, None):
        site.store.delete(key)
        if body:
            site.store.put(key, body)
        answer = site.download(f"{below}/bytes", token="everyone", tenant="locked")
        assert (answer.status, answer.json()["code"]) == (502, "wrong-key")
        with pytest.raises(WrongKeyError):
            client.get(f"{path}/translate", {"offset": 0})
        with pytest.raises(WrongKeyError):
            client.post(f"{path}/restores", begin)
    site.store.put(key, wrapped)
    answer = site.download(f"{below}/bytes", token="everyone", tenant="locked")
    assert answer.data == b"secret"


def test_data_needs_the_right_to_restore_in_this_tenant(site: RestoreSite) -> None:
    for token, status in (("reader", 403), ("stranger", 403), ("expired", 401)):
        for path in (BYTES, "/volumes/none/points/1/bytes"):
            assert site.download(path, token=token).status == status


def test_a_client_that_hangs_up_leaves_no_pins(site: RestoreSite) -> None:
    parts = urlsplit(site.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as client:
        client.sendall(
            f"GET /v1/tenants/{TENANT}{BYTES} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Authorization: Bearer restorer\r\n\r\n".encode()
        )
        client.recv(100_000)
    deadline = time.monotonic() + SECONDS_MAX
    while site.catalog.sql("SELECT FROM lease WHERE state = 'o' AND NOT announced"):
        assert time.monotonic() < deadline
    assert not site.catalog.sql("SELECT FROM pin JOIN lease ON owner = lease AND NOT announced")


def test_names_that_do_not_exist_are_told(site: RestoreSite) -> None:
    for path in (
        "/volumes/none/points/latest/bytes",
        "/volumes/disk/points/99/bytes",
        "/volumes/disk/points/2020-01-01T00:00:00Z/bytes",
        "/volumes/disk/points/-9d/bytes",
    ):
        assert site.download(path).status == 404
    for point in ("0", "newest", "-5", "2026-11-22T10:00:00", "99999999999", "..."):
        assert site.download(f"/volumes/disk/points/{point}/bytes").status == 422
