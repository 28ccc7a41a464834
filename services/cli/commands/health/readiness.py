"""Which services and servers are there and ready, as far as the command can learn it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from libs.errors import BackcastError, ForbiddenError, UnavailableError
from services.cli.commands.health.asking import ask_at_once
from services.cli.connection import Services
from services.cli.output import Document

#: A service says within 3 s whether it is ready (`libs.runtime.health`).
READY_SECONDS_MAX = 5.0


@dataclass(frozen=True, slots=True)
class ServiceState:
    """How a service stands."""

    name: str
    #: Why it cannot take work; empty: it can.
    trouble: str
    #: Servers that it cannot reach, and does a part of its work without: name → why.
    servers: Mapping[str, str]
    #: Loops whose last round was put off: name → why.
    put_off: Mapping[str, str]

    @property
    def document(self) -> Document:
        """For ``--json``, and for the screen."""
        without = "; ".join(f"{name}: {why}" for name, why in self.servers.items())
        return {
            "service": self.name,
            "ready": not self.trouble,
            "reason": self.trouble or without,
        }

    def problems(self) -> Iterator[Document]:
        """What is wrong with it."""
        about = f"service {self.name}"
        if self.trouble:
            message = f"is not ready: {self.trouble}"
            yield {"code": "service-not-ready", "about": about, "message": message}
        for name, why in self.servers.items():
            message = f"works without {name}: {why}"
            yield {"code": "server-away", "about": about, "message": message}

    def remarks(self) -> Iterator[Document]:
        """What somebody should know."""
        for name, why in self.put_off.items():
            message = f"loop {name}: {why}"
            yield {"code": "put-off", "about": f"service {self.name}", "message": message}


def ask_services(services: Services) -> dict[str, ServiceState]:
    """How each public service stands, within `READY_SECONDS_MAX` twice.

    The restore service is asked first, because it says where the others are.

    Raises:
        ForbiddenError: the restore service knows no such token.
        BackcastError: it is not called as it should be.
    """
    first = ask_at_once(
        {"restore": _ready(services, "restore"), "links": lambda: services.coordinator},
        READY_SECONDS_MAX,
    )
    links = first["links"]
    if isinstance(links, BackcastError) and not isinstance(links, UnavailableError):
        raise links
    restore = _state("restore", first["restore"])
    if isinstance(links, BackcastError):
        why = "where it is was not learned from the restore service"
        others = {name: ServiceState(name, why, {}, {}) for name in ("coordinator", "catalog")}
        if not restore.trouble:
            restore = ServiceState("restore", str(links), {}, {})
        return {"restore": restore, **others}
    second = ask_at_once(
        {name: _ready(services, name) for name in ("coordinator", "catalog")}, READY_SECONDS_MAX
    )
    return {"restore": restore} | {name: _state(name, got) for name, got in second.items()}


def _ready(services: Services, name: str) -> Callable[[], Any]:
    return lambda: getattr(services, name).get("/v1/ready")


def _state(name: str, answer: Any) -> ServiceState:
    if isinstance(answer, ForbiddenError):
        raise answer
    if isinstance(answer, BackcastError):
        return ServiceState(name, str(answer), {}, {})
    failed = [one for one in answer.get("checks", ()) if not one["ok"]]
    return ServiceState(
        name,
        "",
        {one["name"]: one["reason"] for one in failed if one.get("server")},
        {one["name"]: one["reason"] for one in failed if not one.get("server")},
    )
