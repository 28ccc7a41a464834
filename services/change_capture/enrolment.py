"""How an agent comes to the credential of its node, and what it accepts by it.

The credential is a file that somebody has put there, or it is got by an invitation and kept in the
state folder:

    credential-id   which credential the agent asks for; durable before it asks
    credential      the credential, durable before it is used; then credential-id goes

If the answer is lost, or the agent dies, it asks for the same credential again, and the coordinator
gives the same answer. An agent with a credential asks for none, whatever invitation it has.
"""

import json
import logging
import os
from pathlib import Path
from uuid import UUID, uuid4

from libs.errors import BackcastError, ConfigurationError
from libs.ids import check_name
from libs.keys.nodes import NodeCredential
from libs.rest.auth import ALL_TENANTS, Tokens, digest_of
from libs.rest.client import RestClient
from libs.runtime.signals import Stop
from services.change_capture.agent.settings import Settings
from services.change_capture.rpc import EnrolmentAnswer, EnrolmentRequest

log = logging.getLogger(__name__)

#: Pause before the coordinator is asked again.
_AGAIN_SECONDS = 2.0


def credential_of(settings: Settings, stop: Stop) -> NodeCredential | None:
    """The credential of this node; enrols if there is none yet.

    Waits for the coordinator as long as it does not answer; None if the process is asked to stop
    meanwhile.

    Raises:
        ConfigurationError: there is none, it is another node's, or the invitation is refused.
    """
    check_name("node", settings.node)
    file = settings.state_folder / "credential"
    found: NodeCredential | None
    if settings.credential is not None:
        found = NodeCredential.parse(settings.credential.reveal())
    elif file.exists():
        found = NodeCredential.parse(file.read_text())
    elif settings.invitation is not None:
        found = _enrol(settings, file, settings.invitation.reveal(), stop)
    else:
        raise ConfigurationError(
            f"BACKCAST_AGENT_CREDENTIAL_FILE, BACKCAST_AGENT_INVITATION_FILE: neither is set and "
            f"there is no {file}; `backcast node invite {settings.node}` makes an invitation"
        )
    if found is not None and found.node != settings.node:
        raise ConfigurationError(
            f"credential: it is that of node {found.node}, and this agent is node {settings.node}; "
            f"each node has its own"
        )
    return found


def accepted(credential: NodeCredential) -> Tokens:
    """What this agent's RPC accepts: what the coordinator shows to this node alone."""
    entry = {
        "name": "coordinator",
        "sha256": digest_of(credential.order_token),
        "tenant": ALL_TENANTS,
        "roles": ["coordinator"],
    }
    return Tokens(json.dumps([entry]))


def _enrol(settings: Settings, file: Path, invitation: str, stop: Stop) -> NodeCredential | None:
    settings.state_folder.mkdir(parents=True, exist_ok=True)
    chosen = _chosen_id(file.with_name("credential-id"))
    coordinator = RestClient(settings.coordinator_url, invitation, settings.ca_file)
    request = EnrolmentRequest(node=settings.node, credential=chosen).model_dump(mode="json")
    while True:
        try:
            answer = EnrolmentAnswer.model_validate(coordinator.post("/v1/enrolments", request))
            break
        except BackcastError as err:
            if not err.retriable:
                raise ConfigurationError(
                    f"node {settings.node}: the coordinator does not enrol it: {err}"
                ) from err
            log.warning("not enrolled yet", extra={"node": settings.node, "detail": str(err)})
        if stop.wait(_AGAIN_SECONDS):
            return None
    credential = NodeCredential.parse(answer.credential)
    write_durably(file, credential.text)
    file.with_name("credential-id").unlink(missing_ok=True)
    log.info("enrolled", extra={"node": settings.node})
    return credential


def _chosen_id(file: Path) -> UUID:
    if file.exists():
        return UUID(hex=file.read_text())
    chosen = uuid4()
    write_durably(file, chosen.hex)
    return chosen


def write_durably(file: Path, text: str) -> None:
    """Write a file that only its owner may read: whole and durable, or not there."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(descriptor)
    unfinished.rename(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
