"""The server is killed at each stage of a write: what is there of the batch is whole events, and its retry stores all of them
once. What was committed and not answered is in lost_replies.py."""

import json
import os
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server  # noqa: E402
from support.database import Database, wait_until  # noqa: E402
from support.faults import Faults, seeded  # noqa: E402
from support.load import assert_sound, without_token  # noqa: E402

SERVER = None
DATABASE = None
EVENTS = 200
# What the write waits for when it is killed, in the order in which it comes to it.
STAGES = [
    "TABLE sheaf.entities IN ACCESS EXCLUSIVE MODE",
    "TABLE sheaf.ingest_requests IN SHARE MODE",
    "TABLE sheaf.entity_jsonb IN ACCESS EXCLUSIVE MODE",
    "TABLE sheaf.entity_jsonb IN SHARE MODE",
    "TABLE sheaf.ingest_parts IN SHARE MODE",
    "TABLE sheaf.rejections IN SHARE MODE",
    "TABLE sheaf.entity_events_20130101_20140101 IN ACCESS EXCLUSIVE MODE",
]


def setUpModule():
    global SERVER, DATABASE
    SERVER = Server()
    DATABASE = Database(SERVER)
    # The partition is there before anybody locks it.
    SERVER.ingest([{"type": "first", "id": "a", "observed_at": "2013-01-01T00:00:00Z", "attributes": {"n": 1, "text": "a"}}])


def tearDownModule():
    SERVER.stop()


def body_of(kind):
    """Events of many entities, and two that are refused, so that every table is written to."""
    events = [
        {"type": kind, "id": f"e{n % 50}", "observed_at": f"2013-02-01T{n // 50:02}:00:00Z", "attributes": {"n": n, "text": "a"}}
        for n in range(EVENTS)
    ]
    events.append({"type": kind, "id": "e0", "observed_at": "2013-02-02T00:00:00Z", "attributes": {"n": "no number"}})
    events.append({"type": kind, "observed_at": "2013-02-02T00:00:00Z", "attributes": {"n": 1}})
    return json.dumps(events).encode()


class Request(threading.Thread):
    """A batch on its way, whose answer nobody may get."""

    def __init__(self, key, body):
        super().__init__(daemon=True)
        self.key, self.body, self.answer = key, body, None
        self.start()

    def run(self):
        try:
            self.answer = send(self.key, self.body)
        except OSError:
            # The server was killed, which is the point.
            pass


def send(key, body):
    return SERVER.call("POST", "/v1/ingest", body, {"Content-Type": "application/json", "Idempotency-Key": key})


class KillInAWrite(unittest.TestCase):
    def check_retry(self, kind, key, body, before=0):
        """The retry ends in exactly one, and the retry of the retry has its answer."""
        status, headers, text = send(key, body)
        self.assertEqual(status, 200, text)
        answer = json.loads(text)
        self.assertEqual((answer["accepted"], answer["refused"], answer["duplicates"]), (EVENTS, 2, 0), text)
        self.assertEqual(len(DATABASE.events(kind)), before + EVENTS)
        replayed, headers, again = send(key, body)
        self.assertEqual((replayed, headers["Idempotency-Replayed"]), (200, "true"), again)
        self.assertEqual(without_token(again), without_token(text))
        self.assertEqual(len(DATABASE.events(kind)), before + EVENTS)
        rejections = SERVER.get("/v1/rejections", batch_id=answer["batch_id"])["items"]
        self.assertEqual(len(rejections), 2)

    def test_a_write_that_waits_for_any_table_leaves_nothing(self):
        with Faults("kill -9 of the server while a write waits for a lock") as faults:
            for number, lock in enumerate(STAGES):
                with self.subTest(lock=lock):
                    kind, key = f"stage{number}", f"stage-{number}"
                    body = body_of(kind)
                    with DATABASE.held(lock):
                        request = Request(key, body)
                        DATABASE.wait_for_waiters()
                        SERVER.kill()
                        faults.inject()
                    request.join(30)
                    self.assertIsNone(request.answer, "the request was answered although it waited")
                    wait_until(lambda: not DATABASE.backends("sheaf_writer"), "the writers of the dead server end")
                    self.assertEqual(DATABASE.events(kind), [])
                    SERVER.start()
                    self.assertEqual(DATABASE.events(kind), [])
                    self.check_retry(kind, key, body)
        assert_sound(self, SERVER)

    def test_a_write_that_is_killed_at_any_moment_is_whole_after_its_retry(self):
        moments = seeded("moments of the kill")
        outcomes = {"there": 0, "in part": 0, "absent": 0}
        with Faults("kill -9 of the server at a random moment of a write") as faults:
            for round_number in range(6):
                kind, key = f"moment{round_number}", f"moment-{round_number}"
                body = body_of(kind)
                request = Request(key, body)
                request.join(moments.uniform(0, 0.06))
                SERVER.kill()
                faults.inject()
                request.join(30)
                wait_until(lambda: not DATABASE.backends("sheaf_writer"), "the writers of the dead server end")
                there = len(DATABASE.events(kind))
                self.assertLessEqual(there, EVENTS)
                if request.answer is not None:
                    self.assertEqual((request.answer[0], there), (200, EVENTS), "acknowledged and not there")
                outcomes["there" if there == EVENTS else "in part" if there else "absent"] += 1
                SERVER.start()
                self.check_retry(kind, key, body)
        print(f"killed at random moments: {outcomes}")
        assert_sound(self, SERVER)


if __name__ == "__main__":
    unittest.main(verbosity=2)
