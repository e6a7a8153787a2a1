"""A tiny shop, served over WSGI without a framework::

    GET  /             what there is to buy
    GET  /items/<id>   one item
    POST /orders       {"item": 1, "quantity": 2}
    GET  /slow         an answer that takes 0.2 seconds
    GET  /error        fails, and the failure has a cause

It logs with the standard `logging`, and knows nothing of where its records go.
"""

import json
import logging
import re
import time
from http import HTTPStatus

from shop import catalogue, orders

SLOW_S = 0.2
MAX_BODY_BYTES = 64 * 1024

log = logging.getLogger(__name__)


def app(environ, start_response):
    status, answer = respond(environ)
    body = json.dumps(answer).encode()
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
    ]
    start_response(f"{status.value} {status.phrase}", headers)
    return [body]


def respond(environ):
    """Return status and answer; what a view raises ends here, as in any framework."""
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    try:
        for verb, pattern, view in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and verb == method:
                return HTTPStatus.OK, view(environ, *match.groups())
    except catalogue.UnknownItemError as exc:
        return HTTPStatus.NOT_FOUND, {"error": str(exc)}
    except ValueError as exc:
        log.warning("bad request: %s", exc, extra={"url.path": path})
        return HTTPStatus.BAD_REQUEST, {"error": str(exc)}
    except Exception:
        fields = {"http.request.method": method, "url.path": path}
        log.exception("request failed", extra=fields)
        return HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "internal error"}
    return HTTPStatus.NOT_FOUND, {"error": f"no such page: {path}"}


def index(environ):
    return catalogue.everything()


def show_item(environ, number):
    return catalogue.find(int(number))


def place_order(environ):
    size = int(environ.get("CONTENT_LENGTH") or 0)
    if size > MAX_BODY_BYTES:
        raise ValueError(f"an order has at most {MAX_BODY_BYTES} bytes")
    wanted = json.loads(environ["wsgi.input"].read(size))
    try:
        number, quantity = int(wanted["item"]), int(wanted["quantity"])
    except (KeyError, TypeError) as exc:
        raise ValueError("an order has an item and a quantity") from exc
    return orders.place(number, quantity)


def slow(environ):
    begun = time.monotonic()
    time.sleep(SLOW_S)
    duration_s = time.monotonic() - begun
    log.info("stock was counted", extra={"stock.duration": duration_s})
    return {"seconds": duration_s}


def error(environ):
    orders.charge(99.5, card="4000-0000")


ROUTES = [
    ("GET", r"/", index),
    ("GET", r"/items/(\d{1,9})", show_item),
    ("POST", r"/orders", place_order),
    ("GET", r"/slow", slow),
    ("GET", r"/error", error),
]
