"""The pytest plugin, loaded by its entry point: `captured_records`, and live sinks.

Live sinks are `femtomp.integrations.pytest`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from femtomp.integrations.pytest import pytest_addoption, pytest_configure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from femtomp.testing import CapturedRecords

__all__ = ["captured_records", "pytest_addoption", "pytest_configure"]


@pytest.fixture
def captured_records() -> Iterator[CapturedRecords]:
    """Capture what the test logs, in this process and its children."""
    from femtomp.testing import captured_records as capture

    with capture() as records:
        yield records
