"""Options of the server, checked in the master, told to the supervisor.

In: keyword arguments of `start_server`. Out: one frozen `ServerConfig`, which travels
over the supervisor's stdin with the sinks of `config`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypedDict

from femtomp.checks import one_of
from femtomp.config import level_number
from femtomp.errors import ConfigError
from femtomp.limits import checked_levels
from femtomp.record import ALL_FRAMES, APPLICATION_FRAMES, MAX_DEPTH
from femtomp.redaction import Redaction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.config import SinkOptions

# A few segments must fit, or each record makes its own file.
_LEAST_BYTES: Final = {
    "spool_quota_bytes": 1024 * 1024,
    "lane_quota_bytes": 256 * 1024,
}
# The last one means "leave it as it is" to chown(2).
_MAX_ID: Final = (1 << 32) - 1


Overflow: TypeAlias = Literal["drop_old", "drop_new", "block"]
OVERFLOWS: Final = ("drop_old", "drop_new", "block")
SpanAfterFork: TypeAlias = Literal["drop", "link", "inherit"]
SPANS_AFTER_FORK: Final = ("drop", "link", "inherit")


class ServerOptions(TypedDict, total=False):
    """Keyword options of `start_server`, beside its named parameters."""

    linger_s: float
    grace_s: float
    worker_uid: int | None
    worker_gid: int | None
    spool_quota_bytes: int
    lane_quota_bytes: int
    overflow: Overflow
    block_s: float
    attribute_count_limit: int
    attribute_value_length_limit: int | None
    attribute_depth_limit: int
    body_length_limit: int | None
    stacktrace_length_limit: int | None
    exception_frames: str | tuple[str, ...]
    redact: Redaction | bool
    levels: Mapping[str, int | str]
    span_after_fork: SpanAfterFork


@dataclass(frozen=True)
class ServerConfig:
    """Everything the supervisor is told, over its stdin."""

    name: str
    sinks: tuple[SinkOptions, ...]
    resource: Mapping[str, object] = field(default_factory=dict)
    level: int = logging.INFO
    # How long the supervisor stays when no member is left and a sink still refuses.
    linger_s: float = 30.0
    # How long it still serves its members after a SIGTERM or SIGINT; they get one too.
    grace_s: float = 10.0
    # Whom workers become that root starts.
    worker_uid: int | None = None
    worker_gid: int | None = None
    # What all lanes may take, and one of them; 0: no limit.
    spool_quota_bytes: int = 0
    lane_quota_bytes: int = 0
    overflow: Overflow = "drop_old"
    # How long a log call waits for room where overflow is "block".
    block_s: float = 1.0
    # What is left out of records; False: nothing is looked at.
    redact: Redaction | bool = True
    # Of loggers, beside the root logger's.
    levels: Mapping[str, int | str] = field(default_factory=dict)
    # What becomes, in a forked child, of the span that was active in its parent.
    span_after_fork: SpanAfterFork = "drop"

    @property
    def redaction(self) -> Redaction | None:
        """The rules of redaction; None for none."""
        if isinstance(self.redact, Redaction):
            return self.redact
        return Redaction() if self.redact else None


OPTION_NAMES: Final = frozenset(f.name for f in fields(ServerConfig)) - {
    "name",
    "sinks",
    "resource",
    "level",
}
# Limits on records are for the workers: they stand in the spool's manifest.
LIMIT_NAMES: Final = frozenset(
    (
        "attribute_count_limit",
        "attribute_value_length_limit",
        "attribute_depth_limit",
        "body_length_limit",
        "stacktrace_length_limit",
        "exception_frames",
    )
)
_UNLIMITED: Final = (
    "attribute_value_length_limit",
    "body_length_limit",
    "stacktrace_length_limit",
)
# The SDK's variables, the special one first; see
# https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
_VARIABLES: Final = {
    "attribute_count_limit": (
        "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_ATTRIBUTE_COUNT_LIMIT",
    ),
    "attribute_value_length_limit": (
        "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    ),
}
# A record of so many attributes is a table.
_MAX_COUNT: Final = 10_000


def check_options(options: Mapping[str, object]) -> None:
    """Refuse an option that does not exist or cannot be used, by its name.

    Raises
    ------
    ConfigError
        Naming the option and what is allowed.
    """
    for key, value in options.items():
        if key in LIMIT_NAMES:
            _limit(key, value)
            continue
        if key not in OPTION_NAMES:
            allowed = ", ".join(sorted(OPTION_NAMES | LIMIT_NAMES))
            msg = f"unknown option {key!r}; the options are: {allowed}"
            raise ConfigError(msg)
        if key in ("worker_uid", "worker_gid"):
            _id(key, value)
            continue
        if key == "levels":
            checked_levels("levels", value, level_number)
            continue
        if key == "redact":
            if not isinstance(value, (bool, Redaction)):
                # Not its repr, which may hold what is to be hidden.
                msg = (
                    f"redact must be a Redaction or a bool, not {type(value).__name__}"
                )
                raise ConfigError(msg)
            continue
        if key == "overflow":
            one_of("start_server", key, value, OVERFLOWS)
            continue
        if key == "span_after_fork":
            one_of("start_server", key, value, SPANS_AFTER_FORK)
            continue
        _number(key, value)


def _number(option: str, value: object) -> None:
    is_bytes = option.endswith("_bytes")
    kinds = (int,) if is_bytes else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or value < 0:
        unit = "bytes" if is_bytes else "seconds"
        msg = f"{option} must be a number of {unit}, 0 or more, not {value!r}"
        raise ConfigError(msg)
    if value < _LEAST_BYTES.get(option, 0):
        msg = f"{option} must be {_LEAST_BYTES[option]} bytes at least, not {value!r}"
        raise ConfigError(msg)


def _id(option: str, value: object) -> None:
    if value is not None and (type(value) is not int or not 0 <= value < _MAX_ID):
        msg = f"{option} must be a number, as `id` shows it, not {value!r}"
        raise ConfigError(msg)


def _limit(option: str, value: object) -> None:
    if option == "exception_frames":
        _frames(option, value)
        return
    if value is None and option in _UNLIMITED:
        return
    least, most = 0, None
    if option == "attribute_depth_limit":
        least, most = 1, MAX_DEPTH
    elif option == "attribute_count_limit":
        most = _MAX_COUNT
    if type(value) is not int or value < least or (most is not None and value > most):
        bound = "or more" if most is None else f"to {most}"
        none = ", or None for no limit" if option in _UNLIMITED else ""
        msg = f"{option} must be a whole number, {least} {bound}{none}, not {value!r}"
        raise ConfigError(msg)


def _frames(option: str, value: object) -> None:
    if value in (ALL_FRAMES, APPLICATION_FRAMES):
        return
    if (
        not isinstance(value, (tuple, list))
        or not value
        or not all(isinstance(name, str) and name for name in value)
    ):
        msg = (
            f'{option} must be "{ALL_FRAMES}", "{APPLICATION_FRAMES}", or a tuple of '
            f"names of modules and absolute directories, not {value!r}"
        )
        raise ConfigError(msg)


def split_limits(
    options: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the limits of checked options, and the others.

    What is not given is taken from OpenTelemetry's variables.

    Raises
    ------
    ConfigError
        Naming the variable that holds no such number.
    """
    limits = {k: v for k, v in options.items() if k in LIMIT_NAMES}
    others = {k: v for k, v in options.items() if k not in LIMIT_NAMES}
    for option, variables in _VARIABLES.items():
        name = next((v for v in variables if environ.get(v, "").strip()), None)
        if option in limits or name is None:
            continue
        try:
            limits[option] = int(environ[name])
            _limit(option, limits[option])
        except (ConfigError, ValueError) as exc:
            msg = f"{name} must be a whole number, 0 or more, not {environ[name]!r}"
            raise ConfigError(msg) from exc
    return limits, others
