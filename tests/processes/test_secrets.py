"""Secrets of sinks are in the memory of the processes that need them, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

import femtomp
from tests.processes.harness import Attached, until
from tests.processes.test_life import supervisors

TOKEN = "t0ken-of-a-header"
PASSWORD = "p4ssw0rd-of-a-url"
SECRETS = (TOKEN, PASSWORD)


def check(text: str | bytes, where: str) -> None:
    data = text.encode() if isinstance(text, str) else text
    for secret in SECRETS:
        assert secret.encode() not in data, f"{secret} in {where}: {data!r}"


def check_everywhere(server, spool_parent: Path) -> None:
    """Look through what other processes can see of a supervisor."""
    pids = supervisors(spool_parent)
    assert len(pids) == 2
    for pid in pids:
        for name in ("cmdline", "environ", "comm"):
            check(Path(f"/proc/{pid}/{name}").read_bytes(), f"{name} of {pid}")
    files = [path for path in server.spool.rglob("*") if path.is_file()]
    assert {"control", "manifest.json"} <= {path.name for path in files}
    for path in files:
        check(path.read_bytes(), str(path))
    check(repr(server), "the server's repr")
    check(repr(server.stats()), "the statistics")


@pytest.mark.parametrize("by", ["argument", "environment", "sinks variable"])
@pytest.mark.parametrize("host", ["127.0.0.1:9", "127.0.0.1:99999", "[::1:9"])
def test_secrets_are_shown_nowhere(tmp_path, monkeypatch, capfd, by, host):
    """A failing collector's header and password are in no argument, environment, spool,
    statistics, repr or message, however they were given.
    """
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    url = f"http://user:{PASSWORD}@{host}"
    if by == "argument":
        sinks = femtomp.OTLPSink(url, headers={"authorization": f"Bearer {TOKEN}"})
        check(repr(sinks), "the sink's repr")
    else:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"api-key={TOKEN}")
        sinks = "otlp" if by == "environment" else None
    if by == "environment":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    elif by == "sinks variable":
        monkeypatch.setenv("FEMTOMP_SINKS", f"otlp:{url}")
    if host != "127.0.0.1:9":  # what can be no host is an error, at once
        with pytest.raises(femtomp.ConfigError, match="endpoint") as caught:
            femtomp.start_server(sinks, spool_parent=tmp_path)
        check(str(caught.value), "the error")
        check(capfd.readouterr().err, "stderr")
        return
    server = femtomp.start_server(sinks, spool_parent=tmp_path)
    try:
        with Attached() as log:
            log.warning("to be delivered")
        said = ""

        def has_complained() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "otlp" in said

        until(has_complained, "the sink says that it cannot deliver")
        check_everywhere(server, tmp_path)
    finally:
        report = server.stop(timeout=0.5)
    check(repr(report), "the report")
    check(said + capfd.readouterr().err, "stderr")


def test_the_environment_still_counts(tmp_path, monkeypatch, capfd):
    """Variables of the exporter reach it, though they are not in its environment."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "htp://wrong")
    with pytest.raises(femtomp.ConfigError, match="htp://wrong"):
        femtomp.start_server("otlp", spool_parent=tmp_path)


@pytest.mark.parametrize(
    ("protocol", "url"),
    [
        ("http/protobuf", f"htp://user:{PASSWORD}@h"),
        ("grpc", f"http://user:{PASSWORD}@h:1"),
        ("grpc", f"user:{PASSWORD}@h:1"),
    ],
)
def test_errors_at_the_start_show_no_secret(tmp_path, capfd, protocol, url):
    """What cannot be built says why, without the endpoint's credentials."""
    for package in ("http", "grpc"):
        pytest.importorskip(f"opentelemetry.exporter.otlp.proto.{package}")
    sink = femtomp.OTLPSink(url, protocol=protocol, headers={"a": TOKEN})
    with pytest.raises(femtomp.ConfigError, match="OTLPSink") as caught:
        femtomp.start_server(sink, spool_parent=tmp_path)
    check(str(caught.value), "the error")
    check(capfd.readouterr().err, "stderr")
    until(lambda: not supervisors(tmp_path), "the supervisor has ended")


def test_a_dict_is_no_sink_and_is_not_shown():
    """Options that were given as a dict are refused without their values."""
    with pytest.raises(femtomp.ConfigError) as caught:
        femtomp.start_server([{"headers": {"a": TOKEN}}])
    check(str(caught.value), "the error")
