"""Events of `backcast.notifications`: what a person may want to be told.

They travel as structured CloudEvents JSON (`record`), so that any monitoring system can read them.
Their fields are text only: the JSON and the msgpack form are then the same map.
"""

from dataclasses import dataclass
from typing import Literal

from libs.events.fields import Code, Message, Name

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
