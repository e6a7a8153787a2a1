"""Formatters of a user's, as the tests name them by their path."""

from __future__ import annotations

import logging


class Short(logging.Formatter):
    """Level, process and message, one line."""

    def __init__(self, form="%(levelname)s %(process)d %(message)s"):
        super().__init__(form)


def make():
    """Give a formatter that needs arguments."""
    return Short("%(name)s|%(message)s")


INSTANCE = Short("instance: %(message)s")


class Broken(logging.Formatter):
    """Raises for one message, and returns no text for another."""

    def format(self, record):
        if record.getMessage() == "none":
            return None
        if record.getMessage() == "raise":
            raise KeyError("item")
        return super().format(record)


def cannot():
    """Fail, as a formatter whose own configuration is missing does."""
    raise OSError("no such colour scheme")
