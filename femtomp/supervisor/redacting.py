"""From the user's rules of redaction to what a pump calls before its driver.

In: the rules. Out: a function from records to records. What the supervisor says itself
passes it as well: there is no way to a destination around it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from femtomp.codec.redaction import Redactor
from femtomp.codec.secret_keys import STANDARD_KEYS
from femtomp.sinks.secrets import hide

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from femtomp.record import Record
    from femtomp.redaction import Redaction

Redact: TypeAlias = "Callable[[Sequence[Record]], Sequence[Record]]"


def as_they_are(records: Sequence[Record]) -> Sequence[Record]:
    """Return the records: no redaction."""
    return records


def redact_by(rules: Redaction | None) -> Redact:
    """Return what redacts a batch, for one thread; None for no redaction.

    Known values are kept out of what the supervisor says on stderr, too.
    """
    if rules is None:
        return as_they_are
    hide(rules.values)
    standard = STANDARD_KEYS if rules.standard_keys else ()
    keys = (*standard, *rules.keys)
    return Redactor(keys, rules.allow, rules.patterns, rules.values).records
