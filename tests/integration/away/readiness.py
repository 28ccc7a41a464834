"""What a service says at `/readyz` and `/healthz`, as whoever probes it hears it."""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from tests.support.running import RunningSite

#: Kubernetes gives up after 5 s and a service takes at most 3 s. The rest is for a slow machine:
#: without a bound a service took 28 s.
ANSWER_SECONDS_MAX = 15.0


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any

    @property
    def failed(self) -> dict[str, str]:
        """Check that is not ok → its reason."""
        return {one["name"]: one["reason"] for one in self.body["checks"] if not one["ok"]}


def ask(site: RunningSite, service: str, path: str = "/readyz") -> Answer:
    """The answer; fails the test if it comes too late."""
    url = site.cluster.home.service_url(service) + path
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS_MAX) as answer:
            return Answer(answer.status, json.load(answer))
    except urllib.error.HTTPError as refusal:
        with refusal:
            return Answer(refusal.code, json.load(refusal))
