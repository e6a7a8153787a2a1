"""Components that a test needs and a machine may lack: skipped, unless required.

`FEMTOMP_TEST_REQUIRE=journald,otlp` says that these must be there: what is missing then
fails its tests instead of skipping them, so that CI cannot pass by testing nothing.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

JOURNALD_PATHS = ("/usr/lib/systemd/systemd-journald", "/lib/systemd/systemd-journald")


def require(name: str) -> None:
    """Skip the calling test if a component is missing; fail it if it is required."""
    reason = missing(name)
    if reason is None:
        return
    required = os.environ.get("FEMTOMP_TEST_REQUIRE", "").split(",")
    if name in {word.strip() for word in required}:
        pytest.fail(f"{name} is required here, and missing: {reason}", pytrace=False)
    pytest.skip(reason)


@functools.cache
def missing(name: str) -> str | None:
    """Say why a component cannot be used; None if it can."""
    return CHECKS[name]()


def unshare_command() -> list[str]:
    """Give the command prefix for a mount namespace in which one is root."""
    return ["unshare", "-m"] if os.getuid() == 0 else ["unshare", "-r", "-m"]


def journald_path() -> str | None:
    """Find the journald binary."""
    return next((path for path in JOURNALD_PATHS if Path(path).exists()), None)


def _journald() -> str | None:
    if journald_path() is None:
        return "systemd-journald is not installed"
    return _program("journalctl") or _tmpfs()


def _tmpfs() -> str | None:
    reason = _program("unshare")
    if reason is not None:
        return reason
    command = [*unshare_command(), "mount", "--make-rprivate", "/"]
    if subprocess.run(command, capture_output=True).returncode:
        return "mount namespaces are not permitted"
    return None


def _rotel() -> str | None:
    reason = _packages("rotel")
    if reason is not None:
        return reason
    # Some wheels' agent is linked against libpython, which a static build lacks.
    tried = subprocess.run([rotel_path(), "--version"], capture_output=True)
    return tried.stderr.decode().strip() or None if tried.returncode else None


def rotel_path() -> Path:
    """Give the agent's path; the wheel does not mark it as executable."""
    spec = importlib.util.find_spec("rotel")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).with_name("rotel-agent")
    path.chmod(0o755)
    return path


def otelcol_path() -> str | None:
    """Find the Collector: $OTELCOL, or what `make test-collector` has built."""
    built = Path(__file__).parent.parent / ".collector" / "otelcol"
    path = shutil.which(os.environ.get("OTELCOL") or built)
    return None if path is None else str(Path(path).absolute())


def _otelcol() -> str | None:
    found = otelcol_path()
    return None if found else "the Collector was not built: make test-collector"


def _netns() -> str | None:
    reason = _program("unshare") or _program("nsenter") or _program("ip")
    if reason is not None:
        return reason
    pair = ["ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1"]
    if subprocess.run(["unshare", "-n", "-u", *pair], capture_output=True).returncode:
        return "network namespaces with veth pairs are not permitted"
    return None


def _packages(*names: str) -> str | None:
    for name in names:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return f"the package {name} is not installed"
    return None


def _program(name: str) -> str | None:
    return None if shutil.which(name) else f"the program {name} is not installed"


def uwsgi_path() -> str | None:
    """Find the uWSGI that was built for this Python."""
    return shutil.which("uwsgi", path=str(Path(sys.executable).parent))


def _uwsgi() -> str | None:
    return None if uwsgi_path() else "uWSGI is not installed beside this Python"


def _uwsgi_hooks() -> str | None:
    if sys.version_info >= (3, 13):
        return "uWSGI 2.0.31 aborts with --py-call-osafterfork on CPython 3.13"
    return _uwsgi()


def _pyinstaller() -> str | None:
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return "PyInstaller wants a Python with a shared library"
    return _packages("PyInstaller") or _program("objcopy")


CHECKS = {
    "journald": _journald,
    "otlp": lambda: _packages(
        "grpc",
        "opentelemetry.exporter.otlp.proto.http",
        "opentelemetry.exporter.otlp.proto.grpc",
        "opentelemetry.sdk",
    ),
    "rotel": _rotel,
    "otelcol": _otelcol,
    "netns": _netns,
    "gunicorn": lambda: _packages("gunicorn"),
    "celery": lambda: _packages("celery"),
    "django": lambda: _packages("django"),
    "eventlet": lambda: _packages("eventlet"),
    "gevent": lambda: _packages("gevent"),
    "granian": lambda: _packages("granian"),
    "pyinstaller": _pyinstaller,
    "hypercorn": lambda: _packages("hypercorn"),
    "uwsgi": _uwsgi,
    "uwsgi_hooks": _uwsgi_hooks,
    "torch": lambda: _packages("torch"),
    "dask": lambda: _packages("distributed"),
    "ray": lambda: _packages("ray"),
    "loky": lambda: _packages("joblib"),
    "redis": lambda: _packages("redis") or _program("redis-server"),
    "fastapi": lambda: _packages("fastapi", "uvicorn", "websockets"),
    "uvicorn": lambda: _packages("uvicorn"),
    "uvicorn_worker": lambda: _packages("uvicorn", "uvicorn_worker"),
    "xdist": lambda: _packages("xdist"),
    "strace": lambda: _program("strace"),
    "tmpfs": _tmpfs,
}
