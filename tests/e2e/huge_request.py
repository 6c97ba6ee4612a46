"""Requests as large as may be: stored whole or refused, without the memory of the server following the body."""

import json
import os
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server  # noqa: E402
from support.database import Database  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.load import assert_sound  # noqa: E402

SERVER = None
DATABASE = None
BODY_BYTES_MAX = 64 * 1024 * 1024
ENTITIES = 2_000
# A body's events take several times its bytes, and two of the largest may be in work at once.
MEMORY_BYTES_MAX = 1_500_000_000
NDJSON = {"Content-Type": "application/x-ndjson"}


def setUpModule():
    global SERVER, DATABASE
    SERVER = Server()
    DATABASE = Database(SERVER)


def tearDownModule():
    SERVER.stop()


def body_of(kind, bytes_wanted, text_bytes):
    """NDJSON of just under so many bytes, and the number of its events."""
    lines, size, count = [], 0, 0
    text = "x" * text_bytes
    while True:
        minute, second = divmod(count // ENTITIES, 60)
        line = (
            f'{{"type":"{kind}","id":"e{count % ENTITIES}",'
            f'"observed_at":"2024-07-01T{minute // 60:02}:{minute % 60:02}:{second:02}Z",'
            f'"attributes":{{"n":{count},"text":"{text}"}}}}\n'
        ).encode()
        if size + len(line) > bytes_wanted:
            return b"".join(lines), count
        lines.append(line)
        size += len(line)
        count += 1


def memory_peak():
    with open(f"/proc/{SERVER.process.pid}/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell the peak")


def stored(kind):
    """How many events of an entity type there are."""
    return DATABASE.count(f"sheaf.entity_events JOIN sheaf.entities USING (tenant_id, entity_id) WHERE entity_type = '{kind}'")


def post(body, key=None):
    return SERVER.call("POST", "/v1/ingest", body, {**NDJSON, **({"Idempotency-Key": key} if key else {})})


class HugeRequest(unittest.TestCase):
    def test_the_largest_request_is_stored_whole_and_its_retry_is_the_same(self):
        # Wide events: the time goes into bytes, and not into hundreds of thousands of rows.
        body, count = body_of("huge", BODY_BYTES_MAX, 400)
        with Faults("request of the largest size") as faults:
            begun = time.monotonic()
            status, _, text = post(body, "huge")
            faults.inject()
            print(f"{count} events of {len(body)} bytes in {time.monotonic() - begun:.1f} s, peak {memory_peak() // 2**20} MiB")
            self.assertEqual(status, 200, text)
            answer = json.loads(text)
            self.assertEqual((answer["accepted"], answer["refused"]), (count, 0))
            self.assertEqual(stored("huge"), count)
            status, headers, again = post(body, "huge")
            self.assertEqual((status, headers["Idempotency-Replayed"]), (200, "true"), again)
            self.assertEqual(json.loads(again)["accepted"], count)
        self.assertLess(memory_peak(), MEMORY_BYTES_MAX)

    def test_a_larger_one_is_refused_and_nothing_of_it_is_there(self):
        body, _ = body_of("larger", BODY_BYTES_MAX, 400)
        with Faults("request beyond the largest size") as faults:
            status, _, text = post(body + b" " * 1024)
            faults.inject()
            self.assertEqual((status, json.loads(text)["code"]), (413, "body_too_large"))
            self.assertEqual(stored("larger"), 0)
        self.assertLess(memory_peak(), MEMORY_BYTES_MAX)

    def test_many_large_ones_at_once_take_turns(self):
        bodies = [body_of(f"turn{number}", BODY_BYTES_MAX // 2, 1500) for number in range(4)]
        answers = [None] * len(bodies)

        def send(number):
            while True:
                answers[number] = post(bodies[number][0], f"turn{number}")
                if answers[number][0] not in (429, 503):
                    return
                time.sleep(0.2)

        beside = SERVER.create_tenant("beside")
        with Faults("large requests at once") as faults:
            threads = [threading.Thread(target=send, args=(number,)) for number in range(len(bodies))]
            for thread in threads:
                thread.start()
            faults.inject(len(threads))
            edited, slowest = 0, 0.0
            while any(thread.is_alive() for thread in threads):
                begun = time.monotonic()
                status, answer = SERVER.send("PATCH", "/v1/entities/beside/a", {"attributes": {"n": edited}}, key=beside)
                self.assertIn(status, (200, 201, 503), answer)
                slowest = max(slowest, time.monotonic() - begun)
                edited += 1
                time.sleep(0.05)
        print(f"{edited} edits of another tenant beside them, the slowest in {slowest:.2f} s; peak {memory_peak() // 2**20} MiB")
        for (_, count), (status, _, text) in zip(bodies, answers):
            self.assertEqual((status, json.loads(text)["accepted"]), (200, count), text[:300])
        self.assertLess(memory_peak(), MEMORY_BYTES_MAX)
        assert_sound(self, SERVER)


if __name__ == "__main__":
    unittest.main(verbosity=2)
