"""The files of a TLS connection, looked at before anything is sent.

In: paths of PEM files, by option or variable. Out: nothing, or what is wrong with them.
The exporters look at the first request, when a bad file is one more connection that
fails: it would be tried for ever.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from femtomp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from femtomp.config import OTLPSink

_VARIABLES: Final = ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")


def files_meant(
    options: OTLPSink, environ: Mapping[str, str], signal: str
) -> list[str | None]:
    """Return the paths of authority, client's key and client's certificate."""
    given = (
        options.certificate_file,
        options.client_key_file,
        options.client_certificate_file,
    )
    if any(given):
        return [None if path is None else str(path) for path in given]
    prefix = "OTEL_EXPORTER_OTLP_"
    return [
        environ.get(f"{prefix}{signal.upper()}_{name}") or environ.get(prefix + name)
        for name in _VARIABLES
    ]


def check_files(authority: Any, key: str | None, certificate: str | None) -> None:
    """Load what a connection will load.

    Parameters
    ----------
    authority : str or bool or None
        A file or a directory of certificates; a bool names none.
    key, certificate : str, optional
        Of the client; the key may be in the certificate's file.

    Raises
    ------
    ConfigError
        If a file cannot be read, or is not what it should be.
    """
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    path = None
    try:
        if isinstance(authority, str):
            path = authority
            is_directory = Path(path).is_dir()
            context.load_verify_locations(
                None if is_directory else path, path if is_directory else None
            )
        if certificate is not None:
            path = certificate
            # Nobody is there to be asked for a password.
            context.load_cert_chain(certificate, key, password="")
    except OSError as exc:  # ssl.SSLError is one
        msg = f"OTLPSink: {path} cannot be used for TLS: {exc.strerror or exc}"
        raise ConfigError(msg) from exc
