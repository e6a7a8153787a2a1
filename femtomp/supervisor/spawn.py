"""Starting the process that becomes the guardian: a real Python, or a frozen program.

In: what it is told, and descriptors. Out: its pid. It has a session of its own, the
descriptors from `FIRST_SLOT` on, and closes all others; it gets the flags of this
interpreter, and a module path on which nothing shadows the standard library.

By `posix_spawn` and not by `subprocess`: that makes pipes below 3 where these are free,
and eventlet and gevent put their own in its place.

What must never happen: a copy of the program itself started in place of a supervisor.
"""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import posix
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from femtomp import frozen
from femtomp.lanes.segment import high

if TYPE_CHECKING:
    from collections.abc import Sequence

    from femtomp.lanes.lock import Directory

_PACKAGE_ROOT: Final = str(Path(__file__).resolve().parent.parent.parent)
# Where the new process has what is passed to it, behind the three standard streams.
FIRST_SLOT: Final = 3
# The sources have higher numbers than all places: none is overwritten before its turn.
_ABOVE_SLOTS: Final = 16
# Only what is built in is imported before the path is what it should be; and this very
# femtomp, whichever the path would lead to.
_CODE: Final = """\
import marshal, sys
told = open(0, "rb", closefd=False)
sys.path[:], root = marshal.load(told)
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
spec = PathFinder.find_spec("femtomp", [root])
sys.modules["femtomp"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["femtomp"])
from femtomp.supervisor.guardian import main
main(told)
"""


def spawn(
    told: int,
    said: int,
    passed: Sequence[int],
    environ: dict[str, str],
    spool: Directory,
) -> int:
    """Start the process; return its pid.

    Parameters
    ----------
    told : int
        Descriptor of its stdin, from which it reads what `preamble` makes, and more.
    said : int
        Of its stderr.
    passed : sequence of int
        What it gets as 3, 4, ...
    environ : dict
    spool : Directory
        Named in its command line.

    Raises
    ------
    StartError
        In a frozen program that has no door.
    OSError
        If no process can be started.
    """
    command = _command(spool.path)
    made = [null(spool.descriptor)]
    try:
        sources = [told, *made, said, *passed]
        for at, source in enumerate(sources):
            if source < _ABOVE_SLOTS:
                sources[at] = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, _ABOVE_SLOTS)
                made.append(sources[at])
        actions = [
            (os.POSIX_SPAWN_DUP2, source, place) for place, source in enumerate(sources)
        ]
        environ = {**environ, **frozen.for_another_generation()}
        return _posix_spawn(command, environ, actions)
    finally:
        for each in made:
            os.close(each)


def _posix_spawn(
    command: list[str], environ: dict[str, str], actions: list[tuple[int, int, int]]
) -> int:
    start = posix.posix_spawn if "/" in command[0] else posix.posix_spawnp
    try:
        return start(command[0], command, environ, file_actions=actions, setsid=True)
    except NotImplementedError:
        # Python made for an old C library: the process does it itself.
        return start(command[0], command, environ, file_actions=actions)


def preamble(path: Sequence[str]) -> bytes:
    """Return what the new process reads first: its module path, and where femtomp is.

    By `marshal`, which is built in: nothing may be imported before the path is known.
    """
    places = frozen.added(path) if frozen.is_frozen() else standard_first(path)
    return marshal.dumps((places, _PACKAGE_ROOT))


def standard_first(path: Sequence[str]) -> list[str]:
    """Return a module path in its order, but for the standard library, which is first.

    A file of the user's, or a backport in site-packages, must not take the place of a
    module that the supervisor imports.
    """
    library = os.path.dirname(os.__file__)
    archive = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    own = {library, os.path.join(library, "lib-dynload")}
    # What is no text is passed over by the interpreter, too.
    path = [place for place in path if isinstance(place, str)]
    standard = [
        place for place in path if place in own or os.path.basename(place) == archive
    ]
    if library not in standard:
        standard.append(library)
    found = [_as_it_is_now(place) for place in path if place not in standard]
    return [*standard, *(place for place in found if place)]


def _as_it_is_now(place: str) -> str:
    """Return a place of the module path, and its directory for a relative one.

    "" is the working directory. What is no directory may be a name that only a path
    hook understands.
    """
    try:
        is_relative = not place or os.path.exists(place)
        return os.path.abspath(place) if is_relative else place
    except OSError:
        return ""  # the working directory was deleted


def _command(spool: str) -> list[str]:
    if frozen.is_frozen():
        frozen.refuse_without_door()
        return [frozen.program(), frozen.DOOR, spool]
    return [interpreter(), *interpreter_flags(), "-c", _CODE, spool]


def interpreter() -> str:
    """Return a real Python: under uWSGI `sys.executable` is the server's binary."""
    name = Path(sys.executable or "").name
    if "python" in name or "pypy" in name:
        return sys.executable
    candidate = Path(sys.prefix, "bin", "python3")
    if candidate.exists():
        return str(candidate)
    return str(getattr(sys, "_base_executable", "") or "python3")


def interpreter_flags() -> list[str]:
    """Return the options that this interpreter was given, for another one like it.

    As `multiprocessing` hands them on; and -P, which one that runs code needs.
    """
    given = sys.flags
    flags = ["-" + "O" * given.optimize] if given.optimize else []
    flags += ["-B"] if given.dont_write_bytecode else []
    flags += ["-" + "b" * given.bytes_warning] if given.bytes_warning else []
    flags += ["-S"] if given.no_site else []
    if given.isolated:
        flags.append("-I")
    else:
        flags += ["-E"] if given.ignore_environment else []
        flags += ["-s"] if given.no_user_site else []
        flags.append("-P")
    # In front of those that the options above bring with them by themselves.
    flags += [f"-W{each}" for each in sys.warnoptions]
    for name, value in sys._xoptions.items():  # noqa: SLF001 - documented
        flags += ["-X", name if value is True else f"{name}={value}"]
    return flags


def null(directory: int) -> int:
    """Open /dev/null above the standard streams; where there is none, a file instead.

    Parameters
    ----------
    directory : int
        See `nameless_file`.
    """
    try:
        return high(os.open(os.devnull, os.O_RDWR))
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return nameless_file(directory)


def nameless_file(directory: int) -> int:
    """Return a descriptor of a new file without a name, in memory or in the spool.

    Nothing else is needed for it: the root may be read-only, without a place for
    temporary files. A number and no object: one that a forked child inherits would warn
    at its end.

    Parameters
    ----------
    directory : int
        Of the spool, where there is no memfd.
    """
    made = _memory_file()
    if made >= 0:
        return made
    name = f".said.{os.urandom(8).hex()}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        os.unlink(name, dir_fd=directory)
    finally:
        descriptor = high(descriptor)
    return descriptor


def _memory_file() -> int:
    """Return a descriptor of a file in memory; -1 where the kernel makes none."""
    try:
        return high(os.memfd_create("femtomp", os.MFD_CLOEXEC))
    except AttributeError:
        return -1  # Python made for an old C library
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return -1  # sandboxes and sysctl vm.memfd_noexec refuse it


def tell(content: bytes) -> tuple[int, int]:
    """Return (descriptor to read it from, -1); or a pipe's two ends, yet to be written.

    In memory alone, as it may hold secrets. A file in memory takes any length at once,
    and nobody's end makes writing to it a signal.
    """
    memory = _memory_file()
    if memory < 0:
        return _pipe()
    try:
        if os.pwrite(memory, content, 0) == len(content):
            return memory, -1
    except OSError:
        pass  # RLIMIT_FSIZE holds for it as well
    os.close(memory)
    return _pipe()


def _pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    return high(reading), high(writing)
