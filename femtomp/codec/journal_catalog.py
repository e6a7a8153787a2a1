"""femtomp's own events as the journal knows them: an id each, and what it means.

In: nothing. Out: `MESSAGE_IDS` by event name, and the text of a catalogue file, which
`journalctl -x` shows beside such an entry. An id is for ever: of a changed meaning a
new one is made.

https://systemd.io/CATALOG/
"""

from __future__ import annotations

from typing import Final

MESSAGE_IDS: Final = {
    "femtomp.worker.started": "3c9d0f1c5e0b4a7e9a4e4d0b8f6f2a11",
}
