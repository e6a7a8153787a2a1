r"""Text of anybody's, made harmless for a terminal and for who reads lines.

In: text. Out: the same with controls shown as Python escapes, so that it can neither
move a cursor, nor reorder what is read, nor begin a line of its own. Nothing is
imported: a log call may need this at any time.
"""

from __future__ import annotations

from typing import Final

# Everything that moves a cursor, ends a line or reorders text: C0 and C1 controls, DEL,
# the Unicode line ends, and bidirectional overrides.
CONTROLS: Final = (
    *range(0x20),
    *range(0x7F, 0xA0),
    *(0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)),
)
# Tab stays: it only leaves space.
_ESCAPES: Final = {
    code: f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"  # noqa: PLR2004
    for code in CONTROLS
    if code != ord("\t")
}
INDENT: Final = "    "


def visible(text: str) -> str:
    r"""Show the controls of a line as escapes.

    Examples
    --------
    >>> print(visible("a\x1b[2Jb\n"))
    a\x1b[2Jb\x0a
    """
    return text if text.isprintable() else text.translate(_ESCAPES)


def split(text: str) -> list[str]:
    """Return the lines of a text, which are shown as lines."""
    return text.replace("\r\n", "\n").split("\n") if "\n" in text else [text]


def shown(text: str) -> str:
    r"""Show a text as one line, and indented ones for what has more.

    Examples
    --------
    >>> print(shown("INFO x: one\nERROR x: two\x07"))
    INFO x: one
        ERROR x: two\x07
    """
    return f"\n{INDENT}".join([visible(line) for line in split(text)])
