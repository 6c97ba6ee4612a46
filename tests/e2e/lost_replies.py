"""The commit is done and its answer is lost, on the way to the server or on the way to the client: a retry with its key
gets the first answer, a retry without one finds every event there, and nothing is there twice."""

import itertools
import json
import os
import re
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.load import assert_sound  # noqa: E402
from support.proxy import CUT, HOLD, Proxy  # noqa: E402
from support.world import World  # noqa: E402

WORLD = None
PROXY = None
SERVER = None
EVENTS = 60
ROUNDS = 5
# More than any request has.
PARTS_MAX = 10_000


def setUpModule():
    global WORLD, PROXY, SERVER
    WORLD = World()
    PROXY = Proxy(WORLD.postgres.port)
    SERVER = WORLD.server(PROXY.port)
    # What is made once, and would otherwise be the commit that is cut.
    for number in range(4):
        time = "2024-01-01T00:00:00Z"
        SERVER.ingest([{"type": "first", "id": f"e{number}", "observed_at": time, "attributes": {"n": 1, "text": "a"}}])


def tearDownModule():
    PROXY.close()
    WORLD.close()


def events_of(kind, entities):
    """Of one entity, so that the request is one transaction; of many, so that it is written in parts."""
    times = [f"2024-01-01T{n // 20:02}:00:{n % 20:02}Z" for n in range(EVENTS)]
    return [
        {"type": kind, "id": f"e{n % entities}", "observed_at": time, "attributes": {"n": n, "text": "a"}}
        for n, time in enumerate(times)
    ]  # fmt: skip


def body_of(kind, entities):
    """The events, and one that is refused, so that the answer is not the plainest."""
    wrong = {"type": kind, "id": "e0", "observed_at": "2024-01-02T00:00:00Z", "attributes": {"n": "no number"}}
    return json.dumps(events_of(kind, entities) + [wrong]).encode()


def send(body, key=None, port=None):
    headers = {"Content-Type": "application/json", **({"Idempotency-Key": key} if key else {})}
    if port is None:
        return SERVER.call("POST", "/v1/ingest", body, headers)
    mine, SERVER.port = SERVER.port, port
    try:
        return SERVER.call("POST", "/v1/ingest", body, headers)
    finally:
        SERVER.port = mine


def without_token(text):
    """The bytes of an answer apart from those of its token."""
    cut, count = re.subn(r'"token":"[^"]+"', '"token":""', text)
    assert count == 1, text
    return cut


class Background(threading.Thread):
    """A request whose answer nobody may get."""

    def __init__(self, *arguments):
        super().__init__(daemon=True)
        self.arguments, self.answer = arguments, None
        self.start()

    def run(self):
        try:
            self.answer = send(*self.arguments)
        except OSError:
            # The server was killed or its answer swallowed, which is the point.
            pass


class LostReplies(unittest.TestCase):
    def names_are_there(self, kind, entities):
        """The entities are named already, or the commit that names them would be the one to be cut."""
        first = events_of(kind, entities)[:entities]
        wires = [{**event, "observed_at": "2023-12-31T00:00:00Z", "attributes": {}} for event in first]
        self.assertEqual(SERVER.ingest(wires)[0], 200)
        return entities

    def check_keyed(self, kind, key, body, before, first=None):
        """After the retry all is there once, it counts as the first time, and its own retry has the same bytes."""
        status, _, text = send(body, key)
        self.assertEqual(status, 200, text)
        answer = json.loads(text)
        self.assertEqual((answer["accepted"], answer["refused"], answer["duplicates"]), (EVENTS, 1, 0), text)
        stored = WORLD.postgres.events(kind)
        self.assertEqual(len(stored), before + EVENTS)
        status, headers, again = send(body, key)
        self.assertEqual((status, headers["Idempotency-Replayed"]), (200, "true"), again)
        self.assertEqual(without_token(again), without_token(text))
        if first is not None:
            self.assertEqual(without_token(first), without_token(text), "the first answer, byte for byte")
        self.assertEqual(WORLD.postgres.events(kind), stored)

    def check_unkeyed(self, kind, body, before):
        """What is there is found again, and the rest is stored."""
        there = len(WORLD.postgres.events(kind)) - before
        status, _, text = send(body)
        answer = json.loads(text)
        counts = [answer[name] for name in ("merged", "corrected", "refused")]
        self.assertEqual((status, counts), (200, [0, 0, 1]), text)
        self.assertEqual(answer["accepted"] + answer["duplicates"], EVENTS, text)
        self.assertGreaterEqual(answer["duplicates"], there, text)
        self.assertEqual(len(WORLD.postgres.events(kind)), before + EVENTS)

    def check_committed(self, kind, before, entities):
        """The reply that was lost was of a commit that was done. With parts, it may have been of one that holds no event."""
        if entities == 1:
            self.assertEqual(len(WORLD.postgres.events(kind)), before + EVENTS)

    def test_the_connection_is_cut_between_a_commit_and_its_reply(self):
        with Faults("cut between the commit and its reply") as faults:
            for number, entities, keyed in itertools.product(range(ROUNDS), (1, 20), (True, False)):
                kind = f"cut-{entities}-{keyed}-{number}"
                before, body, key = self.names_are_there(kind, entities), body_of(kind, entities), kind if keyed else None
                # The first commit of a request that is written in parts, or the second.
                PROXY.arm(CUT, "sheaf_writer", skip=number % 2 if entities > 1 else 0)
                status, headers, text = send(body, key)
                self.assertEqual(PROXY.fired, 1)
                faults.inject()
                # Either it was found out what became of it, or the client is told to come back.
                self.assertIn(status, (200, 503), text)
                if status == 503:
                    self.assertTrue(headers["Retry-After"])
                self.check_committed(kind, before, entities)
                if keyed:
                    self.check_keyed(kind, key, body, before, text if status == 200 else None)
                else:
                    self.check_unkeyed(kind, body, before)
        assert_sound(self, SERVER)

    def test_the_server_is_killed_between_a_commit_and_its_reply(self):
        with Faults("kill -9 of the server between the commit and its reply") as faults:
            for entities, keyed in itertools.product((1, 20), (True, False)):
                kind = f"killed-{entities}-{keyed}"
                before, body, key = self.names_are_there(kind, entities), body_of(kind, entities), kind if keyed else None
                PROXY.arm(HOLD, "sheaf_writer", PARTS_MAX, skip=1 if entities > 1 else 0)
                request = Background(body, key)
                wait_until(lambda: PROXY.fired > 0, "the commit's reply is held back")
                SERVER.kill()
                PROXY.disarm()
                faults.inject()
                request.join(30)
                self.assertIsNone(request.answer)
                wait_until(lambda: not WORLD.postgres.backends("sheaf_writer"), "the writers of the dead server end")
                self.check_committed(kind, before, entities)
                SERVER.start()
                if keyed:
                    self.check_keyed(kind, key, body, before)
                else:
                    self.check_unkeyed(kind, body, before)
        assert_sound(self, SERVER)

    def test_the_answer_is_lost_between_server_and_client(self):
        between = Proxy(SERVER.port)
        self.addCleanup(between.close)
        with Faults("answer lost on its way to the client") as faults:
            for entities, kill in itertools.product((1, 20), (False, True)):
                kind = f"answer-{entities}-{kill}"
                before, body = self.names_are_there(kind, entities), body_of(kind, entities)
                between.swallowed.clear()
                between.swallow_down = True
                request = Background(body, kind, between.port)
                wait_until(lambda: bytes(between.swallowed).endswith(b"]}"), "the answer is on its way")
                lost = bytes(between.swallowed)
                if kill:
                    SERVER.kill()
                between.cut()
                between.heal()
                request.join(30)
                self.assertIsNone(request.answer)
                faults.inject()
                if kill:
                    SERVER.start()
                head, _, first = lost.partition(b"\r\n\r\n")
                self.assertIn(b" 200 ", head.splitlines()[0])
                self.assertEqual(len(WORLD.postgres.events(kind)), before + EVENTS)
                self.check_keyed(kind, kind, body, before, first.decode())
        assert_sound(self, SERVER)

    def test_an_edit_whose_reply_is_lost_is_there_once_after_its_retry(self):
        with Faults("cut between the commit of an edit and its reply") as faults:
            first = {"attributes": {"n": 1}, "observed_at": "2024-01-01T00:00:00Z"}
            self.assertEqual(SERVER.send("PATCH", "/v1/entities/edit/a", first)[0], 201)
            for number in range(ROUNDS):
                edit = {"attributes": {"n": 100 + number}, "observed_at": f"2024-01-02T00:00:0{number}Z"}
                PROXY.arm(CUT, "sheaf_writer")
                status, answer = SERVER.send("PATCH", "/v1/entities/edit/a", edit)
                self.assertEqual(PROXY.fired, 1)
                faults.inject()
                self.assertIn(status, (200, 503), answer)
                self.assertEqual(SERVER.send("PATCH", "/v1/entities/edit/a", edit)[0], 200)
            rows = SERVER.get("/v1/entities/edit/a/history", corrections="true")["items"]
            values = [(row["attributes"]["n"], row["seq"]) for row in rows]
            self.assertEqual(values, [(1, 0)] + [(100 + number, 0) for number in range(ROUNDS)])


if __name__ == "__main__":
    unittest.main(verbosity=2)
