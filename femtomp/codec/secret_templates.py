"""Secrets among a template's arguments: what `%s` stood for behind a secret's name.

In: the template of a log call, the body that came of it. Out: which parts of the body
must go. The arguments themselves are not in the record, so they are found between the
template's own words; where that is ambiguous, all that may be one is left out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from femtomp.codec.secret_keys import MAX_KNOWN
from femtomp.codec.secret_text import MARK

if TYPE_CHECKING:
    from femtomp.codec.secret_keys import SecretKeys

# printf-style formatting, as `LogRecord.getMessage` does it.
_PLACE: Final = re.compile(
    r"%(?:\(([^)]{0,256})\))?[#0 +\-]*+(?:\*|\d++)?(?:\.(?:\*|\d++))?[hlL]?"
    r"([diouxXeEfFgGcrsa%])"
)
# A value that is nothing but places is none yet.
PLACES: Final = re.compile(f"(?:{_PLACE.pattern})+")
_LAST_WORD: Final = re.compile(r"[\s=:>\"'(\[{]*+([\w.\-]++)")
_MAX_WORD_CHARS: Final = 160
# A log call has a few; a template that is data may have any number.
_MAXPLACES: Final = 256


class Template(NamedTuple):
    """What a template is made of: literals, with a place between each two."""

    literals: tuple[str, ...]
    secret: tuple[int, ...]
    """The places whose arguments are secret."""


class SecretTemplates:
    """Which places of which templates are secret, remembered.

    Parameters
    ----------
    keys : SecretKeys
    """

    def __init__(self, keys: SecretKeys) -> None:
        self._keys = keys
        self._known: dict[str, Template] = {}
        self.clean: set[str] = {""}
        """Templates without secret places, of those known."""

    def look_at(self, template: str) -> Template:
        """Take a template apart.

        Examples
        --------
        >>> from femtomp.codec.secret_keys import STANDARD_KEYS, SecretKeys
        >>> SecretTemplates(SecretKeys(STANDARD_KEYS)).look_at("%s has token %s")
        Template(literals=('', ' has token ', ''), secret=(1,))
        """
        found = self._known.get(template)
        if found is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
                self.clean = {""}
            found = self._known[template] = self._parse(template)
            if not found.secret:
                self.clean.add(template)
        return found

    def _parse(self, template: str) -> Template:
        literals = [""]
        secret = []
        at = 0
        for place in _PLACE.finditer(template):
            literals[-1] += template[at : place.start()]
            at = place.end()
            if place[2] == "%":
                literals[-1] += "%"
                continue
            if self._is_secret(place[1], literals[-1]):
                secret.append(len(literals) - 1)
            literals.append("")
            if len(literals) > _MAXPLACES:
                break
        literals[-1] += template[at:]
        return Template(tuple(literals), tuple(secret))

    def _is_secret(self, name: str | None, before: str) -> bool:
        if name is not None and self._keys.has(name):
            return True
        word = _LAST_WORD.match(before[-_MAX_WORD_CHARS:][::-1])
        return word is not None and self._keys.has(word[1][::-1])


def leave_out_arguments(template: Template, body: str) -> tuple[str, int]:
    """Return a body without the arguments that are secret, and how many there were.

    Examples
    --------
    >>> template = Template(("token ", " for ", ""), (0,))
    >>> leave_out_arguments(template, "token a b c for ann")
    ('token [redacted] for ann', 1)
    >>> leave_out_arguments(template, "something else")
    ('[redacted]', 1)
    """
    starts = _earliest(template.literals, body)
    ends = _latest(template.literals, body)
    if starts is None or ends is None:
        return MARK, 1
    kept: list[str] = []
    at = 0
    for place in template.secret:
        start, end = max(starts[place], at), ends[place]
        if start < end:
            kept += [body[at:start], MARK]
            at = end
    return "".join([*kept, body[at:]]), len(kept) // 2


def _earliest(literals: tuple[str, ...], body: str) -> list[int] | None:
    """Return the first offset at which each argument can begin."""
    starts: list[int] = []
    at = 0
    for literal in literals[:-1]:
        found = body.find(literal, at) if starts else 0
        if found < 0 or not body.startswith(literal, found):
            return None
        at = found + len(literal)
        starts.append(at)
    return starts


def _latest(literals: tuple[str, ...], body: str) -> list[int] | None:
    """Return the last offset at which each argument can end."""
    if not body.endswith(literals[-1]):
        return None
    at = len(body) - len(literals[-1])
    ends = [at]
    for literal in reversed(literals[1:-1]):
        at = body.rfind(literal, 0, at)
        if at < 0:
            return None
        ends.append(at)
    return ends[::-1]
