"""Verifications that were asked for: how many may run or wait."""

import threading
import uuid
from collections.abc import Iterator
from typing import cast

import pytest

from libs.catalogdb.verification import Intact
from libs.errors import ConflictError, TooManyRequestsError
from services.catalog.verification import jobs as module
from services.catalog.verification.jobs import VerifyJobs
from services.catalog.verification.verifier import Thoroughness, Verifier

HOW = Thoroughness("structural", 1.0)


class Patient:
    """A verifier that is done when it is told."""

    def __init__(self) -> None:
        self.told = threading.Event()

    def verify(self, *_: object) -> Intact:
        assert self.told.wait(20)
        return cast("Intact", object())


@pytest.fixture
def verifier() -> Iterator[Patient]:
    patient = Patient()
    yield patient
    patient.told.set()


@pytest.fixture
def jobs(verifier: Patient) -> Iterator[VerifyJobs]:
    made = VerifyJobs(cast("Verifier", verifier), 1)
    yield made
    verifier.told.set()
    made.close()


def ask(jobs: VerifyJobs, tenant: str, count: int) -> list[uuid.UUID]:
    ids = [uuid.uuid4() for _ in range(count)]
    for id_ in ids:
        jobs.begin(id_, tenant, uuid.UUID(int=1), HOW)
    return ids


def test_one_tenant_cannot_queue_more_than_its_share(jobs: VerifyJobs, verifier: Patient) -> None:
    ids = ask(jobs, "acme", module.TENANT_COUNT_MAX)
    with pytest.raises(TooManyRequestsError, match="of tenant acme"):
        ask(jobs, "acme", 1)
    jobs.begin(ids[-1], "acme", uuid.UUID(int=1), HOW)  # the same one again is no more
    ask(jobs, "other", 1)
    verifier.told.set()
    assert jobs.find(ids[-1], "acme").ended.wait(20)
    ask(jobs, "acme", 1)


def test_all_tenants_together_cannot_queue_more_than_the_service_keeps(
    jobs: VerifyJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COUNT_MAX", 3)
    for tenant in ("a", "b", "c"):
        ask(jobs, tenant, 1)
    with pytest.raises(TooManyRequestsError, match="of all tenants"):
        ask(jobs, "d", 1)


def test_an_id_stands_for_one_verification(jobs: VerifyJobs) -> None:
    (id_,) = ask(jobs, "acme", 1)
    with pytest.raises(ConflictError):
        jobs.begin(id_, "acme", uuid.UUID(int=2), HOW)
