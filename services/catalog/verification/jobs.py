"""Verifications that somebody asked for: run in threads, remembered for a while.

They are not durable: after a restart nobody knows them, and whoever asked asks again. What they had
recorded stays, so that is cheap (`Thoroughness.skip_checked_seconds`).
"""

import logging
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from libs.catalogdb.verification import Damaged, Intact
from libs.errors import (
    BackcastError,
    ConflictError,
    InvariantViolation,
    NotFoundError,
    TooManyRequestsError,
)
from libs.rest.waiting import Bells
from services.catalog.verification.verifier import (
    StoppedError,
    Thoroughness,
    VerificationProgress,
    Verifier,
)

log = logging.getLogger(__name__)
#: Ended verifications whose verdicts can still be asked for.
_REMEMBERED_MAX = 1000
#: Verifications of one tenant that run or wait, and of all tenants together.
TENANT_COUNT_MAX = 32
COUNT_MAX = 512

State = Literal["running", "intact", "damaged", "failed"]


@dataclass(slots=True)
class Job:
    """One verification."""

    tenant: str
    session: UUID
    how: Thoroughness
    progress: VerificationProgress = field(default_factory=VerificationProgress)
    verdict: Intact | Damaged | None = None
    failure: BackcastError | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def state(self) -> State:
        """How it is."""
        if self.failure:
            return "failed"
        if self.verdict is None:
            return "running"
        return "intact" if isinstance(self.verdict, Intact) else "damaged"


class VerifyJobs:
    """Thread-safe.

    Args:
        verifier: does the work.
        thread_count: verifications at once; others wait.
    """

    def __init__(self, verifier: Verifier, thread_count: int) -> None:
        self._verifier = verifier
        self._threads = ThreadPoolExecutor(thread_count, "verify")
        self._jobs: OrderedDict[UUID, Job] = OrderedDict()
        self._lock = threading.Lock()
        #: Of the requests that wait for a verification to end.
        self.bells: Bells[UUID] = Bells()

    def begin(self, id_: UUID, tenant: str, session: UUID, how: Thoroughness) -> Job:
        """Begin a verification; the same id again is the same one.

        Raises:
            ConflictError: the id stands for another one.
            TooManyRequestsError: too many run or wait already.
        """
        with self._lock:
            job = self._jobs.get(id_)
            if job is None:
                self._require_room(tenant)
                job = self._jobs[id_] = Job(tenant, session, how)
                self._threads.submit(self._run, id_, job)
                self._forget()
        if (job.tenant, job.session, job.how) != (tenant, session, how):
            raise ConflictError(f"verification {id_}: is of something else; choose another id")
        return job

    def _require_room(self, tenant: str) -> None:
        open_jobs = [job for job in self._jobs.values() if not job.ended.is_set()]
        own = sum(1 for job in open_jobs if job.tenant == tenant)
        if own >= TENANT_COUNT_MAX or len(open_jobs) >= COUNT_MAX:
            whose = f"of tenant {tenant}" if own >= TENANT_COUNT_MAX else "of all tenants"
            raise TooManyRequestsError(
                f"verifications {whose}: as many run or wait as may "
                f"({TENANT_COUNT_MAX} of a tenant, {COUNT_MAX} of all); try again when one has "
                f"ended"
            )

    def find(self, id_: UUID, tenant: str) -> Job:
        """A verification.

        Raises:
            NotFoundError: the tenant has none of this id, or it was forgotten.
        """
        with self._lock:
            job = self._jobs.get(id_)
        if job is None or job.tenant != tenant:
            raise NotFoundError(
                f"verification {id_}: not known to this process; was it restarted? Begin again"
            )
        return job

    def close(self) -> None:
        """Wait for what runs; the stop that the verifier watches ends it."""
        self._threads.shutdown(cancel_futures=True)

    def _run(self, id_: UUID, job: Job) -> None:
        try:
            job.verdict = self._verifier.verify(job.tenant, job.session, job.how, job.progress)
        except BackcastError as err:
            job.failure = err
        except StoppedError:
            pass  # whoever asks again asks another process
        except Exception as err:
            log.exception("verification failed", extra={"session": str(job.session)})
            job.failure = InvariantViolation(f"{type(err).__name__} in a verification")
        finally:
            job.ended.set()
            self.bells.ring(id_)

    def _forget(self) -> None:
        ended = [id_ for id_, job in self._jobs.items() if job.ended.is_set()]
        for id_ in ended[: max(0, len(self._jobs) - _REMEMBERED_MAX)]:
            del self._jobs[id_]
