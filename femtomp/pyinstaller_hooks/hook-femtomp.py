"""Modules of femtomp, and of its clients, that are imported by name.

Those of frameworks, of tests and of the command line come with who imports them.
"""

from PyInstaller.utils.hooks import collect_submodules, copy_metadata

_LEFT_OUT = (
    "femtomp.__main__",
    "femtomp.cli",
    "femtomp.integrations",
    "femtomp.otel",
    "femtomp.pyinstaller_hooks",
    "femtomp.pytest_plugin",
    "femtomp.testing",
)


def _is_kept(name: str) -> bool:
    return not any(f"{name}.".startswith(f"{left_out}.") for left_out in _LEFT_OUT)


hiddenimports = collect_submodules("femtomp", filter=_is_kept)
hiddenimports += collect_submodules(
    "opentelemetry.exporter.otlp.proto", on_error="ignore"
)
datas = copy_metadata("femtomp")
