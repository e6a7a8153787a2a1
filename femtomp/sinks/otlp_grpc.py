"""OTLP over gRPC: one call of Export, by `grpc`'s public interface.

In: a serialized request. Out: an `Answer`. The call takes and gives bytes: the request
is encoded once, by femtomp. One deadline counts for name, connection, request and
reply: gRPC keeps it.

https://opentelemetry.io/docs/specs/otlp/#otlpgrpc
"""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from femtomp.errors import ConfigError
from femtomp.sinks.otlp_answer import Answer, of_grpc, of_response
from femtomp.sinks.otlp_settings import settings_of, user_agent
from femtomp.sinks.otlp_socket import tls_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.config import OTLPSink
    from femtomp.sinks.otlp_settings import Files, Settings, Signal

_METHODS: Final[dict[str, str]] = {
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}
# gRPC waits up to two minutes before it connects again; the driver has its own delays.
_RECONNECT_MS: Final = 1000
_PROVIDERS: Final = "opentelemetry_otlp_credential_provider"


class GrpcTransport:
    """Calls one collector.

    Parameters
    ----------
    options : OTLPSink
        What it does not give comes from the environment. An endpoint without a scheme
        is used with TLS unless OTEL_EXPORTER_OTLP_INSECURE is "true". Headers replace
        those of the environment.
    environ : mapping of str to str
    signal : {"logs", "metrics"}
        What is exported, and whose variables count.

    Raises
    ------
    ConfigError
        If something cannot be used: header, certificate, credential provider.
    """

    def __init__(
        self, options: OTLPSink, environ: Mapping[str, str], signal: Signal = "logs"
    ) -> None:
        settings = settings_of(options, environ, "grpc", signal)
        grpc = _quiet_grpc()
        self._signal: Signal = signal
        self._timeout_s = settings.timeout_s
        self._metadata = tuple(
            # gRPC takes bytes where a name says so.
            (name, value.encode() if name.endswith("-bin") else value)
            for name, value in settings.headers.items()
        )
        self._rpc_error: type[Exception] = grpc.RpcError
        self._channel = _channel(grpc, settings, options, environ, signal)
        self._export: Any = self._channel.unary_unary(_METHODS[signal])

    def send(self, data: bytes) -> Answer:
        """Call Export once."""
        try:
            reply = self._export(data, metadata=self._metadata, timeout=self._timeout_s)
        except self._rpc_error as exc:
            error: Any = exc
            details = error.details() or ""
            return of_grpc(error.code().name, details, error.trailing_metadata())
        return of_response(reply, self._signal, "gRPC OK")

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def _quiet_grpc() -> Any:
    """Import grpc, whose C library writes to descriptor 2 past all that is limited.

    What it has to say of a connection is in the answer, too. Who asks for more by the
    variable gets it.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import grpc

    return grpc


def _channel(
    grpc: Any,
    settings: Settings,
    options: OTLPSink,
    environ: Mapping[str, str],
    signal: Signal,
) -> Any:
    kinds = grpc.Compression
    compression = {"gzip": kinds.Gzip, "deflate": kinds.Deflate}.get(
        settings.compression, kinds.NoCompression
    )
    arguments = (
        ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS),
        ("grpc.primary_user_agent", user_agent()),
    )
    if not settings.is_secure:
        return grpc.insecure_channel(
            settings.endpoint, compression=compression, options=arguments
        )
    credentials = None
    if options.certificate_file is None and options.client_certificate_file is None:
        credentials = _provided(grpc, environ, signal)
    if credentials is None:
        tls_context(settings.files, environ)  # looked at now, not at the first request
        credentials = _of_files(grpc, settings.files)
    return grpc.secure_channel(
        settings.endpoint, credentials, compression=compression, options=arguments
    )


def _of_files(grpc: Any, files: Files) -> Any:
    certificate = _content(files.client_certificate)
    return grpc.ssl_channel_credentials(
        _content(files.authority),
        # The key may be in the certificate's file.
        certificate and (_content(files.client_key) or certificate),
        certificate,
    )


def _provided(grpc: Any, environ: Mapping[str, str], signal: Signal) -> Any:
    """Return what the credential provider of a variable gives; None without one."""
    general = "OTEL_PYTHON_EXPORTER_OTLP_GRPC_CREDENTIAL_PROVIDER"
    own = f"OTEL_PYTHON_EXPORTER_OTLP_GRPC_{signal.upper()}_CREDENTIAL_PROVIDER"
    variable = own if environ.get(own) else general
    name = environ.get(variable)
    if not name:
        return None
    try:
        (found,) = entry_points(group=_PROVIDERS, name=name)
        made = found.load()()
    except Exception as exc:  # a stranger's code, or none of that name
        msg = f"OTLPSink: {variable}={name}: {type(exc).__name__}: {exc}"
        raise ConfigError(msg) from exc
    if not isinstance(made, grpc.ChannelCredentials):
        msg = f"OTLPSink: {variable}={name} gives no grpc.ChannelCredentials"
        raise ConfigError(msg)
    return made


def _content(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
