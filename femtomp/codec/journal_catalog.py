"""femtomp's own events as the journal knows them: an id each, and what it means.

In: nothing. Out: `MESSAGE_IDS` by event name, and the text of a catalogue file, which
`journalctl -x` shows beside such an entry. An id is for ever: of a changed meaning a
new one is made.

https://systemd.io/CATALOG/
"""

from __future__ import annotations

from typing import Final, NamedTuple


class _Entry(NamedTuple):
    message_id: str
    subject: str
    text: str


# Lines of at most 78 characters: journalctl shows them behind a mark of two.
_ENTRIES: Final = {
    "femtomp.worker.started": _Entry(
        "5759fd7c68484e1385a353e4767f94d3",
        "Worker @WORKER_NAME@ has logged its first record",
        """\
The process @WORKER_PID@ of the service @SERVICE_NAME@ logs through femtomp from
now on. All that it logged is found by

    journalctl WORKER_PID=@WORKER_PID@""",
    ),
    "femtomp.worker.died": _Entry(
        "b5c206b54f854654931c812d648d670a",
        "Worker @FEMTOMP_WORKER_NAME@ was killed by @FEMTOMP_WORKER_ENDED_BY@",
        """\
The process @FEMTOMP_WORKER_PID@ did not end by itself. What it had logged before
is not lost; its last words are found by

    journalctl WORKER_PID=@FEMTOMP_WORKER_PID@

SIGKILL often means that the kernel or the pool ended it for its use of memory or
for a request that took too long; SIGSEGV and SIGABRT mean a fault in an
extension module, of which `coredumpctl` may know more.""",
    ),
    "femtomp.records.lost": _Entry(
        "172a56af3e2149a4b4438dc404c493bf",
        "Records were lost",
        """\
The entry's own fields, FEMTOMP_LOST_*, say how many records since the last such
entry, and why:

  EVICTED       this destination was down, and no room was left to keep them
  REFUSED       the destination will never take them
  CORRUPT       they were damaged in the spool
  QUARANTINED   they crashed the supervisor, and were set aside
  DROPPED_*     the worker could not keep them: no room (QUOTA), too large (SIZE)
  OVER_RATE     they were above the rate that the sink's options allow

Where room was short: raise spool_quota_bytes, or let the spool lie on a disk
(spool_parent).""",
    ),
    "femtomp.engine.restarted": _Entry(
        "0ea1016393774c548c63a6403af519b9",
        "The logging supervisor was started again",
        """\
The process that delivers the records ended by @FEMTOMP_ENGINE_ENDED_BY@ and was
started again. No record that had been logged was lost; some may have come twice,
with the same LOG_RECORD_UID.""",
    ),
    "femtomp.sink.down": _Entry(
        "89f967212c794bdeaf14a25a6349a529",
        "The log destination @FEMTOMP_SINK@ is down",
        """\
The destination @FEMTOMP_SINK@ takes no records:

    @FEMTOMP_SINK_REASON@

They are kept, and delivered once it is back, as long as there is room in the
spool. Other destinations are not affected.""",
    ),
    "femtomp.sink.recovered": _Entry(
        "b2fa626609d540bfac3c40a0b8e1c563",
        "The log destination @FEMTOMP_SINK@ has recovered",
        """\
The destination @FEMTOMP_SINK@ takes records again, after @FEMTOMP_SINK_DOWN_S@
seconds. What waited for it is being delivered now, in its order.""",
    ),
    "femtomp.sink.ended": _Entry(
        "6b4f589112944279ac3e986cead88149",
        "The log destination @FEMTOMP_SINK@ has gone for good",
        """\
The destination @FEMTOMP_SINK@ takes no records any more, and cannot come back:

    @FEMTOMP_SINK_REASON@

What comes for it is counted as refused. Other destinations are not affected; the
next start of the program has a new one.""",
    ),
}

MESSAGE_IDS: Final = {name: entry.message_id for name, entry in _ENTRIES.items()}


def catalog_text() -> str:
    """Return the catalogue file.

    Examples
    --------
    >>> catalog_text().splitlines()[2:5]
    ['-- 5759fd7c68484e1385a353e4767f94d3',
     'Subject: Worker @WORKER_NAME@ has logged its first record',
     'Defined-By: femtomp']
    """
    parts = ["# Of femtomp: journalctl -x shows these beside its own events.\n"]
    for message_id, subject, text in _ENTRIES.values():
        parts.append(
            f"-- {message_id}\nSubject: {subject}\nDefined-By: femtomp\n\n{text}\n"
        )
    return "\n".join(parts)
