"""Streams of everything: whole or visibly cut off, many at once and left in the middle, and safe to open in a spreadsheet."""

import csv
import http.client
import io
import json
import os
import socket
import struct
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server, entity_path  # noqa: E402
from support.database import Database, wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402

SERVER = None
DATABASE = None
TIME = "2013-01-01T06:00:00Z"
ENTITIES = 20_000
BATCH = 5_000
FILLER = "x" * 400
EXPORTS = 100
NDJSON, CSV, ARROW = "application/x-ndjson", "text/csv", "application/vnd.apache.arrow.stream"
# Of all streams together, beside what the server has anyway.
GROWTH_BYTES_MAX = 200 << 20
# Of one stream of much more than that, which is stored as little: each value is one character again and again.
WIDE_ENTITIES, WIDE_EVENTS, WIDE = 100, 15, "w" * 200_000
SERVED_SECONDS_MAX = 10
FORMULAS = [
    "=1+1", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", "-", "@", "plain", "a,b", 'say "x"', "two\nlines", "",
]  # fmt: skip


def setUpModule():
    global SERVER, DATABASE
    SERVER = Server()
    DATABASE = Database(SERVER)
    for first in range(0, ENTITIES, BATCH):
        events = [
            {"type": "exported", "id": f"e{n:05}", "observed_at": TIME, "attributes": {"n": n, "filler": FILLER}}
            for n in range(first, first + BATCH)
        ]
        status, answer = SERVER.ingest(events)
        assert status == 200, answer
    events = [
        {"type": "cells", "id": f"c{place:02}", "observed_at": TIME, "attributes": {"text": text, "number": -place}}
        for place, text in enumerate(FORMULAS)
    ]
    assert SERVER.ingest(events)[0] == 200


def tearDownModule():
    SERVER.stop()


def resident_bytes():
    with open(f"/proc/{SERVER.process.pid}/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def busy():
    """Transactions of ours that are under way."""
    ours = "usename IN ('sheaf_app', 'sheaf_search') AND state <> 'idle'"
    return DATABASE.count(f"pg_stat_activity WHERE {ours}")


def stream(path, kind):
    status, headers, text = SERVER.call("GET", path, headers={"Accept": kind})
    if status != 200:
        raise AssertionError(f"{path} as {kind}: {status} {text}")
    return headers, text


class Started:
    """A stream of which the beginning was read, on a connection that stays."""

    def __init__(self, path, kind):
        self.socket = socket.create_connection(("127.0.0.1", SERVER.port), 60)
        # Little is under way, so that the server has to wait for whoever reads.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        head = f"GET {path} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {SERVER.key}\r\nAccept: {kind}\r\n\r\n"
        self.socket.sendall(head.encode())
        self.begun = self.socket.recv(4096)

    def status(self):
        return int(self.begun.split()[1])

    def leave(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Exports(unittest.TestCase):
    def test_a_stream_has_everything_once(self):
        for path, count in (("/v1/entities?type=exported", ENTITIES), ("/v1/entities?type=exported&filter=n%20%3C%2050", 50)):
            headers, text = stream(path, NDJSON)
            self.assertTrue(headers["Content-Type"].startswith(NDJSON))
            self.assertIn("X-Data-Source", headers)
            ids = [json.loads(line)["id"] for line in text.splitlines()]
            self.assertEqual(ids, [f"e{n:05}" for n in range(count)])

    def test_cells_that_a_spreadsheet_would_run_are_text_in_csv_and_themselves_elsewhere(self):
        for path in ("/v1/entities?type=cells", entity_path("cells", "c00") + "/history"):
            _, text = stream(path, CSV)
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
            self.assertGreater(len(rows), 0)
            for row in rows:
                for cell in row.values():
                    if cell.startswith(("=", "+", "@", "\t", "\r")) or cell.startswith("-") and not is_number(cell):
                        self.fail(f"{path}: the cell {cell!r} is run where it is opened")
        _, text = stream("/v1/entities?type=cells", CSV)
        rows = {row["id"]: row for row in csv.DictReader(io.StringIO(text, newline=""))}
        _, text = stream("/v1/entities?type=cells", NDJSON)
        for line in text.splitlines():
            item = json.loads(line)
            place = int(item["id"][1:])
            self.assertEqual(item["attributes"], {"text": FORMULAS[place], "number": -place})
            row = rows[item["id"]]
            cells = [cell for name, cell in row.items() if name.endswith("text")]
            self.assertIn(cells[0].removeprefix("'"), (FORMULAS[place], FORMULAS[place].removeprefix("'")))
            self.assertIn(str(-place), [cell.removesuffix(".0") for name, cell in row.items() if name.endswith("number")])

    def test_a_hundred_streams_that_are_left_in_the_middle_cost_nothing_afterwards(self):
        before = resident_bytes()
        started, told = [], 0
        with Faults("stream left in the middle") as faults:
            for number in range(EXPORTS):
                kind = (NDJSON, CSV, ARROW)[number % 3]
                started.append(Started("/v1/entities?type=exported", kind))
            for each in started:
                if each.status() == 200:
                    faults.inject()
                    continue
                # Past the most at once it is told to come again.
                self.assertIn(each.status(), (429, 503), each.begun)
                self.assertIn(b"retry-after:", each.begun.lower())
                told += 1
            begun = time.monotonic()
            self.assertEqual(SERVER.send("PATCH", "/v1/entities/beside/a", {"attributes": {"n": 1}})[0] // 100, 2)
            self.assertEqual(SERVER.get("/v1/entities/beside/a")["attributes"], {"n": 1})
            self.assertEqual(SERVER.get("/v1/entities", type="beside")["items"][0]["id"], "a")
            self.assertLess(time.monotonic() - begun, SERVED_SECONDS_MAX, "others are served beside them")
            grown = resident_bytes() - before
            # What nobody reads on holds no snapshot: it would keep the dead rows of every document.
            wait_until(lambda: busy() == 0, "no stream holds a transaction while it waits for its reader")
            for each in started:
                each.leave()
        print(f"{faults.count} streams at once, {told} told to come again; {grown >> 20} MiB more memory")
        self.assertLess(grown, GROWTH_BYTES_MAX)

        def all_free():
            """Another may begin, once it was noticed that nobody reads on."""
            again = Started("/v1/entities?type=exported", NDJSON)
            again.leave()
            return again.status() == 200

        wait_until(all_free, "the places are free")
        self.assertEqual(len(stream("/v1/entities?type=exported&limit=500", NDJSON)[1].splitlines()), 500)

    def test_a_stream_of_much_more_than_memory_holds_is_in_memory_a_page_at_a_time(self):
        for n in range(WIDE_ENTITIES):
            events = [
                {"type": "wide", "id": f"w{n:03}", "observed_at": f"2013-01-01T06:00:{second:02}Z", "attributes": {"wide": WIDE}}
                for second in range(WIDE_EVENTS)
            ]
            self.assertEqual(SERVER.ingest(events)[0], 200)
        asked = {"type": "wide", "attribute": ["wide"], "from": TIME}
        for group in ("entity", "all"):
            before, most, lines, length = resident_bytes(), 0, 0, 0
            connection = http.client.HTTPConnection("127.0.0.1", SERVER.port, timeout=60)
            headers = {"Authorization": "Bearer " + SERVER.key, "Accept": NDJSON, "Content-Type": "application/json"}
            connection.request("POST", "/v1/history/query", json.dumps({**asked, "group": group}), headers)
            answer = connection.getresponse()
            self.assertEqual(answer.status, 200)
            while piece := answer.read(4 << 20):
                lines, length = lines + piece.count(b"\n"), length + len(piece)
                most = max(most, resident_bytes())
            connection.close()
            print(f"{group}: {length >> 20} MiB of {lines} lines; {(most - before) >> 20} MiB more memory")
            self.assertEqual(lines, WIDE_ENTITIES * WIDE_EVENTS)
            self.assertGreater(length, GROWTH_BYTES_MAX)
            self.assertLess(most - before, length / 2)

    def test_a_stream_that_fails_in_the_middle_is_seen_to_be_cut_off(self):
        with Faults("connection ended under a stream") as faults:
            ended = threading.Event()

            def end():
                while not ended.wait(0.002):
                    ours = "usename IN ('sheaf_app', 'sheaf_search') AND state <> 'idle' AND query LIKE '%entity%'"
                    faults.inject(DATABASE.count(f"(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}) x"))

            killer = threading.Thread(target=end, daemon=True)
            killer.start()
            outcomes = {"whole": 0, "cut off": 0, "refused": 0}
            try:
                deadline = time.monotonic() + 20
                while time.monotonic() < deadline and not (outcomes["cut off"] and faults.count):
                    outcomes[outcome_of_a_stream(self)] += 1
            finally:
                ended.set()
                killer.join(30)
        print(f"streams were {outcomes}")
        self.assertEqual(outcome_of_a_stream(self), "whole")


def outcome_of_a_stream(test):
    connection = http.client.HTTPConnection("127.0.0.1", SERVER.port, timeout=60)
    try:
        headers = {"Authorization": "Bearer " + SERVER.key, "Accept": NDJSON}
        connection.request("GET", "/v1/entities?type=exported", headers=headers)
        answer = connection.getresponse()
        if answer.status != 200:
            test.assertEqual(answer.status, 503, answer.read())
            return "refused"
        lines = answer.read().splitlines()
    except (http.client.IncompleteRead, ConnectionError):
        return "cut off"
    finally:
        connection.close()
    test.assertEqual(len(lines), ENTITIES, "what ends well is whole")
    return "whole"


def is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    unittest.main(verbosity=2)
