"""Imported, it has this process write down which log calls have returned."""

import logging

from tests.examples.ledger import noting

logging.Logger.handle = noting(logging.Logger.handle)
