"""How consistent a snapshot is."""

from typing import get_args

from libs.catalogdb.sessions.session import SessionView
from libs.events.fields import Consistency


def weakest_consistency(view: SessionView) -> Consistency:
    """A snapshot is as consistent as the least consistent of its volumes."""
    claims = [part.consistency for part in view.parts]
    return max(claims, key=get_args(Consistency).index, default="frozen")
