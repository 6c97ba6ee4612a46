"""A server that follows changes stands still for so long that another one follows in its place, and then goes on: what it had in its
hand is in the file and in the lake once, and so is what the other one wrote."""

import json
import os
import signal
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults, seeded  # noqa: E402
from support.reads import metric  # noqa: E402
from support.world import World  # noqa: E402

ROUNDS = 3
EVENTS = 60
WITHIN_SECONDS = 180
# How long PostgreSQL believes in a follower that says nothing.
SETTINGS = {"wal_sender_timeout": "1500ms"}


class Fenced(unittest.TestCase):
    def instants(self, path):
        if not os.path.exists(path):
            return []
        with open(path, encoding="utf-8") as file:
            found = [json.loads(line) for line in file.read().split("\n")[:-1]]
        events = [line for line in found if line["source"]["table"] == "entity_events"]
        positions = [line["source"]["stream_position"] for line in events if line["source"]["snapshot"] == "false"]
        self.assertEqual(len(positions), len(set(positions)), "a change is there twice")
        return [line["after"]["observed_at"] for line in events]

    def facts(self, server):
        status, answer = server.send("POST", "/v1/sql", {"query": "SELECT count(*), count(DISTINCT observed_at) FROM facts"})
        return answer["rows"][0] if status == 200 else None

    def test_who_was_taken_for_dead_and_goes_on_writes_nothing_over_the_next(self):
        random = seeded("fenced")
        with World(settings=SETTINGS) as world:
            path = os.path.join(world.directory, "changes.jsonl")
            settings = {"changes": {"file": path}, "lake": {"location": os.path.join(world.directory, "lake")}}
            servers = [world.server(settings=settings) for _ in range(2)]
            written = 0

            def write(server):
                nonlocal written
                events = [
                    {"type": "device", "id": f"d{written + n}", "observed_at": f"2013-01-01T{(written + n) // 60:02}:{(written + n) % 60:02}:00Z", "attributes": {"n": 1}}
                    for n in range(EVENTS)
                ]
                status, answer = server.ingest(events)
                self.assertEqual((status, answer["refused"]), (200, 0), answer)
                written += EVENTS

            def follows(server):
                return metric(server, "sheaf_cdc_following", slot="sheaf_changes") == 1

            with Faults("follower that stands still until another follows, and goes on") as faults:
                for _ in range(ROUNDS):
                    first = wait_until(lambda: next((s for s in servers if follows(s)), None), "one follows", WITHIN_SECONDS)
                    (other,) = (server for server in servers if server is not first)
                    write(other)
                    # At any moment of what it does.
                    time.sleep(random.random() / 5)
                    first.process.send_signal(signal.SIGSTOP)
                    try:
                        wait_until(lambda other=other: follows(other), "the other one follows", WITHIN_SECONDS)
                        write(other)
                        lake = self.facts(other)
                        wait_until(lambda other=other, lake=lake: self.facts(other) not in (None, lake), "the lake goes on", WITHIN_SECONDS)
                    finally:
                        first.process.send_signal(signal.SIGCONT)
                    faults.inject()
                    write(first)
            server = servers[0]
            wait_until(lambda: len(self.instants(path)) >= written, "the file has all of it", WITHIN_SECONDS)
            found = self.instants(path)
            self.assertEqual((len(found), len(set(found))), (written, written))
            wait_until(lambda: self.facts(server) == [written, written], "the lake has all of it", WITHIN_SECONDS)


if __name__ == "__main__":
    unittest.main(verbosity=2)
