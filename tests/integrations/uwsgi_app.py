"""The application that uWSGI serves, and the module that its master imports."""

import logging

from femtomp.integrations import uwsgi

for _ in range(3):
    uwsgi.install(["file:records"], name="served")
from tests.integrations.app import wsgi as application  # noqa: E402, F401

logging.getLogger("app").info("imported")
