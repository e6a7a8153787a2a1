"""The configuration file: `femtomp.toml`, or `[tool.femtomp]` in a `pyproject.toml`.

In: a path, or a mapping of the same shape. Out: `Settings`: the arguments of
`start_server` that it gives. Nothing is looked for by itself: a file that happens to
lie in the working directory must not decide where logs go. Every error names the file
and the key, and what is allowed there.

::

    name = "shop"
    level = "INFO"
    overflow = "drop_old"                    # any option of start_server
    sinks = ["console"]                      # strings of the sink grammar, or tables

    [resource]
    "service.version" = "1.2"

    [redact]                                 # or redact = false
    keys = ["pin"]

    [[sinks]]                                # instead of the strings
    type = "file"
    path = "app.jsonl"                       # options of FileSink
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from femtomp.config import (
    ConsoleSink,
    FileSink,
    HandlerSink,
    JournaldSink,
    OTLPSink,
    SinkOptions,
    level_number,
)
from femtomp.errors import ConfigError
from femtomp.grammar import parse_sink
from femtomp.options import LIMIT_NAMES, OPTION_NAMES, check_options
from femtomp.redaction import Redaction

VARIABLE: Final = "FEMTOMP_CONFIG"
_TYPES: Final[dict[str, type]] = {
    "console": ConsoleSink,
    "file": FileSink,
    "journald": JournaldSink,
    "otlp": OTLPSink,
    "handler": HandlerSink,
}
_NAMED: Final = ("name", "level", "spool_parent", "resource", "sinks")


class Settings(NamedTuple):
    """What a configuration says; None and empty where it says nothing."""

    sinks: tuple[SinkOptions, ...] | None = None
    name: str | None = None
    level: int | str | None = None
    spool_parent: str | None = None
    resource: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}


def load(config: object, environ: Mapping[str, str]) -> Settings:
    """Read a configuration.

    Parameters
    ----------
    config : path-like, mapping or None
        None: the file that `FEMTOMP_CONFIG` names, if it does.
    environ : mapping of str to str

    Raises
    ------
    ConfigError
        If the file cannot be read, or says what is not known or not allowed.

    Examples
    --------
    >>> load({"level": "DEBUG", "sinks": ["console:json"]}, {}).sinks[0].format
    'json'
    """
    source = config if config is not None else environ.get(VARIABLE) or None
    if source is None:
        return Settings()
    if isinstance(source, Mapping):
        return _settings("config", source)
    if not isinstance(source, (str, os.PathLike)):
        msg = f"config must be the path of a TOML file or a mapping, not {source!r}"
        raise ConfigError(msg)
    path = Path(source)
    where = os.fspath(path) if config is not None else f"{VARIABLE}={path}"
    return _settings(where, _table(where, path))


def _table(where: str, path: Path) -> Mapping[str, Any]:
    import tomllib

    try:
        whole = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        msg = f"{where}: cannot be read: {exc.strerror}"
        raise ConfigError(msg) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        msg = f"{where}: is no TOML: {exc}"
        raise ConfigError(msg) from exc
    if path.name != "pyproject.toml":
        return whole
    table = whole.get("tool", {}).get("femtomp")
    if table is None:
        msg = f"{where}: has no table [tool.femtomp]"
        raise ConfigError(msg)
    return _mapping(where, "tool.femtomp", table)


def _settings(where: str, table: Mapping[str, Any]) -> Settings:
    options = {k: v for k, v in table.items() if k not in _NAMED}
    _refuse_heading(where, options)
    for key in options:
        if key not in OPTION_NAMES | LIMIT_NAMES:
            allowed = ", ".join((*_NAMED, *sorted(OPTION_NAMES | LIMIT_NAMES)))
            msg = f"{where}: unknown key {key!r}; the keys are: {allowed}"
            raise ConfigError(msg)
    if isinstance(options.get("redact"), Mapping):
        options["redact"] = _redaction(where, options["redact"])
    try:
        check_options(options)
    except ConfigError as exc:
        msg = f"{where}: {exc}"
        raise ConfigError(msg) from exc
    for key in ("name", "spool_parent"):
        _text_if_any(where, key, table.get(key))
    if "level" in table:
        level_at(f"{where}: level", table["level"])
    return Settings(
        sinks=_sinks(where, table["sinks"]) if "sinks" in table else None,
        name=table.get("name"),
        level=table.get("level"),
        spool_parent=table.get("spool_parent"),
        resource=_mapping(where, "resource", table.get("resource", {})),
        options=options,
    )


def _refuse_heading(where: str, table: Mapping[str, Any]) -> None:
    """Refuse `[femtomp]` and `[tool.femtomp]` in a file that is femtomp's own."""
    tool = table.get("tool")
    nested = isinstance(tool, Mapping) and "femtomp" in tool
    if nested or isinstance(table.get("femtomp"), Mapping):
        heading = "[tool.femtomp]" if nested else "[femtomp]"
        msg = (
            f"{where}: {heading} does not belong here: in femtomp.toml the keys stand "
            "at the top, without it; in pyproject.toml they stand below [tool.femtomp]"
        )
        raise ConfigError(msg)


def level_at(where: str, level: object) -> int:
    """Return a level's number; an error names the place that gives the level.

    Raises
    ------
    ConfigError
        If there is no such level.

    Examples
    --------
    >>> level_at("FEMTOMP_LEVEL", "info")
    20
    """
    try:
        return level_number(level)
    except ConfigError as exc:
        msg = f"{where}: {exc}"
        raise ConfigError(msg) from exc


def _redaction(where: str, table: Mapping[str, Any]) -> Redaction:
    allowed = [f.name for f in fields(Redaction) if f.init]
    for key in table:
        if key not in allowed:
            msg = f"{where}: redact: unknown key {key!r}; it has: {', '.join(allowed)}"
            raise ConfigError(msg)
    try:
        return Redaction(**table)
    except ConfigError as exc:
        msg = f"{where}: {exc}"
        raise ConfigError(msg) from exc


def _sinks(where: str, given: object) -> tuple[SinkOptions, ...]:
    if not isinstance(given, (list, tuple)) or not given:
        msg = f"{where}: sinks must be a list of strings or of tables, not {given!r}"
        raise ConfigError(msg)
    return tuple(_sink(f"{where}: sinks[{n}]", one) for n, one in enumerate(given))


def _sink(where: str, given: object) -> SinkOptions:
    try:
        if isinstance(given, str):
            return parse_sink(given)
        if isinstance(given, tuple(_TYPES.values())):
            return cast("SinkOptions", given)  # of a mapping that was made by a program
        return _of_table(dict(_mapping(where, "it", given)))
    except ConfigError as exc:
        text = str(exc)
        msg = text if text.startswith(where) else f"{where}: {text}"
        raise ConfigError(msg) from exc


def _of_table(table: dict[str, Any]) -> SinkOptions:
    kind = table.pop("type", None)
    made = _TYPES.get(kind) if isinstance(kind, str) else None
    if made is None:
        msg = f"type must be one of {', '.join(_TYPES)}, not {kind!r}"
        raise ConfigError(msg)
    allowed = [f.name for f in fields(made) if f.name != "_"]
    for key in table:
        if key not in allowed:
            msg = f"unknown key {key!r}; {made.__name__} has: {', '.join(allowed)}"
            raise ConfigError(msg)
    for f in fields(made):
        if (
            f.default is MISSING
            and f.default_factory is MISSING
            and f.name not in table
        ):
            msg = f"{made.__name__} needs {f.name!r}"
            raise ConfigError(msg)
    return cast("SinkOptions", made(**table))


def _mapping(where: str, key: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        msg = f"{where}: {key} must be a table, not {type(value).__name__}"
        raise ConfigError(msg)
    return value


def _text_if_any(where: str, key: str, value: object) -> None:
    if value is not None and (not isinstance(value, str) or not value):
        msg = f"{where}: {key} must be a non-empty string, not {value!r}"
        raise ConfigError(msg)
