"""Which proxy stands between a sink and its collector: HTTPS_PROXY, NO_PROXY and so on.

In: the endpoint's URL, the environment. Out: a `Proxy`, or None. The variables count as
they do for curl and for requests: `https_proxy` before `HTTPS_PROXY`, those of the
scheme before `ALL_PROXY`; `NO_PROXY` has names, which count for the names below them
too, addresses, networks such as 10.0.0.0/8, and "*" for all.
"""

from __future__ import annotations

import ipaddress
from base64 import b64encode
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from femtomp.checks import shown
from femtomp.errors import ConfigError
from femtomp.sinks.secrets import credentials, hide

if TYPE_CHECKING:
    from collections.abc import Mapping
    from urllib.parse import SplitResult


class Proxy(NamedTuple):
    """An HTTP proxy.

    Attributes
    ----------
    headers : dict of str to str
        What it is told beside what the collector is told.
    """

    host: str
    port: int
    headers: dict[str, str]


def proxy_of(url: str, environ: Mapping[str, str]) -> Proxy | None:
    """Return the proxy that the environment names for a URL.

    Raises
    ------
    ConfigError
        If it is of a kind that is not supported.

    Examples
    --------
    >>> proxy_of("http://c:4318/v1/logs", {"http_proxy": "proxy:3128"})
    Proxy(host='proxy', port=3128, headers={})
    >>> proxy_of("http://c:4318", {"http_proxy": "proxy:3128", "no_proxy": "c"})
    """
    target = urlsplit(url)
    for name in (f"{target.scheme}_proxy", "all_proxy"):
        given = _variable(name, environ)
        if given:
            if _is_bypassed(target, _variable("no_proxy", environ)):
                return None
            return _parsed(name.upper(), given)
    return None


def basic_authorization(parts: SplitResult) -> str | None:
    """Return the header's value for the credentials of a URL; None without any."""
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + b64encode(pair.encode()).decode()


def _variable(name: str, environ: Mapping[str, str]) -> str:
    if name in environ:
        return environ[name].strip()
    # In a CGI script HTTP_PROXY is a header of the client's (httpoxy.org).
    if name == "http_proxy" and "REQUEST_METHOD" in environ:
        return ""
    return environ.get(name.upper(), "").strip()


def _parsed(name: str, given: str) -> Proxy:
    parts = urlsplit(given if "://" in given else f"http://{given}")
    try:
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port = None, 0
    if parts.scheme != "http" or not host:
        msg = (
            f"OTLPSink: {name}={shown(given)} cannot be used: only http:// proxies are "
            "supported; name the collector's host in NO_PROXY to go without"
        )
        raise ConfigError(msg)
    authorization = basic_authorization(parts)
    hide([*credentials(given), authorization or ""])
    headers = {"Proxy-Authorization": authorization} if authorization else {}
    return Proxy(host, port, headers)


def _is_bypassed(target: SplitResult, no_proxy: str) -> bool:
    host = (target.hostname or "").rstrip(".")
    names = {host} if target.port is None else {host, f"{host}:{target.port}"}
    for entry in (e.strip().lower() for e in no_proxy.split(",")):
        if entry == "*" or entry.strip("[]") == host or _is_inside(host, entry):
            return True
        suffix = entry.lstrip(".")
        if suffix and any(n == suffix or n.endswith("." + suffix) for n in names):
            return True
    return False


def _is_inside(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
