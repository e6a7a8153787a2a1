"""The queue: one append-only lane per process, in a spool directory.

Constraints, and who may do what:

- A lane has one writer for life: the process that made it. Nobody else appends.
- Only the engine writes cursors and unlinks; only the writer creates segments.
- There is no lock that a dead process can hold: liveness is a POSIX record lock on
  `E.own`, which the kernel releases at death, and which no reader ever waits for.
- A frame is wholly there or not there (length, CRC); what lies behind the last whole
  frame of a dead writer never returned to its caller.
- Readers use `pread` only, and believe no number they read.
- The order at the end of a lane: lock seen free, *then* sizes and directory read again,
  *then* drained for every sink, cursor written, segments and `.own` unlinked.
"""
