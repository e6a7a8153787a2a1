"""Every error that femtomp raises, in one small tree.

A message says what was attempted, what was found and what to do. Errors are raised in
the caller's process and early; a log call never raises any of them.
"""

from __future__ import annotations

import errno
import os

_ADVICE = {
    errno.EMFILE: "raise the limit of open files (ulimit -n, LimitNOFILE=), or close "
    "some; about twenty are needed",
    errno.ENFILE: "the machine has no more open files to give (sysctl fs.file-max)",
    errno.EAGAIN: "raise the limit of processes (ulimit -u, TasksMax=, pids.max)",
    errno.ENOMEM: "there is no memory for another process",
}


class FemtompError(Exception):
    """Base of all errors raised by femtomp."""


class ConfigError(FemtompError, ValueError):
    """An option, a sink or an environment variable has a value that cannot be used."""


class MissingExtraError(FemtompError, ImportError):
    """A sink or command needs a package that is not installed; names the extra."""


class StartError(FemtompError, RuntimeError):
    """The supervisor did not become ready; quotes what it said."""

    @classmethod
    def because_of(cls, exc: OSError | ImportError) -> StartError:
        """Return one for what kept a process from starting a supervisor."""
        problem = str(exc)
        number = getattr(exc, "errno", None)
        if os.strerror(errno.EMFILE) in problem:
            number = errno.EMFILE  # an import's, too
        if number in _ADVICE:
            problem += f": {_ADVICE[number]}"
        return cls(f"cannot start the supervisor: {problem}")


class AlreadyStartedError(FemtompError, RuntimeError):
    """The process already owns a running server."""


class NoServerError(FemtompError, RuntimeError):
    """No server to attach to was given, and none is in the environment."""


class SpoolError(FemtompError, OSError):
    """A spool directory or one of its files cannot be used, and why."""


class CodecError(FemtompError, ValueError):
    """Bytes that are not what their format says; the reader counts and steps over."""


def is_thrown_in(exc: BaseException) -> bool:
    """Tell whether it is no call's failure, but a signal handler's `TimeoutError`."""
    return isinstance(exc, OSError) and exc.errno is None
