"""A service with scripted answers on a real socket: what the command asks for, and what it gets."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

#: Method and path → the answers, one after the other; the last one stays. An answer is a JSON
#: document, or a pair of a status and a problem's code, or these with a text for Retry-After.
Script = dict[tuple[str, str], list[Any]]


class ScriptedService:
    """Answers by its script and remembers every request: method, path, query, body."""

    def __init__(self, url: str, script: Script) -> None:
        self.url = url
        self.script = script
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []

    def bodies(self, method: str, path: str) -> list[Any]:
        return [body for *asked, _, body in self.requests if asked == [method, path]]

    def queries(self, path: str) -> list[dict[str, str]]:
        return [query for _, asked, query, _ in self.requests if asked == path]

    def answer(self, method: str, target: str, body: Any) -> tuple[int, Any, str | None]:
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.requests.append((method, url.path, query, body))
        answers = self.script.get((method, url.path))
        if answers is None:
            return 404, _problem("not-found", f"{method} {url.path}"), None
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, tuple):
            status, code, *told = answer
            return status, _problem(code, f"{code}, as scripted"), told[0] if told else None
        return 200, answer, None


@contextmanager
def serving(script: Script) -> Iterator[ScriptedService]:
    """Serve a script; every service is the same one."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    service = ScriptedService(f"http://127.0.0.1:{server.server_port}", script)
    script.setdefault(("GET", "/v1"), [{"coordinator": service.url, "catalog": service.url}])
    server.RequestHandlerClass = _handler_of(service.answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler_of(
    answer: Callable[[str, str, Any], tuple[int, Any, str | None]],
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._respond(None)

        def do_POST(self) -> None:
            self._respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _respond(self, body: Any) -> None:
            status, document, told = answer(self.command, self.path, body)
            payload = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            if told is not None:
                self.send_header("Retry-After", told)
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: Any) -> None:
            """Keep the test's output clean."""

    return Handler


def _problem(code: str, detail: str) -> dict[str, str]:
    return {"code": code, "detail": detail}
