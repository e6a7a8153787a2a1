"""Every format against every text that has ended, forged or hidden a line somewhere.

Hypothesis seldom draws these; here each stands once in each place of a record.
"""

from __future__ import annotations

import pytest

from femtomp.record import Resource, Scope
from femtomp.sinks.lines import line_encoder
from tests.codec.any_record import DANGEROUS, one_line
from tests.records import BRIEF, PLAIN, make

TEXTS = (
    "\n2026-11-21 10:23:37.123 CRITICAL forged: line",
    '\n{"timestamp":"2026-11-21T09:23:37.123456789Z"}\n',
    '"}\n{"a":"', "\r\n", "\r", "\v", "\f", "\x00", "\x1b[2J", "\x1b]0;title\x07", "\x7f",
    "\x85", "\x9b2J", "\u2028", "\u2029", "\u202e", "\u2066", "\u200e", "\u061c",
    "\udc80", "\ud83d", "\ufffd", "\ufeff", '"', "\\", "\\n", "a b=c", "=", "", " ",
    "größer \U0001f375", "%s %(message)s {message}",
)  # fmt: skip


def places(text: str) -> dict:
    """Give a record for each place that a text can be in."""
    resource = Resource({**BRIEF, text: text, "list": [text]})
    traced = {
        "exception.type": text,
        "exception.message": text,
        "exception.stacktrace": f"Traceback\n  {text}\n{text}",
        "code.stacktrace": text,
        "code.file.path": text,
        "code.function.name": text,
        "thread.name": text,
        "femtomp.template": text,
    }
    return {
        "body": make(body=text),
        "body's value": make(body={text: [text, {text: text}]}),
        "level": make(severity_text=text),
        "logger": make(logger=text),
        "key": make(attributes={text: 1}),
        "value": make(attributes={"k": text}),
        "inner": make(attributes={"k": {text: [text]}}),
        "exception": make(attributes=traced),
        "resource": make(resource=resource),
        "worker": make(resource=Resource(dict.fromkeys(BRIEF, text))),
        "uid": make(uid=text),
        "trace": make(trace_id=text, span_id=text),
        "event": make(event_name=text),
        "scope": make(scope=Scope(text, text, text, {text: text})),
    }


CASES = [
    (text, place, record)
    for text in TEXTS
    for place, record in places(text).items()
]  # fmt: skip


@pytest.mark.parametrize("name", ["json", "flat", "ecs", "otlp-json", "logfmt"])
def test_line_of_a_program_is_one(name) -> None:
    """No text in any place makes two lines of one, or raises."""
    encode = line_encoder(name)
    for text, place, record in CASES:
        try:
            one_line(encode(record))
        except Exception as exc:
            exc.add_note(f"{text!r} as {place}")
            raise


@pytest.mark.parametrize("colour", [False, True])
def test_line_for_people_begins_once(colour) -> None:
    """No text in any place begins a line in the first column, or drives the terminal."""
    encode = line_encoder("auto", colour=colour)
    begin = encode(PLAIN)[:12]
    for text, place, record in CASES:
        first, *others = encode(record).decode().removesuffix("\n").split("\n")
        shown = "".join([first, *others])
        for code in ("2", "0", "31", "32", "36") if colour else ():
            shown = shown.replace(f"\x1b[{code}m", "")
        assert first.encode().startswith(begin), (text, place)
        assert all(line.startswith("    ") for line in others), (text, place)
        assert not DANGEROUS - {"\t"} & set(shown), (text, place)
