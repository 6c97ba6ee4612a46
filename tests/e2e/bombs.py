"""Small bodies that would grow without end: refused at the bound, without memory past it, and not read without a key."""

import gzip
import os
import socket
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server  # noqa: E402
from support.bodies import zstd_of_spaces  # noqa: E402
from support.faults import Faults  # noqa: E402

SERVER = None
BODY_BYTES_MAX = 64 << 20
GROWN_BYTES = 512 << 20
NDJSON = {"Content-Type": "application/x-ndjson"}
JSON = {"Content-Type": "application/json"}
# Method, path, headers, and the bound on the body.
ROUTES = [
    ("POST", "/v1/ingest", NDJSON, BODY_BYTES_MAX),
    ("POST", "/v1/ingest", JSON, BODY_BYTES_MAX),
    ("POST", "/write", {}, BODY_BYTES_MAX),
    ("POST", "/api/v2/write", {}, BODY_BYTES_MAX),
    ("PATCH", "/v1/entities/bomb/a", JSON, 1 << 20),
    ("PUT", "/v1/entities/bomb/a", JSON, 1 << 20),
    ("POST", "/v1/entities/search", JSON, 256 << 10),
    ("POST", "/v1/attributes", JSON, 256 << 10),
]


def setUpModule():
    global SERVER
    SERVER = Server()


def tearDownModule():
    SERVER.stop()


def gzip_of_spaces(size):
    # Members one after the other are one body; compressing half a gigabyte at once would take longer than the test.
    member = 16 << 20
    return gzip.compress(b" " * member) * (size // member)


def bombs():
    """{name: (encoding, body)}; each grows to half a gigabyte."""
    return {
        "zstd": ("zstd", zstd_of_spaces(GROWN_BYTES)),
        "zstd in many frames": ("zstd", zstd_of_spaces(1 << 20) * (GROWN_BYTES >> 20)),
        "gzip": ("gzip", gzip_of_spaces(GROWN_BYTES)),
    }


class Memory:
    """The server's resident memory: now, and at most since this was made."""

    def __init__(self):
        with open(f"/proc/{SERVER.process.pid}/clear_refs", "w", encoding="utf-8") as file:
            # Sets the peak to what is resident now.
            file.write("5")
        self.before = self.read("VmRSS")

    def read(self, name):
        with open(f"/proc/{SERVER.process.pid}/status", encoding="utf-8") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))

    def grown(self):
        return self.read("VmHWM") - self.before


class Bombs(unittest.TestCase):
    def tearDown(self):
        self.assertIsNone(SERVER.process.poll(), "the server is alive")
        self.assertEqual(SERVER.call("GET", "/healthz")[0], 200)
        self.assertEqual(SERVER.call("GET", "/v1/entities/bomb/a")[0], 404, "nothing was stored")

    def test_a_bomb_is_refused_at_the_bound_and_takes_less_than_twice_its_memory(self):
        self.assertLess(len(bombs()["zstd"][1]), 20_000)
        with Faults("bomb") as faults:
            for name, (encoding, body) in bombs().items():
                for method, path, headers, bytes_max in ROUTES:
                    with self.subTest(bomb=name, path=path, headers=headers):
                        memory = Memory()
                        status, _, text = SERVER.call(method, path, body, {**headers, "Content-Encoding": encoding})
                        self.assertEqual(status, 413, text)
                        # A little is ours whatever is sent.
                        self.assertLess(memory.grown(), 2 * bytes_max + (16 << 20))
                        faults.inject()

    def test_many_bombs_of_one_tenant_at_once_take_no_more_than_its_share(self):
        body = zstd_of_spaces(GROWN_BYTES)
        memory, statuses = Memory(), []

        def send():
            status, headers, _ = SERVER.call("POST", "/v1/ingest", body, {**NDJSON, "Content-Encoding": "zstd"})
            statuses.append((status, headers["Retry-After"] is not None))

        with Faults("bomb beside others") as faults:
            threads = [threading.Thread(target=send) for _ in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
                faults.inject()
        self.assertEqual(len(statuses), len(threads))
        self.assertLessEqual(set(statuses), {(413, False), (429, True)})
        print(f"{len(threads)} bombs at once: {memory.grown() >> 20} MiB, {statuses.count((429, True))} were to come later")
        self.assertLess(memory.grown(), 3 * BODY_BYTES_MAX)

    def test_without_a_key_nothing_is_read(self):
        with Faults("bomb without a key") as faults:
            for encoding, body in bombs().values():
                for method, path, _, _ in ROUTES:
                    memory = Memory()
                    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
                    with socket.create_connection(("127.0.0.1", SERVER.port), timeout=20) as connection:
                        try:
                            connection.sendall(head.encode() + body)
                        except ConnectionError:
                            # It is told before it has sent everything.
                            pass
                        self.assertTrue(answer_of(connection).startswith(b"HTTP/1.1 401 "))
                    self.assertLess(memory.grown(), 16 << 20)
                    faults.inject()

    def test_nested_and_unknown_encodings_are_refused_on_every_route(self):
        once = gzip.compress(zstd_of_spaces(GROWN_BYTES))
        for encoding in ("gzip, gzip", "gzip,zstd", "zstd, gzip", "identity, gzip", "br", "deflate", "compress", "x"):
            for method, path, headers, _ in ROUTES:
                with self.subTest(encoding=encoding, path=path):
                    status, _, text = SERVER.call(method, path, once, {**headers, "Content-Encoding": encoding})
                    self.assertEqual(status, 415, text)

    def test_what_is_compressed_twice_is_read_once(self):
        # What comes out is compressed, which is no line of anything.
        status, _, text = SERVER.call("POST", "/v1/ingest", gzip.compress(gzip_of_spaces(16 << 20)), {**NDJSON, "Content-Encoding": "gzip"})
        self.assertIn(status, (400, 422), text)


def answer_of(connection):
    try:
        return connection.recv(4096)
    except ConnectionError:
        return b""


if __name__ == "__main__":
    unittest.main(verbosity=2)
