"""What runs inside the pool's processes: from a log call to bytes in the lane.

::

    LogRecord -> capture -> codec.wire -> lane

No thread, no socket, no queue; nothing of OpenTelemetry unless the application loaded
it.
"""
