"""The application that servers' tests serve, over WSGI and ASGI.

Each answer is a JSON object with the pid; `/burst?25` logs 25 records first, `/hang`
does not answer. What is logged is written down by `tests.examples.ledger` when the call
has returned.
"""

import json
import logging
import os
import time

from tests.integrations import noted  # noqa: F401 - has an effect

log = logging.getLogger("app")


def answer(path: str, query: str) -> bytes:
    for number in range(int(query or 0) if path == "/burst" else 0):
        log.info("burst %d", number)
    if path == "/hang":
        time.sleep(100)
    if path == "/fail":
        raise LookupError("asked for")
    return json.dumps({"pid": os.getpid(), "ppid": os.getppid()}).encode()


def wsgi(environ, start_response):
    body = answer(environ["PATH_INFO"], environ["QUERY_STRING"])
    length = str(len(body))
    start_response("200 OK", [("Content-Length", length), ("X-Thing", "1")])
    return [body]


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = answer(scope["path"], scope["query_string"].decode())
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
