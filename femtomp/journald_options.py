"""What a `JournaldSink` is checked for, in the master, before anything is opened.

In: its options. Out: nothing, or a `ConfigError` that names the option, what was given
and what is allowed.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from femtomp.errors import ConfigError

if TYPE_CHECKING:
    from femtomp.config import JournaldSink

JOURNALD_SOCKET: Final = "/run/systemd/journal/socket"
# sun_path, unix(7), less its final NUL.
MAX_PATH_BYTES: Final = 107
MAX_PREFIX_CHARS: Final = 32
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_.:@-]{1,64}")
_PREFIX: Final = re.compile(r"[A-Z][A-Z0-9_]*")
_CHOICES: Final = {
    "nested": ("json", "fields"),
    "traceback": ("message", "fields"),
    "missing": ("refuse", "wait", "stderr"),
    "sender": ("worker", "supervisor"),
    "rate_limit": ("warn", "pace"),
}


def socket_of(namespace: str) -> str:
    """Return the socket of a journal namespace.

    Examples
    --------
    >>> socket_of("shop")
    '/run/systemd/journal.shop/socket'
    """
    return f"/run/systemd/journal.{namespace}/socket"


def check_journald_options(sink: JournaldSink) -> None:
    """Refuse what a `JournaldSink` cannot be, by the option's name.

    Raises
    ------
    ConfigError
    """
    for option, allowed in _CHOICES.items():
        value = getattr(sink, option)
        if value not in allowed:
            _refuse(option, f"be one of {', '.join(allowed)}", value)
    _check_namespace(sink)
    if not isinstance(sink.path, str) or not sink.path:
        _refuse("path", "be a non-empty string", sink.path)
    if "\0" in sink.path or len(os.fsencode(sink.path)) > MAX_PATH_BYTES:
        _refuse("path", f"have at most {MAX_PATH_BYTES} bytes, no NUL", sink.path)
    if sink.identifier is not None and (
        not isinstance(sink.identifier, str) or not sink.identifier
    ):
        _refuse("identifier", "be a non-empty string", sink.identifier)
    if sink.prefix != "" and not (
        isinstance(sink.prefix, str)
        and len(sink.prefix) <= MAX_PREFIX_CHARS
        and _PREFIX.fullmatch(sink.prefix)
    ):
        allowed_prefix = f"be at most {MAX_PREFIX_CHARS} of A-Z, 0-9 and _, a letter "
        _refuse("prefix", f"{allowed_prefix}first, as in 'SHOP_'", sink.prefix)


def _check_namespace(sink: JournaldSink) -> None:
    if sink.namespace is None:
        return
    if (
        not isinstance(sink.namespace, str)
        or not _NAMESPACE.fullmatch(sink.namespace)
        or sink.namespace.startswith(".")
    ):
        what = "be the name of a journal namespace, as in LogNamespace=shop"
        _refuse("namespace", what, sink.namespace)
    if sink.path not in (JOURNALD_SOCKET, socket_of(sink.namespace)):
        msg = "JournaldSink: give path or namespace, not both: each names the socket"
        raise ConfigError(msg)


def _refuse(option: str, rule: str, value: object) -> None:
    msg = f"JournaldSink: {option} must {rule}, not {value!r}"
    raise ConfigError(msg)
