"""gunicorn's configuration: one femtomp server for the master and all its workers."""

import os

from femtomp.integrations import gunicorn

wsgi_app = "shop:app"
bind = "127.0.0.1:8000"
workers = 4
worker_class = "gthread"
threads = 4

os.environ.setdefault("FEMTOMP_SINKS", "console:json")
gunicorn.install(globals(), name="shop")
