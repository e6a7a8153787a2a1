"""Putting a mutant into a file's text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.mutants.edits import Mutant

ROOT: Final = Path(__file__).parents[2]


def mutated(text: str, mutant: Mutant) -> str:
    """Return the text with the mutant in it.

    Raises
    ------
    LookupError
        If a place it is to be put in is not there, or not once.
    """
    for old, new in mutant.edits:
        count = text.count(old)
        if count != 1:
            msg = f"{old!r} is {count} times in {mutant.file}"
            raise LookupError(msg)
        text = text.replace(old, new)
    return text
