"""The door of a frozen program to its supervisor; runs before the program does.

It imports femtomp only to become that: in the program others may have to come first.
"""


def _pyi_rthook() -> None:
    import sys

    if sys.argv[1:2] == ["--femtomp-supervisor"]:
        import femtomp

        femtomp.freeze_support()
    # As `femtomp.freeze_support` notes it.
    sys.femtomp_has_door = True  # type: ignore[attr-defined]


_pyi_rthook()
del _pyi_rthook
