"""An API's OpenAPI document as a page for people: no script, and nothing from another server."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'"
)
#: Of every answer, for browsers: they load and run nothing (the page has its few lines of style
#: inside), show it in no frame, guess no type, keep nothing, and tell nobody where they were.
BROWSER_HEADERS = (
    ("Content-Security-Policy", _POLICY),
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
    ("Strict-Transport-Security", "max-age=31536000; includeSubDomains"),  # means nothing over http
    ("X-Content-Type-Options", "nosniff"),
)

_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "code,pre{font-family:monospace;background:#eee}pre{padding:1em;overflow:auto}"
    "table{border-collapse:collapse}td,th{text-align:left;padding:.2em 1em .2em 0}"
)


def render_page(openapi: Mapping[str, Any]) -> str:
    """The page.

    Args:
        openapi: an OpenAPI 3.1 document.
    """
    title = escape(str(openapi["info"]["title"]))
    operations = "".join(
        _operation(path, method, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    )
    schemas = "".join(
        f'<h3 id="{escape(name)}">{escape(name)}</h3><pre>{_json(schema)}</pre>'
        for name, schema in openapi.get("components", {}).get("schemas", {}).items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style><h1>{title}</h1>"
        f'<p>For programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"<h2>Requests</h2>{operations}<h2>Documents</h2>{schemas}</html>"
    )


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    token = "<p>Needs a token.</p>" if operation.get("security") else ""
    parameters = "".join(
        f"<tr><td><code>{escape(one['name'])}</code><td>{escape(one['in'])}"
        f"<td>{'needed' if one.get('required') else ''}<td>{_kind(one.get('schema', {}))}"
        f"<td>{escape(one.get('description', ''))}"
        for one in operation.get("parameters", [])
    )
    body = _media(operation.get("requestBody", {}))
    answers = "".join(
        f"<tr><td>{escape(status)}<td>{escape(answer.get('description', ''))}<td>{_media(answer)}"
        for status, answer in operation["responses"].items()
    )
    return (
        f"<h3><code>{escape(method.upper())} {escape(path)}</code></h3>"
        f"<p>{escape(operation.get('summary', ''))}</p>{token}"
        + (f"<table>{parameters}</table>" if parameters else "")
        + (f"<p>Body: {body}</p>" if body else "")
        + f"<table><tr><th>Answer<th><th>{answers}</table>"
    )


def _media(holder: Mapping[str, Any]) -> str:
    """What a body may be."""
    return ", ".join(
        f"{escape(media)} {_kind(one.get('schema', {}))}"
        for media, one in holder.get("content", {}).items()
    )


def _kind(schema: Mapping[str, Any]) -> str:
    """A schema in a word, with links to documents."""
    names = list(_references(schema))
    if names:
        return ", ".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name in names)
    return escape(str(schema.get("type", "")))


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            yield str(schema["$ref"]).rpartition("/")[2]
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _json(schema: object) -> str:
    return escape(json.dumps(schema, indent=2))
