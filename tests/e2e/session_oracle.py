"""The sessions of `support/sessions.py` would see every kind of wrong answer: a service that is made up here gives each kind,
and is found out; one that is right is not."""

import contextlib
import http.server
import json
import os
import sys
import threading
import time
import unittest
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.instants import SECOND, text_of  # noqa: E402
from support.sessions import Sessions  # noqa: E402
from support.tokens import Token, opened  # noqa: E402

KEY = bytes(32)
FOUND_WITHIN_SECONDS = 30
# How far the made up replica is behind.
BEHIND_SECONDS = 0.2


class Service:
    """A log of writes, a primary that shows all of it and a replica that shows what is old enough. What it answers wrongly is
    up to those who change its methods."""

    behind = BEHIND_SECONDS

    def __init__(self):
        self.lock = threading.Lock()
        # (time, position, name, number or None where it was deleted)
        self.log = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            do_GET = do_PATCH = do_DELETE = lambda self: service.serve(self)

            def log_message(self, *_):
                """Nobody asks."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def serve(self, request):
        url = urllib.parse.urlsplit(request.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        parts = url.path.split("/")
        name = parts[4] if len(parts) > 4 else query["filter"].split("'")[1]
        if request.command == "GET":
            held = request.headers["X-Consistency-Token"]
            status, document, headers = self.read(name, query["consistency"], opened(held).lsn if held else 0, parts[-1], query)
        else:
            number = json.loads(body)["attributes"]["n"] if body else None
            status, document, headers = self.write(name, number)
        text = b"" if status == 204 else json.dumps(document).encode()
        request.send_response(status)
        for header, value in headers.items():
            request.send_header(header, value)
        if status != 204:
            request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        request.wfile.write(text)

    def write(self, name, number):
        with self.lock:
            position = 10 * (len(self.log) + 1)
            self.log.append((time.time(), position, name, number))
        return 204 if number is None else 200, {}, {"X-Consistency-Token": self.token(position)}

    def token(self, position):
        return Token(1, 1, position, 1).sealed(KEY)

    def view(self, level, held):
        """The source that answers, until when it shows the log, and what it says of that."""
        until = time.time() - self.behind
        with self.lock:
            shows = max((position for at, position, *_ in self.log if at < until), default=0)
        if level == "strong" or held > shows:
            return "primary", time.time()
        return "replica:one", until

    def read(self, name, level, held, shape, query):
        source, until = self.view(level, held)
        with self.lock:
            shown = [entry for entry in self.log if entry[0] < until]
        number = next((number for _, _, other, number in reversed(shown) if other == name), None)
        position = shown[-1][1] if shown else 0
        headers = self.headers(source, until, max(position, held if source == "primary" else 0))
        attributes = {} if number is None else {"n": number}
        if shape == "history":
            return 200, {"items": [{"attributes": attributes}] if attributes else []}, headers
        if shape == "entities":
            return 200, {"items": [{"attributes": attributes}] if attributes else []}, headers
        return (404, {"code": "not_found"}, {}) if number is None else (200, {"attributes": attributes}, headers)

    def headers(self, source, until, position):
        return {
            "X-Data-Source": source, "X-Data-Lag-Seconds": f"{time.time() - until:.3f}",
            "X-Data-Timestamp": text_of(int(until * SECOND)), "X-Consistency-Level": "", "X-Cache-Hit": "false",
            "X-Consistency-Token": self.token(position),
        }  # fmt: skip


class ForgetsTokens(Service):
    def view(self, level, held):
        return super().view(level, 0)


class IsLateWhereItIsStrong(Service):
    def view(self, level, held):
        return super().view("eventual", held)


class IsOlderThanItsBound(Service):
    behind = 2.8


class SaysThatItIsComplete(Service):
    def headers(self, source, until, position):
        return super().headers(source, time.time(), position)


class GivesTokensOfBefore(Service):
    def headers(self, source, until, position):
        return super().headers(source, until, max(0, position - 50))


class ShowsWhatNobodySent(Service):
    def read(self, name, level, held, shape, query):
        status, document, headers = super().read(name, level, held, shape, query)
        if status == 200 and document.get("attributes"):
            document["attributes"]["n"] += 1000
        return status, document, headers


class BringsBackWhatWasDeleted(Service):
    def read(self, name, level, held, shape, query):
        with self.lock:
            numbers = [number for _, _, other, number in self.log if other == name]
        if level == "strong" and numbers and numbers[-1] is None and shape == name:
            number = next((number for number in reversed(numbers) if number is not None), 1)
            return 200, {"attributes": {"n": number}}, self.headers("primary", time.time(), 10 * len(self.log))
        return super().read(name, level, held, shape, query)


class RefusesWithoutAReason(Service):
    def read(self, name, level, held, shape, query):
        if level == "eventual":
            return 500, {"code": "internal"}, {}
        return super().read(name, level, held, shape, query)


WRONG = [
    ForgetsTokens, IsLateWhereItIsStrong, IsOlderThanItsBound, SaysThatItIsComplete, GivesTokensOfBefore, ShowsWhatNobodySent,
    BringsBackWhatWasDeleted, RefusesWithoutAReason,
]  # fmt: skip


class SessionOracle(unittest.TestCase):
    def test_a_service_that_is_right_is_found_right(self):
        with contextlib.closing(Service()) as service:
            with Sessions([service], "key", 1, count=3) as sessions:
                sessions.wait_for(150)
            sessions.check()
            self.assertGreater(sessions.counts["from replica:one"], 0)

    def test_every_kind_of_wrong_answer_is_found_out(self):
        with Faults("service that answers wrongly") as faults:
            for kind in WRONG:
                with self.subTest(kind=kind.__name__), contextlib.closing(kind()) as service:
                    with Sessions([service], "key", 1, count=3) as sessions:
                        found = wait_until(lambda: sessions.problems[:1], "it is found out", FOUND_WITHIN_SECONDS)
                    print(f"{kind.__name__}: {found[0][:150]}")
                    faults.inject()


if __name__ == "__main__":
    unittest.main(verbosity=2)
