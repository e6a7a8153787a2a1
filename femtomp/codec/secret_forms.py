r"""Secrets whose name is not before a ``=`` or ``:``: pairs, options, elements.

In: a text, and what tells whether a name is secret. Out: where the values are::

    ('Authorization', 'Bearer ...')  ["cookie", "..."]  (b'authorization', b'...')
    ['--password', '...']            mysql --password ...
    {'name': 'DB_PASSWORD', 'value': '...'}             <password>...</password>

Most texts have none of these signs, which are looked for first, in C. Each character is
looked at a bounded number of times: repetition is possessive or bounded, and a value is
only looked for behind a secret name, and then consumed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias

from femtomp.codec.secret_text import MARK, value_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Has: TypeAlias = Callable[[str], bool]
    Span: TypeAlias = tuple[int, int]

# Keys of a dict that stands for one pair.
_NAMES: Final = ("name", "key", "Name", "Key", "header", "field", "NAME", "KEY")
NAME_KEYS: Final = frozenset(name.lower() for name in _NAMES)
VALUE_KEYS: Final = ("value", "Value", "val", "VALUE")
# One of these is in each text with a secret that is behind no "=" or ":".
OTHER_SIGNS: Final = ("',", '",', "</", "--")

_QUOTED: Final = re.compile(r"(\\{0,8})([\"'])([\w.\-]{1,160}+)\1\2\s*+,\s*+")
_NAMED: Final = re.compile(
    r"(?<![\w.\-])(?:name|key|header|field)[\\\"']{0,9}+\s*+[:=]\s*+b?[\\\"']{0,9}+"
    r"([\w.\-]{1,160}+)[\\\"']{0,9}+\s*+[,;]?+\s*+[\\\"']{0,9}+"
    r"val(?:ue)?[\\\"']{0,9}+\s*+[:=]",
    re.IGNORECASE,
)
_OPTION: Final = re.compile(r"(?<![\w\-])--([\w.][\w.\-]{0,160}+)[ \t]++(?=[^\s\-])")
_TAG: Final = re.compile(
    r"<(/?)(?:[\w.\-]{1,64}+:)?([\w.\-]{1,160}+)(?:\s[^<>]{0,4096}+)?>"
)
_BEFORE_PAIR: Final = re.compile(r"[(\[]\s{0,64}+[bBuU]?\Z")
_BEHIND_PAIR: Final = re.compile(r"\\{0,8}+[\"']?,?\s*+(?:[)\]]|\Z)")
_LOOKED_BACK: Final = 70


def has_sign(text: str) -> bool:
    """Return whether a text has a sign that each secret behind its name has."""
    return "=" in text or ":" in text or has_other_sign(text)


def has_other_sign(text: str) -> bool:
    """Return whether a text has one of the signs other than "=" and ":"."""
    return (
        ("," in text and ("'," in text or '",' in text)) or "</" in text or "--" in text
    )


def names_a_secret(item: object, has: Has) -> bool:
    """Return whether the first one of a pair is a secret's name: one word."""
    if type(item) is bytes:
        item = item.decode("latin-1")
    return type(item) is str and item[:1] != "-" and " " not in item and has(item)


def value_key(pair: Mapping[str, object], has: Has) -> str:
    """Return which key of a dict has the secret that another one names; or "".

    Examples
    --------
    >>> value_key({"name": "API_TOKEN", "value": "abc"}, "API_TOKEN".__eq__)
    'value'
    """
    for value in VALUE_KEYS:
        if value in pair:
            named = any(names_a_secret(pair.get(name), has) for name in _NAMES)
            return value if named and pair[value] is not None else ""
    return ""


def follows_secret(items: Sequence[object], at: int, has: Has) -> bool:
    """Return whether an item is secret for what stands before it in its list."""
    if at == 1 and len(items) == 2 and names_a_secret(items[0], has):  # noqa: PLR2004
        return True
    before, item = _word(items[at - 1]), _word(items[at])
    return before[:1] == "-" and item[:1] != "-" and is_option(before, has)


def _word(item: object) -> str:
    if type(item) is bytes:
        return item.decode("latin-1")
    return item if type(item) is str else ""


def is_option(word: str, has: Has) -> bool:
    """Return whether a word of an argument list says that a secret follows.

    Examples
    --------
    >>> [is_option(w, "password".__eq__) for w in ("--password", "--password=x", "-p")]
    [True, False, False]
    """
    name = word.lstrip("-")
    return name != word and not name.startswith("no-") and "=" not in name and has(name)


def spans_in(text: str, has: Has) -> list[Span]:
    """Return where secrets of these forms are, in order and apart from each other.

    Examples
    --------
    >>> text = "[('token', 'abc'), ('n', 1)]"
    >>> [text[a:b] for a, b in spans_in(text, "token".__eq__)]
    ['abc']
    """
    found: list[Span] = []
    if "," in text and ("'," in text or '",' in text):
        found += _pairs(text, has)
    if "--" in text:
        found += _options(text, has)
    if "</" in text:
        found += _elements(text, has)
    if "val" in text or "VAL" in text or "Val" in text:
        found += _named(text, has)
    return _apart(text, found) if found else found


def _apart(text: str, found: list[Span]) -> list[Span]:
    kept: list[Span] = []
    for start, end in sorted(found, key=lambda span: (span[0], -span[1])):
        if (
            start < end
            and text[start:end] != MARK
            and (not kept or start >= kept[-1][1])
        ):
            kept.append((start, end))
    return kept


def _pairs(text: str, has: Has) -> Iterator[Span]:
    at = 0
    for match in _QUOTED.finditer(text):
        if match.start() < at:
            continue
        name = match[3]
        is_argument = name.startswith("-")
        if not (is_option(name, has) if is_argument else has(name)):
            continue
        before = text[max(0, match.start() - _LOOKED_BACK) : match.start()]
        if not is_argument and _BEFORE_PAIR.search(before) is None:
            continue  # one of several words, say
        start, end = value_at(text, match.end(), "", "")
        if is_argument:
            if text.startswith("-", start):
                continue  # another option
        elif text[start : start + 1] not in ("(", "[", "{") and (
            _BEHIND_PAIR.match(text, end) is None
        ):
            continue
        yield start, end
        at = end


def _options(text: str, has: Has) -> Iterator[Span]:
    at = 0
    for match in _OPTION.finditer(text):
        if match.start() >= at and is_option(f"--{match[1]}", has):
            start, at = value_at(text, match.end(), "", "")
            yield start, at


def _named(text: str, has: Has) -> Iterator[Span]:
    at = 0
    for match in _NAMED.finditer(text):
        if match.start() >= at and has(match[1]):
            start, at = value_at(text, match.end(), "", "")
            yield start, at


def _elements(text: str, has: Has) -> Iterator[Span]:
    """Give what stands in XML elements, from the last opening tag on."""
    opened: dict[str, int] = {}
    for match in _TAG.finditer(text):
        name = match[2]
        if not match[1]:
            opened[name] = match.end()
        elif name in opened and has(name):
            yield opened.pop(name), match.start()
