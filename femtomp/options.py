"""Options of the server, checked in the master, told to the supervisor.

In: keyword arguments of `start_server`. Out: one frozen `ServerConfig`, which travels
over the supervisor's stdin with the sinks of `config`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypedDict

from femtomp.config import level_number, one_of
from femtomp.errors import ConfigError
from femtomp.limits import checked_levels
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
    redact: Redaction | bool
    levels: Mapping[str, int | str]


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


def check_options(options: Mapping[str, object]) -> None:
    """Refuse an option that does not exist or cannot be used, by its name.

    Raises
    ------
    ConfigError
        Naming the option and what is allowed.
    """
    for key, value in options.items():
        if key not in OPTION_NAMES:
            allowed = ", ".join(sorted(OPTION_NAMES))
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
