"""Records for tests, as a worker of a shop would make them."""

from __future__ import annotations

from femtomp.record import Record, Resource

BRIEF = {
    "service.name": "shop",
    "service.instance.id": "7c1e",
    "process.pid": 812,
    "host.name": "web-1",
    "femtomp.worker.name": "worker-1",
}
RESOURCE = Resource({**BRIEF, "process.command": "/srv/shop/app.py"}, BRIEF)
PLAIN = Record(
    timestamp=1_700_000_000_123_456_789,
    severity_number=9,
    severity_text="INFO",
    logger="shop.cart",
    body="user 42 logged in",
    attributes={
        "user_id": 42,
        "code.file.path": "/srv/shop/cart.py",
        "code.line.number": 12,
        "code.function.name": "login",
        "thread.id": 140_000_000,
        "thread.name": "MainThread",
    },
    resource=RESOURCE,
    uid="0123456789abcdef01234567-1",
)


def make(**changes) -> Record:
    """Give the plain record with some of its fields replaced."""
    return PLAIN._replace(**changes)


def batch(size: int) -> list[Record]:
    """Give records that differ in body and uid."""
    return [make(body=f"record {n}", uid=f"e-{n}") for n in range(size)]
