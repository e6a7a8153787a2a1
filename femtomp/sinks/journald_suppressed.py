"""What journald itself says that it has dropped of a unit, where that can be read.

journald writes how many it has suppressed once the unit logs after the interval. In: a
unit that sends more than its limit. Out: a warning with the number, each time there are
new ones. Owner of one `journalctl` at a time, which nobody waits for: it is started in
one batch and its answer read in a later one.
"""

from __future__ import annotations

import json
import logging
import subprocess
import time
from typing import Final

# SD_MESSAGE_JOURNAL_DROPPED of sd-messages.h.
DROPPED_ID: Final = "a596d6fe7bfa4994828e72309e95d61e"
# journalctl may read many files: not more often than so.
INTERVAL_S: Final = 10.0
# What may be written late is asked for twice.
OVERLAP_S: Final = 60.0
JOURNALCTL: Final = ("journalctl", "-q", "-o", "json")
# Its answer is less than a pipe holds, or it would never end.
BRIEF: Final = ("--output-fields=N_DROPPED", "--lines=100")

_log: Final = logging.getLogger(__name__)


class Suppressed:
    """The suppressions of one unit.

    Parameters
    ----------
    unit : str
    namespace : str, optional
        Of the journal.
    command : sequence of str
        What reads the journal, but for what is looked for.
    """

    def __init__(
        self,
        unit: str,
        namespace: str | None = None,
        command: tuple[str, ...] = JOURNALCTL,
    ) -> None:
        self._unit = unit
        beside = () if namespace is None else (f"--namespace={namespace}",)
        self._command = [
            *command, *BRIEF, *beside, f"MESSAGE_ID={DROPPED_ID}",
            f"OBJECT_SYSTEMD_UNIT={unit}",
        ]  # fmt: skip
        self._asked_at = time.time()
        self._since = f"@{int(self._asked_at)}"
        self._seen: set[str] = set()
        self._ask_at = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None

    def look(self) -> None:
        """Read an answer that is there, or ask if it is time to; never blocks."""
        if self._process is not None:
            if self._process.poll() is not None:
                self._read(self._process)
                self._process = None
            return
        if time.monotonic() < self._ask_at:
            return
        self._ask_at = time.monotonic() + INTERVAL_S
        self._asked_at = time.time()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - of fixed words and a unit
                [*self._command, f"--since={self._since}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            self._ask_at = float("inf")  # no journalctl here

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        output = process.communicate()[0]
        dropped = 0
        seen = set()
        for line in output.splitlines():
            try:
                entry = json.loads(line)
                number, cursor = int(entry["N_DROPPED"]), str(entry["__CURSOR"])
            except (ValueError, KeyError, TypeError):
                continue
            seen.add(cursor)
            if cursor not in self._seen:
                dropped += number
        self._seen = seen
        self._since = f"@{int(self._asked_at - OVERLAP_S)}"
        if dropped:
            _log.warning(
                "journald has dropped %d messages of %s, above its rate limit: "
                'LogRateLimitIntervalSec=0 in the unit, or rate_limit="pace"',
                dropped, self._unit,
            )  # fmt: skip

    def close(self) -> None:
        """End what was asked for."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
