"""Bodies that are made to hurt: refused within bounded time and memory, and the server goes on."""

import gzip
import json
import os
import socket
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server  # noqa: E402
from support.bodies import zstd_of_spaces  # noqa: E402

SERVER = None
SECONDS_MAX = 15
MEMORY_BYTES_MAX = 1 << 30
NDJSON = {"Content-Type": "application/x-ndjson"}
JSON = {"Content-Type": "application/json"}
BODY_BYTES_MAX = 64 << 20


def setUpModule():
    global SERVER
    SERVER = Server()


def tearDownModule():
    SERVER.stop()


def memory_peak():
    with open(f"/proc/{SERVER.process.pid}/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def event(attributes):
    return b'{"type":"hostile","id":"a","observed_at":"2013-01-01T00:00:00Z","attributes":' + attributes + b"}"


def bodies():
    """{name: JSON text of an event}"""
    depth = 1_000_000
    return {
        "depth 10^6 of arrays": event(b'{"a":' + b"[" * depth + b"]" * depth + b"}"),
        "depth 10^6 of objects": event(b'{"a":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"),
        "depth 10^6 without an end": b"[" * depth,
        "depth 10^6 in an ignored place": b'{"type":"hostile","id":' + b"[" * depth + b"]" * depth + b"}",
        "10^6 keys": event(b"{" + b",".join(b'"k%d":1' % n for n in range(1_000_000)) + b"}"),
        "10^6 equal keys": event(b"{" + b",".join([b'"k":1'] * 1_000_000) + b"}"),
        "a string of 100 MB": event(b'{"a":"' + b"x" * 100_000_000 + b'"}'),
        "a string of 60 MB": event(b'{"a":"' + b"x" * 60_000_000 + b'"}'),
        "a name of 60 MB": event(b'{"' + b"x" * 60_000_000 + b'":1}'),
        "60 MB of escapes": event(b'{"a":"' + b"\\u00e9" * 10_000_000 + b'"}'),
        "60 MB of white space": b" " * 60_000_000 + event(b'{"a":1}'),
        "a number of 60 MB": event(b'{"a":' + b"1" * 60_000_000 + b"}"),
        "1e131000": event(b'{"a":1e131000}'),
        "10^5 digits": event(b'{"a":' + b"7" * 100_000 + b"}"),
        "1e-16000": event(b'{"d":1e-16000}'),
        "a huge exponent's exponent": event(b'{"a":1e99999999999999999999}'),
    }


class HostileBodies(unittest.TestCase):
    def setUp(self):
        SERVER.send("POST", "/v1/attributes", {"name": "d", "type": "decimal"})

    def tearDown(self):
        self.assertIsNone(SERVER.process.poll(), "the server is alive")
        self.assertEqual(SERVER.call("GET", "/healthz")[0], 200)
        self.assertEqual(SERVER.send("PATCH", "/v1/entities/alive/a", {"attributes": {"alive": True}})[0] // 100, 2)
        self.assertLess(memory_peak(), MEMORY_BYTES_MAX)

    def refused(self, name, path, body, headers, statuses, method="POST"):
        with self.subTest(body=name, path=path):
            begun = time.monotonic()
            status, _, text = SERVER.call(method, path, body, headers)
            self.assertIn(status, statuses, text[:300])
            self.assertLess(time.monotonic() - begun, SECONDS_MAX)
            self.assertLess(len(text), 10_000, "the answer does not amplify")

    def test_hostile_json_is_refused(self):
        for name, text in bodies().items():
            if name == "60 MB of white space":
                continue
            self.refused(name, "/v1/ingest", text, NDJSON, {400, 413, 422})
            self.refused(name, "/v1/ingest", b"[" + text + b"]", JSON, {400, 413, 422})
            edit = text[text.index(b'"attributes"') : -1] if b'"attributes"' in text else text[1:]
            self.refused(name, "/v1/entities/hostile/a", b"{" + edit + b"}", JSON, {400, 413, 422}, "PATCH")
        self.assertEqual(SERVER.call("GET", "/v1/entities/hostile/a")[0], 404, "nothing was stored")
        print(f"memory at most {memory_peak() >> 20} MiB")

    def test_white_space_is_only_white_space(self):
        status, _, text = SERVER.call("POST", "/v1/ingest", bodies()["60 MB of white space"], NDJSON)
        self.assertIn(status, (200, 422), text)

    def test_hostile_json_is_refused_where_a_document_is_read(self):
        for name in ("depth 10^6 of arrays", "10^6 keys", "a string of 60 MB"):
            text = bodies()[name]
            self.refused(name, "/v1/entities/search", text, JSON, {400, 413})
            self.refused(name, "/v1/attributes", text, JSON, {400, 413})
        nested = b'{"name":"schema","type":"json","schema":' + b'{"not":' * 10_000 + b"{}" + b"}" * 10_001
        self.refused("a schema of depth 10^4", "/v1/attributes", nested, JSON, {400, 413, 422})

    def test_bombs_are_refused_when_they_have_grown_too_large(self):
        line = event(b'{"a":1}') + b"\n"
        plain = line * (512 * 1024 * 1024 // len(line) // 1024)
        for name, body, encoding in (
            ("gzip", gzip.compress(plain) * 1024, "gzip"),
            ("gzip of spaces", gzip.compress(b" " * (256 << 20)), "gzip"),
            ("zstd of spaces", zstd_of_spaces(1 << 30), "zstd"),
            ("zstd in many frames", zstd_of_spaces(1 << 20) * 1024, "zstd"),
        ):
            with self.subTest(bomb=name):
                self.assertLess(len(body), BODY_BYTES_MAX // 4)
                for path in ("/v1/ingest", "/api/v2/write"):
                    self.refused(name, path, body, {**NDJSON, "Content-Encoding": encoding}, {413})
        twice = gzip.compress(gzip.compress(line))
        for encoding in ("gzip, gzip", "gzip, zstd", "br", "deflate"):
            self.refused(encoding, "/v1/ingest", twice, {**NDJSON, "Content-Encoding": encoding}, {415})

    def test_a_zstd_frame_that_asks_for_gigabytes_is_refused(self):
        body = zstd_of_spaces(1 << 20, window_log=31)
        self.refused("window of 2 GiB", "/v1/ingest", body, {**NDJSON, "Content-Encoding": "zstd"}, {400, 413})

    def test_a_broken_or_short_body_is_told(self):
        line = event(b'{"a":1}') + b"\n"
        whole = gzip.compress(line)
        for name, body in (("half", whole[: len(whole) // 2]), ("garbage", b"garbage"), ("bad sum", whole[:-5] + b"xxxxx")):
            self.refused(name, "/v1/ingest", body, {**NDJSON, "Content-Encoding": "gzip"}, {400})
        self.refused("a length that is too large", "/v1/ingest", b"", {**NDJSON, "Content-Length": str(1 << 40)}, {413})

    def test_a_refusal_before_the_body_is_read_reaches_the_client(self):
        # The head goes first and the body a moment later, as clients send them.
        for size in (100, 60_000):
            head = f"POST /v1/tenants HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {SERVER.key}\r\nContent-Length: {size}\r\n\r\n"
            for _ in range(30):
                with socket.create_connection(("127.0.0.1", SERVER.port), timeout=20) as connection:
                    file = connection.makefile("rwb")
                    for last in (False, True):
                        file.write(head.encode())
                        file.flush()
                        file.write(b"x" * size)
                        file.flush()
                        status, headers, text = read_answer(file)
                        self.assertEqual((status, json.loads(text)["code"]), (403, "forbidden"))
                        if headers.get("connection") == "close":
                            break
                        self.assertTrue(last or can_go_on(connection), "it hangs up without having said so")


def can_go_on(connection):
    """Whether the other side has not hung up."""
    connection.settimeout(0.05)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except TimeoutError:
        return True
    finally:
        connection.settimeout(20)


def read_answer(file):
    """Status, headers and body of one answer on a connection that goes on."""
    status = int(file.readline().split()[1])
    headers = {}
    while (line := file.readline().strip()) != b"":
        name, value = line.decode().split(":", 1)
        headers[name.lower()] = value.strip()
    return status, headers, file.read(int(headers["content-length"]))


if __name__ == "__main__":
    unittest.main(verbosity=2)
