"""Any record at all: what the property tests of all line formats are given."""

from __future__ import annotations

from hypothesis import strategies as st

from femtomp.record import Record, Resource, Scope

# Every code point, lone surrogates too.
TEXT = st.text(st.characters(exclude_categories=()), max_size=30)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.binary(max_size=20)
    | TEXT,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)
    ),
    max_leaves=12,
)
# Names that some format gives a meaning to, and such as only look like one.
NAMES = st.sampled_from([
    "code.file.path", "code.line.number", "code.function.name", "code.stacktrace",
    "exception.type", "exception.message", "exception.stacktrace", "thread.id",
    "femtomp.template", "timestamp", "level", "level_", "level__", "message", "logger",
    "service", "pid", "trace_id", "exception", "uid", "caller", "@timestamp",
    "log.level", "log", "labels", "labels.a", "a.b", "a_b", "a*b", "a b", "error.type",
    "event.action", "event.id", "http.request", "http.request.method", "user", "",
    "http.response.status_code", "service.version", "numeric_labels",
])  # fmt: skip
ATTRIBUTES = st.dictionaries(NAMES | TEXT, VALUES, max_size=5)
RESOURCES = st.builds(
    Resource,
    st.dictionaries(
        st.sampled_from(["service.name", "process.pid", "host.name", "level", "region"])
        | TEXT,
        VALUES,
        max_size=4,
    ),
)
SCOPES = st.builds(
    Scope, TEXT, st.none() | TEXT, st.none() | TEXT, st.none() | ATTRIBUTES
)
IDS = st.none() | TEXT | st.text("0123456789abcdef", min_size=32, max_size=32)
RECORDS = st.builds(
    Record,
    timestamp=st.integers(-1, 1 << 64),
    severity_number=st.integers(0, 24),
    severity_text=TEXT,
    logger=TEXT,
    body=VALUES,
    attributes=ATTRIBUTES,
    resource=RESOURCES,
    uid=TEXT,
    trace_id=IDS,
    span_id=IDS,
    trace_flags=st.none() | st.integers(0, 255),
    event_name=st.none() | TEXT,
    scope=st.none() | SCOPES,
    dropped_attributes_count=st.integers(0, 5),
)

# What ends a line for some reader, moves a cursor or reorders text; newline aside.
DANGEROUS = frozenset(
    map(
        chr,
        (
            *(code for code in range(0x20) if code != 0x0A),
            *range(0x7F, 0xA0),
            *(0x2028, 0x2029, 0x061C, 0x200E, 0x200F),
            *range(0x202A, 0x202F),
            *range(0x2066, 0x206A),
        ),
    )
)


def one_line(line: bytes) -> str:
    """Give a line's text without its end, if it is one line for every reader."""
    text = line.decode()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert not DANGEROUS & set(text)
    assert len(text.splitlines()) == 1
    return text[:-1]
