"""gunicorn's access and error log as records of the standard `logging`.

The attributes' names are those of OpenTelemetry's conventions for HTTP servers:
https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server-span
"""

from gunicorn.glogging import Logger


class AccessLogger(Logger):
    """Hands what gunicorn logs up to the root logger's handlers."""

    # gunicorn thinks so only if it has a file or stream of its own to write to.
    access_log_enabled = True

    def setup(self, cfg):
        super().setup(cfg)
        # gunicorn keeps its two loggers to itself.
        self.error_log.propagate = self.access_log.propagate = True

    def access(self, resp, req, environ, request_time):
        """Log one request; gunicorn calls it when the response has been sent."""
        method = environ.get("REQUEST_METHOD")
        path = str(environ.get("RAW_URI") or "").partition("?")[0]
        status = status_code(resp)
        fields = {
            "http.request.method": method,
            "url.path": path,
            "http.response.status_code": status,
            "http.response.body.size": getattr(resp, "sent", None),
            "http.server.request.duration": request_time.total_seconds(),
            "client.address": environ.get("REMOTE_ADDR"),
            "user_agent.original": environ.get("HTTP_USER_AGENT"),
        }
        # What is not known is left out, as the conventions ask.
        known = {k: v for k, v in fields.items() if v not in (None, "")}
        self.access_log.info("%s %s %s", method, path, status, extra=known)


def status_code(resp):
    """Return the status as a number; None for a request that got no response."""
    words = str(resp.status or "").split(None, 1)  # "200 OK", or 200
    return int(words[0]) if words and words[0].isdecimal() else None
