"""A driver before any other: what it hands on holds no secret.

In: batches as the lanes have them. Out: the same batches, redacted, and the other
driver's answers. What the supervisor says itself passes here as well, so there is no
way to a destination around it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from femtomp.codec.redaction import Redactor
from femtomp.codec.secret_keys import STANDARD_KEYS
from femtomp.sinks.secrets import hide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from femtomp.record import Record
    from femtomp.redaction import Redaction
    from femtomp.sinks import Driver, Outcome


def redacting(driver: Driver, rules: Redaction | None) -> Driver:
    """Put redaction before a driver; None for none.

    Known values are kept out of what the supervisor says on stderr, too.
    """
    if rules is None:
        return driver
    standard = STANDARD_KEYS if rules.standard_keys else ()
    hide(rules.values)
    redactor = Redactor(
        (*standard, *rules.keys), rules.allow, rules.patterns, rules.values
    )
    return _Redacting(driver, redactor)


class _Redacting:
    def __init__(self, driver: Driver, redactor: Redactor) -> None:
        self._driver = driver
        self._redactor = redactor

    def write(self, batch: Sequence[Record]) -> Outcome:
        return self._driver.write(self._redactor.records(batch))

    def close(self) -> None:
        """Close the driver that comes after."""
        self._driver.close()
