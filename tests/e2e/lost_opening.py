"""PostgreSQL crashes after a request has taken its place in the ledger and before its events are written. Whatever becomes of
them, the request is known by its key afterwards, and nothing of it is there without it."""

import json
import os
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.faults import Faults  # noqa: E402
from support.load import assert_sound  # noqa: E402
from support.world import World  # noqa: E402

EVENTS = 60
# What is committed and not waited for reaches the disk with the next commit that is, and not before.
LAZY = {"wal_writer_delay": "10s", "wal_writer_flush_after": "1GB"}


def body_of(kind, day):
    events = [
        {"type": kind, "id": f"e{n % 20}", "observed_at": f"2024-01-{day:02}T00:00:{n:02}Z", "attributes": {"n": n}}
        for n in range(EVENTS)
    ]
    return json.dumps(events).encode()


class LostOpening(unittest.TestCase):
    def test_a_crash_between_a_requests_opening_and_its_parts_leaves_no_part_without_its_request(self):
        with World(settings=LAZY) as world, Faults("crash between the opening of a request and its parts") as faults:
            server, database = world.server(), world.postgres

            def send(body, key):
                headers = {"Content-Type": "application/json", "Idempotency-Key": key}
                return server.call("POST", "/v1/ingest", body, headers)

            for number in range(3):
                kind = f"opening{number}"
                self.assertEqual(send(body_of(kind, 1), f"names{number}")[0], 200)
                answers = []
                writer = threading.Thread(target=lambda: answers.append(send(body_of(kind, 2), kind)))
                with database.held("TABLE sheaf.entity_jsonb IN ACCESS EXCLUSIVE MODE"):
                    writer.start()
                    database.wait_for_waiters()
                    database.crash()
                    faults.inject()
                    database.start()
                writer.join(60)
                self.assertIn(answers[0][0], (200, 503), answers[0][2])
                known = database.count(f"sheaf.ingest_requests WHERE request_key = 'k:{kind}'")
                stored = len(database.events(kind)) - EVENTS
                self.assertTrue(known or not stored, f"{stored} events are there of a request that nobody knows")
                if known:
                    # The same key with another body is refused.
                    self.assertEqual(send(body_of(kind, 3), kind)[0], 422)
                status, _, text = send(body_of(kind, 2), kind)
                self.assertEqual((status, json.loads(text)["accepted"]), (200, EVENTS), text)
                self.assertEqual(len(database.events(kind)), 2 * EVENTS)
            assert_sound(self, server)


if __name__ == "__main__":
    unittest.main(verbosity=2)
