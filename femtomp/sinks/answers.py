"""What a driver answers: checked behind its `write`, before anybody goes by it.

In: whatever `write` returned, which may be the code of a user's. Out: an outcome whose
numbers can be counted with, or an `AnswerError` that says what it was and what it may
be. A wrong answer must never move a cursor.
"""

from __future__ import annotations

import math
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeGuard

from femtomp.sinks import Delivered, Outcome, Refused, RetryAfter, Stumbled

# Of an answer's repr, and of an exception's text: a page of it helps nobody.
_SHOWN_CHARS: Final = 80
_PROBLEM_CHARS: Final = 500
_MAY_BE: Final = (
    "None or Delivered() for a batch that is done with, Refused(reason), or "
    "RetryAfter(delay_s)"
)


class AnswerError(Exception):
    """`write` returned what it may not return."""


def outcome_of(answer: object, count: int) -> Outcome:
    """Check an answer about a batch of so many records.

    Parameters
    ----------
    answer : object
        What `write` returned.
    count : int
        How many records it was given.

    Returns
    -------
    Delivered, Refused, RetryAfter or Stumbled
        None means delivered.

    Raises
    ------
    AnswerError
        If it is anything else, or says something that cannot be.

    Examples
    --------
    >>> outcome_of(None, 3)
    Delivered(refused={})
    """
    match answer:
        case None:
            return Delivered()
        case Delivered(refused):
            is_sound = _are_counts(refused, count)
        case Refused(reason):
            is_sound = isinstance(reason, str)
        case RetryAfter(delay_s, reason, accepted, refused):
            is_sound = (
                _is_delay(delay_s)
                and isinstance(reason, str)
                and _is_count(accepted, count)
                and _are_counts(refused, accepted)
            )
        case Stumbled():
            is_sound = True
        case _:
            is_sound = False
    if not is_sound:
        msg = f"write() answered {_shown(answer)}; it may answer {_MAY_BE}"
        raise AnswerError(msg)
    return answer  # type: ignore[return-value]  # one of these, and sound


def problem_of(exc: BaseException) -> str:
    """Say what an exception of a user's code is, whatever its own code does.

    Examples
    --------
    >>> problem_of(ValueError("no such item"))
    'ValueError: no such item'
    """
    name = type(exc).__name__
    try:
        text = str(exc)
    except BaseException:
        text = "its text cannot be had"
    return f"{name}: {text[:_PROBLEM_CHARS]}" if text else name


def _is_delay(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 <= value < math.inf  # type: ignore[operator]


def _is_count(value: object, most: int) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= most


def _are_counts(given: object, most: int) -> bool:
    if not isinstance(given, Mapping):
        return False
    numbers = list(given.values())
    return (
        all(isinstance(reason, str) for reason in given)
        and all(_is_count(number, most) for number in numbers)
        and sum(numbers) <= most
    )


def _shown(answer: Any) -> str:
    if isinstance(answer, Coroutine):
        answer.close()  # or Python warns that nobody awaited it
        return "a coroutine (write must be no `async def`)"
    if isinstance(answer, type):
        return f"the class {answer.__name__}, not an object of it"
    text = repr(answer)
    short = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
    return f"{short} (a {type(answer).__name__})"
