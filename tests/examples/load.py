"""Requests to the example's shop, from several connections that are kept alive."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
from typing import NamedTuple

TIMEOUT_S = 15.0
# Requests of one connection: kept alive, and yet all workers get their share.
KEPT_FOR = 20
# A killed worker breaks one request a connection; more than this, and nobody listens.
MAX_BROKEN = 200


class Page(NamedTuple):
    """One request of the mix, and the answer it should get."""

    weight: int
    method: str
    path: str
    status: int
    body: dict | None = None


PAGES = [
    Page(300, "GET", "/", 200),
    Page(150, "GET", "/items/1", 200),
    Page(150, "GET", "/items/2?colour=blue", 200),
    Page(150, "GET", "/items/3", 200),
    Page(50, "GET", "/items/404", 404),
    Page(130, "POST", "/orders", 200, {"item": 1, "quantity": 3}),
    Page(10, "POST", "/orders", 400, {"item": 1, "quantity": 0}),
    Page(10, "GET", "/slow", 200),
    Page(50, "GET", "/error", 500),
]


class Answer(NamedTuple):
    """A request that was answered in full."""

    page: Page
    status: int
    pid: int
    active_count: int
    tasks: int
    threads: list[str]


class Load:
    """A number of requests, each with a user agent of its own.

    Parameters
    ----------
    port : int
        Of the loopback interface.
    seed : int
        Of the choice of pages.
    requests : int
        How many are to be answered: one whose connection broke is sent anew, under a
        new name.
    connections : int
        How many send at the same time.
    at : dict of int to callable
        What to do when that many are answered; called with the answer.
    resend : bool
        False: a connection that breaks ends its thread.
    """

    def __init__(
        self,
        port: int,
        seed: int,
        requests: int,
        *,
        connections=8,
        at=None,
        resend=True,
    ) -> None:
        self.answers: dict[str, Answer] = {}
        self.broken: list[str] = []
        self._port = port
        chosen = random.Random(seed)
        weights = [page.weight for page in PAGES]
        self._pages = iter(chosen.choices(PAGES, weights, k=requests))
        self._prefix = f"load/{seed:x}"
        self._at = at or {}
        self._resend = resend
        self._sent = 0
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._send_all, name=f"load-{n}", daemon=True)
            for n in range(connections)
        ]

    def run(self) -> Load:
        """Send everything; return when all is answered."""
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()
        return self

    def pids(self) -> set[int]:
        """The workers that answered."""
        return {answer.pid for answer in self.answers.values()}

    def _send_all(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, TIMEOUT_S)
        try:
            for count in itertools.count(1):
                if (page := self._next()) is None:
                    return
                while not self._ask(connection, page):
                    if not self._resend or len(self.broken) > MAX_BROKEN:
                        return
                if count % KEPT_FOR == 0:
                    connection.close()
        finally:
            connection.close()

    def _next(self) -> Page | None:
        with self._lock:
            return next(self._pages, None)

    def _ask(self, connection: http.client.HTTPConnection, page: Page) -> bool:
        with self._lock:
            self._sent += 1
            name = f"{self._prefix}.{self._sent}"
        body = None if page.body is None else json.dumps(page.body)
        try:
            connection.request(page.method, page.path, body, {"User-Agent": name})
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            with self._lock:
                self.broken.append(name)
            return False
        headers = response.headers
        answer = Answer(
            page,
            response.status,
            int(headers["X-Pid"]),
            int(headers["X-Active-Count"]),
            int(headers["X-Tasks"]),
            headers["X-Threads"].split(","),
        )
        with self._lock:
            self.answers[name] = answer
            action = self._at.pop(len(self.answers), None)
        if action is not None:
            action(answer)
        return True
