"""What an OTLP connection is: options over the variables that the SDK knows."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from femtomp.config import OTLPSink
from femtomp.errors import ConfigError
from femtomp.sinks import secrets
from femtomp.sinks.otlp import open_driver
from femtomp.sinks.otlp import require as require_sink
from femtomp.sinks.otlp_proxy import proxy_of
from femtomp.sinks.otlp_settings import settings_of
from tests.components import require

PROTOCOLS = ("http/protobuf", "grpc")
SECRET = "t0p-secret"


@pytest.fixture(autouse=True)
def _nothing_hidden(monkeypatch):
    require("otlp")
    monkeypatch.setattr(secrets, "_hidden", set())


def resolved(protocol="http/protobuf", signal="logs", *, sink=None, **variables):
    """Resolve with nothing but variables, whose prefix is left out."""
    environ = {f"OTEL_EXPORTER_OTLP_{k}": v for k, v in variables.items()}
    return settings_of(sink or OTLPSink(), environ, protocol, signal)


def test_variables_are_those_of_the_sdk() -> None:
    """Each has the name that the SDK has for it, for each signal."""
    from opentelemetry.sdk import environment_variables as known

    names = (
        "ENDPOINT", "HEADERS", "TIMEOUT", "COMPRESSION", "CERTIFICATE", "CLIENT_KEY",
        "CLIENT_CERTIFICATE", "INSECURE",
    )  # fmt: skip
    read = set()

    class Environ(dict):
        def get(self, name, default=None):
            read.add(name)
            return default

    for signal in ("logs", "metrics"):
        for protocol in PROTOCOLS:
            settings_of(OTLPSink(), Environ(), protocol, signal)
        settings_of(OTLPSink("host:4317"), Environ(), "grpc", signal)
    for part in ("", "LOGS_", "METRICS_"):
        for name in names:
            variable = f"OTEL_EXPORTER_OTLP_{part}{name}"
            assert hasattr(known, variable)
            assert variable in read
    assert all(hasattr(known, name) for name in read)


@pytest.mark.parametrize(
    ("protocol", "signal", "variables", "expected"),
    [
        ("http/protobuf", "logs", {}, "http://localhost:4318/v1/logs"),
        ("http/protobuf", "metrics", {}, "http://localhost:4318/v1/metrics"),
        ("http/protobuf", "logs", {"ENDPOINT": "http://c/"}, "http://c/v1/logs"),
        ("http/protobuf", "logs", {"LOGS_ENDPOINT": "http://c/x"}, "http://c/x"),
        (
            "http/protobuf", "logs",
            {"LOGS_ENDPOINT": "", "ENDPOINT": "http://c"}, "http://c/v1/logs",
        ),
        (
            "http/protobuf", "metrics",
            {"LOGS_ENDPOINT": "http://c/x", "METRICS_ENDPOINT": "http://d/y"},
            "http://d/y",
        ),
        ("grpc", "logs", {}, "localhost:4317"),
        ("grpc", "logs", {"ENDPOINT": "https://c:1/ignored"}, "c:1"),
        ("grpc", "logs", {"ENDPOINT": "c:1"}, "c:1"),
        ("grpc", "logs", {"ENDPOINT": "unix:///run/c.sock"}, "unix:///run/c.sock"),
    ],
)  # fmt: skip
def test_endpoint(protocol, signal, variables, expected) -> None:
    """The signal's own is used as it is; the general one is a base for HTTP."""
    assert resolved(protocol, signal, **variables).endpoint == expected


@pytest.mark.parametrize(
    ("endpoint", "variables", "is_secure"),
    [
        ("http://c:1", {}, False),
        ("https://c:1", {}, True),
        ("https://c:1", {"INSECURE": "true"}, True),
        ("c:1", {}, True),
        ("c:1", {"INSECURE": "True"}, False),
        ("c:1", {"LOGS_INSECURE": "false", "INSECURE": "true"}, True),
    ],
)
def test_grpc_security(endpoint, variables, is_secure) -> None:
    """Without a scheme the variable decides, and TLS is the default."""
    found = resolved("grpc", sink=OTLPSink(endpoint), **variables)
    assert found.is_secure is is_secure


def test_options_win_over_variables() -> None:
    """What is given in code counts, whatever the environment says."""
    sink = OTLPSink("http://c:1", compression="none", timeout_s=2)
    found = resolved(sink=sink, COMPRESSION="gzip", TIMEOUT="7", ENDPOINT="http://d")
    assert found[:2] == ("http://c:1/v1/logs", False)
    assert found.timeout_s == 2
    assert found.compression == "none"
    other = resolved(LOGS_COMPRESSION="GZIP", COMPRESSION="none", TIMEOUT="7.5")
    assert (other.compression, other.timeout_s) == ("gzip", 7.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", {"a": "b"}),
        ("Api-Key=b , tenant = shop ,", {"api-key": "b", "tenant": "shop"}),
        ("authorization=Basic%20YTpi", {"authorization": "Basic YTpi"}),
        ("authorization=Basic YTpi%3D=", {"authorization": "Basic YTpi%3D="}),
        ("a=b=c", {"a": "b=c"}),
        ("a=%2C%3B", {"a": ",;"}),
        ("a=b;c", {"a": "b;c"}),
        ("authorization=Bearer abc\n", {"authorization": "Bearer abc"}),
        ("a=", {"a": ""}),
    ],
)
def test_headers_of_a_variable(text, expected) -> None:
    """Encoded as the specification has it, or as people write them."""
    assert resolved(HEADERS=text).headers == expected


def test_headers_of_options_and_variable() -> None:
    """Over HTTP they are added to those of the environment; gRPC has theirs alone."""
    sink = OTLPSink(headers={"A": "1"})
    assert resolved(sink=sink, HEADERS="a=2,b=3").headers == {"a": "1", "b": "3"}
    assert resolved("grpc", sink=sink, HEADERS="a=2,b=3").headers == {"a": "1"}


BAD = [
    ("authorization", f"Bearer {SECRET}\n", PROTOCOLS),
    ("authorization", f"{SECRET}\r\nx: y", PROTOCOLS),
    ("authorization", f"{SECRET}\0", PROTOCOLS),
    ("authorization", f"\x7f{SECRET}", PROTOCOLS),
    ("authorization", f"Bearer {SECRET}ü", ("grpc",)),
    ("authorization", f"Bearer {SECRET}☃", PROTOCOLS),
    ("bad key", SECRET, PROTOCOLS),
    ("", SECRET, PROTOCOLS),
    ("a:b", SECRET, PROTOCOLS),
    ("ümlaut", SECRET, PROTOCOLS),
    ("a!b", SECRET, ("grpc",)),
    ("content-length", SECRET, PROTOCOLS),
]


@pytest.mark.parametrize(("name", "value", "protocols"), BAD)
def test_header_that_cannot_be_sent_is_found_when_the_sink_is_made(
    name, value, protocols
) -> None:
    """The error names the header, and shows nothing of its value."""
    for protocol in protocols:
        with pytest.raises(ConfigError) as caught:
            OTLPSink(headers={name: value}, protocol=protocol)
        assert repr(name) in str(caught.value)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "protocol"),
    [
        (f"authorization={SECRET}%0Ax", "http/protobuf"),
        (f"authorization={SECRET}%0Ax", "grpc"),
        (f"authorization={SECRET}%C3%BC", "grpc"),
        (f"a=b,{SECRET}", "grpc"),
        (f"={SECRET}", "http/protobuf"),
    ],
)
def test_header_of_a_variable_that_cannot_be_sent(text, protocol) -> None:
    """It is found in the master, before anything is started, and not shown."""
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": text}
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_HEADERS") as caught:
        require_sink(OTLPSink(protocol=protocol), environ)
    assert SECRET not in str(caught.value)


def test_protocol_of_a_variable_counts_for_headers_of_the_options() -> None:
    """What HTTP can carry and gRPC cannot is found when the protocol is known."""
    sink = OTLPSink(headers={"name": "Zoë"})
    require_sink(sink, {})
    with pytest.raises(ConfigError, match="'name': character 3"):
        require_sink(sink, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})


@pytest.mark.parametrize(
    "endpoint",
    ["http://", "http://:4318", "http://c:99999", "http://a b/", "http://[::1"],
)
def test_endpoint_that_is_no_url(endpoint) -> None:
    """It is found in the master."""
    with pytest.raises(ConfigError, match="endpoint"):
        require_sink(OTLPSink(endpoint), {})


@pytest.mark.parametrize("of", ["", "LOGS_"])
def test_http_credential_provider_is_refused(of) -> None:
    """A session of requests is not used: the error says what may be done instead."""
    name = f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{of}CREDENTIAL_PROVIDER"
    with pytest.raises(ConfigError, match=f"{name} is not supported over HTTP"):
        open_driver(OTLPSink(), environ={name: "gcp"})


PROVIDER = """
import sys
from femtomp.config import OTLPSink
from femtomp.errors import ConfigError
from femtomp.sinks.otlp import open_driver
sink = OTLPSink("https://127.0.0.1:9", protocol="grpc")
for name in ("good", "bad", "none"):
    variable = {"OTEL_PYTHON_EXPORTER_OTLP_GRPC_CREDENTIAL_PROVIDER": name}
    try:
        open_driver(sink, environ=variable).close()
        print(name, "opened")
    except ConfigError as exc:
        print(name, exc)
"""


def test_grpc_credential_provider_is_asked(tmp_path) -> None:
    """The entry point's credentials are used; one that gives none is named."""
    (tmp_path / "provider.py").write_text(
        "import grpc\ngood = grpc.ssl_channel_credentials\nbad = dict\n"
    )
    info = tmp_path / "provider-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: provider\nVersion: 1\n"
    )
    (info / "entry_points.txt").write_text(
        "[opentelemetry_otlp_credential_provider]\ngood=provider:good\nbad=provider:bad\n"
    )
    environ = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROVIDER], capture_output=True, text=True, env=environ
    )
    good, bad, none = done.stdout.splitlines()
    assert good == "good opened"
    assert "CREDENTIAL_PROVIDER=bad gives no grpc.ChannelCredentials" in bad
    assert "CREDENTIAL_PROVIDER=none" in none


URL = "http://collector.shop.internal:4318/v1/logs"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"http_proxy": "http://p:3128"}, "p"),
        ({"HTTP_PROXY": "http://p:3128"}, "p"),
        ({"HTTP_PROXY": "http://p", "http_proxy": ""}, None),
        ({"HTTP_PROXY": "http://p", "REQUEST_METHOD": "GET"}, None),
        ({"HTTPS_PROXY": "http://p"}, None),
        ({"ALL_PROXY": "http://p"}, "p"),
        ({"http_proxy": "p", "no_proxy": "*"}, None),
        ({"http_proxy": "p", "no_proxy": "other, .shop.internal"}, None),
        ({"http_proxy": "p", "NO_PROXY": "INTERNAL"}, None),
        ({"http_proxy": "p", "no_proxy": "internal:4318"}, None),
        ({"http_proxy": "p", "no_proxy": "internal:80"}, "p"),
        ({"http_proxy": "p", "no_proxy": "ector.shop.internal"}, "p"),
        ({"http_proxy": "p", "no_proxy": ","}, "p"),
    ],
    ids=repr,
)
def test_proxy_of_the_environment(environ, expected) -> None:
    """The variables count as for curl and requests."""
    found = proxy_of(URL, environ)
    assert (found and found.host) == expected


@pytest.mark.parametrize(
    ("host", "no_proxy", "is_direct"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("127.0.0.1", "localhost,127.0.0.1", True),
        ("[::1]", "::1", True),
        ("[::1]", "[::1]", True),
        ("[fd00::1]", "fd00::/8", True),
    ],
)
def test_addresses_without_a_proxy(host, no_proxy, is_direct) -> None:
    """Addresses and networks are what NO_PROXY may name, too."""
    found = proxy_of(f"http://{host}:1/", {"http_proxy": "p", "no_proxy": no_proxy})
    assert (found is None) is is_direct


def test_credentials_of_a_proxy_are_told_to_it_alone() -> None:
    """They become its header, and are hidden from what is said."""
    found = proxy_of(URL, {"http_proxy": f"http://ann:{SECRET}%21@p:1"})
    assert found.headers == {"Proxy-Authorization": "Basic YW5uOnQwcC1zZWNyZXQh"}
    assert SECRET not in secrets.masked(f"proxy http://ann:{SECRET}%21@p:1")


@pytest.mark.parametrize(
    "proxy", ["socks5://p:1", "https://p:1", f"ftp://a:{SECRET}@p"]
)
def test_proxy_of_another_kind_is_a_config_error(proxy) -> None:
    """It is named, without its credentials."""
    with pytest.raises(
        ConfigError, match=r"HTTP_PROXY=.*only http:// proxies"
    ) as caught:
        proxy_of(URL, {"http_proxy": proxy})
    assert SECRET not in str(caught.value)
