"""gunicorn's configuration: one femtomp server for the master and all its workers."""

import logging
import os

import femtomp

wsgi_app = "shop:app"
bind = "127.0.0.1:8000"
workers = 4
worker_class = "gthread"
threads = 4

# Access and error log as records, to the root logger's handler: see access_log.py.
logger_class = "access_log.AccessLogger"
errorlog = accesslog = None

os.environ.setdefault("FEMTOMP_SINKS", "console:json")


def on_starting(arbiter):
    # Kept by the arbiter: at a reload (HUP) this file is executed anew, as a new module
    # with new globals, and on_starting is not called. The server goes on meanwhile.
    # The user that workers become (`user`, `group`) owns what they log into.
    arbiter.femtomp = femtomp.start_server(
        name="shop", worker_uid=arbiter.cfg.uid, worker_gid=arbiter.cfg.gid
    )
    femtomp.worker_init()  # the master logs too, at FEMTOMP_LEVEL


def post_fork(arbiter, worker):
    # The handler that the worker has inherited, or the one that it lacks.
    logging.getLogger().addHandler(femtomp.worker_handler())


def on_exit(arbiter):
    # Delivers what is left. Where gunicorn ends without on_exit, atexit does the same.
    arbiter.femtomp.stop()
