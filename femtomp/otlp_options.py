"""Options of an OTLPSink that need a closer look: headers, time, TLS files and so on.

What must never happen: an error that shows the value of a header, or what stands before
the host of a URL.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from femtomp.checks import shown
from femtomp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.config import OTLPSink

COMPRESSIONS: Final = ("none", "gzip", "deflate")
# An hour: a request that takes longer holds up all others behind it.
MAX_TIMEOUT_S: Final = 3600.0
# As long as `Server.flush` waits, by default.
MAX_FLUSH_INTERVAL_S: Final = 5.0
# A token of RFC 9110, and what HTTP/2 and gRPC allow: names are lower case there.
_NAMES: Final = {
    "http/protobuf": re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"),
    "grpc": re.compile(r"[0-9A-Za-z_.\-]+"),
}
# Visible characters and blanks; HTTP takes Latin-1, gRPC ASCII alone.
_VALUES: Final = {
    "http/protobuf": re.compile(r"[\t\x20-\x7e\xa0-\xff]*"),
    "grpc": re.compile(r"[\x20-\x7e]*"),
}
_ALLOWED: Final = {
    "http/protobuf": "Latin-1 characters without control characters",
    "grpc": "visible ASCII characters and blanks",
}
# What the transport itself must say: another value breaks each request.
_OF_TRANSPORT: Final = frozenset({"content-length", "transfer-encoding", "connection"})
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
    if not isinstance(sink.metrics, bool):
        msg = f"OTLPSink: metrics must be True or False, not {sink.metrics!r}"
        raise ConfigError(msg)
    if sink.headers is not None:
        protocol = sink.protocol or "http/protobuf"
        check_headers("OTLPSink: header", sink.headers, protocol)
    for name in _FILES:
        _check_file(sink, name)
    if (sink.client_key_file is None) != (sink.client_certificate_file is None):
        msg = "OTLPSink: client_key_file and client_certificate_file go together"
        raise ConfigError(msg)


def check_headers(owner: str, headers: Mapping[str, str], protocol: str) -> None:
    r"""Check that a protocol can carry them.

    Parameters
    ----------
    owner : str
        Where they are from, for the error: "OTLPSink: header".
    headers : mapping of str to str
    protocol : {"http/protobuf", "grpc"}

    Raises
    ------
    ConfigError
        Naming the header and what is wrong with it; its value is not shown.

    Examples
    --------
    >>> check_headers("OTLPSink: header", {"authorization": "Bearer t\n"}, "grpc")
    Traceback (most recent call last):
    femtomp.errors.ConfigError: OTLPSink: header 'authorization': its value ends with
    a line break (strip what was read from a file)
    """
    for name, value in headers.items():
        if not isinstance(name, str) or not _NAMES[protocol].fullmatch(name):
            msg = f"{owner} {name!r}: {protocol} cannot carry a header of this name"
            raise ConfigError(msg)
        if name.lower() in _OF_TRANSPORT:
            msg = f"{owner} {name!r}: the transport sets it; leave it out"
            raise ConfigError(msg)
        if not isinstance(value, str):
            msg = (
                f"{owner} {name!r}: its value must be text, not {type(value).__name__}"
            )
            raise ConfigError(msg)
        if not _VALUES[protocol].fullmatch(value):
            msg = f"{owner} {name!r}: {_problem(value, protocol)}"
            raise ConfigError(msg)


def _problem(value: str, protocol: str) -> str:
    """Say what is wrong with a value, without showing it."""
    if value.endswith(("\n", "\r")):
        return "its value ends with a line break (strip what was read from a file)"
    allowed = _VALUES[protocol]
    at = next(i for i, c in enumerate(value) if not allowed.fullmatch(c))
    return (
        f"character {at + 1} of its value cannot be sent by {protocol}, which takes "
        f"{_ALLOWED[protocol]}"
    )


def check_url(url: str) -> None:
    """Check an endpoint that is posted to.

    Raises
    ------
    ConfigError
        If it is no URL of HTTP.
    """
    if not url.startswith(("http://", "https://")):
        msg = (
            "OTLPSink: endpoint must begin with http:// or https://, not "
            f"{shown(url)!r}"
        )
        raise ConfigError(msg)
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
        # As the resolver will: an empty or an overlong label is no name.
        (parts.hostname or "").encode("idna")
    except ValueError:
        is_whole = False
    if not is_whole or any(c.isspace() or not c.isprintable() for c in url):
        msg = f"OTLPSink: endpoint {shown(url)!r} cannot be used: it is no whole URL"
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
