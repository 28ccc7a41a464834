"""The members of a session's barrier: its nodes, and what each of them is to cut."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from libs.catalogdb.sessions.session import PartView, SessionView
from libs.catalogdb.sessions.sources import Follower
from libs.ids import NodeIdentity
from libs.rest.client import Json
from services.change_capture.coordinator.agents import AgentAddress


@dataclass(slots=True)
class BarrierMember:
    """A node, and its volumes as its agent is told of them."""

    address: AgentAddress
    sources: list[Json] = field(default_factory=list)


def members_of(view: SessionView) -> Mapping[str, BarrierMember]:
    """The members of the barrier at the session's present attempt, by name.

    Each volume is cut by its node and by its followers. They have a key that nobody else has, and
    that another attempt has not: whoever asks with the key of an older one is refused (scenario
    18). It is made of the secret of the capture, so every coordinator of an attempt makes the same.
    """
    members: dict[str, BarrierMember] = {}
    for part in view.parts:
        lead = _member(members, part.node, AgentAddress.of(part))
        lead.sources.append(_lead(view, part))
        for follower in part.followers:
            identity = NodeIdentity(follower.node, follower.credential)
            member = _member(members, follower.node, AgentAddress(identity, follower.rpc_url))
            member.sources.append(_follower(view, part, follower))
    return members


def _member(members: dict[str, BarrierMember], node: str, address: AgentAddress) -> BarrierMember:
    return members.setdefault(node, BarrierMember(address))


def _lead(view: SessionView, part: PartView) -> Json:
    source: Json = {
        "volume": str(part.volume),
        "path": part.path,
        "freeze": part.freeze,
        "driver": part.driver,
    }
    if part.followers:
        source["shared"] = _shared(view, part, [one.node for one in part.followers])
    return source


def _follower(view: SessionView, part: PartView, follower: Follower) -> Json:
    return {
        "volume": str(part.volume),
        "path": follower.path,
        "freeze": None,
        "driver": follower.driver,
        "shared": _shared(view, part, []),
    }


def _shared(view: SessionView, part: PartView, followers: list[str]) -> Json:
    name = f"{view.session}/{view.cut_attempt}/{part.volume}"
    key = hashlib.blake2b(name.encode(), key=part.token, digest_size=32, person=b"shared cut")
    return {
        "cut": name,
        "key": base64.b64encode(key.digest()).decode(),
        "followers": followers,
    }
