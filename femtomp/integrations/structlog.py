"""structlog in front of femtomp: event dicts become records, and nothing is rendered.

In: what a chain of processors made of a call. Out: a call of a `femtomp.Logger`, with
the event as its message and all else as fields with their types, said to come from
where structlog was called.

    import structlog
    from femtomp.integrations.structlog import LoggerFactory, processor

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, processor],
        logger_factory=LoggerFactory(),
        cache_logger_on_first_use=True,
    )

Levels are those of `logging.getLogger(name)`; `structlog.make_filtering_bound_logger`
can drop calls earlier. Processors that render (JSONRenderer, format_exc_info) are not
needed, time stamps and levels (TimeStamper, add_log_level) neither.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import femtomp

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from types import FrameType

_STRUCTLOG: Final = "structlog"
# structlog's `ainfo` and the like run here: their callers are on no stack.
_EXECUTOR: Final = "concurrent.futures.thread"


class LoggerFactory:
    """Makes the loggers that `processor` hands its events to.

    ``structlog.get_logger("shop")`` logs as "shop"; without a name, the calling
    module's is taken.
    """

    def __call__(self, *args: Any) -> femtomp.Logger:
        """Return a logger of the name that `structlog.get_logger` was given."""
        if args:
            return femtomp.get_logger(args[0])
        frame, _ = _caller(sys._getframe(1))  # noqa: SLF001
        return femtomp.get_logger(None if frame is None else _module(frame))


def processor(
    _: object, __: str, event_dict: MutableMapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Make a call of a `femtomp.Logger` of an event: the last one of a chain.

    Parameters
    ----------
    event_dict : mapping
        Its ``event`` is the message, which ``positional_args`` fill if there are any;
        ``exc_info`` and ``stack_info`` mean what they mean to `logging`, and all other
        keys are fields.

    Returns
    -------
    tuple
        Arguments and keywords.

    Examples
    --------
    >>> processor(None, "info", {"event": "sold", "item": "tea"})
    (('sold',), {'item': 'tea', 'stacklevel': 1})
    """
    fields = dict(event_dict)
    message = fields.pop("event", "")
    arguments = fields.pop("positional_args", ())
    frame, depth = _caller(sys._getframe(1))  # noqa: SLF001
    further = fields.get("stacklevel", 1)
    fields["stacklevel"] = depth + (further - 1 if type(further) is int else 0)
    if frame is not None and _module(frame) == _EXECUTOR:
        fields |= _caller_elsewhere()
    return (message, *arguments), fields


def _caller(frame: FrameType | None) -> tuple[FrameType | None, int]:
    """Return who called structlog, and how far from the wrapped logger that is."""
    depth = 0
    while frame is not None and _module(frame).startswith(_STRUCTLOG):
        frame = frame.f_back
        depth += 1
    # `processor` has a frame of structlog's behind it that the logger has not.
    return frame, depth or 1


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "?"))


def _caller_elsewhere() -> dict[str, Any]:
    """Ask structlog, which knows who awaits this."""
    from structlog.processors import CallsiteParameter as Parameter
    from structlog.processors import CallsiteParameterAdder

    names = {
        Parameter.PATHNAME: "code.file.path",
        Parameter.LINENO: "code.line.number",
        Parameter.FUNC_NAME: "code.function.name",
        Parameter.THREAD: "thread.id",
        Parameter.THREAD_NAME: "thread.name",
    }
    adder: Any = CallsiteParameterAdder(
        names, additional_ignores=["femtomp.integrations"]
    )
    found = adder(None, "", {})
    return {name: found[parameter.value] for parameter, name in names.items()}
