"""WSGI and ASGI middleware: what is logged in a request has its id and its trace."""

from __future__ import annotations

import asyncio
import logging

import pytest

from femtomp.integrations import asgi, wsgi
from femtomp.testing import captured_records

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
log = logging.getLogger("view")


def view(environ, start_response):
    log.warning("in the view")
    start_response("200 OK", [("A", "b")])

    def parts():
        log.warning("in a part")
        yield b"one"

    return parts()


def ask(app, **environ) -> tuple[list, list[bytes]]:
    """Return the headers and the parts of an answer."""
    headers: list = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/a", **environ}
    answer = app(environ, lambda status, given, *_: headers.extend(given))
    parts = list(answer)
    answer.close()
    return headers, parts


async def aview(scope, receive, send):
    log.warning("in the view")
    await asyncio.create_task(part())
    start = {"type": "http.response.start", "status": 201, "headers": [(b"a", b"b")]}
    await send(start)
    await send({"type": "http.response.body", "body": b"one"})


async def part():
    log.warning("in a part")


def aask(app, path: str = "/a", **headers: str) -> tuple[list, list]:
    sent: list = []

    async def send(message) -> None:
        sent.append(message)

    pairs = [
        (k.lower().replace("_", "-").encode(), v.encode("latin-1"))
        for k, v in headers.items()
    ]
    scope = {
        "type": "http", "method": "GET", "path": path, "query_string": b"c=1",
        "headers": pairs, "client": ("10.0.0.1", 1), "http_version": "1.1",
        "scheme": "http",
    }  # fmt: skip
    asyncio.run(app(scope, None, send))
    return [(k.decode(), v.decode()) for k, v in sent[0]["headers"]], sent


def test_a_wsgi_request_is_known_to_its_records() -> None:
    """View and streamed parts have id, path and trace; what comes after has not."""
    app = wsgi.RequestContext(view)
    with captured_records() as records:
        headers, parts = ask(app, HTTP_X_REQUEST_ID="r1", HTTP_TRACEPARENT=TRACEPARENT)
        log.warning("outside")
    assert (headers, parts) == ([("A", "b"), ("X-Request-ID", "r1")], [b"one"])
    *inside, outside = records
    assert [r.body for r in inside] == ["in the view", "in a part"]
    for record in inside:
        assert record.attributes["http.request.id"] == "r1"
        assert record.attributes["url.path"] == "/a"
        assert record.trace_id == TRACE_ID
    assert "http.request.id" not in outside.attributes
    assert not outside.trace_id


def test_an_asgi_request_is_known_to_its_records() -> None:
    """The same for coroutines and the tasks they start, and an access record."""
    app = asgi.RequestContext(aview, access_log="access")
    logging.getLogger("access").setLevel("INFO")
    with captured_records() as records:
        headers, _ = aask(
            app, x_request_id="r1", traceparent=TRACEPARENT, user_agent='"q"\xff'
        )
        log.warning("outside")
    assert headers == [("a", "b"), ("x-request-id", "r1")]
    # asyncio says which selector it uses.
    *inside, access, outside = [r for r in records if r.logger != "asyncio"]
    assert [r.body for r in inside] == ["in the view", "in a part"]
    for record in (*inside, access):
        assert record.attributes["http.request.id"] == "r1"
        assert record.trace_id == TRACE_ID
    assert access.body == "GET /a 201"
    assert access.attributes["http.response.body.size"] == 3
    assert access.attributes["client.address"] == "10.0.0.1"
    assert access.attributes["user_agent.original"] == '"q"\xff'
    assert access.attributes["http.server.request.duration"] >= 0
    assert "http.request.id" not in outside.attributes


def test_a_length_of_thousands_of_digits_breaks_no_request() -> None:
    """What int() refuses is not in the access record; the request is served."""
    _, parts = ask(wsgi.RequestContext(view), CONTENT_LENGTH="9" * 5000)
    assert parts == [b"one"]
    headers, _ = aask(asgi.RequestContext(aview), content_length="9" * 5000)
    assert headers[0] == ("a", "b")


@pytest.mark.parametrize("odd", ["a\r\nSet-Cookie: b=c", "\x00", "\xff", ""])
def test_an_id_that_no_header_can_carry_is_replaced(odd: str) -> None:
    """A client cannot write headers of the answer; every request gets a new id."""
    first, _ = ask(wsgi.RequestContext(view), HTTP_X_REQUEST_ID=odd)
    second, _ = aask(asgi.RequestContext(aview), x_request_id=odd)
    ids = {first[-1][1], second[-1][1]}
    assert len(ids) == 2
    assert all(each.isalnum() and len(each) == 32 for each in ids)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "ff" + TRACEPARENT[2:],
        "x" * 55,
        "00-1",
    ],
)
def test_a_malformed_trace_is_none(header: str) -> None:
    """As the specification has it, a traceparent that is none is passed over."""
    with captured_records() as records:
        ask(wsgi.RequestContext(view), HTTP_TRACEPARENT=header)
    assert [record.trace_id for record in records] == [None, None]


def test_ids_of_strangers_need_not_be_trusted() -> None:
    """With `trust_request_id=False` the client's id is not taken."""
    headers, _ = ask(
        wsgi.RequestContext(view, trust_request_id=False), HTTP_X_REQUEST_ID="r1"
    )
    assert headers[-1][1] != "r1"


@pytest.mark.parametrize("module", [wsgi, asgi])
def test_what_is_no_application_is_refused(module) -> None:
    """Bad input is an error at construction."""
    with pytest.raises(TypeError, match="application"):
        module.RequestContext("shop:app")
