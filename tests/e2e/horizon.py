"""A retry that comes after the ledger has forgotten its request: the rows themselves are found again, so that nothing is
there twice. Only events without a time of their own are new events then."""

import json
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.faults import Faults  # noqa: E402
from support.world import World  # noqa: E402

WORLD = None
SERVERS = []
EVENTS = 50


def setUpModule():
    global WORLD, SERVERS
    WORLD = World()
    SERVERS = [WORLD.server() for _ in range(2)]


def tearDownModule():
    WORLD.close()


def forget():
    """As upkeep does with requests past the horizon, which is now; how many they were."""
    path = os.path.join(os.path.dirname(__file__), "..", "..", "crates", "sheaf-store", "sql", "ledger", "forget_requests.sql")
    with open(path, encoding="utf-8") as file:
        sql = file.read().replace("$1", "clock_timestamp()").replace("$2", "1000")
    return int(WORLD.postgres.value(sql))


def send(server, events, key):
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    status, headers, text = server.call("POST", "/v1/ingest", json.dumps(events).encode(), headers)
    answer = json.loads(text)
    counts = [answer.get(name) for name in ("accepted", "duplicates", "merged", "corrected")]
    return status, headers["Idempotency-Replayed"], counts


def events_of(kind):
    return [
        {"type": kind, "id": f"e{n % 7}", "observed_at": f"2024-06-01T00:00:{n:02}Z", "attributes": {"n": n, "text": f"t{n}"}}
        for n in range(EVENTS)
    ]


class Horizon(unittest.TestCase):
    def test_a_retry_past_the_horizon_finds_its_rows_again(self):
        events = events_of("again")
        self.assertEqual(send(SERVERS[0], events, "again"), (200, None, [EVENTS, 0, 0, 0]))
        stored = WORLD.postgres.events("again")
        with Faults("retry of a request that the ledger has forgotten") as faults:
            for server in SERVERS:
                faults.inject(forget())
                self.assertEqual(send(server, events, "again"), (200, None, [0, EVENTS, 0, 0]))
                self.assertEqual(WORLD.postgres.events("again"), stored)
                # From here on it is known again.
                self.assertEqual(send(server, events, "again"), (200, "true", [0, EVENTS, 0, 0]))

    def test_a_key_past_the_horizon_is_free_for_another_body(self):
        self.assertEqual(send(SERVERS[0], events_of("first"), "free")[0], 200)
        with Faults("key that the ledger has forgotten") as faults:
            faults.inject(forget())
            self.assertEqual(send(SERVERS[1], events_of("second"), "free"), (200, None, [EVENTS, 0, 0, 0]))

    def test_an_event_without_a_time_is_kept_by_its_key_and_new_without_it(self):
        events = [{"type": "timeless", "id": "a", "attributes": {"n": 1}}]
        with Faults("retry of an event whose time the ledger has forgotten") as faults:
            self.assertEqual(send(SERVERS[0], events, "timeless"), (200, None, [1, 0, 0, 0]))
            self.assertEqual(send(SERVERS[1], events, "timeless"), (200, "true", [1, 0, 0, 0]))
            self.assertEqual(len(WORLD.postgres.events("timeless")), 1)
            faults.inject(forget())
            self.assertEqual(send(SERVERS[1], events, "timeless"), (200, None, [1, 0, 0, 0]))
            self.assertEqual(len(WORLD.postgres.events("timeless")), 2)


if __name__ == "__main__":
    unittest.main(verbosity=2)
