"""One idempotency key used twice: at the same time on two servers it is applied once and both get one answer; with another
body it is refused and nothing is written.

    same_batch.py --rounds 1000     the long form
"""

import json
import os
import re
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.faults import Faults  # noqa: E402
from support.load import assert_sound  # noqa: E402
from support.world import World  # noqa: E402

WORLD = None
SERVERS = []
ROUNDS = 50
DAY = "2024-03-01"


def setUpModule():
    global WORLD, SERVERS
    WORLD = World()
    SERVERS = [WORLD.server() for _ in range(2)]


def tearDownModule():
    WORLD.close()


def body_of(kind, count, value=0):
    # More than one bucket, so that the request has parts.
    events = [
        {"type": kind, "id": f"e{n % 17}", "observed_at": f"{DAY}T00:{n // 60:02}:{n % 60:02}Z", "attributes": {"n": n + value}}
        for n in range(count)
    ]
    return json.dumps(events).encode()


def send(server, key, body):
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    status, headers, text = server.call("POST", "/v1/ingest", body, headers)
    return status, headers["Idempotency-Replayed"], text


def without_token(text):
    return re.sub(r'"token":"[^"]+"', '"token":""', text)


class Sender(threading.Thread):
    """Sends at the barrier, and again while the other one is still running."""

    def __init__(self, barrier, server, key, body):
        super().__init__(daemon=True)
        self.barrier, self.server, self.key, self.body = barrier, server, key, body
        self.statuses = []
        self.start()

    def run(self):
        self.barrier.wait()
        self.begun = time.monotonic()
        while True:
            status, self.replayed, self.text = send(self.server, self.key, self.body)
            self.statuses.append(status)
            if len(self.statuses) == 1:
                self.ended = time.monotonic()
            if status not in (409, 503):
                return
            time.sleep(0.005)


def at_once(key, bodies):
    """Both servers get the key at the same time; whether the two first requests overlapped."""
    barrier = threading.Barrier(2)
    senders = [Sender(barrier, server, key, body) for server, body in zip(SERVERS, bodies)]
    for sender in senders:
        sender.join(60)
    one, other = senders
    return senders, max(one.begun, other.begun) < min(one.ended, other.ended)


class SameBatch(unittest.TestCase):
    def test_one_batch_at_once_on_two_servers_is_applied_once_and_answered_alike(self):
        waited = 0
        with Faults("the same batch at once on two servers") as faults:
            for number in range(ROUNDS):
                kind, count = f"same{number}", 1 + number % 60
                body = body_of(kind, count)
                senders, overlapped = at_once(kind, [body, body])
                faults.inject(overlapped)
                for sender in senders:
                    self.assertEqual(sender.statuses[-1], 200, sender.text)
                    self.assertLessEqual(set(sender.statuses), {200, 409})
                    waited += 409 in sender.statuses
                first, second = (without_token(sender.text) for sender in senders)
                self.assertEqual(first, second, "both have one answer")
                self.assertEqual(json.loads(first)["accepted"], count, first)
                # Each may have written some of its parts, and found the others; one at least has found some.
                self.assertIn("true", [sender.replayed for sender in senders])
                self.assertEqual(len(WORLD.postgres.events(kind)), count)
        print(f"{waited} requests were told that the other one is running")
        assert_sound(self, SERVERS[0])

    def test_a_key_with_another_body_is_refused_and_nothing_is_written(self):
        with Faults("a key with another body") as faults:
            for number in range(10):
                kind = f"other{number}"
                self.assertEqual(send(SERVERS[0], kind, body_of(kind, 5))[0], 200)
                before = WORLD.postgres.count("sheaf.entity_events"), WORLD.postgres.count("sheaf.entities")
                for server in SERVERS:
                    for body in (body_of(kind, 5, 1), body_of(kind, 6), body_of("elsewhere", 5), body_of(kind, 5) + b" "):
                        status, _, text = send(server, kind, body)
                        self.assertEqual((status, json.loads(text)["code"]), (422, "idempotency_key_reused"), text)
                        faults.inject()
                after = WORLD.postgres.count("sheaf.entity_events"), WORLD.postgres.count("sheaf.entities")
                self.assertEqual(before, after)
                self.assertEqual(send(SERVERS[1], kind, body_of(kind, 5))[:2], (200, "true"))

    def test_one_key_at_once_with_two_bodies_stores_one_of_them(self):
        with Faults("one key at once with two bodies") as faults:
            for number in range(max(10, ROUNDS // 5)):
                kind = f"two{number}"
                # Other instants, so that a second one that was stored would be seen.
                bodies = [body_of(kind, 20), body_of(kind, 20).replace(DAY.encode(), b"2024-03-02")]
                senders, overlapped = at_once(kind, bodies)
                faults.inject(overlapped)
                statuses = sorted(sender.statuses[-1] for sender in senders)
                self.assertEqual(statuses, [200, 422], [sender.text for sender in senders])
                self.assertEqual(len(WORLD.postgres.events(kind)), 20)
        assert_sound(self, SERVERS[1])


if __name__ == "__main__":
    if "--rounds" in sys.argv:
        place = sys.argv.index("--rounds")
        ROUNDS = int(sys.argv[place + 1])
        del sys.argv[place : place + 2]
    unittest.main(verbosity=2)
