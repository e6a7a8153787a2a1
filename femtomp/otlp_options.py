"""Options of an OTLPSink that need a closer look: compression, time and TLS files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

from femtomp.errors import ConfigError

if TYPE_CHECKING:
    from femtomp.config import OTLPSink

COMPRESSIONS: Final = ("none", "gzip", "deflate")
# An hour: a request that takes longer holds up all others behind it.
MAX_TIMEOUT_S: Final = 3600.0
# As long as `Server.flush` waits, by default.
MAX_FLUSH_INTERVAL_S: Final = 5.0
_FILES: Final = ("certificate_file", "client_key_file", "client_certificate_file")


def check_otlp_options(sink: OTLPSink) -> None:
    """Check them; make the paths absolute.

    Raises
    ------
    ConfigError
        Naming the option, what was found, and what is allowed.
    """
    if sink.compression is not None and sink.compression not in COMPRESSIONS:
        allowed = ", ".join(COMPRESSIONS)
        msg = (
            f"OTLPSink: compression must be one of {allowed}, not {sink.compression!r}"
        )
        raise ConfigError(msg)
    if sink.timeout_s is not None and not _is_time(sink.timeout_s, MAX_TIMEOUT_S):
        msg = (
            "OTLPSink: timeout_s must be seconds, more than 0 and at most "
            f"{MAX_TIMEOUT_S:g}, not {sink.timeout_s!r}"
        )
        raise ConfigError(msg)
    if sink.flush_interval_s != 0 and not _is_time(
        sink.flush_interval_s, MAX_FLUSH_INTERVAL_S
    ):
        msg = (
            "OTLPSink: flush_interval_s must be seconds, 0 to "
            f"{MAX_FLUSH_INTERVAL_S:g}, not {sink.flush_interval_s!r}"
        )
        raise ConfigError(msg)
    for name in _FILES:
        _check_file(sink, name)
    if (sink.client_key_file is None) != (sink.client_certificate_file is None):
        msg = "OTLPSink: client_key_file and client_certificate_file go together"
        raise ConfigError(msg)


def _is_time(value: object, most: float) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and 0 < value <= most  # type: ignore[operator, arg-type]


def _check_file(sink: OTLPSink, name: str) -> None:
    given = getattr(sink, name)
    if given is None:
        return
    try:
        path = Path(given).expanduser().absolute()
        with path.open("rb"):
            pass
    except (TypeError, ValueError) as exc:
        msg = f"OTLPSink: {name} must be a path, not {given!r}"
        raise ConfigError(msg) from exc
    except OSError as exc:
        msg = f"OTLPSink: {name}: {path} cannot be read: {exc.strerror}"
        raise ConfigError(msg) from exc
    object.__setattr__(sink, name, path)  # frozen to everyone else
