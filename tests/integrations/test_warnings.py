"""`warnings`: with `logging.captureWarnings` they are records like others."""

from __future__ import annotations

import logging
import warnings

from femtomp.testing import captured_records


def test_warnings_are_records() -> None:
    """A warning is a record of `py.warnings` that names its place and category."""
    with captured_records() as records, warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        try:
            warnings.warn("old thing", DeprecationWarning, stacklevel=1)
        finally:
            logging.captureWarnings(False)
    (record,) = records
    assert (record.logger, record.severity_text) == ("py.warnings", "WARNING")
    assert __file__ in record.body
    assert "DeprecationWarning: old thing" in record.body
