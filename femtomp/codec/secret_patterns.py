r"""Secrets by what they look like, wherever they stand in a text.

In: a text. Out: the text without them, and how many there were. Each pattern first asks
for a few characters that all of its kind have, in C: a text without any costs 30 ns a
pattern. Each is linear in the text: repetition is possessive and consumes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from femtomp.codec.secret_text import MARK

if TYPE_CHECKING:
    from collections.abc import Callable

_BEARER: Final = re.compile(r"(\bbearer[ \t]++)[\w\-.~+/]{6,}+=*+", re.IGNORECASE)
# The second half is optional, so that a token that is none is consumed all the same.
_JWT: Final = re.compile(r"eyJ[\w\-]++(\.[\w\-]++\.[\w\-]*+)?+")
_DIGITS: Final = re.compile(r"\d(?:[ \-]?\d)*+")
_USERINFO: Final = re.compile(r"://[^\s/:@\"'<>]*+:([^\s/\"'<>]+)@")
_BEGIN: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----")
_END: Final = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----")
_AWS: Final = re.compile(r"(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])")

_LEAST_CARD: Final = 13
_MOST_CARD: Final = 19
# As cards are printed: 4-4-4-4, 4-6-5. A card's last group may be shorter.
_LEAST_GROUP: Final = 4


def bearer_token(text: str) -> tuple[str, int]:
    """Leave out what stands behind "Bearer".

    Examples
    --------
    >>> bearer_token("got Bearer abcdef.123==")
    ('got Bearer [redacted]', 1)
    """
    if "earer" not in text and "EARER" not in text:
        return text, 0
    return _BEARER.subn(rf"\1{MARK}", text)


def jwt(text: str) -> tuple[str, int]:
    """Leave out JSON Web Tokens (RFC 7519).

    Examples
    --------
    >>> jwt("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0. and eyJnone")
    ('[redacted] and eyJnone', 1)
    """
    if "eyJ" not in text:
        return text, 0
    count = 0

    def one(match: re.Match[str]) -> str:
        nonlocal count
        if match[1] is None:
            return match[0]
        count += 1
        return MARK

    return _JWT.sub(one, text), count


def card_number(text: str) -> tuple[str, int]:
    """Leave out numbers of payment cards: 13 to 19 digits with a right check digit.

    Examples
    --------
    >>> card_number("4111 1111 1111 1111 in 2026, 4111111111111112")
    ('[redacted] in 2026, 4111111111111112', 1)
    """
    if len(text) < _LEAST_CARD:
        return text, 0
    count = 0

    def one(match: re.Match[str]) -> str:
        nonlocal count
        kept, found = _without_cards(match[0])
        count += found
        return kept

    return _DIGITS.sub(one, text), count


def _without_cards(digits: str) -> tuple[str, int]:
    """Look at groups of digits, as they are written, for those that make a card."""
    if len(digits) < _LEAST_CARD:
        return digits, 0
    groups = [(m.start(), m.end()) for m in re.finditer(r"\d++", digits)]
    kept: list[str] = []
    at = first = 0
    while first < len(groups):
        last = _card_from(digits, groups, first)
        if last < 0:
            first += 1
            continue
        kept += [digits[at : groups[first][0]], MARK]
        at = groups[last][1]
        first = last + 1
    return "".join([*kept, digits[at:]]), len(kept) // 2


def _card_from(digits: str, groups: list[tuple[int, int]], first: int) -> int:
    """Return the last group of a card that begins with one; -1 if there is none."""
    run = ""
    for last in range(first, len(groups)):
        start, end = groups[last]
        is_short = end - start < _LEAST_GROUP
        if len(run) + end - start > _MOST_CARD or (is_short and not run):
            return -1
        run += digits[start:end]
        if is_short and len(run) < _LEAST_CARD:
            return -1
        if len(run) >= _LEAST_CARD and run[0] in "23456" and _luhn(run):
            return last
    return -1


def _luhn(digits: str) -> bool:
    """Tell whether the last digit is the check digit (ISO/IEC 7812-1, annex B)."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        number = int(digit) * (1 + index % 2)
        total += number - 9 * (number > 9)  # noqa: PLR2004 - the sum of two digits
    return total % 10 == 0


def url_password(text: str) -> tuple[str, int]:
    """Leave out the password of a connection string.

    Examples
    --------
    >>> url_password("postgres://ann:p4ss@db:5432/shop")
    ('postgres://ann:[redacted]@db:5432/shop', 1)
    """
    if "://" not in text or "@" not in text:
        return text, 0
    return _USERINFO.subn(_without_password, text)


def _without_password(match: re.Match[str]) -> str:
    start = match.start(1) - match.start()
    return f"{match[0][:start]}{MARK}@"


def private_key(text: str) -> tuple[str, int]:
    r"""Leave out private keys in PEM (RFC 7468); one without an end, to the end.

    Examples
    --------
    >>> pem = "-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----"
    >>> private_key(f"key {pem}.")
    ('key [redacted].', 1)
    """
    if "PRIVATE KEY-----" not in text:
        return text, 0
    kept: list[str] = []
    at = 0
    while (begin := _BEGIN.search(text, at)) is not None:
        end = _END.search(text, begin.end())
        kept += [text[at : begin.start()], MARK]
        at = len(text) if end is None else end.end()
    return "".join([*kept, text[at:]]), len(kept) // 2


def aws_key(text: str) -> tuple[str, int]:
    """Leave out access key ids of AWS; their secrets have keys of their own.

    Examples
    --------
    >>> aws_key("id AKIAIOSFODNN7EXAMPLE")
    ('id [redacted]', 1)
    """
    if "AKIA" not in text and "ASIA" not in text:
        return text, 0
    return _AWS.subn(MARK, text)


PATTERNS: Final[dict[str, Callable[[str], tuple[str, int]]]] = {
    "private_key": private_key,
    "jwt": jwt,
    "bearer_token": bearer_token,
    "url_password": url_password,
    "aws_key": aws_key,
    "card_number": card_number,
}
