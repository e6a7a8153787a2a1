"""A record as a line, by femtomp and by others: `python -m benchmarks.formats`.

One log call with four extras, and the same with an exception. Each format is beside
the formatter that people use for the same readers, if it is installed (`pip install
python-json-logger structlog ecs-logging logfmter opentelemetry-proto`), on the same
LogRecord. Shown are the bytes of a line, and without an exception (which femtomp's
workers have rendered already) the microseconds of CPU that it takes: best of many,
taken in turns. A ratio is femtomp's by the peer's. The lines do not hold the same:
femtomp's have nanoseconds, a `uid`, the service and the worker.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from importlib import import_module
from time import process_time_ns
from typing import TYPE_CHECKING

from benchmarks.report import machine
from femtomp.codec.otlp import encode_request
from femtomp.codec.wire import decode, to_record
from femtomp.record import Resource
from femtomp.sinks.lines import line_encoder
from femtomp.worker.capture import from_log_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from femtomp.record import Record

    Line = Callable[[logging.LogRecord, Record], bytes]

_COLUMNS = (
    *("format", "peer", "bytes", "peer's", "ratio"),
    *("with exception", "peer's", "ratio", "us", "peer's", "ratio"),
)
_TEXT = "%(asctime)s.%(msecs)03d %(levelname)s %(process)d %(name)s: %(message)s user_id=%(user_id)s path=%(path)s duration_ms=%(duration_ms)s cached=%(cached)s"
_WORKER = {
    "service.name": "shop",
    "service.instance.id": "a513e8e2-4501-5ed3-ad02-081695e7c8ce",
    "process.pid": os.getpid(),
    "host.name": "web-1",
    "femtomp.worker.name": "ForkPoolWorker-1",
}
_EXTRA = {
    "user_id": 3_000_004_711,
    "path": "/cart/checkout",
    "duration_ms": 41.7,
    "cached": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loops", type=int, default=1000, help="of one measurement")
    parser.add_argument("--best-of", type=int, default=15, help="measurements of each")
    given = parser.parse_args()
    print(machine())
    print(f"\n| {' | '.join(_COLUMNS)} |\n|---|---|{'---:|' * (len(_COLUMNS) - 2)}")
    for name, peer, make in _PEERS:
        try:
            other = make()
        except ImportError as exc:
            print(f"| `{name}` | {peer}: {exc} |")
            continue
        cells = _figures(name, other, given.loops, given.best_of)
        print(f"| `{name}` | {peer} | {' | '.join(cells)} |")


def _figures(name: str, other: Line, loops: int, best_of: int) -> list[str]:
    encode = line_encoder(name)
    cells = []
    for log_record in (_logged(), _failed()):
        record = _record(log_record)
        ours, theirs = len(encode(record)), len(other(log_record, record))
        cells += [f"{ours}", f"{theirs}", f"{ours / theirs:.2f}"]
    log_record = _logged()
    record = _record(log_record)
    calls = (lambda: encode(record)), (lambda: other(log_record, record))
    best = [float("inf")] * 2
    for _ in range(best_of):
        for index, call in enumerate(calls):
            best[index] = min(best[index], _microseconds(call, loops))
    return [*cells, f"{best[0]:.1f}", f"{best[1]:.1f}", f"{best[0] / best[1]:.2f}"]


def _microseconds(call: Callable[[], object], loops: int) -> float:
    begun = process_time_ns()
    for _ in range(loops):
        call()
    return (process_time_ns() - begun) / loops / 1000


def _logged(exc_info=None) -> logging.LogRecord:
    logger = logging.getLogger("shop.cart")
    return logger.makeRecord(
        "shop.cart", logging.INFO, __file__, 1, "request %s finished in %d us",
        ("/cart", 41_700), exc_info, "checkout", _EXTRA,
    )  # fmt: skip


def _failed() -> logging.LogRecord:
    try:
        {}["price"]
    except KeyError:
        return _logged(sys.exc_info())


def _record(log_record: logging.LogRecord) -> Record:
    fields = decode(from_log_record(log_record, os.getpid()))
    resource = Resource({**_WORKER, "process.command": "/srv/shop/app.py"}, _WORKER)
    uid = "8901ad17f7f35ab7b5388dd0-1234"
    return to_record(fields, uid, resource, lambda pid, name: resource)


# -- peers: each gives a function from a LogRecord (or Record) to a line ---------------


def _line(text: str) -> bytes:
    return text.encode() + b"\n"


def _stdlib():
    write = logging.Formatter(_TEXT, "%Y-%m-%d %H:%M:%S").format
    return lambda record, _: _line(write(record))


def _json_logger():
    names = "levelname name message process processName pathname lineno"
    write = import_module("pythonjsonlogger.json").JsonFormatter(
        names.split(), timestamp=True
    )
    return lambda record, _: _line(write.format(record))


def _structlog():
    structlog = import_module("structlog")
    write = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ],
    )
    return lambda record, _: _line(write.format(record))


def _ecs_logging():
    write = import_module("ecs_logging").StdlibFormatter()
    return lambda record, _: _line(write.format(record))


def _logfmter():
    write = import_module("logfmter").Logfmter(
        keys=["when", "level", "logger", "pid"],
        mapping={
            "when": "asctime", "level": "levelname", "logger": "name", "pid": "process"
        },
    )  # fmt: skip
    return lambda record, _: _line(write.format(record))


def _protobuf():
    module = import_module("opentelemetry.proto.collector.logs.v1.logs_service_pb2")
    read = module.ExportLogsServiceRequest.FromString
    write = import_module("google.protobuf.json_format").MessageToJson

    def line(_, record):
        request = read(encode_request([record], record.timestamp))
        return _line(write(request, indent=None))

    return line


_PEERS = (
    ("text", "`logging.Formatter`", _stdlib),
    ("json", "python-json-logger", _json_logger),
    ("flat", "python-json-logger", _json_logger),
    ("flat", "structlog", _structlog),
    ("ecs", "ecs-logging", _ecs_logging),
    ("logfmt", "logfmter", _logfmter),
    ("otlp-json", "protobuf's `MessageToJson`", _protobuf),
)

if __name__ == "__main__":
    main()
