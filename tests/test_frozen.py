"""A frozen program is its own supervisor by femtomp's door, and never runs itself."""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

import femtomp
from femtomp import frozen
from femtomp.pyinstaller_hooks import hook_directories
from tests.processes.harness import lines, until

pytestmark = pytest.mark.slow

# As PyInstaller's bootloader and cx_Freeze's leave it.
FROZEN = """\
#!{python}
import os, sys
sys.frozen, sys.executable = True, os.path.abspath(__file__)
with open(sys.argv[0] + ".runs", "a") as file:
    file.write("x")
"""


def frozen_program(path: Path, source: str) -> Path:
    """Write a program that says that it is frozen, and counts how often it runs."""
    path.write_text(FROZEN.format(python=sys.executable) + textwrap.dedent(source))
    path.chmod(0o700)
    return path


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def runs(program: Path) -> int:
    return len(Path(f"{program}.runs").read_text())


def test_frozen_program_with_the_door_delivers(tmp_path) -> None:
    """`freeze_support` makes the started copy the supervisor, before all else in it."""
    source = """
    import logging, multiprocessing
    import femtomp
    if __name__ == "__main__":
        multiprocessing.freeze_support()
        femtomp.freeze_support()
        out = sys.argv[1]
        with femtomp.start_server([f"file:{out}"]) as server:
            femtomp.worker_init()
            logging.getLogger("shop").info("sold tea")
            print(open(f"/proc/{server.pid}/cmdline").read().split(chr(0))[2:4])
            print(server.spool)
    """
    program = frozen_program(tmp_path / "shop", source)
    done = run(program, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert [record["body"] for record in lines(tmp_path / "out")] == ["sold tea"]
    command, spool = done.stdout.splitlines()
    assert command == str([frozen.DOOR, spool])
    assert runs(program) == 2


def test_frozen_program_without_a_door_is_not_started_again(tmp_path) -> None:
    """Without `freeze_support` no copy of the program runs, and the error names it."""
    source = """
    import femtomp
    femtomp.start_server(["console"])
    """
    program = frozen_program(tmp_path / "shop", source)
    done = run(program)
    assert done.returncode == 1
    assert "StartError: this program is frozen" in done.stderr
    assert "femtomp.freeze_support()" in done.stderr
    assert runs(program) == 1
    assert not os.listdir(os.environ["FEMTOMP_SPOOL_PARENT"])


@pytest.mark.parametrize("call", ["start_server", "basic_config"])
def test_second_generation_ends_at_once(tmp_path, call) -> None:
    """A copy that passes its door by does not start another one, and is heard."""
    source = f"""
    import femtomp
    if len(sys.argv) == 1:  # by mistake: the copy has arguments
        femtomp.freeze_support()
    femtomp.{call}(["console"])
    """
    program = frozen_program(tmp_path / "shop", source)
    done = run(program)
    assert done.returncode == 1
    assert "it said:" in done.stderr
    assert "was started to be femtomp's supervisor" in done.stderr
    assert runs(program) == 2
    assert not os.listdir(os.environ["FEMTOMP_SPOOL_PARENT"])


def test_mark_is_refused_in_any_program(monkeypatch) -> None:
    """What was started to be a supervisor cannot start one, frozen or not."""
    monkeypatch.setenv(frozen.MARK, "1")
    with pytest.raises(femtomp.StartError, match="freeze_support"):
        femtomp.start_server(["console"])


def test_supervisor_has_no_mark(tmp_path) -> None:
    """Programs that a sink starts are no second generation: they have servers."""
    source = "import femtomp; femtomp.start_server('file:{}').stop(); print('well')"
    code = source.format(tmp_path / "inner")
    sink = femtomp.HandlerSink(
        "subprocess.run",
        args={"args": ["sh", "-c", f'{sys.executable} -c "{code}" >{tmp_path}/said']},
    )
    with pytest.raises(femtomp.ConfigError):  # a process is no handler
        femtomp.start_server([sink])
    assert (tmp_path / "said").read_text() == "well\n"


def test_freeze_support_does_nothing_in_a_usual_program(monkeypatch) -> None:
    """Where no copy was started it returns, whatever the program's arguments are."""
    monkeypatch.setattr(sys, "argv", ["shop", frozen.DOOR, "/dev/shm/x"])
    femtomp.freeze_support()


@pytest.mark.parametrize("place", ["femtomp.frozen", "__main__"])
def test_nuitkas_mark_is_known(monkeypatch, place) -> None:
    """Nuitka sets no `sys.frozen`; what it compiled to stand alone is its own file."""
    for standalone in (False, True):
        made = SimpleNamespace(standalone=standalone)
        monkeypatch.setattr(sys.modules[place], "__compiled__", made, raising=False)
        assert frozen.is_frozen() is standalone
    assert frozen.program() == os.path.realpath("/proc/self/exe")


@pytest.fixture(name="built", scope="module")
def _built(tmp_path_factory):
    """A program as a directory and as one file, made by PyInstaller; their paths."""
    from tests.components import require

    require("pyinstaller")
    place = tmp_path_factory.mktemp("frozen")
    (place / "shop.py").write_text(SHOP)
    (place / "shop.spec").write_text(SPEC)
    # It takes minutes on a busy machine, and has a limit of its own.
    faulthandler.cancel_dump_traceback_later()
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--clean"]
    environ = {**os.environ, "PYINSTALLER_CONFIG_DIR": str(place / "cache")}
    done = subprocess.run(
        [*command, "--log-level=WARN", "shop.spec"],
        cwd=place, env=environ, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {"directory": place / "dist/shop/shop", "file": place / "dist/one"}


# No line of it is there for being frozen, but multiprocessing's.
SHOP = """
import logging, multiprocessing, os, sys
import femtomp

def work(what):
    logging.getLogger("shop").info("sold %s", what)

if __name__ == "__main__":
    multiprocessing.freeze_support()
    with femtomp.start_server([f"file:{sys.argv[1]}"], name="shop") as server:
        femtomp.worker_init()
        work("tea")
        for method in ("fork", "spawn", "forkserver"):
            context = multiprocessing.get_context(method)
            with context.Pool(1, server.worker_init) as pool:
                pool.map(work, [f"cake by {method}"])
        if sys.argv[2:]:
            os.kill(os.getpid(), 9)
"""
# What femtomp has no need of, and takes minutes to analyse.
SPEC = """
left_out = ["attr", "attrs", "celery", "django", "eventlet", "gevent", "grpc", "numpy",
            "opentelemetry", "pkg_resources", "pydantic", "pytest", "requests", "rich",
            "setuptools", "sqlite3", "tkinter", "urllib3"]
a = Analysis(["shop.py"], excludes=left_out)
pyz = PYZ(a.pure)
whole = EXE(pyz, a.scripts, a.binaries, a.datas, [], name="one", console=True)
exe = EXE(pyz, a.scripts, [], exclude_binaries=True, name="shop", console=True)
COLLECT(exe, a.binaries, a.datas, name="shop")
"""
SOLD = ["sold tea", *(f"sold cake by {m}" for m in ("fork", "spawn", "forkserver"))]


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_program_of_pyinstaller_delivers(built, tmp_path, kind) -> None:
    """PyInstaller's programs need no line of code; all start methods work in them."""
    done = run(built[kind], tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert [record["body"] for record in lines(tmp_path / "out")] == SOLD
    assert not os.listdir(os.environ["FEMTOMP_SPOOL_PARENT"])


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_supervisor_of_pyinstaller_outlives_a_killed_master(
    built, tmp_path, kind
) -> None:
    """With the program gone, and its unpacked files, what it logged is delivered."""
    done = run(built[kind], tmp_path / "out", "killed")
    assert done.returncode == -9 or done.returncode == 255, done.stderr
    parent = os.environ["FEMTOMP_SPOOL_PARENT"]
    until(lambda: not os.listdir(parent), "the spool is delivered and removed")
    assert [record["body"] for record in lines(tmp_path / "out")] == SOLD


def test_runtime_hook_says_what_the_package_says() -> None:
    """The hook imports nothing of femtomp before it must, so it repeats two words."""
    (directory,) = hook_directories()
    source = Path(directory, "rthooks", "pyi_rth_femtomp.py").read_text()
    assert f'"{frozen.DOOR}"' in source
    assert f"sys.{frozen._HAS_DOOR} = True" in source
