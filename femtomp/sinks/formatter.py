"""A `logging.Formatter` of the user's as a line encoder.

In: the path of a callable, or a packed formatter; then records. Out: the formatter's
text for a LogRecord rebuilt from each record, with a newline behind it. The formatter
is the user's code in the engine: what it raises costs the record its form, never the
record: it is written as text with a mark that says why. What it returns is written as
it is; whether a value can forge a line is then its affair.
"""

from __future__ import annotations

import pickle
from importlib import import_module
from typing import TYPE_CHECKING, Any

from femtomp.codec.logrecord import to_log_record
from femtomp.codec.text import text_line
from femtomp.errors import ConfigError
from femtomp.formats import PackedFormatter
from femtomp.sinks.answers import problem_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from femtomp.formats import Format
    from femtomp.record import Record


def formatter_encoder(given: Format) -> Callable[[Record], bytes]:
    r"""Load a formatter and give the function that turns a record into its line.

    Parameters
    ----------
    given : str or formatter
        "package.module.callable": called without arguments, it returns a formatter; or
        the path of a formatter itself.

    Raises
    ------
    ConfigError
        If it cannot be loaded, or has no method `format`.

    Examples
    --------
    >>> from femtomp.record import Record, Resource
    >>> encode = formatter_encoder("logging.Formatter")
    >>> encode(Record(0, 9, "INFO", "shop", "hello", {}, Resource({})))
    b'hello\n'
    """
    name = (
        given
        if isinstance(given, str)
        else getattr(given, "description", type(given).__name__)
    )
    try:
        formatter = _loaded(given)
    except BaseException as exc:
        msg = (
            f"format={name}: cannot be loaded in the supervisor: "
            f"{problem_of(exc)}; it must be in a module that can be imported "
            "there, not in the program's own script"
        )
        raise ConfigError(msg) from exc
    write = getattr(formatter, "format", None)
    if not callable(write):
        msg = f"format={name}: a {type(formatter).__name__} has no method `format`"
        raise ConfigError(msg)
    return _Encoder(name, write)


class _Encoder:
    def __init__(self, name: str, write: Callable[[Any], object]) -> None:
        self._name = name
        self._write = write

    def __call__(self, record: Record) -> bytes:
        """Return the formatter's line, or the record as text if it has none."""
        try:
            text = self._write(to_log_record(record))
            if isinstance(text, str):
                return text.encode("utf-8", "backslashreplace") + b"\n"
            problem = f"it returned a {type(text).__name__}"
        except BaseException as exc:  # SystemExit as well: the record stays
            problem = problem_of(exc)
        mark = {"femtomp.formatter_error": f"{self._name}: {problem}"}
        marked = record._replace(attributes={**record.attributes, **mark})
        return text_line(marked, colour=False)


def _loaded(given: Format) -> object:
    if isinstance(given, PackedFormatter):
        return pickle.loads(given.pickled)  # noqa: S301 - from our own master
    if not isinstance(given, str):
        return given
    module, _, name = given.rpartition(".")
    found: Any = getattr(import_module(module), name)
    is_formatter = hasattr(found, "format") and not isinstance(found, type)
    return found if is_formatter else found()
