"""The pytest plugin, loaded by its entry point: `captured_records` as a fixture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from femtomp.testing import CapturedRecords


@pytest.fixture
def captured_records() -> Iterator[CapturedRecords]:
    """Capture what the test logs, in this process and its children."""
    from femtomp.testing import captured_records as capture

    with capture() as records:
        yield records
