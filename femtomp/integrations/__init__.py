"""Ways from pools, servers and other logging libraries to femtomp.

Each uses femtomp by its public names alone, and loads its library only when it is used.
``femtomp.integrations.celery`` is loaded at its first use, or by an import.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def __getattr__(name: str) -> Any:
    """Load an integration when it is first asked for (PEP 562).

    Raises
    ------
    AttributeError
        If there is none of that name.
    ImportError
        If what it integrates is not installed.
    """
    if name not in __dir__():
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(module.name for module in iter_modules(__path__))
