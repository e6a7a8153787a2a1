"""HTTP requests as fields, by OpenTelemetry's names; shared by the servers' modules.

In: a WSGI environ, or an ASGI scope. Out: a dict of plain values, in which what is not
known is missing: https://opentelemetry.io/docs/specs/semconv/http/http-spans/. The
request's id has ECS's name, `http.request.id`, as OpenTelemetry has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

REQUEST_ID: Final = "http.request.id"
# An id that a client made up is text like any other; this much of it is kept.
MAX_REQUEST_ID_CHARS: Final = 128
# A client may send thousands of digits, which int() refuses.
_MAX_LENGTH_DIGITS: Final = 18


def text(value: str) -> str:
    r"""Return what the bytes of a header say, which WSGI gives as Latin-1.

    Bytes that are no UTF-8 stay as they came, a character for each.

    Examples
    --------
    >>> text("caf\xc3\xa9"), text("caf\xe9")
    ('café', 'café')
    """
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def from_environ(environ: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a WSGI environ tells of its request.

    Examples
    --------
    >>> from_environ({"REQUEST_METHOD": "GET", "PATH_INFO": "/a", "QUERY_STRING": "b"})
    {'http.request.method': 'GET', 'url.path': '/a', 'url.query': 'b'}
    """
    path = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    path = str(path).partition("?")[0] or environ.get("PATH_INFO")
    length = str(environ.get("CONTENT_LENGTH") or "")
    is_length = length.isdecimal() and len(length) <= _MAX_LENGTH_DIGITS
    referer = environ.get("HTTP_REFERER")
    return _known({
        "http.request.method": environ.get("REQUEST_METHOD"),
        "url.path": path,
        "url.query": environ.get("QUERY_STRING"),
        "url.scheme": environ.get("wsgi.url_scheme"),
        "network.protocol.version": _version(environ.get("SERVER_PROTOCOL")),
        "client.address": environ.get("REMOTE_ADDR"),
        "http.request.body.size": int(length) if is_length else None,
        "user_agent.original": environ.get("HTTP_USER_AGENT"),
        "http.request.header.referer": [text(referer)] if referer else None,
        REQUEST_ID: request_id(environ),
    })  # fmt: skip


def request_id(environ: Mapping[str, Any]) -> str | None:
    """Return the request's id: the middleware's, else that of X-Request-ID."""
    found = environ.get(REQUEST_ID) or environ.get("HTTP_X_REQUEST_ID")
    return found[:MAX_REQUEST_ID_CHARS] if isinstance(found, str) else None


def safe_id(found: str | None) -> str | None:
    r"""Return an id if a header can carry it back; None otherwise.

    Examples
    --------
    >>> safe_id("r-1"), safe_id("a\r\nSet-Cookie: b")
    ('r-1', None)
    """
    usable = found and found.isascii() and found.isprintable()
    return found if usable else None


def status_code(status: object) -> int | None:
    """Return a status as a number; None for a request that got no response.

    Examples
    --------
    >>> status_code("200 OK"), status_code(404), status_code(None)
    (200, 404, None)
    """
    words = str(status or "").split(None, 1)
    return int(words[0]) if words and words[0].isdecimal() else None


def _version(protocol: object) -> str | None:
    return str(protocol).rpartition("/")[2] if protocol else None


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: text(value) if type(value) is str else value
        for name, value in fields.items()
        if value is not None and value != ""
    }
