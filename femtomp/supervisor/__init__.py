"""The process that owns every sink: a small guardian and its engine.

::

    master ── stdin: configuration ──> guardian (exec'd, double-forked, a session of its
       ▲                                  │      own): restarts a dead engine
       └──── one pipe: "ready" or why not ┤
    members: a pipe end that master       └─fork─> engine: one poller (main thread),
    and forks inherit ── end of file ───────────>          one pump thread a sink

The guardian does nothing but wait and is never multi-threaded, so the engine may be
forked from it: a restart costs no new interpreter. State is read from the spool's
control page and a pidfd, never from waitpid: pools reap children that are not theirs.
"""
