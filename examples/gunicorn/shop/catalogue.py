"""What the shop sells. A module like a library's: a logger of its own, no handlers."""

import logging

log = logging.getLogger(__name__)

ITEMS = {
    1: {"name": "teapot", "price": 24.5, "in_stock": 12},
    2: {"name": "cup", "price": 6.0, "in_stock": 80},
    3: {"name": "tea cosy", "price": 11.25, "in_stock": 0},
}


class UnknownItemError(Exception):
    """The shop does not sell this."""


def everything():
    log.info("catalogue shown", extra={"catalogue.size": len(ITEMS)})
    return list(ITEMS.values())


def find(number):
    """Return an item.

    Raises
    ------
    UnknownItemError
        If there is none of that number.
    """
    item = ITEMS.get(number)
    if item is None:
        log.warning("no item %d", number, extra={"item.id": number})
        raise UnknownItemError(f"no item {number}")
    fields = {
        "item.id": number,
        "item.name": item["name"],
        "item.price": item["price"],
        "item.available": item["in_stock"] > 0,
    }
    log.info("item %d shown", number, extra=fields)
    return item
