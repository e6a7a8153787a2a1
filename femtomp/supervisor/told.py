"""What a server is told: arguments over environment over file, checked in the master.

In: what `start_server` or `Server.reconfigure` was given, and the environment. Out: a
`ServerConfig` for the supervisor with what its master has to remember, or an error
before anything was done.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote

from femtomp.config import OTLPSink, SinkOptions, level_number
from femtomp.errors import ConfigError
from femtomp.grammar import resolve_sinks
from femtomp.lanes import place
from femtomp.lanes.space import default_quota
from femtomp.limits import checked_levels
from femtomp.options import ServerConfig, check_options, split_limits
from femtomp.settings import Settings, level_at, load

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

_WORKERS: Final = ("worker_uid", "worker_gid")


class Stated(NamedTuple):
    """What was said, by whomever wins; None and empty where nobody said anything."""

    sinks: object
    level: int | str | None
    spool_parent: str | os.PathLike[str] | None
    name: str | None
    resource: Mapping[str, object]
    options: Mapping[str, Any]


class Told(NamedTuple):
    """What a server is told, and what its master remembers of how it came about."""

    config: ServerConfig
    arguments: Stated
    """What the call of `start_server` itself said, which a later file cannot change."""
    options: Mapping[str, Any]
    """Those that anybody said; the others are defaults."""
    parent: Path
    workers: tuple[int, int] | None
    guessed_from: str | None
    limits: Mapping[str, Any]
    """Of records: for the workers, as the next."""

    @property
    def levels(self) -> dict[str, int]:
        """Levels of loggers, by name."""
        return checked_levels("levels", self.config.levels, level_number)


def stated(arguments: Stated, config: object, environ: Mapping[str, str]) -> Stated:
    """Put arguments, environment and file together.

    Raises
    ------
    ConfigError
        For what the file or the options must not say.
    """
    said = load(config, environ)
    sinks, level = _over(arguments.sinks, arguments.level, said, environ)
    options = {**said.options, **arguments.options}
    check_options(options)
    return Stated(
        sinks,
        level,
        arguments.spool_parent or _parent(said, environ),
        arguments.name or said.name,
        _stated_resource(said.resource, arguments.resource),
        options,
    )


def told(arguments: Stated, everything: Stated, environ: Mapping[str, str]) -> Told:
    """Check what a new server is to do, and fill in the rest.

    Raises
    ------
    FemtompError
        For a sink or an option that cannot be used, or no place for the spool.
    """
    sinks = resolve_sinks(everything.sinks, environ)
    _require_extras(sinks)
    name = everything.name
    attributes = _resource(everything.resource, name)
    options = dict(everything.options)
    workers = _workers(options.get("worker_uid"), options.get("worker_gid"))
    parent = place.choose_parent(everything.spool_parent, environ, workers)
    quota = default_quota(parent, in_memory=place.is_in_memory(parent))
    level = everything.level
    if level is None:
        level = level_at("FEMTOMP_LEVEL", environ.get("FEMTOMP_LEVEL", "INFO"))
    limits, others = split_limits(options, environ)
    config = ServerConfig(
        name=str(name or attributes["service.name"]),
        sinks=sinks,
        resource=attributes,
        level=level_number(level),
        **_with_quotas(others, quota),
    )
    guessed = _guessed_from(name, everything.resource)
    return Told(config, arguments, options, parent, workers, guessed, limits)


def told_anew(
    before: Told, arguments: Stated, config: object, environ: Mapping[str, str]
) -> Told:
    """Check what a running server is to do from now on; what is not said stays.

    Raises
    ------
    ConfigError
        As for a new server, and for what cannot change while it runs.
    """
    said = Settings() if config is None else load(config, environ)
    sinks, level = _over(arguments.sinks, arguments.level, said, environ)
    given = {**said.options, **arguments.options}
    check_options(given)
    old = before.config
    resolved = old.sinks if sinks is None else resolve_sinks(sinks, environ)
    _require_extras(resolved)
    resource = old.resource
    name = before.arguments.name or said.name
    if said.resource:
        first = before.arguments.resource
        resource = _resource(_stated_resource(said.resource, first), old.name)
        name = name or str(resource["service.name"])
    _refuse_change("name", old.name, name)
    if not before.arguments.spool_parent and (parent := _parent(said, environ)):
        _refuse_change("spool_parent", before.parent, Path(parent).absolute())
    options = {**before.options, **given}
    if any(key in given for key in _WORKERS):
        workers = _workers(options.get("worker_uid"), options.get("worker_gid"))
        _refuse_change("worker_uid, worker_gid", before.workers, workers or "none")
    if "span_after_fork" in given:
        wanted = given["span_after_fork"]
        _refuse_change("span_after_fork", old.span_after_fork, wanted)
    limits, others = split_limits(options, environ)
    after = ServerConfig(
        name=old.name,
        sinks=resolved,
        resource=resource,
        level=old.level if level is None else level_number(level),
        **_with_quotas(others, old.spool_quota_bytes),
    )
    return before._replace(config=after, options=options, limits=limits)


def _refuse_change(what: str, old: object, new: object) -> None:
    if new is not None and new != old and (old is not None or new != "none"):
        msg = (
            f"{what} cannot change while the server runs: it is {old!s}, not {new!s}; "
            "stop() it and start another one"
        )
        raise ConfigError(msg)


def _with_quotas(options: Mapping[str, Any], quota: int) -> dict[str, Any]:
    """Return the options with both quotas; `quota` is the spool's if nobody said it."""
    quota = options.get("spool_quota_bytes", quota)
    # Half of it: one worker alone behind a dead sink leaves room for the others.
    lane_quota = min(quota, options.get("lane_quota_bytes", quota // 2))
    return {**options, "spool_quota_bytes": quota, "lane_quota_bytes": lane_quota}


def _over(
    sinks: object, level: int | str | None, said: Settings, environ: Mapping[str, str]
) -> tuple[object, int | str | None]:
    """Return sinks and level: arguments over the environment over the file."""
    if sinks is None and not environ.get("FEMTOMP_SINKS", "").strip(" ,"):
        sinks = said.sinks
    if level is None and "FEMTOMP_LEVEL" not in environ:
        level = said.level
    return sinks, level


def _parent(said: Settings, environ: Mapping[str, str]) -> str | None:
    return None if environ.get("FEMTOMP_SPOOL_PARENT") else said.spool_parent


def _workers(uid: int | None, gid: int | None) -> tuple[int, int] | None:
    """Return uid and gid of workers that are another user than this process, or None.

    Raises
    ------
    ConfigError
        If this process cannot make files for them, or their group is not known.
    """
    if uid is None and gid is not None:
        msg = "worker_gid needs worker_uid: say both"
        raise ConfigError(msg)
    if uid is None or uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        msg = f"worker_uid={uid}: only root can give its spool to another user"
        raise ConfigError(msg)
    if gid is None:
        import pwd

        try:
            gid = pwd.getpwuid(uid).pw_gid
        except KeyError as exc:
            msg = f"worker_uid={uid} has no entry in passwd: give worker_gid too"
            raise ConfigError(msg) from exc
    return uid, gid


def _require_extras(sinks: tuple[SinkOptions, ...]) -> None:
    for sink in sinks:
        if isinstance(sink, OTLPSink):
            from femtomp.sinks.otlp import require

            require(sink)


class GuessedName(str):
    """A name that nobody gave; a spool of it is adopted for the same source only.

    Parameters
    ----------
    name : str
    source : str
        What it was guessed from: a script's path, a command; "": nothing that lasts.
    """

    source: str
    __slots__ = ("source",)

    def __new__(cls, name: str, source: str) -> Self:
        """Make the name, and note its source."""
        made = super().__new__(cls, name)
        made.source = source
        return made


def _guessed_from(name: str | None, stated: Mapping[str, object]) -> str | None:
    """Return what the server's name was guessed from; None if somebody said it."""
    if isinstance(name, GuessedName):
        return name.source
    if name or "service.name" in stated:
        return None
    script = (getattr(sys, "argv", None) or [""])[0]
    return str(Path(script).absolute()) if script and Path(script).is_file() else ""


def _resource(stated: Mapping[str, object], name: str | None) -> dict[str, object]:
    """Return what was stated, with a service's name in any case."""
    script = Path((getattr(sys, "argv", None) or [""])[0]).stem
    guessed = str(name or script.lstrip("-") or "python")
    return {"service.name": guessed, **stated}


def _stated_resource(
    in_file: Mapping[str, object], given: Mapping[str, object] | None
) -> dict[str, object]:
    """Merge the resource: arguments over OTEL_* over the configuration file."""
    merged = _checked(in_file)
    for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        word, equals, text = pair.partition("=")
        if equals and word.strip():
            merged[word.strip()] = unquote(text.strip())
    if service := os.environ.get("OTEL_SERVICE_NAME"):
        merged["service.name"] = service
    return {**merged, **_checked(given or {})}


def _checked(attributes: Mapping[str, object]) -> dict[str, object]:
    for key, value in attributes.items():
        if not isinstance(key, str) or not isinstance(value, (str, int, float, bool)):
            msg = f"resource: {key!r}: {value!r} must be str: str, number or bool"
            raise ConfigError(msg)
    return dict(attributes)
