"""The door by which a frozen program becomes its own supervisor.

A supervisor is a program of its own, and where PyInstaller, Nuitka or cx_Freeze have
made one file of program and interpreter there is no other interpreter than that file.
So the file is started again, with `DOOR` as its first argument, and `MARK` in its
environment: `femtomp.freeze_support` sees both, and becomes the supervisor.

What must never happen: a program that starts itself, which starts itself. So no frozen
program is started without a door that is known, and what is started with the mark and
comes to `start_server` all the same is refused.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from femtomp.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Sequence

DOOR: Final = "--femtomp-supervisor"
MARK: Final = "FEMTOMP_SUPERVISOR"
# An attribute of `sys`, as `sys.frozen` is: PyInstaller's runtime hook must not import
# femtomp before the program has done what it must do first (monkey patching).
_HAS_DOOR: Final = "femtomp_has_door"
_ADVICE: Final = (
    "call femtomp.freeze_support() first of all under "
    '`if __name__ == "__main__":`, where multiprocessing.freeze_support() is called'
)


def is_frozen() -> bool:
    """Tell whether there is no other interpreter than this program's own file."""
    return bool(getattr(sys, "frozen", False)) or _is_nuitka()


def _is_nuitka() -> bool:
    main = getattr(sys.modules.get("__main__"), "__compiled__", None)
    compiled = globals().get("__compiled__", main)
    return bool(getattr(compiled, "standalone", False))


def program() -> str:
    """Return the path of the frozen program's file."""
    if _is_nuitka():
        # Its `sys.executable` names a Python that may not be there.
        return os.path.realpath("/proc/self/exe")
    return sys.executable


def is_unpacked_for_one_process() -> bool:
    """Tell whether what is imported is deleted as soon as this process ends.

    PyInstaller's programs of one file unpack themselves into a temporary directory.
    """
    unpacked = str(getattr(sys, "_MEIPASS", ""))
    beside = os.path.dirname(sys.executable or "")  # noqa: PTH120 - not loaded here
    return bool(unpacked) and not _is_below(unpacked, beside)


def added(path: Sequence[str]) -> list[str]:
    """Return the places of a module path that the program itself did not bring along.

    Another process may have unpacked those of its own somewhere else.
    """
    unpacked = str(getattr(sys, "_MEIPASS", "")) or sys.prefix
    places = [place for place in path if isinstance(place, str) and place]
    return [place for place in places if not _is_below(place, unpacked)]


def _is_below(path: str, directory: str) -> bool:
    return f"{path}/".startswith(f"{directory}/")


def for_another_generation() -> dict[str, str]:
    """Return what the environment of a process has that is to become a supervisor."""
    environ = {MARK: "1"}
    if hasattr(sys, "_MEIPASS"):
        # One that unpacks itself does it again: the supervisor outlives this process,
        # with whose end its files go.
        environ["PYINSTALLER_RESET_ENVIRONMENT"] = "1"
    return environ


def know_door() -> None:
    """Note that this program looks at its arguments before it does anything."""
    setattr(sys, _HAS_DOOR, True)


def is_at_door() -> bool:
    """Tell whether this process was started to become a supervisor."""
    return sys.argv[1:2] == [DOOR] and MARK in os.environ


def refuse_second_generation() -> None:
    """Refuse what would start a supervisor from what was started to be one.

    Raises
    ------
    StartError
        Where this process has the mark.
    """
    if MARK in os.environ:
        msg = (
            "this process was started to be femtomp's supervisor, and runs the program "
            f"instead: {_ADVICE}"
        )
        raise StartError(msg)


def refuse_without_door() -> None:
    """Refuse to start a frozen program again that is not known to have a door.

    Raises
    ------
    StartError
    """
    if not getattr(sys, _HAS_DOOR, False):
        msg = (
            "this program is frozen, so its supervisor has to run in the same file "
            f"({program()}), and that has no door for it: {_ADVICE}"
        )
        raise StartError(msg)
