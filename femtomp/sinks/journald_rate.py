"""journald's rate limit, as it is for the unit that this process belongs to.

journald stores at most LogRateLimitBurst messages of a unit in LogRateLimitIntervalSec,
of each group of priorities, and drops the others: all workers of a pool share this, and
so does whatever else the unit logs. In: what systemd tells journald of the unit, else
journald's configuration. Out: a count of what was sent, a warning when it is above the
limit, and whether to wait. What is above may still be stored: journald allows up to six
times the burst where the disk has room. Outside of a unit there is no limit.

https://www.freedesktop.org/software/systemd/man/journald.conf.html (RateLimitBurst=)
"""

from __future__ import annotations

import logging
import os
import re
import time
from typing import TYPE_CHECKING, Final

from femtomp.codec.journald import priority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INTERVAL_S: Final = 30.0
BURST: Final = 10_000
# How long a record that is above the limit waits before it is looked at again.
PACE_DELAY_S: Final = 0.2
# journald's window begins when it reads the first message of it, later than this one.
_MARGIN_S: Final = 0.5

_log: Final = logging.getLogger(__name__)
# Emergency, alert and critical share a budget; notices and infos do.
_GROUPS: Final = (0, 0, 0, 1, 2, 3, 3, 4)
_CONFIGURATIONS: Final = ("etc", "run", "usr/local/lib", "usr/lib")
_SECONDS: Final = {
    "us": 1e-6, "ms": 1e-3, "": 1.0, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0,
    "h": 3600.0, "hr": 3600.0, "d": 86400.0,
}  # fmt: skip
# journald says what it dropped with the unit's first message after the window.
_TOLD_WITHIN: Final = 10
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


class Budget:
    """What a unit may still log, by groups of priorities.

    Parameters
    ----------
    unit : str
    interval_s : float
    burst : int
    clock : callable
        Seconds, monotonic.
    """

    def __init__(
        self,
        unit: str,
        interval_s: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.unit: Final = unit
        self.interval_s: Final = interval_s
        self.burst: Final = burst
        self._clock = clock
        groups = max(_GROUPS) + 1
        self._began = [-interval_s] * groups
        self._spent = [0] * groups
        self._exceeded_at: float | None = None

    @property
    def was_exceeded(self) -> bool:
        """Whether more was sent than the limit allows, some windows ago at most.

        So long journald may still tell what it dropped.
        """
        at = self._exceeded_at
        return at is not None and self._clock() - at < _TOLD_WITHIN * self.interval_s

    def is_spent(self, severity_number: int) -> bool:
        """Tell whether one more of this severity may be dropped now."""
        group = _GROUPS[int(priority(severity_number))]
        if self._spent[group] < self.burst:
            return False
        return self._clock() - self._began[group] < self.interval_s + _MARGIN_S

    def spend(self, severity_number: int) -> None:
        """Count one that was sent; warn of the first that is above the limit."""
        group = _GROUPS[int(priority(severity_number))]
        now = self._clock()
        if now - self._began[group] >= self.interval_s:
            self._began[group] = now
            self._spent[group] = 0
        elif self._spent[group] >= self.burst:
            if self._exceeded_at is None:
                self._warn()
            self._exceeded_at = now
        self._spent[group] += 1

    def _warn(self) -> None:
        _log.warning(
            "journald may drop records: %s has logged more than %d messages in %g s, "
            "its LogRateLimitBurst. In the unit's [Service] section: "
            'LogRateLimitIntervalSec=0. Or JournaldSink(rate_limit="pace") keeps '
            "them and sends no faster",
            self.unit, self.burst, self.interval_s,
        )  # fmt: skip


def budget_of_unit(namespace: str | None, root: str = "/") -> Budget | None:
    """Return what this process's unit may log; None if that is not limited.

    Parameters
    ----------
    namespace : str, optional
        The journal namespace, whose configuration is another.
    root : str
        The directory that /proc, /run and /etc are in.
    """
    unit = _unit(_read(f"{root}/proc/self/cgroup"))
    if unit is None:
        return None
    told = f"{root}/run/systemd/units/log-rate-limit"
    interval = _link(f"{told}-interval:{unit}")
    burst = _link(f"{told}-burst:{unit}")
    configured = dict(_configuration(namespace, root))
    interval_s = (
        _span(configured.get("RateLimitIntervalSec", ""), INTERVAL_S)
        if interval is None
        else interval / 1e6
    )
    if burst is None:
        text = configured.get("RateLimitBurst", "")
        burst = int(text) if text.isdecimal() else BURST
    return Budget(unit, interval_s, burst) if interval_s > 0 and burst > 0 else None


def _unit(cgroups: str) -> str | None:
    """Return the unit of a process by its /proc/PID/cgroup, as journald finds it.

    Examples
    --------
    >>> _unit("0::/system.slice/system-shop.slice/shop@1.service/worker")
    'shop@1.service'
    >>> _unit("0::/docker/1f2e")
    """
    for line in cgroups.splitlines():
        hierarchy, _, path = line.partition("::" if line.startswith("0:") else ":")
        if hierarchy != "0" and not path.startswith("name=systemd:"):
            continue
        for part in path.removeprefix("name=systemd:").split("/"):
            if part.endswith((".service", ".scope")):
                return part
            if part and not part.endswith(".slice"):
                break
    return None


def _configuration(namespace: str | None, root: str) -> Iterator[tuple[str, str]]:
    """Read journald's settings, the last one of a name being the one that counts."""
    name = "journald.conf" if namespace is None else f"journald@{namespace}.conf"
    yield from _settings(_read(f"{root}/etc/systemd/{name}"))
    files: dict[str, str] = {}
    for place in reversed(_CONFIGURATIONS):
        directory = f"{root}/{place}/systemd/{name}.d"
        try:
            found = os.listdir(directory)
        except OSError:
            continue
        files |= {file: f"{directory}/{file}" for file in found}
    for file in sorted(files):
        if file.endswith(".conf"):
            yield from _settings(_read(files[file]))


def _settings(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith(("#", ";")):
            yield key.strip(), value.strip()


def _span(text: str, otherwise: float) -> float:
    """Return a time span of systemd's in seconds.

    Examples
    --------
    >>> [_span(text, 30.0) for text in ("0", "1min 30s", "500ms", "", "?")]
    [0.0, 90.0, 0.5, 30.0, 30.0]
    """
    parts = _SPAN.findall(text)
    if not parts or any(unit not in _SECONDS for _, unit in parts):
        return otherwise
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _link(path: str) -> int | None:
    try:
        return int(os.readlink(path))
    except (OSError, ValueError):
        return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
