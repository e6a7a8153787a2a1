"""Names of journal fields: what an attribute's key becomes.

In: any key. Out: a name that journald stores, 1 to 64 of A-Z, 0-9 and _, a letter
first, or none if nothing is left of the key. An extra never gets the name of a field
that femtomp writes, that journald or journalctl gives a meaning, or that journald
trusts (those begin with _): it begins with F_ then.

https://www.freedesktop.org/software/systemd/man/systemd.journal-fields.html
"""

from __future__ import annotations

import re
from typing import Final

MAX_NAME_CHARS: Final = 64
EXTRA: Final = "EXTRA"
# The vocabulary of a program's keys is small; making a name takes 1.2 µs.
_MAX_KNOWN: Final = 4096

# Attributes that have a field of their own; the journal's names for code locations.
STANDARD: Final = {
    "code.file.path": "CODE_FILE",
    "code.line.number": "CODE_LINE",
    "code.function.name": "CODE_FUNC",
    "thread.name": "THREAD_NAME",
    "thread.id": "THREAD_ID",
    # Python's thread.id is no kernel id; whoever knows the kernel's calls it this.
    "thread.native_id": "TID",
    "exception.type": "EXCEPTION_TYPE",
    "exception.message": "EXCEPTION_MESSAGE",
    "exception.stacktrace": "EXCEPTION_STACKTRACE",
    # In exactly this form, as other handlers take it: a user's own catalogue entry.
    "MESSAGE_ID": "MESSAGE_ID",
}
_RESERVED: Final = frozenset(STANDARD.values()) | {
    "MESSAGE",
    "PRIORITY",
    "LEVEL",
    "SYSLOG_IDENTIFIER",
    "SYSLOG_PID",
    "SYSLOG_FACILITY",
    "SYSLOG_TIMESTAMP",
    "SYSLOG_RAW",
    "LOGGER",
    "WORKER_PID",
    "WORKER_NAME",
    "WORKER_ROLE",
    "EVENT_TIMESTAMP_USEC",
    "EVENT_NAME",
    "TRACE_ID",
    "SPAN_ID",
    "SERVICE_NAME",
    "LOG_RECORD_UID",
    "DROPPED_ATTRIBUTES_COUNT",
    "DROPPED_FIELDS",
    EXTRA,
    # From root, `journalctl -u` shows what these name with another unit's entries.
    "UNIT",
    "USER_UNIT",
    "INVOCATION_ID",
    "USER_INVOCATION_ID",
}
# From root, journald and journalctl take these for another process's.
_RESERVED_PREFIXES: Final = ("OBJECT_", "COREDUMP_")
_UNFIT: Final = re.compile(r"[^A-Z0-9_]")


class Names:
    """The names of one journal's extras, remembered.

    Parameters
    ----------
    prefix : str
        Before each but those of `STANDARD`.

    Examples
    --------
    >>> names = Names()
    >>> [names.of(key) for key in ("order.id", "_PID", "2fast", "message", "ключ")]
    ['ORDER_ID', 'PID', 'F_2FAST', 'F_MESSAGE', '']
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._known: dict[str, str] = {}

    def of(self, key: str) -> str:
        """Return the name for a key, "" if nothing is left of it."""
        name = self._known.get(key)
        if name is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            name = self._known[key] = self._made(key)
        return name

    def _made(self, key: str) -> str:
        standard = STANDARD.get(key)
        if standard is not None:
            return standard
        name = _UNFIT.sub("_", key.upper()).lstrip("_")
        if not name:
            return ""
        if not key.startswith("femtomp."):  # these have a prefix of their own
            name = f"{self._prefix}{name}"
        name = name[:MAX_NAME_CHARS]
        if (
            name[0].isdigit()
            or name in _RESERVED
            or name.startswith(_RESERVED_PREFIXES)
        ):
            name = f"F_{name}"[:MAX_NAME_CHARS]
        return name
