"""The Logs API: each clause of the specification that docs/conformance.md has a row for."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import Counter

import pytest

import femtomp
from femtomp.testing import captured_records
from tests.components import missing, require
from tests.processes.harness import fork, lines, run_script

if missing("otlp") is None:
    from opentelemetry import _logs as api
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

    from femtomp.otel import Logger, LoggerProvider
    from femtomp.otel.logs import MAX_LOGGERS

    TRACER = TracerProvider().get_tracer("tests")


@pytest.fixture(autouse=True)
def _otlp():
    require("otlp")


@pytest.fixture(name="records")
def _records():
    with captured_records() as records:
        yield records


@pytest.fixture(name="provider")
def _provider(records):
    return LoggerProvider()


@pytest.fixture(name="logger")
def _logger(provider):
    return provider.get_logger("shop")


def ids(record):
    """Give a record's ids."""
    return record.trace_id, record.span_id, record.trace_flags


def ids_of(span):
    """Give a span's ids as a record has them."""
    context = span.get_span_context()
    return (
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
        int(context.trace_flags),
    )


# -- LoggerProvider ----------------------------------------------------------------------


def test_types_are_those_of_the_api(provider) -> None:
    """Whatever asks for the API's own classes gets them."""
    assert isinstance(provider, api.LoggerProvider)
    assert isinstance(provider.get_logger("shop"), api.Logger)


GLOBAL = """
    import femtomp.otel
    from opentelemetry import _logs
    from femtomp.testing import captured_records
    with captured_records() as records:
        provider = femtomp.otel.LoggerProvider()
        before = _logs.get_logger("early")
        assert not isinstance(_logs.get_logger_provider(), femtomp.otel.LoggerProvider)
        _logs.set_logger_provider(provider)
        assert _logs.get_logger_provider() is provider
        _logs.get_logger("late", "2").emit(body="one")
        before.emit(body="two")
    print([(r.logger, r.body) for r in records])
"""


def test_global_provider_is_set_by_the_application_alone() -> None:
    """It takes `set_logger_provider`; loggers got before it follow."""
    said = run_script(GLOBAL).stdout
    assert said.strip() == "[('late', 'one'), ('early', 'two')]"


def test_name_is_required(provider) -> None:
    """A logger without a name cannot be had."""
    with pytest.raises(TypeError):
        provider.get_logger()


@pytest.mark.parametrize("name", [None, ""])
def test_invalid_name_gives_a_working_logger(provider, records, name, capfd) -> None:
    """A name that is none is said, and its logger works."""
    provider.get_logger(name).emit(body="kept")
    assert records[0].logger == ""
    assert "a logger's name must be" in capfd.readouterr().err


def test_scope_is_all_that_was_said_of_it(provider, records) -> None:
    """Version, schema and attributes are optional, and go with each record."""
    provider.get_logger("plain").emit(body=1)
    provider.get_logger("lib", "1.2", "http://s", {"k": [1, "a"]}).emit(body=2)
    assert records[0].scope is None
    expected = femtomp.Scope("lib", "1.2", "http://s", {"k": [1, "a"]})
    assert records[1].scope == expected
    assert [record.logger for record in records] == ["plain", "lib"]


def test_equal_arguments_give_the_same_logger(provider) -> None:
    """Identity is name, version, schema, attributes; another one is another logger."""
    get = provider.get_logger
    assert get("a", "1", "s", {"k": 1}) is get("a", "1", "s", {"k": 1})
    different = [
        get("a"), get("b"), get("a", "1"), get("a", None, "s"),
        get("a", attributes={"k": 1}), get("a", attributes={"k": 2}),
        get("a", include_trace_context=False),
    ]  # fmt: skip
    assert len(set(map(id, different))) == len(different)


def test_made_up_names_do_not_pile_up(provider) -> None:
    """So many loggers are remembered; more than that work as well."""
    for number in range(MAX_LOGGERS + 10):
        provider.get_logger(f"name {number}")
    assert len(provider._loggers) == MAX_LOGGERS
    assert isinstance(provider.get_logger("one more"), Logger)


def test_include_trace_context(provider, records) -> None:
    """True by default; False leaves out the current span, not one that is given."""
    without = provider.get_logger("a", include_trace_context=False)
    with TRACER.start_as_current_span("span") as span:
        given = trace.set_span_in_context(span)
        provider.get_logger("a").emit(body="default")
        without.emit(body="without")
        without.emit(api.LogRecord(body="without, whole"))
    without.emit(body="given", context=given)
    without.emit(api.LogRecord(body="given, whole", context=given))
    none = (None, None, None)
    expected = [ids_of(span), none, none, ids_of(span), ids_of(span)]
    assert list(map(ids, records)) == expected


def test_flush_and_shutdown_have_nothing_to_do(provider, records, logger) -> None:
    """What was emitted is safe already; a record after them is as any other."""
    logger.emit(body=1)
    assert provider.force_flush()
    assert provider.force_flush(timeout_millis=1)
    provider.shutdown()
    logger.emit(body=2)
    assert [record.body for record in records] == [1, 2]


# -- Logger.emit -------------------------------------------------------------------------


def test_every_parameter_arrives(logger, records) -> None:
    """Times, context, severity, body, attributes and event name are as given."""
    span = TRACER.start_span("span")
    logger.emit(
        timestamp=5,
        observed_timestamp=7,
        context=trace.set_span_in_context(span),
        severity_number=api.SeverityNumber.WARN2,
        severity_text="Caution",
        body={"sold": [1, None, 2.5, b"\x00"]},
        attributes={"k": "v", "n": {"deep": True}},
        event_name="sale",
    )
    (record,) = records
    assert record.timestamp == 5
    assert record.observed_timestamp == 7
    assert ids(record) == ids_of(span)
    assert record.severity_number == 14
    assert record.severity_text == "Caution"
    assert record.body == {"sold": [1, None, 2.5, b"\x00"]}
    assert record.attributes == {"k": "v", "n": {"deep": True}}
    assert record.event_name == "sale"


def test_every_parameter_is_optional(logger, records) -> None:
    """A record of nothing is a record, of now."""
    logger.emit()
    (record,) = records
    assert record.timestamp > 1_700_000_000_000_000_000
    assert record[1:3] == (0, "")
    assert (record.body, record.attributes, record.event_name) == (None, {}, None)


@pytest.mark.parametrize("number", range(25))
def test_every_severity(logger, records, number) -> None:
    """All 24 numbers, and none, are kept as they are."""
    logger.emit(severity_number=api.SeverityNumber(number))
    logger.emit(severity_number=number)
    assert [record.severity_number for record in records] == [number] * 2


def test_whole_record(logger, records) -> None:
    """A LogRecord of the API says the same as its parts."""
    span = TRACER.start_span("span")
    made = api.LogRecord(
        timestamp=5, observed_timestamp=7, context=trace.set_span_in_context(span),
        severity_number=api.SeverityNumber.INFO, severity_text="INFO", body="text",
        attributes={"k": 1}, event_name="sale",
    )  # fmt: skip
    logger.emit(made)
    (record,) = records
    assert (record.timestamp, record.observed_timestamp) == (5, 7)
    assert ids(record) == ids_of(span)
    assert (record.body, record.attributes, record.event_name) == (
        "text",
        {"k": 1},
        "sale",
    )


def test_record_of_the_sdk(logger, records) -> None:
    """What an SDK has wrapped is unwrapped."""
    from opentelemetry.sdk._logs import ReadWriteLogRecord

    logger.emit(ReadWriteLogRecord(api.LogRecord(body="text", attributes={"k": 1})))
    assert (records[0].body, records[0].attributes) == ("text", {"k": 1})


def test_context_is_the_current_one(logger, records) -> None:
    """Without a context the span active at the call counts; an empty one has none."""
    with TRACER.start_as_current_span("span") as span:
        logger.emit(body="implicit")
        logger.emit(body="none", context=Context())
        logger.emit(api.LogRecord(body="whole"))
    logger.emit(body="outside")
    none = (None, None, None)
    assert list(map(ids, records)) == [ids_of(span), none, ids_of(span), none]


def test_exception(logger, records) -> None:
    """An exception becomes its attributes; what the caller says of it wins."""
    try:
        int("x")
    except ValueError as exc:
        logger.emit(body="failed", exception=exc)
        logger.emit(exception=exc, attributes={"exception.type": "Mine"})
    first, second = (record.attributes for record in records)
    assert first["exception.type"] == "ValueError"
    assert first["exception.message"] == "invalid literal for int() with base 10: 'x'"
    assert "test_exception" in first["exception.stacktrace"]
    assert second["exception.type"] == "Mine"


def test_log_context_is_there_too(logger, records) -> None:
    """Bound fields are attributes of these records as of all others."""
    with femtomp.log_context(request="r1", k="bound"):
        logger.emit(attributes={"k": "given"})
    assert records[0].attributes == {"request": "r1", "k": "given"}


class Hostile:
    """Raises whatever is asked of it."""

    def __getattribute__(self, name):
        raise RuntimeError(name)


def _name(given):
    """Name a case by its key: two processes that collect tests must agree."""
    return next(iter(given))


class NoMapping(dict):
    """A mapping that cannot be read."""

    def keys(self):
        """Fail."""
        raise RuntimeError("no keys")

    __iter__ = items = keys


@pytest.mark.parametrize(
    "given",
    [
        {"body": Hostile()},
        {"attributes": {"k": Hostile()}},
        {"attributes": NoMapping(k=1)},
        {"attributes": 7},
        {"attributes": {1: 2, None: 3}},
        {"timestamp": "soon"},
        {"timestamp": -(2**70)},
        {"observed_timestamp": 2**70},
        {"severity_number": "high"},
        {"severity_number": 99},
        {"severity_text": 7},
        {"event_name": 7},
        {"context": 7},
        {"exception": "no exception"},
        {"body": "\udc80", "attributes": {"\udc80": "\udc80"}, "event_name": "\udc80"},
    ],
    ids=_name,
)
def test_bad_input_is_a_record_and_no_exception(logger, records, given) -> None:
    """Whatever is emitted, the caller goes on, and a record says what it can."""
    logger.emit(**given)
    logger.emit(body="after")
    assert len(records) == 2
    assert records[1].body == "after"


@pytest.mark.parametrize(
    "given",
    [
        {"name": Hostile()},
        {"name": "shop", "version": Hostile(), "schema_url": Hostile()},
        {"name": "shop", "attributes": 7},
        {"name": "shop", "attributes": ["a", "b"]},
        {"name": "shop", "attributes": NoMapping(k=1)},
    ],
    ids=_name,
)
def test_bad_scope_gives_a_working_logger(provider, records, given) -> None:
    """What cannot be read of a scope is left out, and its records are kept."""
    provider.get_logger(**given).emit(body="kept")
    assert [record.body for record in records] == ["kept"]


def test_attributes_are_limited_and_counted(logger, records) -> None:
    """Attributes beyond the limit are left out, and their number is said."""
    logger.emit(attributes={f"k{n}": n for n in range(200)})
    assert len(records[0].attributes) == 128
    assert records[0].dropped_attributes_count == 72


def test_values_are_those_of_the_call(logger, records) -> None:
    """What the caller changes afterwards changes no record."""
    body = {"a": [1]}
    logger.emit(body=body, attributes=body)
    body["a"].append(2)
    assert (records[0].body, records[0].attributes) == ({"a": [1]}, {"a": [1]})


# -- Logger.enabled ----------------------------------------------------------------------


def test_enabled(records) -> None:
    """A severity that would not be kept is not enabled; everything else is."""
    logger = LoggerProvider(severity_number=13).get_logger("shop")
    assert logger.enabled()
    assert logger.enabled(severity_number=api.SeverityNumber.WARN)
    assert not logger.enabled(severity_number=api.SeverityNumber.INFO4)
    assert logger.enabled(context=Context(), event_name="sale")
    logger.emit(severity_number=api.SeverityNumber.INFO, body="left out")
    logger.emit(severity_number=api.SeverityNumber.ERROR, body="kept")
    logger.emit(body="kept, of no severity")
    assert [record.body for record in records] == ["kept", "kept, of no severity"]


def test_nothing_is_enabled_without_a_server(monkeypatch) -> None:
    """Where records are to be ignored, callers need not make them."""
    monkeypatch.delenv("FEMTOMP_SPOOL", raising=False)
    logger = LoggerProvider(missing="ignore").get_logger("shop")
    assert not logger.enabled()
    logger.emit(body="ignored")
    with pytest.raises(femtomp.NoServerError):
        LoggerProvider()


@pytest.mark.parametrize("missing", ["ignore", "stderr"])
def test_server_that_starts_later_is_found(tmp_path, monkeypatch, missing) -> None:
    """As by handlers of logging: the first one, and the one after it."""
    monkeypatch.delenv("FEMTOMP_SPOOL", raising=False)
    logger = LoggerProvider(missing=missing).get_logger("shop")
    logger.emit(body="nobody hears it")
    path = tmp_path / "app.jsonl"
    for number in range(2):
        with femtomp.start_server(femtomp.FileSink(path)):
            assert logger.enabled()
            logger.emit(body=f"server {number}")
    found = [r["body"] for r in lines(path) if r["logger"] == "shop"]
    assert found == ["server 0", "server 1"]


def test_records_are_said_without_a_server(monkeypatch, capfd) -> None:
    """With missing="stderr" they are lines there."""
    monkeypatch.delenv("FEMTOMP_SPOOL", raising=False)
    logger = LoggerProvider(missing="stderr").get_logger("shop")
    logger.emit(body={"sold": 3}, severity_text="INFO")
    assert "shop: {'sold': 3}" in capfd.readouterr().err


# -- Concurrency, and processes ----------------------------------------------------------


def test_many_threads(provider, records) -> None:
    """Threads that get loggers and emit at the same time lose and mix up nothing."""
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    begin = threading.Barrier(8)

    def work(number):
        begin.wait()
        for n in range(200):
            logger = provider.get_logger(f"lib {n % 20}", "1")
            logger.emit(body=number * 1000 + n, attributes={"body": number * 1000 + n})

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    expected = Counter(number * 1000 + n for number in range(8) for n in range(200))
    assert Counter(record.body for record in records) == expected
    assert all(record.attributes["body"] == record.body for record in records)
    assert len(provider._loggers) == 20


def test_forked_workers(tmp_path) -> None:
    """A provider made in the master serves its children, with an identity of their own."""
    path = tmp_path / "app.jsonl"
    with femtomp.start_server(femtomp.FileSink(path)) as server:
        logger = LoggerProvider().get_logger("shop", "1.2")
        logger.emit(body="master")
        with TRACER.start_as_current_span("parent"):
            pids = [fork(lambda: logger.emit(body="child")) for _ in range(3)]
            for pid in pids:
                assert os.waitpid(pid, 0)[1] == 0
        assert server.flush(20)
    records = lines(path)
    found = {r["resource"]["process.pid"]: r for r in records}
    assert set(found) == {os.getpid(), *pids}
    for pid in pids:
        assert found[pid]["body"] == "child"
        assert found[pid]["scope"] == {"name": "shop", "version": "1.2"}
        assert "trace_id" not in found[pid]


def test_handler_of_opentelemetry_goes_through_femtomp(records, provider) -> None:
    """OpenTelemetry's own handler for `logging` needs no SDK pipeline in the worker."""
    from opentelemetry.sdk._logs import LoggingHandler

    with pytest.warns() if sys.flags.dev_mode else _nothing():
        handler = LoggingHandler(logger_provider=provider)
    log = logging.getLogger("shop.otel")
    log.addHandler(handler)
    log.propagate = False
    try:
        with TRACER.start_as_current_span("span") as span:
            log.warning("low %s", "stock", extra={"item": 7})
        handler.flush()
    finally:
        log.removeHandler(handler)
        log.propagate = True
    (record,) = records
    assert (record.body, record.severity_number) == ("low stock", 13)
    assert record.attributes["item"] == 7
    assert record.logger == "shop.otel"
    assert ids(record) == ids_of(span)


def _nothing():
    import warnings

    return warnings.catch_warnings(action="ignore")


def test_collector_gets_what_was_emitted(tmp_path) -> None:
    """Scope, schema, event name, both times and ids arrive over OTLP."""
    from tests.real.otlp import Receiver, any_value

    with Receiver() as receiver:
        sink = femtomp.OTLPSink(receiver.http_endpoint)
        with femtomp.start_server(sink) as server:
            logger = LoggerProvider().get_logger("lib", "1.2", "http://s", {"k": 1})
            with TRACER.start_as_current_span("span") as span:
                logger.emit(
                    timestamp=5, observed_timestamp=7, body=[1], event_name="sale"
                )
            assert server.flush(20)
        scopes = [
            scope
            for _, request in receiver.requests
            for worker in request.resource_logs
            for scope in worker.scope_logs
            if scope.scope.name == "lib"
        ]
    (scope,) = scopes
    (record,) = scope.log_records
    assert (scope.scope.version, scope.schema_url) == ("1.2", "http://s")
    assert [(a.key, any_value(a.value)) for a in scope.scope.attributes] == [("k", 1)]
    assert (record.time_unix_nano, record.observed_time_unix_nano) == (5, 7)
    assert (any_value(record.body), record.event_name) == ([1], "sale")
    assert record.trace_id.hex() == ids_of(span)[0]


WITHOUT = """
    import sys
    sys.modules["opentelemetry"] = None
    import femtomp
    try:
        import femtomp.otel
    except femtomp.MissingExtraError as exc:
        print(exc)
"""


def test_without_opentelemetry_the_extra_is_named() -> None:
    """The module needs the API; nothing else of femtomp does."""
    said = run_script(WITHOUT).stdout
    assert said == 'femtomp.otel needs opentelemetry-api: pip install "femtomp[otel]"\n'


NO_SINK = """
    import logging, sys
    sys.modules["opentelemetry"] = None
    import femtomp
    try:
        femtomp.start_server("otlp")
    except femtomp.MissingExtraError as exc:
        print(exc)
    with femtomp.start_server(f"file:{sys.argv[1]}") as server:
        femtomp.worker_init()
        logging.warning("kept")
"""


def test_without_opentelemetry_only_its_sink_is_refused(tmp_path) -> None:
    """Asked for an OTLP sink it says what to install; all else works."""
    path = tmp_path / "app.jsonl"
    said = run_script(NO_SINK, path).stdout
    expected = 'OTLPSink needs opentelemetry-exporter-otlp: pip install "femtomp[otel]"'
    assert said.strip() == expected
    assert [record["body"] for record in lines(path)] == ["kept"]


@pytest.mark.parametrize("value", ["true", "TRUE", " True "])
def test_disabled_sdk_keeps_no_record(records, monkeypatch, value) -> None:
    """OTEL_SDK_DISABLED=true makes a provider that does nothing; logging goes on."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", value)
    logger = LoggerProvider(severity_number=0).get_logger("shop", "1")
    assert isinstance(logger, Logger)
    assert not logger.enabled(severity_number=api.SeverityNumber.FATAL)
    logger.emit(body="otel", severity_text="INFO")
    logger.emit(api.LogRecord(body="whole"))
    logging.getLogger("shop.disabled").warning("logging")
    assert [record.body for record in records] == ["logging"]


def test_disabled_sdk_needs_no_server(monkeypatch) -> None:
    """Nor is a provider that does nothing an error where there is none."""
    monkeypatch.delenv("FEMTOMP_SPOOL", raising=False)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    LoggerProvider().get_logger("shop").emit(body="nobody")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "1")
    with pytest.raises(femtomp.NoServerError):
        LoggerProvider()
