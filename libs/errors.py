"""The one error tree of Backcast.

    BackcastError
    ├── BadInputError            the caller's input is wrong; nothing was done
    │   ├── NotFoundError        the named object does not exist
    │   ├── EventsFoldedError    events that are asked for are older than the catalog keeps them
    │   ├── ConflictError        the named object exists or is busy
    │   │   ├── PausedError      somebody has paused what is asked for
    │   │   └── CancelledError   somebody has ended what was asked for
    │   └── ForbiddenError       the credentials do not allow this
    │       └── UnauthenticatedError   there are no credentials, or unknown ones
    ├── DamagedDataError         stored or received bytes are not what they must be
    │   ├── WrongKeyError        bytes cannot be opened with the key at hand
    │   └── BadEventError        a record is not an event that can be applied
    │       ├── UnknownEventError    its type or version is unknown
    │       ├── MalformedEventError  its headers or value are not what an event is written as
    │       └── OversizedEventError  it is larger than any event may be
    ├── UnavailableError         a server or peer does not answer; trying again may help
    │   ├── OutOfSpaceError      a disk or quota is full; trying again helps once there is space
    │   ├── TooManyRequestsError  one caller asks for too much at once; try again later
    │   ├── NotReconciledError   the catalog may have gone back in time; wait until it is compared
    │   └── HaltedError          a brake is on: a person must look and accept, or mend the cause
    ├── SourceError              a protected volume cannot be read as it should
    │   └── TrackingLostError    what was said of its changes is not true; compare everything
    ├── TargetError              what a restore writes to does not take it
    ├── OutputError              standard output does not take what a command has to say
    ├── ConfigurationError       settings are wrong; the process must not start
    └── InvariantViolation       a rule of the design is broken; stop, do not repair quietly

Every class has a stable ``code`` (for programs: REST problems, JSON output, exit codes) and says
whether trying again unchanged may help (``retriable``). The message is for people and says what
failed, which object, what was expected, what was found and what to do; it never contains a secret.
"""

from typing import ClassVar


class BackcastError(Exception):
    """Root of all errors that Backcast raises on purpose."""

    #: Stable machine-readable name; never changes once released.
    code: ClassVar[str] = "error"
    #: Whether the same request, unchanged, may succeed later.
    retriable: ClassVar[bool] = False
    #: HTTP status of the problem document that reports this error.
    http_status: ClassVar[int] = 500
    #: Exit status of the command that ends with this error.
    exit_code: ClassVar[int] = 1


class BadInputError(BackcastError):
    """The caller's input is wrong; nothing was done."""

    code = "bad-input"
    http_status = 422
    exit_code = 2


class NotFoundError(BadInputError):
    """The named object does not exist in this tenant."""

    code = "not-found"
    http_status = 404
    exit_code = 3


class EventsFoldedError(BadInputError):
    """Events that are asked for are older than the catalog keeps them; Kafka may have them."""

    code = "events-expired"
    http_status = 410
    exit_code = 3


class ConflictError(BadInputError):
    """The named object already exists, or another operation holds it."""

    code = "conflict"
    retriable = True
    http_status = 409
    exit_code = 4


class PausedError(ConflictError):
    """Somebody has paused the group; it takes no snapshots until somebody resumes it."""

    code = "paused"
    retriable = False


class CancelledError(ConflictError):
    """Somebody has ended the session before it was sealed."""

    code = "cancelled"
    retriable = False


class ForbiddenError(BadInputError):
    """The credentials do not allow this."""

    code = "forbidden"
    http_status = 403
    exit_code = 5


class UnauthenticatedError(ForbiddenError):
    """The credentials are missing or unknown."""

    code = "unauthenticated"
    http_status = 401

    def __init__(self, message: str, *, presented: bool = False) -> None:
        super().__init__(message)
        #: Whether a token was shown, and is not accepted.
        self.presented = presented


class DamagedDataError(BackcastError):
    """Stored or received bytes are not what they must be; they are never returned as data."""

    code = "damaged-data"
    http_status = 502
    exit_code = 6


class WrongKeyError(DamagedDataError):
    """Bytes cannot be opened with the key at hand: wrong key file, or tampered bytes."""

    code = "wrong-key"
    exit_code = 7


class BadEventError(DamagedDataError):
    """A record is not an event that can be applied: counted, reported, never skipped in silence."""

    code = "bad-event"


class UnknownEventError(BadEventError):
    """The type or version of an event is unknown: its writer is newer, or foreign."""

    code = "unknown-event"


class MalformedEventError(BadEventError):
    """Headers or value of a record are not what an event is written as."""

    code = "malformed-event"


class OversizedEventError(BadEventError):
    """An event is larger than any event may be."""

    code = "oversized-event"


class UnavailableError(BackcastError):
    """A server or peer does not answer, or answers that it cannot serve now."""

    #: After how many seconds the server said that it may be asked again; None: it did not say.
    retry_after_seconds: float | None = None

    code = "unavailable"
    retriable = True
    http_status = 503
    exit_code = 8


class OutOfSpaceError(UnavailableError):
    """A disk, bucket or quota is full."""

    code = "out-of-space"
    http_status = 507
    exit_code = 9


class TooManyRequestsError(UnavailableError):
    """A caller or its tenant asks for more at once than its share of a service."""

    code = "too-many-requests"
    http_status = 429


class NotReconciledError(UnavailableError):
    """The catalog may be older than the store; it decides nothing before they were compared."""

    code = "not-reconciled"


class HaltedError(UnavailableError):
    """Too much would be given up at once; it waits for a person, or until it is there again."""

    code = "halted"


class SourceError(BackcastError):
    """A protected volume cannot be read as it should: missing, unreadable, special, shrinking."""

    code = "source"
    http_status = 422
    exit_code = 10


class HoldBrokenError(SourceError):
    """A node's hold of writes has ended by itself: nothing that it cut since is worth anything."""

    code = "hold-broken"


class TrackingLostError(SourceError):
    """A tracker called a chunk unchanged that has changed; the next capture compares everything."""

    code = "tracking-lost"


class TargetError(BackcastError):
    """What a restore writes to does not take it: it fails, or is protected against writing."""

    code = "target"
    http_status = 422
    exit_code = 13


class OutputError(BackcastError):
    """Standard output does not take what a command has to say; what the command did stands."""

    code = "output"
    exit_code = 14


class ConfigurationError(BackcastError):
    """Settings are missing, unknown or contradictory; the process must not start."""

    code = "configuration"
    exit_code = 11


class InvariantViolation(BackcastError):  # noqa: N818 -- a broken rule of the design, not an ordinary error
    """A rule of the design is broken; the process stops rather than repair quietly."""

    code = "invariant-violation"
    exit_code = 12


def error_class(code: str) -> type[BackcastError]:
    """The class with this stable code; `BackcastError` if this program knows no such code."""
    classes = [BackcastError]
    for cls in classes:  # grows while it is walked: the whole tree
        if cls.code == code:
            return cls
        classes += cls.__subclasses__()
    return BackcastError
