"""Secrets that are known: the values themselves, in the forms that texts have them in.

In: values, once; texts. Out: the texts without them. A value is in no repr and no error
of this module.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Final

from femtomp.codec.secret_text import MARK

if TYPE_CHECKING:
    from collections.abc import Iterable

# RFC 3986's unreserved characters.
_UNRESERVED: Final = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
)


class SecretValues:
    """Values that must be in no text.

    Parameters
    ----------
    values : iterable of str
        None of them empty, or part of the mark that stands for them.

    Examples
    --------
    >>> SecretValues(["p&ss"]).leave_out("p&ss, p%26ss")
    ('[redacted], [redacted]', 2)
    """

    def __init__(self, values: Iterable[str]) -> None:
        forms = {form for value in values for form in _forms(value)}
        # The longest first: one that is part of another must not cut it in two.
        self._forms = sorted(forms, key=lambda form: (-len(form), form))

    def leave_out(self, text: str) -> tuple[str, int]:
        """Return a text without the values, and how many there were."""
        count = 0
        for form in self._forms:
            if form in text:
                count += text.count(form)
                text = text.replace(form, MARK)
        return text, count


def _forms(value: str) -> set[str]:
    """Return a value as it is, and as URLs, JSON, Python and base64 write it."""
    data = value.encode("utf-8", "surrogatepass")
    forms = {
        value,
        _quoted(data),
        _quoted(data).replace("%2F", "/"),
        _quoted(data).replace("%20", "+"),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        repr(value)[1:-1],
        repr(data)[2:-1],
        base64.b64encode(data).decode(),
        base64.urlsafe_b64encode(data).decode(),
    }
    return {form for form in forms if form not in MARK}


def _quoted(data: bytes) -> str:
    """Percent-encode bytes, as within a URL."""
    return "".join([chr(b) if b in _UNRESERVED else f"%{b:02X}" for b in data])
