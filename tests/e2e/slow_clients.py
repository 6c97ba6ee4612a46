"""Clients that send slowly, or say untruly where their requests end: cut off, and nobody else notices."""

import json
import os
import resource
import select
import socket
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server  # noqa: E402
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.serving import Serving  # noqa: E402

SERVER = None
HEADS = None
BODIES = None
STEADY = None

SOCKETS = 2_000
HEAD_SECONDS = 30
BODY_SECONDS = 10
# What may lie between a bound and its effect on a machine that is busy.
SLACK_SECONDS = 8


def setUpModule():
    global SERVER, HEADS, BODIES, STEADY
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    SERVER = Server()
    # All of them wait for bounds of many seconds, and do so together.
    BODIES = {name: SlowBody(head, end) for name, (head, end) in slow_bodies().items()}
    STEADY = SteadyBody()
    HEADS = SlowHeads()


def tearDownModule():
    SERVER.stop()


def connect(port=None):
    return socket.create_connection(("127.0.0.1", port or SERVER.port), timeout=60)


def head(method, path, *headers, key=True):
    lines = [f"{method} {path} HTTP/1.1", "Host: a", *headers]
    if key:
        lines.append(f"Authorization: Bearer {SERVER.key}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class SlowHeads:
    """Connections whose first request never gets to the end of its head."""

    def __init__(self):
        self.begun = time.monotonic()
        self.sockets = {}
        for _ in range(SOCKETS):
            connection = connect()
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: ")
            self.sockets[connection.fileno()] = connection
        self.opened = time.monotonic()

    def close_ended(self):
        """Sends a byte more on each, and gives back how many the server has not closed."""
        poll = select.poll()
        for number in self.sockets:
            poll.register(number, select.POLLIN)
        ended = {number for number, _ in poll.poll(0)}
        for number, connection in list(self.sockets.items()):
            try:
                if number not in ended:
                    connection.send(b"x")
                    continue
            except OSError:
                pass
            connection.close()
            del self.sockets[number]
        return len(self.sockets)


class SlowBody(threading.Thread):
    """Sends a head, then a byte every quarter of a second until the connection ends, and keeps what is answered."""

    def __init__(self, head_bytes, end):
        super().__init__(daemon=True)
        self.head, self.end = head_bytes, end
        self.answer = b""
        self.seconds = None
        self.start()

    def run(self):
        begun = time.monotonic()
        with connect() as connection:
            connection.sendall(self.head)
            connection.settimeout(0.25)
            while time.monotonic() - begun < 2 * BODY_SECONDS + SLACK_SECONDS:
                try:
                    received = connection.recv(65536)
                    if not received:
                        break
                    self.answer += received
                except TimeoutError:
                    try:
                        connection.send(self.end)
                    except OSError:
                        break
                except OSError:
                    break
            else:
                return
        self.seconds = time.monotonic() - begun


class SteadyBody(threading.Thread):
    """Sends three times as fast as is asked, for half as long again as a slow body is waited for."""

    def __init__(self):
        super().__init__(daemon=True)
        self.answer = b""
        self.seconds = 0
        self.start()

    def run(self):
        begun = time.monotonic()
        pieces, piece = 3 * BODY_SECONDS // 2, b" " * 3_000
        line = json.dumps({"type": "steady", "id": "a", "attributes": {"n": 1}}).encode()
        length = pieces * len(piece) + len(line)
        with connect() as connection:
            connection.sendall(head("POST", "/v1/ingest", "Content-Type: application/x-ndjson", f"Content-Length: {length}"))
            for _ in range(pieces):
                connection.sendall(piece)
                # The rate is what is tested, and a rate takes its time.
                time.sleep(1)
            connection.sendall(line)
            self.answer = connection.recv(65536)
        self.seconds = time.monotonic() - begun


def slow_bodies():
    """{name: (head, what is sent again and again)}"""
    ndjson, sized = "Content-Type: application/x-ndjson", "Content-Length: 100000"
    return {
        "nothing after the head": (head("POST", "/v1/ingest", ndjson, sized), b""),
        "a byte at a time": (head("POST", "/v1/ingest", ndjson, sized), b" "),
        "a chunk at a time": (head("POST", "/v1/ingest", ndjson, "Transfer-Encoding: chunked"), b"1\r\n \r\n"),
        "compressed": (head("POST", "/v1/ingest", ndjson, sized, "Content-Encoding: gzip") + b"\x1f\x8b\x08\0\0\0\0\0\0\0", b""),
        "line protocol": (head("POST", "/api/v2/write", sized), b" "),
        "line protocol of version 1": (head("POST", "/write", sized), b" "),
        "an edit": (head("PATCH", "/v1/entities/slow/a", "Content-Type: application/json", sized), b" "),
        "a declaration": (head("POST", "/v1/attributes", "Content-Type: application/json", sized), b" "),
        "much at first and then nothing": (head("POST", "/v1/ingest", ndjson, sized) + b" " * 50_000, b""),
        "a chunk that never ends": (
            head("POST", "/v1/ingest", ndjson, "Transfer-Encoding: chunked") + b"1;" + b"x" * 1_000,
            b"x",
        ),
    }


class SlowClients(unittest.TestCase):
    def test_slow_bodies_are_cut_off_with_a_408(self):
        with Faults("slow body") as faults:
            for name, body in BODIES.items():
                with self.subTest(body=name):
                    body.join(3 * BODY_SECONDS)
                    self.assertIsNotNone(body.seconds, "the connection goes on")
                    self.assertGreater(body.seconds, BODY_SECONDS - 1)
                    self.assertLess(body.seconds, BODY_SECONDS + SLACK_SECONDS)
                    self.assertTrue(body.answer.startswith(b"HTTP/1.1 408 "), body.answer)
                    self.assertIn(b"\r\nconnection: close\r\n", body.answer)
                    faults.inject()
        self.assertEqual(SERVER.call("GET", "/v1/entities/slow/a")[0], 404)

    def test_a_slow_body_without_a_key_is_not_waited_for(self):
        for sent in (b"", b" " * 100):
            begun = time.monotonic()
            with connect() as connection:
                connection.sendall(head("POST", "/v1/ingest", "Content-Length: 100000", key=False) + sent)
                answer = read_all(connection)
            self.assertTrue(answer.startswith(b"HTTP/1.1 401 "), answer)
            self.assertLess(time.monotonic() - begun, BODY_SECONDS / 2)

    def test_a_steady_body_is_waited_for_however_long_it_takes(self):
        STEADY.join(6 * BODY_SECONDS)
        self.assertTrue(STEADY.answer.startswith(b"HTTP/1.1 200 "), STEADY.answer)
        self.assertGreater(STEADY.seconds, 1.4 * BODY_SECONDS)

    def test_slow_heads_are_closed_and_others_are_served_meanwhile(self):
        with Faults("slow head") as faults:
            faults.inject(len(HEADS.sockets))
            served = 0
            while HEADS.close_ended():
                self.assertLess(time.monotonic() - HEADS.opened, HEAD_SECONDS + SLACK_SECONDS, f"{len(HEADS.sockets)} go on")
                begun = time.monotonic()
                status, _ = SERVER.send("PATCH", f"/v1/entities/meanwhile/{served % 10}", {"attributes": {"n": served}})
                self.assertIn(status, (200, 201))
                self.assertEqual(SERVER.call("GET", "/healthz")[0], 200)
                self.assertLess(time.monotonic() - begun, 5)
                served += 1
                wait_until(lambda: time.monotonic() - begun > 0.2, "a moment passes")
            self.assertGreater(time.monotonic() - HEADS.begun, HEAD_SECONDS - 1, "they were given their time")
            print(f"{served} requests were served meanwhile")

    def test_connections_past_the_limit_of_descriptors_wait_for_those_that_do_nothing(self):
        server = Serving(SERVER, descriptors=400)
        idle = []
        try:
            with Faults("connection past the limit") as faults:
                for _ in range(200):
                    idle.append(connect(server.port))
                self.assertEqual(server.call("GET", "/healthz")[0], 200)
                self.assertEqual(server.send("PATCH", "/v1/entities/crowd/a", {"attributes": {"n": 1}})[0] // 100, 2)
                if "all connections are taken" in server.log_text():
                    faults.inject()
            self.assertNotIn("could not be accepted", server.log_text())
        finally:
            for connection in idle:
                connection.close()
            server.stop()


def read_all(connection):
    answer = b""
    try:
        while received := connection.recv(65536):
            answer += received
    except ConnectionError:
        pass
    return answer


SMUGGLED = b'[{"type":"smuggled","id":"a","attributes":{"n":1}}]'


def next_request():
    """What stands behind an unclear end, and would store something if it were taken for a request."""
    return head("POST", "/v1/ingest", "Content-Type: application/json", f"Content-Length: {len(SMUGGLED)}") + SMUGGLED


def unclear_requests():
    """{name: request}; whoever reads it right refuses it, or answers it and then hangs up."""

    def post(*headers, body=b"[]"):
        return head("POST", "/v1/ingest", "Content-Type: application/json", *headers) + body + next_request()

    chunked = "Transfer-Encoding: chunked"
    return {
        "two lengths": post("Content-Length: 2", "Content-Length: 3"),
        "a list of lengths": post("Content-Length: 2, 2"),
        "a length with a sign": post("Content-Length: +2"),
        "a negative length": post("Content-Length: -2"),
        "a length in hexadecimal": post("Content-Length: 0x2"),
        "an empty length": post("Content-Length: "),
        "a length past 64 bits": post("Content-Length: 18446744073709551618"),
        "a space before the colon": post("Content-Length : 2"),
        "a folded header": post("Content-Length: 2\r\n  0"),
        "a NUL in a header": post("Content-Length: 2", "X: a\0b"),
        "a bare CR in a header": post("Content-Length: 2", "X: a\rContent-Length: 0"),
        "a length and chunks": post("Content-Length: 7", chunked, body=b"2\r\n[]\r\n0\r\n\r\n"),
        "chunks and a length": post(chunked, "Content-Length: 7", body=b"2\r\n[]\r\n0\r\n\r\n"),
        "chunks that are not last": post("Transfer-Encoding: chunked, identity", body=b"2\r\n[]\r\n0\r\n\r\n"),
        "chunks by another name": post("Transfer-Encoding: xchunked", body=b"2\r\n[]\r\n0\r\n\r\n"),
        "chunks that are not chunks": post(chunked),
        "a chunk of a negative size": post(chunked, body=b"-2\r\n[]\r\n0\r\n\r\n"),
        "a chunk of a size past 64 bits": post(chunked, body=b"10000000000000002\r\n[]\r\n0\r\n\r\n"),
        "a chunk longer than its size": post(chunked, body=b"1\r\n[]\r\n0\r\n\r\n"),
        "a chunk that ends with LF alone": post(chunked, body=b"2\n[]\n0\n\n"),
        "an endless extension of a chunk": post(chunked, body=b"2;" + b"x" * 100_000 + b"\r\n[]\r\n0\r\n\r\n"),
        "endless trailers": post(chunked, body=b"2\r\n[]\r\n0\r\n" + b"X: y\r\n" * 100_000 + b"\r\n"),
        "chunks in HTTP/1.0": post(chunked, body=b"2\r\n[]\r\n0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0", 1),
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0" + next_request(),
        "another version": head("POST", "/v1/ingest").replace(b"HTTP/1.1", b"HTTP/3.0") + next_request(),
    }


class EndsOfRequests(unittest.TestCase):
    def tearDown(self):
        self.assertEqual(SERVER.call("GET", "/healthz")[0], 200)
        self.assertEqual(SERVER.get("/v1/entities", type="smuggled")["items"], [], "nothing was smuggled in")

    def test_nothing_behind_an_unclear_end_is_taken_for_a_request(self):
        for name, request in unclear_requests().items():
            with self.subTest(request=name), connect() as connection:
                try:
                    connection.sendall(request)
                except ConnectionError:
                    pass
                answer = read_all(connection)
                self.assertLessEqual(answer.count(b"HTTP/1."), 1, answer)
                if answer:
                    self.assertIn(answer.split()[1], (b"200", b"400", b"413", b"431", b"501", b"505"), answer)

    def test_a_body_shorter_than_its_length_is_not_stored(self):
        with connect() as connection:
            connection.sendall(head("POST", "/v1/ingest", "Content-Type: application/json", "Content-Length: 1000") + SMUGGLED)
            connection.shutdown(socket.SHUT_WR)
            answer = read_all(connection)
        self.assertNotIn(b"HTTP/1.1 2", answer)

    def test_http_2_is_not_served_so_that_it_has_no_resets(self):
        upgrade = ("Connection: Upgrade, HTTP2-Settings, close", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
        with connect() as connection:
            connection.sendall(head("GET", "/healthz", *upgrade))
            answer = read_all(connection)
        self.assertTrue(answer.startswith(b"HTTP/1.1 200 "), answer)


if __name__ == "__main__":
    unittest.main(verbosity=2)
