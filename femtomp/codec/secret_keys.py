r"""Secrets by the name of their key: fields, and ``key=value`` within a text.

In: names of keys, texts. Out: whether a key is one of them, and texts whose values are
left out. Each character is looked at a bounded number of times, whatever stands there:
all repetition is possessive, or goes on behind what it has consumed.

A name is words; a key matches if it has these words one after the other, in any case
and with any separator: ``api_key`` is in ``X-API-Key``, ``apiKey`` and ``my.apikey``,
``token`` in ``access_token`` and not in ``tokenizer``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

MARK: Final = "[redacted]"
# Whoever logs under one of these names hands over something that lets others in.
STANDARD_KEYS: Final = (
    "password", "passwords",  "passwd", "passphrase", "pwd", "pgpassword",
    "dbpassword", "userpassword",
    "secret", "secrets", "credential", "credentials",
    "token", "accesstoken", "authtoken", "refreshtoken", "csrftoken", "xsrftoken",
    "authorization", "cookie", "cookies",
    "api_key", "access_key", "private_key", "encryption_key", "signing_key",
    "session_id", "session_key",
)  # fmt: skip

# A key is a name: what is longer is judged by its end.
_MAX_KEY_CHARS: Final = 160
# Keys and templates come from code, so there are few; a program that makes them up
# must not fill the memory.
MAX_KNOWN: Final = 4096

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\dA-Z_]++|[A-Z]|[0-9]++")
_SEPARATOR: Final = re.compile(r"[:=]")
# Read from its end: quotes and spaces, then the key, then what stands before it.
_KEY_BACKWARDS: Final = re.compile(r"[ \t]*+(?:[\"']\\*+)?([\w.\-]++)([\"'])?")
_SPACE: Final = re.compile(r"[=>~ \t]*+")
_QUOTE: Final = re.compile(r"[bBfFrRuU]{0,2}(\\*+)([\"'])")
_BRACKET: Final = re.compile(r"[\"'\\()\[\]{}]")
_PEM_BEGIN: Final = "-----BEGIN "
_PEM_END: Final = "-----END "
_LINE: Final = re.compile(r"[^\r\n]*+")
# "Basic dXNlcg==": the scheme is no secret, what follows is.
_SCHEME: Final = re.compile(
    r"(?:apikey|basic|bearer|digest|negotiate|token)[ \t]++(?=\S)", re.IGNORECASE
)
# A comma, bracket or quote is part of a value unless something else follows that
# looks like its end: a space, another such sign, the next key.
_VALUE: Final = re.compile(
    r"(?:[^\s,;&)\]}>\"'|\\]|"
    r"[,;&)\]}>\"'|\\](?![\s,;&)\]}>\"'|\\]|\Z|[\w.\-]++[\"']?[:=]))*+"
)
# Their values have spaces, commas and quotes of their own.
_WHOLE_LINE: Final = frozenset(("authorization", "cookie", "cookies"))


class SecretKeys:
    """Names of keys whose values are secret.

    Parameters
    ----------
    names : iterable of str
    allowed : iterable of str
        Whole keys that are none, though a name is in them.

    Examples
    --------
    >>> keys = SecretKeys(STANDARD_KEYS, ["token_count"])
    >>> [keys.has(k) for k in ("accessToken", "tokenizer", "Token-Count", "X-API-KEY")]
    [True, False, False, True]
    """

    def __init__(self, names: Iterable[str], allowed: Iterable[str] = ()) -> None:
        self._names = frozenset("".join(words(name)) for name in names) - {""}
        self._allowed = frozenset("".join(words(name)) for name in allowed)
        self._longest = max(map(len, self._names), default=0)
        self._shortest = _shortest(self._names)
        self._known: dict[str, str] = {}

    def has(self, key: str) -> bool:
        """Tell whether a key's value is secret."""
        return bool(self._name_in(key))

    def _name_in(self, key: str) -> str:
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            found = self._find(words(key[-_MAX_KEY_CHARS:]))
            if len(key) <= _MAX_KEY_CHARS:
                self._known[key] = found
        return found

    def _find(self, parts: list[str]) -> str:
        if "".join(parts) in self._allowed:
            return ""
        found = ""
        for first in range(len(parts)):
            run = ""
            for part in parts[first:]:
                run += part
                if run in self._names:
                    if run in _WHOLE_LINE:
                        return run
                    found = run
                if len(run) > self._longest:
                    break
        return found

    def is_in(self, text: str) -> bool:
        """Tell whether a text holds a value to be left out; the usual text does not.

        Most are told by what they lack: 0.5 us, where each separator takes 1.5.
        """
        joined = text.lower().replace("_", "").replace("-", "").replace(".", "")
        for name in self._shortest:
            if name in joined:
                break
        else:
            return False
        for separator in _separators(text):
            if self._key_before(text, separator.start(), 0) is not None:
                return True
        return False

    def leave_out(
        self, text: str, keep: re.Pattern[str] | None = None
    ) -> tuple[str, int]:
        r"""Return a text without the values of secret keys, and how many there were.

        Values that `keep` matches as a whole stay.

        Examples
        --------
        >>> keys = SecretKeys(STANDARD_KEYS)
        >>> keys.leave_out("login user=ann password=hunter2, ok")
        ('login user=ann password=[redacted], ok', 1)
        >>> keys.leave_out('{"api_key": "a\\"b", "n": 1}')
        ('{"api_key": "[redacted]", "n": 1}', 1)
        """
        kept: list[str] = []
        at = 0
        for separator in _separators(text):
            here = separator.start()
            if here < at:
                continue
            name, quote = self._key_before(text, here, at) or ("", "")
            if not name:
                continue
            start, end = _value_at(text, here + 1, name, quote)
            if start == end or text[start:end] == MARK:
                continue
            if keep is None or not keep.fullmatch(text, start, end):
                kept += [text[at:start], MARK]
                at = end
        if not kept:
            return text, 0
        return "".join([*kept, text[at:]]), len(kept) // 2

    def _key_before(self, text: str, here: int, at: int) -> tuple[str, str] | None:
        """Return the name in the key that ends at a separator, and what quotes both."""
        before = text[max(at, here - _MAX_KEY_CHARS) : here][::-1]
        match = _KEY_BACKWARDS.match(before)
        if match is None:
            return None
        key, quote = match.groups()
        name = self._name_in(key[::-1])
        return (name, quote or "") if name else None


def words(key: str) -> list[str]:
    """Split a key into its words, in lower case.

    Examples
    --------
    >>> words("X-APIKey2"), words("sessionID"), words("été_Token")
    (['x', 'api', 'key', '2'], ['session', 'id'], ['été', 'token'])
    """
    return [word.lower() for word in _WORD.findall(key)]


def _shortest(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that no other one is part of.

    Examples
    --------
    >>> _shortest(["apikey", "dbpassword", "password"])
    ('apikey', 'password')
    """
    found: list[str] = []
    for name in sorted(names, key=lambda name: (len(name), name)):
        if not any(other in name for other in found):
            found.append(name)
    return tuple(found)


def _separators(text: str) -> Iterable[re.Match[str]]:
    return _SEPARATOR.finditer(text)


def _value_at(text: str, at: int, name: str, quote: str) -> tuple[int, int]:
    """Return where the value behind a separator begins and ends."""
    start = _end(_SPACE, text, at)
    if text[start : start + 1] == ":":  # C++'s and Rust's paths
        return start, start
    if text.startswith(_PEM_BEGIN, start):
        end = text.find(_PEM_END, start)
        return start, len(text) if end < 0 else _end(_LINE, text, end)
    if (opened := _QUOTE.match(text, start)) is not None:
        level, sign = len(opened[1]), opened[2]
        return opened.end(), _closing(text, opened.end(), sign, level)
    if name in _WHOLE_LINE:
        end = _end(_LINE, text, start)
        closing = text.find(quote, start, end) if quote else -1
        return start, end if closing < 0 else closing
    if text.startswith(MARK, start):
        return start, start + len(MARK)
    if text[start : start + 1] in ("(", "[", "{"):
        return start, _closing_bracket(text, start)
    if (scheme := _SCHEME.match(text, start)) is not None:
        start = scheme.end()
    return start, _end(_VALUE, text, start)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()


def _closing(text: str, at: int, sign: str, level: int) -> int:
    """Return where a quoted value ends; one that is not closed, with the text.

    `level` is how many backslashes stand before its quotes, as in JSON within JSON.
    """
    here = at
    while (here := text.find(sign, here)) >= 0:
        first = here
        while first > at and text[first - 1] == "\\":
            first -= 1
        slashes = here - first
        if level == 0 and slashes % 2 == 0:
            return here
        if level and slashes <= level:
            return first
        here += 1
    return len(text)


def _closing_bracket(text: str, at: int) -> int:
    """Return where a list or dict ends, quoted brackets aside."""
    depth = 0
    sign = ""
    skip = -1
    for match in _BRACKET.finditer(text, at):
        found = match[0]
        if match.start() == skip:
            continue
        if found == "\\":
            skip = match.end()
        elif sign:
            sign = "" if found == sign else sign
        elif found in "\"'":
            sign = found
        else:
            depth += 1 if found in "([{" else -1
            if depth == 0:
                return match.end()
    return len(text)
