"""The HTTP side of every service: an application with health and metrics, and its server.

Route functions of services are plain ``def`` and run in a bounded thread pool. Those that wait for
news are ``async def`` (`libs.rest.waiting`): they hold no thread while they wait.
"""

import contextlib
import functools
import logging
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from typing import Any

import anyio.to_thread
import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from libs.access.recorded import Auditor, NotRecordedError
from libs.access.standing import Standing
from libs.errors import (
    BackcastError,
    InvariantViolation,
    UnauthenticatedError,
)
from libs.rest import problems
from libs.rest.auth import (
    ALL_TENANTS,
    EXPECTED_TOKEN,
    Authority,
    GroupOf,
    TokenEntry,
    presented_token,
)
from libs.rest.documents import note_roles, share_schemas
from libs.rest.limits import ServerLimits
from libs.rest.listener import BoundedListener, listen
from libs.rest.page import BROWSER_HEADERS, render_page
from libs.rest.protocol import BoundedProtocol
from libs.rest.shares import ShareLimits, Shares
from libs.rest.strict import StrictRoute
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Check, Health, health_document
from libs.runtime.metrics import SECONDS_BUCKETS, method_label
from libs.runtime.threads import start_thread
from libs.runtime.tls import ServerTls

log = logging.getLogger(__name__)
#: Probes and monitoring get these while nobody can say whether a token is good.
_OF_EVERYBODY = frozenset({"/healthz", "/readyz", "/metrics"})


def create_app(  # noqa: PLR0913 -- what every service has, wired in __main__
    title: str,
    settings: ServiceSettings,
    health: Health,
    registry: CollectorRegistry,
    tokens: Authority | None = None,
    limits: ServerLimits | None = None,
    *,
    group_of: GroupOf | None = None,
    auditor: Auditor | None = None,
) -> FastAPI:
    """An application with /healthz, /readyz, /metrics, problem documents, limits, and no routes.

    Args:
        title: of the API, in its OpenAPI document.
        settings: limits of requests.
        health: answers /healthz and /readyz.
        registry: answers /metrics, and gets the durations of requests.
        tokens: what `libs.rest.auth.require` accepts; None if no route uses it.
        group_of: which group a request is about; None: tokens of some groups are refused.
        auditor: records who changed or read what; None: nobody does.
        limits: of each client, and of all of them; those of this process if None.
    """
    limits = limits or ServerLimits.of_this_process()
    standing = Standing(tokens) if tokens else None
    shares = Shares(ShareLimits.of(settings.request_thread_count_max, limits.connection_count_max))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        limiter = anyio.to_thread.current_default_thread_limiter()
        limiter.total_tokens = settings.request_thread_count_max
        yield

    app = FastAPI(
        title=title,
        version="1",
        lifespan=lifespan,
        docs_url=None,  # the framework's page loads scripts from a server of others
        redoc_url=None,
        responses={"default": {"model": problems.Problem, "description": "Problem (RFC 9457)"}},
        exception_handlers={
            BackcastError: problems.on_backcast_error,
            RequestValidationError: problems.on_validation_error,
            HTTPException: problems.on_http_exception,
        },
    )
    app.router.route_class = StrictRoute
    app.state.tokens, app.state.group_of, app.state.limits = tokens, group_of, limits
    app.state.health = health
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # as its manual says
    app.add_middleware(
        RequestGuard,
        standing=standing,
        auditor=auditor,
        body_size_bytes_max=settings.request_body_size_bytes_max,
        shares=shares,
        registry=registry,
    )
    _add_operation_routes(app, health, registry)
    return app


@contextlib.contextmanager
def serving(
    app: FastAPI, settings: ServiceSettings, limits: ServerLimits | None = None
) -> Iterator[str]:
    """Serve ``app`` from a thread of its own while the context lasts; gives the base URL.

    On leaving, no new connection is accepted and requests in flight get ``stop_timeout_seconds``.

    Args:
        app: what `create_app` made.
        settings: where to listen.
        limits: of each client, and of all of them; those of the application if None.

    Raises:
        ConfigurationError: the address cannot be listened on, or the TLS files cannot be used.
    """
    limits = limits or app.state.limits
    assert limits
    tls = settings.server_tls(ssl.TLSVersion.TLSv1_2)  # ingresses may know no later one
    listener = listen(settings.listen, limits.connection_count_max, limits.head_seconds_max)
    with contextlib.closing(listener):
        server = uvicorn.Server(_server_config(app, settings, limits, listener, tls))
        leaving = threading.Event()

        def serve() -> None:
            server.run(sockets=[listener])
            if not leaving.is_set():  # uvicorn logs what goes wrong and then only returns
                raise InvariantViolation(f"HTTP server of {settings.listen}: it ended by itself")

        host, port = listener.getsockname()[:2]
        scheme = "https" if tls else "http"
        url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        thread = start_thread("http", serve, daemon=True)
        most = limits.connection_count_max
        log.info("listening", extra={"url": url, "connection_count_max": most})
        try:
            yield url
        finally:
            leaving.set()
            server.should_exit = True
            thread.join()


class RequestGuard:
    """The outermost layer: measures and shares out requests, refuses bodies, hides what went wrong.

    Args:
        app: what handles requests.
        standing: whose requests' bodies are read, and how long they may last; None: anybody's.
        auditor: records requests of known tokens; None: nobody does.
        body_size_bytes_max: longest body that is read.
        shares: what one tenant, and one token of it, may use at once.
        registry: gets the durations of requests.
    """

    def __init__(  # noqa: PLR0913 -- the parts of the guard
        self,
        app: ASGIApp,
        standing: Standing | None,
        auditor: Auditor | None,
        body_size_bytes_max: int,
        shares: Shares,
        registry: CollectorRegistry,
    ) -> None:
        self._app = app
        self._standing = standing
        self._auditor = auditor
        self._body_size_bytes_max = body_size_bytes_max
        self._shares = shares
        self._seconds = Histogram(
            "backcast_http_request_seconds",
            "Time from the request's head to the end of its response, in seconds.",
            ("method", "route", "status"),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._handle(scope, self._bounded(scope, receive), send_and_note)
        except (BackcastError, NotRecordedError) as err:  # of this layer
            if status:
                raise
            reason = err.reason if isinstance(err, NotRecordedError) else err
            await problems.refusal(reason)(scope, receive, send_and_note)
        except ClientDisconnect:
            pass  # nobody is there to be answered
        except Exception as err:
            problem = problems.unexpected_problem(f"{scope['method']} {scope['path']}", err)
            if status:
                raise  # half a response was sent: only a cut connection tells the client so
            await problem.response()(scope, receive, send_and_note)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            seconds = time.perf_counter() - begun
            self._seconds.labels(method_label(scope["method"]), route, str(status)).observe(seconds)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on in its turn.

        Raises:
            UnauthenticatedError: its token has expired; or it has a body, which is not read, and no
                token that is known.
            UnavailableError: nobody can say now whether its token is good.
            TooManyRequestsError: its tenant has too many.
            NotRecordedError: the audit log does not take it.
        """
        if self._standing is None or scope["path"] in _OF_EVERYBODY:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        token = presented_token(headers.get("authorization", ""))
        entry = self._standing.tokens.find(token) if token else None
        if entry is not None:
            tenant = None if entry.tenant == ALL_TENANTS else entry.tenant
            async with self._shares.taken(scope, tenant, entry.label):
                await self._handle_known(scope, receive, send, entry)
        elif headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            raise UnauthenticatedError(EXPECTED_TOKEN, presented=bool(token))
        else:
            await self._app(scope, receive, send)

    async def _handle_known(
        self, scope: Scope, receive: Receive, send: Send, entry: TokenEntry
    ) -> None:
        """Hand a request of a known token on, and record it before its answer is sent.

        Raises:
            UnauthenticatedError: the token was revoked or has expired meanwhile.
            NotRecordedError: the audit log does not take it.
        """
        assert self._standing is not None
        status = 0

        async def note(answered: int) -> None:
            nonlocal status
            status = answered
            if self._auditor:
                await self._auditor.note(scope, entry, answered)

        async def send_recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                await note(message["status"])
            await send(message)

        try:
            async with self._standing.required(entry):
                await self._app(scope, receive, send_recorded)
        except NotRecordedError:
            raise
        except Exception as err:  # it may have done something, and answers nothing
            if not status:
                gone = 499 if isinstance(err, ClientDisconnect) else 500  # as proxies write it
                await note(err.http_status if isinstance(err, BackcastError) else gone)
            raise

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """``receive`` that refuses a body once its declared or received length is too long."""
        declared = Headers(scope=scope).get("content-length", "")
        expected = int(declared) if declared.isdecimal() else 0
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive() if expected <= self._body_size_bytes_max else {}
            received += len(message.get("body", b""))
            if max(expected, received) > self._body_size_bytes_max:
                raise HTTPException(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    f"request body: expected at most {self._body_size_bytes_max} bytes",
                )
            return message

        return receive_bounded


def _add_operation_routes(app: FastAPI, health: Health, registry: CollectorRegistry) -> None:
    """Add what probes ask for, by GET or by HEAD; those who want the state alone send HEAD."""

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", tags=["operation"], summary="Whether the process should be left running")
    async def healthz() -> Response:
        return _report("not alive", health.alive())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(render_page(app.openapi()))

    # Threads of their own: those of requests may all wait for something.
    threads = anyio.CapacityLimiter(2)

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", tags=["operation"], summary="Whether the process can take work")
    async def readyz() -> Response:
        checks = await anyio.to_thread.run_sync(health.ready, limiter=threads)
        return _report("not ready", checks)

    @app.head("/metrics", include_in_schema=False)
    @app.get(
        "/metrics",
        tags=["operation"],
        summary="Metrics in Prometheus' text format",
        response_class=Response,  # or the document would say that it is JSON
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        text = await anyio.to_thread.run_sync(generate_latest, registry, limiter=threads)
        return Response(text, media_type=CONTENT_TYPE_LATEST)


def _report(failure: str, checks: list[Check]) -> Response:
    """The state of each check, with the reason that is for everybody; the log has the rest."""
    for check in checks:
        if not check.ok:
            log.warning(failure, extra={"check": check.name, "detail": check.detail})
    ok, document = health_document(checks)
    return JSONResponse(document, HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The framework's document, with problems under their own media type."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        share_schemas(schema)
        note_roles(schema, app.routes)
        for path in schema["paths"].values():
            for operation in path.values():
                content = operation["responses"]["default"]["content"]
                content[problems.MEDIA_TYPE] = content.pop("application/json")
        app.openapi_schema = schema
    return app.openapi_schema


def _server_config(
    app: FastAPI,
    settings: ServiceSettings,
    limits: ServerLimits,
    listener: BoundedListener,
    tls: ServerTls | None,
) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=functools.partial(BoundedProtocol, listener, limits),  # type: ignore[arg-type] # it is only called
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        headers=list(BROWSER_HEADERS),
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=limits.idle_seconds_max,
        timeout_graceful_shutdown=settings.stop_timeout_seconds,
    )
    config.load()
    config.ssl = tls.standing() if tls else None  # its own would be read once
    return config
