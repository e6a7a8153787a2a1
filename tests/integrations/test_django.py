"""Django by the recipe of docs/pools.md: `LOGGING`, `manage.py`, and under gunicorn."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.components import require
from tests.examples.pool import ROOT, Gunicorn
from tests.integrations.measured import read
from tests.integrations.test_gunicorn import CONF, await_pids, by_body, get

SITE = """
import json, logging, os, sys
from django.conf import settings

settings.configure(
    DEBUG=False, SECRET_KEY="x", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__,
    LOGGING={
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {
            "femtomp": {"class": "femtomp.WorkerHandler", "missing": "stderr"},
        },
        "root": {"handlers": ["femtomp"], "level": "INFO"},
    },
)
import django
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from femtomp.integrations.wsgi import RequestContext

log = logging.getLogger("site")

def page(request):
    log.info("shown")
    return HttpResponse(json.dumps({"pid": os.getpid()}))

def fails(request):
    raise LookupError("asked for")

urlpatterns = [path("", page), path("fails", fails)]

if __name__ == "__main__":
    from django.core.management import execute_from_command_line
    execute_from_command_line(sys.argv)
    log.warning("without a server")
else:
    application = RequestContext(get_wsgi_application())
"""


@pytest.fixture(autouse=True)
def _django():
    require("django")


def test_management_commands_need_no_server(tmp_path) -> None:
    """`manage.py` works, and logs to stderr."""
    (tmp_path / "manage.py").write_text(SITE)
    environ = {k: v for k, v in os.environ.items() if k != "FEMTOMP_SPOOL"}
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=tmp_path, env={**environ, "PYTHONPATH": str(ROOT)}, timeout=60,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" in done.stderr
    assert "without a server" in done.stderr


def test_requests_are_logged_once_with_their_id(tmp_path) -> None:
    """Under gunicorn: a view's record, Django's own of an error, and the access line
    have one id; nothing comes twice though both configure the root logger.
    """
    require("gunicorn")
    (tmp_path / "site_of_test.py").write_text(SITE)
    (tmp_path / "gunicorn.conf.py").write_text(CONF.format(more=""))
    gunicorn = Gunicorn(
        tmp_path,
        "--workers=2",
        sinks=None,
        app="site_of_test:application",
        cwd=tmp_path,
    )
    with gunicorn:
        await_pids(gunicorn.port, 2)
        get(gunicorn.port, "/fails")
        assert gunicorn.terminate() == 0
    records = read(tmp_path / "records")
    assert len({r["uid"] for r in records}) == len(records)
    shown, pages = by_body(records, "shown"), by_body(records, "GET / 200")
    ids = [r["attributes"]["http.request.id"] for r in shown]
    assert len(ids) == len(set(ids)) == len(pages) >= 2
    assert {r["attributes"]["http.request.id"] for r in pages} == set(ids)
    (error,) = by_body(records, "Internal Server Error: /fails")
    assert error["attributes"]["exception.type"] == "LookupError"
    (access,) = by_body(records, "GET /fails 500")
    told = error["attributes"]["http.request.id"]
    assert access["attributes"]["http.request.id"] == told
    assert gunicorn.stderr() == ""
