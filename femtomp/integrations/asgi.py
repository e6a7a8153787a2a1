"""ASGI: every record of a request has its id, and belongs to its trace.

In: an application. Out: one that does the same inside `femtomp.log_context`, as
`femtomp.integrations.wsgi`; tasks that it starts inherit the context. With
``access_log="name"`` there is a record of each request as well, with its duration and
size, which servers' own lines do not tell. FastAPI and Starlette:
``app.add_middleware(RequestContext)``.
"""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

import femtomp
from femtomp.integrations import http

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_KINDS: Final = ("http", "websocket")


class RequestContext:
    """ASGI middleware.

    Parameters
    ----------
    app : callable
        The application.
    trust_request_id : bool
        False: an id that the client sends is ignored, and a new one made.
    access_log : str, optional
        Name of a logger that gets a record of each HTTP request.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        *,
        trust_request_id: bool = True,
        access_log: str | None = None,
    ) -> None:
        if not callable(app):
            msg = f"RequestContext: give an ASGI application, not {app!r}"
            raise TypeError(msg)
        self.app = app
        self._trusts = trust_request_id
        self._log = None if access_log is None else logging.getLogger(access_log)

    async def __call__(
        self, scope: dict[str, Any], receive: Any, send: Callable[..., Awaitable[None]]
    ) -> None:
        """Serve one connection."""
        if scope["type"] not in _KINDS:
            await self.app(scope, receive, send)
            return
        environ = environ_of(scope)
        found = http.request_id(environ) if self._trusts else None
        known = http.safe_id(found) or uuid.uuid4().hex
        asked = http.from_environ({**environ, http.REQUEST_ID: known})
        scope = {**scope, http.REQUEST_ID: known}
        answer: dict[str, Any] = {}

        async def told(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer["http.response.status_code"] = message["status"]
                headers = [
                    *message.get("headers", ()),
                    (b"x-request-id", known.encode()),
                ]
                message = {**message, "headers": headers}
            elif message["type"] == "http.response.body":
                size = answer.get("http.response.body.size", 0)
                answer["http.response.body.size"] = size + len(message.get("body", b""))
            await send(message)

        names = (http.REQUEST_ID, "http.request.method", "url.path")
        fields = {name: asked[name] for name in names if name in asked}
        header = environ.get("HTTP_TRACEPARENT")
        began = time.monotonic()
        context = femtomp.log_context(**fields).traced(header)
        context.__enter__()
        try:
            await self.app(scope, receive, told)
        except Exception:
            # Not left: the server logs the traceback and the access line further up in
            # this task, which it made for this request alone and which ends then.
            self._access_if_asked(scope, asked, answer, began)
            raise
        except BaseException:
            context.__exit__(None, None, None)
            raise
        self._access_if_asked(scope, asked, answer, began)
        context.__exit__(None, None, None)

    def _access_if_asked(
        self,
        scope: dict[str, Any],
        asked: dict[str, Any],
        answer: dict[str, Any],
        began: float,
    ) -> None:
        if self._log is not None and scope["type"] == "http":
            answer["http.server.request.duration"] = time.monotonic() - began
            self._access({**asked, **answer})

    def _access(self, fields: dict[str, Any]) -> None:
        assert self._log is not None  # noqa: S101 - for the type checker
        method, path = fields.get("http.request.method"), fields.get("url.path")
        status = fields.get("http.response.status_code")
        self._log.info("%s %s %s", method, path, status, extra=fields)


def environ_of(scope: dict[str, Any]) -> dict[str, Any]:
    """Return what a scope says as WSGI would have it."""
    client = scope.get("client") or ("",)
    path = scope.get("path") or ""
    raw = scope.get("raw_path") or path.encode("utf-8", "surrogatepass")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope.get("method"),
        "RAW_URI": raw.decode("latin-1"),
        "QUERY_STRING": (scope.get("query_string") or b"").decode("latin-1"),
        "wsgi.url_scheme": scope.get("scheme"),
        "SERVER_PROTOCOL": f"HTTP/{scope.get('http_version', '1.1')}",
        "REMOTE_ADDR": client[0],
    }
    for name, value in scope.get("headers", ()):
        key = name.decode("latin-1").upper().replace("-", "_")
        # As WSGI has these two.
        prefix = "" if key in ("CONTENT_LENGTH", "CONTENT_TYPE") else "HTTP_"
        environ[prefix + key] = value.decode("latin-1")
    return environ
