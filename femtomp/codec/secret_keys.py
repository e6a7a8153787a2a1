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
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from femtomp.codec.secret_forms import (
    NAME_KEYS,
    OTHER_SIGNS,
    has_other_sign,
    spans_in,
)
from femtomp.codec.secret_text import MARK, WHOLE_LINE, value_at

if TYPE_CHECKING:
    from collections.abc import Iterable

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

# Of so many parts each one's last word is looked at.
_FEW_PARTS: Final = 6

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\dA-Z_]++|[A-Z]|[0-9]++")
_SEPARATOR: Final = re.compile(r"[:=]")
# Read from its end: quotes and spaces, then the key, then what stands before it.
_KEY_BACKWARDS: Final = re.compile(r"[ \t]*+(?:[\"']\\*+)?([\w.\-]++)([\"'])?")


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
        self._clean_words: set[str] = set()
        self._naming_words: set[str] = set()
        # Of the texts of one batch, those that were seen to have no secret's name.
        self._nameless: set[str] = set()

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
                    if run in WHOLE_LINE:
                        return run
                    found = run
                if len(run) > self._longest:
                    break
        return found

    def is_in(self, text: str) -> bool:
        """Tell whether a text holds a value to be left out; the usual text does not."""
        return self.has_pair(text) or (has_other_sign(text) and self.has_other(text))

    def has_pair(self, text: str) -> bool:
        """Tell whether a text holds one behind a "=" or ":".

        Of few separators the words before them are looked up: 0.1 us each. A text of
        many is told by the names that it lacks: 0.5 us and more.
        """
        parts = text.replace(":", "=").split("=")
        if len(parts) > _FEW_PARTS:
            if not self._has_name(text):
                self._nameless.add(text)
                return False
            return self._is_before_any(text)
        del parts[-1]
        clean = self._clean_words
        names = False
        for part in parts:
            word = part.rstrip(" \t").rpartition(" ")[2]
            if word in clean:
                continue
            if word in self._naming_words:
                names = True
            elif self._may_be_key(word):
                return self._is_before_any(text)
        # A name may be the value of `name`, its own that of `value`.
        return names and "val" in text.lower() and bool(spans_in(text, self.has))

    def has_other(self, text: str) -> bool:
        """Tell whether a text holds one in another form."""
        if not self._has_name(text):
            self._nameless.add(text)
            return False
        return bool(spans_in(text, self.has))

    def with_others(self, texts: list[str]) -> set[str]:
        """Return the texts that hold one in another form.

        They are looked at as one: where a sign stands nowhere, that is 50 times as fast
        as text by text.
        """
        whole = "\0".join(texts)
        ends: list[int] = []
        found: set[str] = set()
        for sign in OTHER_SIGNS:
            # A single character that is nowhere costs next to nothing.
            at = whole.find(sign) if sign[0] in whole else -1
            if at >= 0 and not ends:
                ends = [*accumulate([len(text) + 1 for text in texts])]
            while at >= 0:
                number = bisect_right(ends, at)
                text = texts[number]
                if text not in self._nameless and self.has_other(text):
                    found.add(text)
                at = whole.find(sign, ends[number])
        self._nameless.clear()
        return found

    def _has_name(self, text: str) -> bool:
        joined = text.lower().replace("_", "").replace("-", "").replace(".", "")
        return any(name in joined for name in self._shortest)

    def _is_before_any(self, text: str) -> bool:
        for separator in _separators(text):
            if self._key_before(text, separator.start(), 0) is not None:
                return True
        return bool(spans_in(text, self.has))

    def _may_be_key(self, word: str) -> bool:
        """Tell whether the end of a word is a secret key, or can name one."""
        match = _KEY_BACKWARDS.match(word[-_MAX_KEY_CHARS:][::-1])
        key = "" if match is None else match[1][::-1]
        if self._name_in(key) or len(word) > _MAX_KEY_CHARS:
            return True
        is_naming = key.lower() in NAME_KEYS
        known = self._naming_words if is_naming else self._clean_words
        if len(known) >= MAX_KNOWN:
            known.clear()
        known.add(word)
        return is_naming

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
        text, others = self._without_other_forms(text, keep)
        kept: list[str] = []
        at = 0
        for separator in _separators(text):
            here = separator.start()
            if here < at:
                continue
            name, quote = self._key_before(text, here, at) or ("", "")
            if not name:
                continue
            start, end = value_at(text, here + 1, name, quote)
            if start == end or text[start:end] == MARK:
                continue
            if keep is None or not keep.fullmatch(text, start, end):
                kept += [text[at:start], MARK]
                at = end
        if not kept:
            return text, others
        return "".join([*kept, text[at:]]), len(kept) // 2 + others

    def _without_other_forms(
        self, text: str, keep: re.Pattern[str] | None
    ) -> tuple[str, int]:
        spans = spans_in(text, self.has)
        if not spans:
            return text, 0
        kept: list[str] = []
        at = 0
        for start, end in spans:
            if keep is None or not keep.fullmatch(text, start, end):
                kept += [text[at:start], MARK]
                at = end
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
