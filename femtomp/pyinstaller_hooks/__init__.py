"""What PyInstaller is told about femtomp, by the entry point `pyinstaller40`.

`hook-femtomp` names the modules that are imported by name, which it cannot see. The
runtime hook is femtomp's door in the frozen program (`femtomp.frozen`): it runs before
the program, and so makes `femtomp.freeze_support` needless there.
"""

from __future__ import annotations

from pathlib import Path


def hook_directories() -> list[str]:
    """Return the directories that PyInstaller is to look into."""
    return [str(Path(__file__).parent)]
