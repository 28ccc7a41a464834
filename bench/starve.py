"""What one tenant's waiting and unread downloads cost another tenant, and the restore service.

A restore service of its own has tokens for two tenants. The modest one lists its snapshots again
and again, first alone. Then the greedy one asks for much at once: long polls, by one token or by
four; more polls than it may have; or whole volumes that it does not read.
"""

import contextlib
import hashlib
import http.client
import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.backcast import Backcast
from bench.measure import peak_rss_bytes
from deploy.local.cluster import LocalCluster
from deploy.local.home import BackcastHome

GREEDY, MODEST = "greedy", "modest"
#: token → tenant; the greedy tenant has four readers.
_TOKENS = {MODEST: MODEST, **{f"{GREEDY}-{number}": GREEDY for number in range(4)}}
_VOLUME_MIB = 256
_WAIT_SECONDS = 30
#: The attack is asked for anew whenever it is refused or answered, as refusals tell it.
_AGAIN_SECONDS = 1.0
_TRIES_MAX = 20


@dataclass(frozen=True)
class Starved:
    """The modest tenant's listings while something goes on."""

    what: str
    median_ms: float
    p99_ms: float
    #: Of `/readyz`.
    ready_p99_ms: float
    threads: int
    #: Peak resident memory of the restore service since it was started.
    peak_mib: float
    #: Connections of the attack that wait or stream, and requests of it that were refused.
    held: int
    refused: int


@dataclass(frozen=True)
class _Attack:
    what: str
    path: str
    count: int
    tokens: int = 4


_POLL = f"/v1/tenants/{GREEDY}/events?topic=backcast.snapshots&wait_seconds={_WAIT_SECONDS}&after="
_BYTES = f"/v1/tenants/{GREEDY}/volumes/disk-{GREEDY}/points/latest/bytes"
_ATTACKS = (
    _Attack("60 polls of one token", _POLL, 60, tokens=1),
    _Attack("500 polls of four tokens", _POLL, 500),
    _Attack("150 unread downloads of four tokens", _BYTES, 150),
)


def measure_starving(requests: int, folder: Path) -> Iterator[Starved]:
    """The modest tenant's listings alone, and during each attack.

    Args:
        requests: listings for each figure.
        folder: where the servers' data are; 1 GiB.
    """
    backcast = Backcast(folder, "minio")
    backcast.open()
    try:
        for tenant in (GREEDY, MODEST):
            image = folder / f"disk-{tenant}"
            rng = random.Random(tenant)
            image.write_bytes(b"".join(rng.randbytes(1 << 20) for _ in range(_VOLUME_MIB)))
            backcast.backup_of(tenant, image.name, image)
        with _restore_service(folder) as (process, url):
            first = f"/v1/tenants/{GREEDY}/events?topic=backcast.snapshots&limit=1000"
            end: str = json.loads(_get(url, first, f"{GREEDY}-0"))["next"]
            _measure(process, url, requests // 4, "warm-up")
            yield _measure(process, url, requests, "nothing")
            for attack in _ATTACKS:
                path = attack.path + (end if attack.path.endswith("=") else "")
                with _attacked(url, path, attack) as (held, refused):
                    yield _measure(process, url, requests, attack.what, held, refused)
            yield _measure(process, url, requests, "nothing, afterwards")
    finally:
        backcast.close()


@contextlib.contextmanager
def _restore_service(folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """The home's restore service once more, elsewhere and with tokens of our tenants."""
    cluster = LocalCluster(BackcastHome(folder / "home"))
    (known,) = (one for one in cluster.local_services().processes() if one.name == "restore")
    tokens = folder / "tokens.json"
    entries = [
        {"name": token, "sha256": hashlib.sha256(token.encode()).hexdigest(), "tenant": tenant}
        | {"role": "reader", "restore": True}
        for token, tenant in _TOKENS.items()
    ]
    tokens.write_text(json.dumps(entries))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {"BACKCAST_RESTORE_LISTEN": address, "BACKCAST_RESTORE_TOKENS_FILE": str(tokens)}
    process = subprocess.Popen(
        [sys.executable, "-m", "services.restore"], env=os.environ | dict(known.environ) | settings
    )
    try:
        deadline = time.monotonic() + 30
        while not _is_ready(f"http://{address}"):
            if time.monotonic() > deadline:
                raise TimeoutError("restore service: not ready in 30 s")
            time.sleep(0.1)
        yield process, f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


def _measure(  # noqa: PLR0913 -- one row of the table
    process: "subprocess.Popen[bytes]",
    url: str,
    requests: int,
    what: str,
    held: Callable[[], int] = lambda: 0,
    refused: Callable[[], int] = lambda: 0,
) -> Starved:
    listings, probes = [], []
    for number in range(requests):
        listings.append(_timed(url, f"/v1/tenants/{MODEST}/snapshots", MODEST))
        if number % 10 == 0:
            probes.append(_timed(url, "/readyz", MODEST))
    status = Path(f"/proc/{process.pid}/status").read_text()
    (threads,) = (line.split()[1] for line in status.splitlines() if line.startswith("Threads:"))
    return Starved(
        what,
        _percentile(listings, 0.5),
        _percentile(listings, 0.99),
        _percentile(probes, 0.99),
        int(threads),
        peak_rss_bytes(process.pid) / (1 << 20),
        held(),
        refused(),
    )


@contextlib.contextmanager
def _attacked(
    url: str, path: str, attack: _Attack
) -> Iterator[tuple[Callable[[], int], Callable[[], int]]]:
    """Keep up an attack from another process, which gives way: an attacker has its own machine."""
    context = multiprocessing.get_context("spawn")
    held, refused, over = context.Value("i", 0), context.Value("i", 0), context.Event()
    process = context.Process(target=_keep_up, args=(url, path, attack, held, refused, over))
    process.start()
    try:
        deadline = time.monotonic() + 30
        while not held.value:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{attack.what}: nothing was asked in 30 s")
            time.sleep(0.1)
        time.sleep(2)  # all have asked at least once
        yield lambda: held.value, lambda: refused.value
    finally:
        over.set()
        process.join()


def _keep_up(  # noqa: PLR0913 -- of another process
    url: str, path: str, attack: _Attack, held: Any, refused: Any, over: Any
) -> None:
    """Whoever is refused, answered or cut off asks again; not all at the same instant."""
    os.nice(10)
    host, port = url.removeprefix("http://").split(":")
    connections: dict[int, socket.socket] = {}
    while not over.is_set():
        for slot in range(attack.count):
            over.wait(_AGAIN_SECONDS / attack.count)
            with contextlib.suppress(OSError):  # closed to make room, or not taken in time
                if slot not in connections:
                    token = f"{GREEDY}-{slot % attack.tokens}"
                    connections[slot] = socket.create_connection((host, int(port)), timeout=30)
                    connections[slot].sendall(
                        f"GET {path} HTTP/1.1\r\nHost: x\r\n"
                        f"Authorization: Bearer {token}\r\n\r\n".encode()
                    )
                    connections[slot].setblocking(False)
                if _stays(connections[slot], refused, unread="/bytes" in path):
                    continue
            if slot in connections:
                connections.pop(slot).close()
        held.value = len(connections)
    for connection in connections.values():
        connection.close()


def _stays(connection: socket.socket, refused: Any, *, unread: bool) -> bool:
    """Whether a request waits for its answer, or gets one that it never reads.

    Raises:
        OSError: the connection was cut.
    """
    try:
        said = connection.recv(12, socket.MSG_PEEK)  # a download is looked at and not read
    except BlockingIOError:
        return True
    refused.value += said == b"HTTP/1.1 429"
    return said == b"HTTP/1.1 200" and unread


def _timed(url: str, path: str, token: str) -> float:
    """Milliseconds until the answer; whoever is closed to make room asks again, as our client."""
    begun = time.perf_counter()
    for _ in range(_TRIES_MAX):
        with contextlib.suppress(http.client.RemoteDisconnected, ConnectionResetError):
            _get(url, path, token)
            return 1000 * (time.perf_counter() - begun)
    raise TimeoutError(f"{path}: closed {_TRIES_MAX} times")


def _get(url: str, path: str, token: str) -> bytes:
    request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: bytes = answer.read()
    return content


def _is_ready(url: str) -> bool:
    try:
        return bool(_get(url, "/readyz", MODEST))
    except OSError:
        return False


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
