"""Every error that femtomp raises, in one small tree.

A message says what was attempted, what was found and what to do. Errors are raised in
the caller's process and early; a log call never raises any of them.
"""


class FemtompError(Exception):
    """Base of all errors raised by femtomp."""


class ConfigError(FemtompError, ValueError):
    """An option, a sink or an environment variable has a value that cannot be used."""


class MissingExtraError(FemtompError, ImportError):
    """A sink or command needs a package that is not installed; names the extra."""


class StartError(FemtompError, RuntimeError):
    """The supervisor did not become ready; quotes what it said."""


class AlreadyStartedError(FemtompError, RuntimeError):
    """The process already owns a running server."""


class NoServerError(FemtompError, RuntimeError):
    """No server to attach to was given, and none is in the environment."""


class SpoolError(FemtompError, OSError):
    """A spool directory or one of its files cannot be used, and why."""


class CodecError(FemtompError, ValueError):
    """Bytes that are not what their format says; the reader counts and steps over."""
