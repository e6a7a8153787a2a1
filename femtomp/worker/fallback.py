"""What is said of a record where there is no lane for it: a line, without its secrets.

In: a LogRecord, which is only read. Out: text for stderr: time, level, process, logger,
message and fields, then its exception. What that takes is loaded by `prepare` when a
handler is made: at the end of the interpreter, in a chroot and in the midst of another
import nothing can be imported. What must never happen: an exception, or a message that
is lost for want of a module.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any, Final

from femtomp.codec.wire import uncoloured
from femtomp.lanes.thrown import thrown_in
from femtomp.worker import exceptions
from femtomp.worker.capture import Attributes, given_with, message
from femtomp.worker.context import read_fields
from femtomp.worker.plain import key, plain, text

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping

_is_word: Final = re.compile(r'[^\s"=\x00-\x1f\x7f-\x9f]+').fullmatch
# What leaves secrets out, once it is loaded.
_redact: Final[list[Callable[[str], tuple[str, int]]]] = []


def prepare() -> None:
    """Load what leaves secrets out, once a process; later if that cannot be now."""
    if _redact:
        return
    try:
        from femtomp.codec.secret_keys import STANDARD_KEYS, SecretKeys

        redact = SecretKeys(STANDARD_KEYS).leave_out
    except Exception as exc:
        if thrown_in(exc):
            raise
        return  # a signal handler makes a handler in the midst of this very import
    _redact.append(redact)


def line_of(record: logging.LogRecord) -> str:
    """Return what is said of a record."""
    of = Attributes(record)
    head = f"{uncoloured(text(of['levelname']))} {_process(of)}{text(of['name'])}: "
    prepare()
    if not _redact:
        # Its arguments and fields may be secrets; the program's own text is none.
        return f"{_time(of)} {head}{text(of['msg'])}"
    body, problem = message(record)
    fields = {**read_fields[0](), **given_with(record)}
    if problem:
        fields["femtomp.format_error"] = problem
    said = f"{_time(of)} {head}{body}{pairs(fields)}{_stacks(of)}"
    return _redact[0](said)[0]


def shown(fields: Mapping[str, Any]) -> str:
    """Return fields as they stand behind a message, without secrets."""
    prepare()
    return _redact[0](pairs(fields))[0] if _redact else ""


def pairs(fields: Mapping[str, Any]) -> str:
    """Return fields as they stand behind a message, each with a space before it.

    Examples
    --------
    >>> pairs({"price": 3, "item": "green tea", "sizes": [1, 2]})
    ' price=3 item="green tea" sizes=[1, 2]'
    """
    return "".join([f" {key(name)}={_value(v)}" for name, v in fields.items()])


def _value(given: object) -> str:
    value = plain(given)
    if type(value) is str and _is_word(value):
        return value
    return json.dumps(value, ensure_ascii=False, default=repr)


def _time(of: Attributes) -> str:
    """Return a record's time as `logging` writes it; now, if it has none."""
    created = of["created"]
    try:
        local = time.localtime(created)
        thousandth = int(created % 1 * 1000)
    except Exception as exc:
        if thrown_in(exc):
            raise
        local, thousandth = time.localtime(), 0
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', local)},{thousandth:03d}"


def _process(of: Attributes) -> str:
    return "" if of["process"] is None else f"{text(of['process'])} "


def _stacks(of: Attributes) -> str:
    """Return a record's exception and stack as the lines behind its own."""
    taken = exceptions.take(of["exc_info"], of["exc_text"])
    said = "" if taken is None else f"\n{taken.stacktrace}"
    return f"{said}\n{text(of['stack_info'])}" if of["stack_info"] else said
