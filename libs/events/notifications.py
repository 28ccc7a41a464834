"""Events of `backcast.notifications`: what a person may want to be told.

They travel as structured CloudEvents JSON (`record`), so that any monitoring system can read them.
Their fields are text and numbers only: the JSON and the msgpack form are then the same map.

Some of it is news, which nobody has to end (`NotificationRaised`). The rest is wrong for a while:
it is opened, perhaps changed, and resolved once it is over. All events of one such notification
carry its id.
"""

from dataclasses import dataclass
from typing import Literal

from libs.events.fields import Code, Message, Name, Seconds, Subject

#: ``error``: data is at risk or a recovery point is missing; ``warning``: someone should look;
#: ``info``: news.
Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationRaised:
    """Emitted when something happened that a person may want to be told.

    Stream key: what it is about, as a name. Ordering: that of the log. A duplicate has the same
    event id.
    """

    #: What kind of thing happened, for filters: the code of an error, or a word like
    #: ``tracking-lost``.
    kind: Code
    severity: Severity
    #: What happened, to which object, and what to do.
    message: Message
    group: Name | None = None
    volume: Name | None = None
    node: Name | None = None
    #: Session in which it happened, as text.
    session: Code | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationOpened:
    """Emitted when something began to be wrong, as far as Backcast knows.

    Stream key: what it is about. Ordering: that of the log, so the events of one notification come
    as opened, changed any number of times, resolved. Of one ``kind`` and ``about`` at most one
    notification is open. A duplicate has the same event id.
    """

    #: Names the notification until it is resolved, as text.
    notification: Code
    #: What kind of thing is wrong, for filters: a word like ``session-rejected``.
    kind: Code
    #: What it is about, by a name that never changes: an id of a group, a generation, a node.
    about: Subject
    severity: Severity
    #: What is wrong, with which object, and what to do.
    message: Message
    group: Name | None = None
    volume: Name | None = None
    node: Name | None = None
    store: Name | None = None
    #: Session in which it happened, as text.
    session: Code | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationChanged:
    """Emitted when an open notification says something else than before; it has all fields anew.

    Stream key: what it is about. Ordering: that of the log. A duplicate has the same event id.
    """

    #: Names the notification until it is resolved, as text.
    notification: Code
    #: As when it was opened.
    kind: Code
    #: As when it was opened.
    about: Subject
    severity: Severity
    #: What is wrong now, with which object, and what to do.
    message: Message
    group: Name | None = None
    volume: Name | None = None
    node: Name | None = None
    store: Name | None = None
    #: Session in which it happened last, as text.
    session: Code | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationResolved:
    """Emitted when what was wrong is over.

    Stream key: what it is about. Ordering: that of the log: nothing follows of this notification,
    and what goes wrong anew gets another one. A duplicate has the same event id.
    """

    #: Names the notification, as text.
    notification: Code
    #: As when it was opened.
    kind: Code
    #: As when it was opened.
    about: Subject
    #: Why it is over.
    reason: Message
    #: For how long it was open.
    seconds: Seconds
    group: Name | None = None
    volume: Name | None = None
    node: Name | None = None
    store: Name | None = None
