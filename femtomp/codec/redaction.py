"""Redaction: records without the secrets that somebody logged.

In: records, rules. Out: records in which every secret is replaced by ``[redacted]``,
with their number in the attribute `femtomp.redacted`; a record without any is the same
object. Pure; one `Redactor` serves one thread.

Looked at is every text of a record: body, attributes at any depth, exceptions, the
template's arguments, resource and scope. Most records hold no secret, so each is asked
first whether it might: the names of its attributes are looked up all at once, and texts
without one of a few signs, "=" and ":" above all, have no key in them.

What must never happen: an exception, or a record that passes because one was raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from femtomp.codec.resources import ByResource
from femtomp.codec.secret_forms import (
    VALUE_KEYS,
    follows_secret,
    has_other_sign,
    has_sign,
    is_option,
    value_key,
)
from femtomp.codec.secret_keys import MAX_KNOWN, STANDARD_KEYS, SecretKeys
from femtomp.codec.secret_patterns import PATTERNS
from femtomp.codec.secret_templates import (
    PLACES,
    SecretTemplates,
    leave_out_arguments,
)
from femtomp.codec.secret_text import MARK
from femtomp.codec.secret_values import SecretValues
from femtomp.record import Record, Resource, Scope

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Sequence

    from femtomp.record import AnyValue

COUNT: Final = "femtomp.redacted"
# Deeper than any value that capture makes; the rest of a deeper one is left out.
_MAX_DEPTH: Final = 32
_TEMPLATE: Final = "femtomp.template"
_INT64: Final = 1 << 63
# What femtomp itself notes of a log call, first. The interpreter's own words.
_OWN: Final = (
    "code.file.path", "code.line.number", "code.function.name", "thread.id",
    "thread.name",
)  # fmt: skip
# The shortest text with a secret that has neither "=" nor ":" is "--pwd x".
_SHORT: Final = 6
_SCALARS: Final = frozenset((int, float, bool, type(None)))

_Replace: TypeAlias = "Callable[[str], tuple[str, int]]"


class _Tally:
    """How many secrets were left out of one record."""

    def __init__(self) -> None:
        self.count = 0

    def of(self, replaced: tuple[str, int]) -> str:
        """Add to the count, and return the text."""
        text, count = replaced
        self.count += count
        return text


class Redactor:
    """Leaves secrets out of records.

    Parameters
    ----------
    keys : iterable of str
        Names of secret keys.
    allow : iterable of str
        Whole keys that are not secret, though such a name is in them.
    patterns : iterable of str or compiled pattern
        Names of `secret_patterns.PATTERNS`; or what is to be left out where it matches.
    values : iterable of str
        Secrets to be left out wherever they stand.

    Examples
    --------
    >>> record = Record(0, 9, "INFO", "shop", "hi", {"api_key": "x"}, Resource({}))
    >>> Redactor().record(record).attributes
    {'api_key': '[redacted]', 'femtomp.redacted': 1}
    """

    def __init__(
        self,
        keys: Iterable[str] = STANDARD_KEYS,
        allow: Iterable[str] = (),
        patterns: Iterable[str | re.Pattern[str]] = (),
        values: Iterable[str] = (),
    ) -> None:
        self._keys = SecretKeys(keys, allow)
        self._templates = SecretTemplates(self._keys)
        self._anywhere: list[_Replace] = []
        secrets = list(values)
        if secrets:
            self._anywhere.append(SecretValues(secrets).leave_out)
        self._anywhere += [
            PATTERNS[p] if isinstance(p, str) else _by(p) for p in patterns
        ]
        # By the names of a record's attributes, if none of them is secret: which values
        # are to be looked at, whether there is a template, and a value that is named.
        self._shapes: dict[tuple[str, ...], tuple[tuple[str, ...], bool, bool]] = {}
        self._resources = ByResource(self._resource)
        self._resources_seen: dict[int, Resource] = {}

    def records(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return the records without secrets; those that have none as they are."""
        try:
            suspects = self._suspects(records)
        except (TypeError, ValueError, AttributeError):
            # A record of unheard-of shape among them: each is gone through.
            suspects = [*range(len(records))]
        if not suspects:
            return records
        kept = [*records]
        for index in suspects:
            kept[index] = self.record(kept[index])
        return kept

    def record(self, record: Record) -> Record:
        """Return a record without secrets; never raises."""
        try:
            return self._redacted(record)
        except Exception as exc:
            # Better without its words than with a secret.
            return record._replace(
                body=f"[redacted: {type(exc).__name__}]",
                attributes={COUNT: 1},
                resource=Resource({}),
                scope=None,
                event_name=None,
            )

    def _suspects(  # noqa: C901, PLR0912 - the hot path: calls are dear
        self, records: Sequence[Record]
    ) -> list[int]:
        """Find the records that have to be gone through; the hot path, 0.6 us each.

        Fields are read by their places in the tuple: 10 ns, by name 20.
        """
        if self._anywhere:
            all_found = [i for i, r in enumerate(records) if self._is_suspect(r)]
            self._keys.with_others([])
            return all_found
        found: list[int] = []
        suspect = found.append
        has_pair = self._keys.has_pair
        plan_of = self._shapes.get
        clean = self._templates.clean
        seen = self._resources_seen
        texts: list[str] = []
        gather = texts.append
        last: Resource | None = None
        for index, record in enumerate(records):
            body, attributes, resource = record[4], record[5], record[6]
            plan = plan_of((*attributes,))
            if (
                plan is None
                or record[12] is not None
                or type(body) is not str
                or (("=" in body or ":" in body) and has_pair(body))
            ):
                suspect(index)
                continue
            names, has_template, is_pair = plan
            if (has_template and attributes[_TEMPLATE] not in clean) or (
                is_pair and value_key(attributes, self._keys.has)
            ):
                suspect(index)
                continue
            gather(body)
            for name in names:
                value = attributes[name]
                if type(value) is str:
                    if ("=" in value or ":" in value) and has_pair(value):
                        suspect(index)
                        break
                    if len(value) > _SHORT:
                        gather(value)
                elif type(value) not in _SCALARS and self._may_hold(value):
                    suspect(index)
                    break
            else:
                if resource is not last:
                    if id(resource) in seen:
                        last = resource
                    else:
                        suspect(index)
        secret = self._keys.with_others(texts)
        return self._with(secret, records, found) if secret else found

    def _with(
        self, secret: set[str], records: Sequence[Record], found: list[int]
    ) -> list[int]:
        """Add to the suspects the records that have one of these texts."""
        for index, record in enumerate(records):
            values = (record.body, *record.attributes.values())
            if any(type(v) is str and v in secret for v in values):
                found.append(index)
        return sorted({*found})

    def _is_suspect(self, record: Record) -> bool:
        """Tell whether a record has to be gone through, its texts looked at as one."""
        texts = [record.logger, record.event_name or ""]
        attributes = record.attributes
        if (
            record.scope is not None
            or (*attributes,) not in self._shapes
            or id(record.resource) not in self._resources_seen
            or attributes.get(_TEMPLATE, "") not in self._templates.clean
            or not self._gather([record.body, attributes], texts, 0)
        ):
            return True
        text = "\0".join(texts)
        if has_sign(text) and self._keys.is_in(text):
            return True
        return any(replace(text)[1] for replace in self._anywhere)

    def _gather(self, value: AnyValue, texts: list[str], depth: int) -> bool:
        """Add all texts of a value; False if it has to be gone through anyway."""
        kind = type(value)
        if kind is str:
            texts.append(value)
        elif kind is int and abs(value) < _INT64:
            if self._anywhere:
                texts.append(str(value))
        elif kind is dict:
            return depth < _MAX_DEPTH and self._gather_dict(value, texts, depth)
        elif kind is list:
            return depth < _MAX_DEPTH and self._gather_list(value, texts, depth)
        elif kind not in _SCALARS:
            return False
        return depth < _MAX_DEPTH

    def _gather_dict(
        self, value: dict[AnyValue, AnyValue], texts: list[str], depth: int
    ) -> bool:
        has = self._keys.has
        if value_key(value, has):
            return False
        for key, item in value.items():
            if type(key) is not str or (has(key) and item is not None):
                return False
            texts.append(key)
            if not self._gather(item, texts, depth + 1):
                return False
        return True

    def _gather_list(self, value: list[AnyValue], texts: list[str], depth: int) -> bool:
        has = self._keys.has
        # A pair, or a list of arguments.
        if len(value) == 2:  # noqa: PLR2004
            first = value[0]
            if (
                type(first) is str
                and first[:1] != "-"
                and " " not in first
                and has(first)
            ):
                return False
        for item in value:
            if type(item) is str:
                if item[:1] == "-" and is_option(item, has):
                    return False
                texts.append(item)
            elif not self._gather(item, texts, depth + 1):
                return False
        return True

    def _may_hold(self, value: AnyValue) -> bool:
        """Tell whether a list or dict has to be gone through."""
        texts: list[str] = []
        if not self._gather(value, texts, 0):
            return True
        text = "\0".join(texts)
        return has_sign(text) and self._keys.is_in(text)

    def _learn(self, record: Record) -> None:
        """Remember what was found clean, so that its like is not gone through again."""
        names = (*record.attributes,)
        if len(self._shapes) >= MAX_KNOWN:
            self._shapes.clear()
        if not any(type(n) is not str or self._keys.has(n) for n in names):
            others = names[len(_OWN) :] if names[: len(_OWN)] == _OWN else names
            looked_at = tuple(name for name in others if name != _TEMPLATE)
            is_pair = any(name in VALUE_KEYS for name in names)
            self._shapes[names] = (looked_at, _TEMPLATE in names, is_pair)

    # -- what holds one ----------------------------------------------------------------

    def _redacted(self, record: Record) -> Record:
        tally = _Tally()
        attributes: dict[str, AnyValue] = self._value(record.attributes, tally, 0)
        body = record.body
        template = record.attributes.get(_TEMPLATE)
        if type(template) is str:
            text = self._text(template, tally, PLACES)
            attributes[_TEMPLATE] = text
            parsed = self._templates.look_at(template)
            if parsed.secret and type(body) is str:
                body, count = leave_out_arguments(parsed, body)
                tally.count += count
        body = self._value(body, tally, 0)
        scope = record.scope
        if scope is not None:
            scope = Scope(*self._value(list(scope), tally, 0))
        logger, event_name = record.logger, record.event_name
        for replace in self._anywhere:
            logger = tally.of(replace(logger))
            event_name = event_name and tally.of(replace(event_name))
        resource = self._resources.get(record.resource)
        if tally.count:
            attributes[COUNT] = tally.count
        elif resource is record.resource:
            if len(self._resources_seen) >= MAX_KNOWN:
                self._resources_seen.clear()
            # Kept, so that its id cannot come to mean another one.
            self._resources_seen[id(resource)] = resource
            if scope is None:
                self._learn(record)
            return record
        return record._replace(
            body=body, attributes=attributes, scope=scope, logger=logger,
            event_name=event_name, resource=resource,
        )  # fmt: skip

    def _resource(self, resource: Resource) -> Resource:
        tally = _Tally()
        attributes = self._value(dict(resource), tally, 0)
        brief = self._value(resource.brief, tally, 0)
        return Resource(attributes, brief) if tally.count else resource

    def _value(self, value: AnyValue, tally: _Tally, depth: int) -> AnyValue:
        if depth > _MAX_DEPTH:
            tally.count += 1
            return MARK
        if type(value) is str:
            return self._text(value, tally)
        if isinstance(value, dict):
            return self._dict(value, tally, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._list([*value], tally, depth)
        if type(value) is bytes:
            before = tally.count
            text = self._text(value.decode("utf-8", "surrogateescape"), tally)
            changed = tally.count > before
            return text.encode("utf-8", "surrogateescape") if changed else value
        if type(value) is int and self._anywhere and abs(value) < _INT64:
            before = tally.count
            text = self._text(str(value), tally)
            return text if tally.count > before else value
        return value

    def _list(self, items: list[AnyValue], tally: _Tally, depth: int) -> list[AnyValue]:
        has = self._keys.has
        kept = []
        for at, item in enumerate(items):
            if (
                at
                and item is not None
                and item != MARK
                and follows_secret(items, at, has)
            ):
                kept.append(MARK)
                tally.count += 1
            else:
                kept.append(self._value(item, tally, depth + 1))
        return kept

    def _dict(
        self, value: dict[AnyValue, AnyValue], tally: _Tally, depth: int
    ) -> dict[AnyValue, AnyValue]:
        kept = {}
        named = value_key(value, self._keys.has)
        for key, item in value.items():
            name = key
            if type(key) is str:
                for replace in self._anywhere:
                    name = tally.of(replace(name))
                is_secret = self._keys.has(key) or (named and key == named)
                if is_secret and item is not None and item != MARK:
                    kept[name] = MARK
                    tally.count += 1
                    continue
            # The template is looked at with its body.
            is_template = key == _TEMPLATE and depth == 0
            kept[name] = item if is_template else self._value(item, tally, depth + 1)
        return kept

    def _text(
        self, text: str, tally: _Tally, keep: re.Pattern[str] | None = None
    ) -> str:
        for replace in self._anywhere:
            text = tally.of(replace(text))
        if "=" in text or ":" in text or has_other_sign(text):
            text = tally.of(self._keys.leave_out(text, keep))
        return text


def _by(pattern: re.Pattern[str]) -> _Replace:
    return lambda text: pattern.subn(MARK, text)
