"""The mutants fit the code as it is; `make mutants` sees them found."""

from __future__ import annotations

import ast
import re

import pytest

from tests.mutants.apply import ROOT, mutated
from tests.mutants.edits import MUTANTS, Mutant
from tests.mutants.journald import JOURNALD
from tests.torture.faults import FAULTS


@pytest.mark.parametrize(
    "mutant", [*MUTANTS, *JOURNALD], ids=lambda mutant: mutant.name
)
def test_mutant_applies(mutant: Mutant) -> None:
    """A mutant is a change of the code that is there, and still a program."""
    text = (ROOT / "femtomp" / mutant.file).read_text()
    after = mutated(text, mutant)
    assert ast.dump(ast.parse(after)) != ast.dump(ast.parse(text))


@pytest.mark.parametrize(
    "mutant", [*MUTANTS, *JOURNALD], ids=lambda mutant: mutant.name
)
def test_tests_of_a_mutant_exist(mutant: Mutant) -> None:
    """Each mutant names tests that are there."""
    assert mutant.tests
    for name in mutant.tests:
        kind, _, fault = name.partition(":")
        if kind == "torture":
            assert fault in FAULTS
            continue
        path, _, function = name.partition("::")
        text = (ROOT / "tests" / path).read_text()
        assert not function or re.search(rf"^def {function}\(", text, re.MULTILINE)


def test_a_mutant_without_its_place_is_said() -> None:
    """Code that has changed does not make a mutant pass."""
    with pytest.raises(LookupError, match=r"0 times in codec/frame\.py"):
        mutated("x = 1\n", MUTANTS[0])
