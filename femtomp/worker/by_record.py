"""A logger's call, passed on to the standard logger: for whatever is not common.

In: what was called. Out: a call of `logging.Logger.log`, which makes a LogRecord that
any handler may see: femtomp's, a test's, Sentry's. Fields become its attributes, as
`extra` does; those with a name that a LogRecord has itself (`name`, `args`) go with it
as the dict `femtomp_fields`, where femtomp's handler finds them. What must never
happen: an exception in the caller, unless a handler of the user's raised it.
"""

from __future__ import annotations

import logging
import sys
from types import FunctionType
from typing import Any, Final

from femtomp.checks import LEVELS, level_or_none
from femtomp.lanes.thrown import thrown_in
from femtomp.worker.capture import FIELDS
from femtomp.worker.context import read_fields
from femtomp.worker.fallback import shown
from femtomp.worker.plain import key, plain, text, type_name
from femtomp.worker.standard import untouched

TRACE: Final = LEVELS["TRACE"]
# What these mean to a call of `logging` they mean here; all other keywords are fields.
RESERVED: Final = frozenset(("exc_info", "stack_info", "stacklevel", "extra"))
_TAKEN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
# In the KeyError of `makeRecord`.
_OVERWRITE: Final = "Attempt to overwrite"
_call_handlers = untouched("callHandlers")
# From `logging` to who called the logger: over `by_record`, `Logger._log`, its method.
_DEPTH: Final = 3


def by_record(
    logger: logging.Logger,
    level: int,
    message: object,
    args: tuple[object, ...],
    bound: dict[str, Any],
    fields: dict[str, Any],
) -> None:
    """Log by the standard logger, of whose kind or handlers nothing is known."""
    both = {**bound, **fields}
    own = {name: both.pop(name) for name in RESERVED if name in both}
    extra = _mapping(own.get("extra"))
    # A call's fields win over its `extra`, and this over what is bound.
    extra = {k: v for k, v in extra.items() if k not in fields}
    usual, taken = _sorted({**both, **extra})
    options = _options(own)
    arguments = tuple(map(_value, args))
    if not logger.hasHandlers() and logging.Logger.callHandlers is _call_handlers:
        # For `logging.lastResort`, which writes the message alone.
        more = shown({**read_fields[0](), **usual, **taken})
        message = f"{text(message)}{more.replace('%', '%%') if arguments else more}"
    log: Any = logger.log
    if level == TRACE and logging.getLevelName(level) == f"Level {level}":
        log = _Traced(logger)
        options["stacklevel"] += 1
    beside = {FIELDS: taken} if taken else {}
    try:
        log(level, message, *arguments, extra={**usual, **beside}, **options)
    except KeyError as exc:
        # The user's record factory gives its records such an attribute.
        if thrown_in(exc) or _OVERWRITE not in str(exc):
            raise
        beside = {FIELDS: {**usual, **taken}}
        log(level, message, *arguments, extra=beside, **options)


def _options(own: dict[str, Any]) -> dict[str, Any]:
    exc_info = own.get("exc_info")
    if isinstance(exc_info, BaseException):  # one that is false is an exception too
        exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
    level = own.get("stacklevel")
    return {
        "exc_info": exc_info,
        "stack_info": bool(own.get("stack_info")),
        "stacklevel": (max(level, 1) if type(level) is int else 1) + _DEPTH,
    }


class _Traced:
    """Does what `logging.Logger.log` does, for a level that has no name."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def __call__(
        self,
        level: int,
        message: object,
        *args: object,
        exc_info: Any,
        stack_info: bool,
        stacklevel: int,
        extra: dict[str, Any],
    ) -> None:
        logger = self._logger
        path, line, function, stack = logger.findCaller(stack_info, stacklevel)
        if exc_info and not isinstance(exc_info, tuple):
            exc_info = sys.exc_info()
        record = logger.makeRecord(
            logger.name, level, path, line, message, args, exc_info, function, extra,
            stack,
        )  # fmt: skip
        record.levelname = unnamed(level)
        logger.handle(record)


def unnamed(level: int) -> str:
    """Return what records of a level without a name say."""
    return "TRACE" if level == TRACE else f"Level {level}"


def level_number(given: object, fields: dict[str, Any]) -> int:
    """Return the number of a level; of no level ERROR, with a mark in the fields."""
    if isinstance(given, int):
        return int(given)
    if (number := level_or_none(given)) is not None:
        return number
    fields["femtomp.level_error"] = plain(given)
    return logging.ERROR


def _mapping(extra: object) -> dict[str, Any]:
    """Return `extra` as a dict; what is no mapping, under that very name."""
    if extra is None:
        return {}
    try:
        return {key(k): v for k, v in dict(extra).items()}  # type: ignore[call-overload]
    except Exception as exc:
        if thrown_in(exc):
            raise
        return {"extra": extra}


def _sorted(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell fields that can be attributes of a LogRecord from those that it has."""
    shown: dict[str, Any] = {}
    taken: dict[str, Any] = {}
    for name, value in given.items():
        (taken if name in _TAKEN else shown)[name] = _value(value)
    return shown, taken


def _value(given: Any) -> Any:
    """Call a lambda without parameters; anything else is a value as it is."""
    if type(given) is not FunctionType or given.__name__ != "<lambda>":
        return given
    code = given.__code__
    if code.co_argcount > len(given.__defaults__ or ()) or code.co_kwonlyargcount:
        return given
    try:
        return given()
    except Exception as exc:
        if thrown_in(exc):
            raise
        return f"<lambda: cannot be called: {type_name(exc)}>"
