"""Fewer records of the same kind: limits by call site, and sampling. Off by default.

In: LogRecords, as a `logging.Filter` on femtomp's handler. Out: those that are kept, a
record for what one call site left out in an interval, and exact counts, in the lane's
words, of all that was left out: they hold whatever happens to the process.

A record that is left out costs what a filter costs; it is neither captured nor written.
A forked child begins anew.
"""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, Final
from weakref import WeakSet
from zlib import crc32

from femtomp.errors import ConfigError
from femtomp.native import RLock
from femtomp.worker import context, fork

if TYPE_CHECKING:
    from collections.abc import Callable

# A program that makes up call sites (an `exec` of each template) must not fill the
# memory; beyond it the oldest begins anew.
MAX_CALL_SITES: Final = 4096
_RATIO_BITS: Final = 64
_CRC_BITS: Final = 32

_limits: Final[WeakSet[CallSiteLimit]] = WeakSet()


def _nowhere(way: str) -> None:
    """Count for a filter that is on no handler of femtomp's."""


class _CallSite:
    """What is known of one place in the code, in the interval that began last."""

    __slots__ = ("began", "first", "left_out", "passed")

    def __init__(self, began: float) -> None:
        self.began = began
        self.passed = 0
        self.left_out = 0
        self.first: logging.LogRecord | None = None


class CallSiteLimit(logging.Filter):
    """Keep so many records of one place in the code an interval, and count the rest.

    For femtomp's handler, in each worker or before the fork. At the end of an interval
    in which records were left out, the next log call of the process (or
    `logging.shutdown`) adds one record of that call site that says how many.

    Parameters
    ----------
    count : int
        Records kept of each call site in each interval.
    interval_s : float
        The interval's length.
    below : int
        Records of this level and above are always kept.

    Raises
    ------
    ConfigError
        If a number cannot be used.

    Examples
    --------
    >>> import logging, femtomp
    >>> handler = femtomp.worker_handler(missing="ignore")
    >>> handler.addFilter(femtomp.CallSiteLimit(100, interval_s=60))
    """

    def __init__(
        self,
        count: int,
        *,
        interval_s: float = 60.0,
        below: int = logging.ERROR,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        if type(count) is not int or count < 1:
            msg = f"CallSiteLimit: count must be 1 or more, not {count!r}"
            raise ConfigError(msg)
        if not isinstance(interval_s, (int, float)) or not interval_s > 0:
            msg = f"CallSiteLimit: interval_s must be above 0, not {interval_s!r}"
            raise ConfigError(msg)
        self.count_left_out: Callable[[str], None] = _nowhere
        self._most = count
        self._interval_s = interval_s
        self._below = below
        self._clock = clock
        if not _limits:
            fork.on_fork(_reset_all)
        _limits.add(self)
        self.forget()

    def forget(self) -> None:
        """Begin anew, as a forked child: what was left out is the parent's to say."""
        self._sites: dict[tuple[str, int], _CallSite] = {}
        self._lock = RLock()
        self._look_at = self._clock() + self._interval_s

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to keep a record; count it if not."""
        if record.levelno >= self._below:
            return True
        with self._lock:
            now = self._clock()
            key = (record.pathname, record.lineno)
            site = self._sites.get(key)
            if site is None:
                if len(self._sites) >= MAX_CALL_SITES:
                    self._forget_oldest()
                site = self._sites[key] = _CallSite(now)
            if now - site.began >= self._interval_s and not site.left_out:
                site.began, site.passed = now, 0
            if site.passed < self._most:
                site.passed += 1
                return True
            site.left_out += 1
            site.first = site.first or record
        self.count_left_out("limited")
        return False

    def _forget_oldest(self) -> None:
        for key, site in self._sites.items():
            if not site.left_out:
                del self._sites[key]
                return

    def due_records(self, *, at_last: bool = False) -> list[logging.LogRecord]:
        """Return what is to be said of the intervals that are over."""
        now = self._clock()
        if now < self._look_at and not at_last:
            return []
        said = []
        with self._lock:
            self._look_at = now + self._interval_s
            for site in self._sites.values():
                is_over = now - site.began >= self._interval_s
                if site.first is not None and (is_over or at_last):
                    said.append(_summary(site.first, site.left_out, now - site.began))
                    site.began, site.passed = now, 0
                    site.left_out, site.first = 0, None
                elif not is_over:
                    self._look_at = min(self._look_at, site.began + self._interval_s)
        return said


def _summary(
    record: logging.LogRecord, count: int, seconds: float
) -> logging.LogRecord:
    """Return a record of the same call site that says how many are missing."""
    made = logging.LogRecord(
        record.name,
        record.levelno,
        record.pathname,
        record.lineno,
        "%d similar left out in %.1f s: %s",
        (count, seconds, str(record.msg)),
        None,
        record.funcName,
    )
    made.__dict__["femtomp.left_out"] = count
    return made


class Sampling(logging.Filter):
    """Keep a share of the records: whole traces, or all with the same value of a field.

    For femtomp's handler, in each worker or before the fork. Every process decides
    alike, so what belongs together is kept or left out together.

    Parameters
    ----------
    share : float
        Between 0 and 1.
    by : str
        "trace": by the active span's trace id, as OpenTelemetry's ratio sampler does.
        "record": each on its own. Else a field, from `extra` or `log_context`. Records
        without a trace, or without the field, are kept.
    below : int
        Records of this level and above are always kept.

    Raises
    ------
    ConfigError
        If `share` or `by` cannot be used.

    Examples
    --------
    >>> import logging, femtomp
    >>> handler = femtomp.worker_handler(missing="ignore")
    >>> handler.addFilter(femtomp.Sampling(0.1, by="user_id"))
    """

    def __init__(
        self, share: float, *, by: str = "trace", below: int = logging.WARNING
    ) -> None:
        super().__init__()
        if isinstance(share, bool) or not isinstance(share, (int, float)):
            share = -1
        if not 0 <= share <= 1:
            msg = "Sampling: share must be a number between 0 and 1"
            raise ConfigError(msg)
        if not isinstance(by, str) or not by:
            msg = f'Sampling: by must be "trace", "record" or a field, not {by!r}'
            raise ConfigError(msg)
        self.count_left_out: Callable[[str], None] = _nowhere
        self._share = share
        self._by = by
        self._below = below

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to keep a record; count it if not."""
        if record.levelno >= self._below:
            return True
        place = self._place(record)
        if place is None or place < self._share:
            return True
        self.count_left_out("sampled")
        return False

    def _place(self, record: logging.LogRecord) -> float | None:
        """Return where between 0 and 1 the record is; None for one without a place."""
        if self._by == "record":
            return random.random()  # noqa: S311 - no secret
        if self._by == "trace":
            span = context.current_trace()
            low = (1 << _RATIO_BITS) - 1
            return None if span is None else (span[0] & low) / (1 << _RATIO_BITS)
        value = record.__dict__.get(self._by, context.fields.get().get(self._by))
        if value is None:
            return None
        return crc32(str(value).encode("utf-8", "backslashreplace")) / (1 << _CRC_BITS)


def _reset_all() -> None:
    for limit in list(_limits):
        limit.forget()
