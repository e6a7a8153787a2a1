"""WSGI: every record of a request has its id, and belongs to its trace.

In: an application. Out: one that does the same, inside `femtomp.log_context`: the id of
`X-Request-ID` or a new one, method and path, and the trace of `traceparent`. The answer
carries the id. For Flask ``app.wsgi_app = RequestContext(app.wsgi_app)``, for Django in
``wsgi.py`` ``application = RequestContext(get_wsgi_application())``.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import femtomp
from femtomp.integrations import http

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class RequestContext:
    """WSGI middleware; safe under threads and greenlets.

    Parameters
    ----------
    app : callable
        The application.
    trust_request_id : bool
        False: an id that the client sends is ignored, and a new one made.

    Examples
    --------
    >>> def app(environ, start_response):
    ...     start_response("200 OK", [])
    ...     return [environ["http.request.id"].encode()]
    >>> served = RequestContext(app)
    >>> environ = {"HTTP_X_REQUEST_ID": "r1", "REQUEST_METHOD": "GET", "PATH_INFO": "/"}
    >>> list(served(environ, lambda status, headers, *_: print(headers)))
    [('X-Request-ID', 'r1')]
    [b'r1']
    """

    def __init__(
        self, app: Callable[..., Iterable[bytes]], *, trust_request_id: bool = True
    ) -> None:
        if not callable(app):
            msg = f"RequestContext: give a WSGI application, not {app!r}"
            raise TypeError(msg)
        self.app = app
        self._trusts = trust_request_id

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Serve one request."""
        found = http.request_id(environ) if self._trusts else None
        known = environ[http.REQUEST_ID] = http.safe_id(found) or uuid.uuid4().hex

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, [*headers, ("X-Request-ID", known)], *rest)

        asked = http.from_environ(environ)
        names = (http.REQUEST_ID, "http.request.method", "url.path")
        fields = {name: asked[name] for name in names if name in asked}
        context = femtomp.log_context(**fields)
        header = environ.get("HTTP_TRACEPARENT")
        with context.traced(header):
            answer = self.app(environ, start)
        return _Answer(answer, fields, header)


class _Answer:
    """The parts of an answer, each made in the context; of a generator's view too.

    The server may make them one by one, between those of other requests.
    """

    def __init__(self, answer: Iterable[bytes], fields: Any, header: Any) -> None:
        self._answer, self._fields, self._header = answer, fields, header

    def __iter__(self) -> Iterator[bytes]:
        parts = iter(self._answer)
        while True:
            with femtomp.log_context(**self._fields).traced(self._header):
                try:
                    part = next(parts)
                except StopIteration:
                    return
            yield part

    def close(self) -> None:
        """Close the application's answer, in the context too."""
        close = getattr(self._answer, "close", None)
        if close is not None:
            with femtomp.log_context(**self._fields).traced(self._header):
                close()
