"""A handler that says more than it should, as libraries do."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import sys


class Loud(logging.Handler):
    """Prints each record, writes it to descriptor 2, and crashes where one says so."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say it in every way."""
        text = record.getMessage()
        for _ in range(20):
            print(f"printed by the sink: {text}", file=sys.stderr)
        try:
            os.write(2, f"written to descriptor 2: {text}\n".encode())
        except BlockingIOError:
            pass
        logging.getLogger("library").warning("a library's own: %s", text)
        if text == "crash":
            faulthandler.enable()
            ctypes.string_at(0)
