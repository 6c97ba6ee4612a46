"""Every event that was stored is one line of the file of changes, whatever dies, and no line is there twice."""

import collections
import json
import os
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults, seeded  # noqa: E402
from support.reads import metric  # noqa: E402
from support.world import World  # noqa: E402

ROUNDS = 6
BATCHES = 5
EVENTS = 200
WITHIN_SECONDS = 120
STORED = """SELECT e.tenant_id, n.external_id, extract(epoch FROM e.observed_at)::bigint, e.seq
    FROM sheaf.entity_events e JOIN sheaf.entities n USING (tenant_id, entity_id)"""


def lines(path):
    """What is whole: the last line may be on its way."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file.read().split("\n")[:-1]]


def events(path):
    """Each event of the file with how often it is there, in the same words as `STORED`."""
    names, found = {}, collections.Counter()
    for line in lines(path):
        row, table = line["after"], line["source"]["table"]
        if table == "entities":
            names[row["tenant_id"], row["entity_id"]] = row["external_id"]
        elif table == "entity_events":
            seconds = int(row["observed_at"][14:16]) * 60 + int(row["observed_at"][17:19])
            # A name comes before what is observed of it.
            found[row["tenant_id"], names[row["tenant_id"], row["entity_id"]], seconds, row["seq"]] += 1
    return found


class Changes(unittest.TestCase):
    def batch(self, random, number):
        """Instants of one hour, told apart by the entity."""
        return [
            {"type": "device", "id": f"d{number}-{n}", "observed_at": f"2013-01-01T00:{n // 60:02}:{n % 60:02}Z", "attributes": {"n": n}}
            for n in range(random.randrange(EVENTS))
        ]

    def stored(self, world):
        start = 1356998400
        rows = world.postgres.rows(STORED)
        return {(int(tenant), name, int(seconds) - start, int(seq)) for tenant, name, seconds, seq in rows}

    def check(self, world, path):
        def is_complete():
            return sum(events(path).values()) >= len(self.stored(world))

        wait_until(is_complete, "the file has as many events as the database", WITHIN_SECONDS)
        found = events(path)
        self.assertEqual([event for event, count in found.items() if count > 1], [])
        self.assertEqual(set(found), self.stored(world))

    def test_each_event_is_a_line_once_through_kills_of_whoever_follows(self):
        random = seeded("changes")
        with World() as world:
            path = os.path.join(world.directory, "changes.jsonl")
            settings = {"changes": {"file": path}}
            servers = [world.plan(settings=settings) for _ in range(2)]
            # What was there before comes as a snapshot.
            servers[0].start()
            number = 0
            with Faults("kill -9 of a server that follows changes") as faults:
                for _ in range(ROUNDS):
                    for server in servers:
                        if not server.lives():
                            server.start()
                    for _ in range(BATCHES):
                        number += 1
                        status, _ = random.choice(servers).ingest(self.batch(random, number))
                        self.assertEqual(status, 200)
                    # At any moment of what it does.
                    time.sleep(random.random())
                    following = [server for server in servers if metric(server, "sheaf_cdc_following", slot="sheaf_changes") == 1]
                    (following or servers)[0].stop()
                    faults.inject()
            for server in servers:
                if not server.lives():
                    server.start()
            self.check(world, path)
            one = [metric(server, "sheaf_cdc_following", slot="sheaf_changes") for server in servers]
            self.assertEqual(sorted(one), [0, 1], "one of them follows")
            followed = servers[one.index(1)]
            wait_until(lambda: metric(followed, "sheaf_cdc_lag_seconds", sink="file") < 5, "the lag is told", 60)
            self.assertGreaterEqual(metric(followed, "sheaf_wal_retained_bytes", slot="sheaf_changes"), 0)

    def test_a_database_that_dies_and_a_slot_that_is_dropped_lose_no_event(self):
        random = seeded("changes of a database that dies")
        with World() as world:
            path = os.path.join(world.directory, "changes.jsonl")
            server = world.server(settings={"changes": {"file": path}})
            server.ingest(self.batch(random, 1) or self.batch(random, 1))
            self.check(world, path)
            with Faults("crash of PostgreSQL under a follower") as faults:
                world.postgres.kill()
                world.postgres.start()
                faults.inject()
            wait_until(server.is_ready, "the server is ready again", WITHIN_SECONDS)
            self.assertEqual(server.ingest(self.batch(random, 2))[0], 200)
            self.check(world, path)
            with Faults("slot that somebody drops") as faults:
                drop = "SELECT pg_terminate_backend(active_pid), pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                wait_until(lambda: self.dropped(world, drop), "the slot is dropped")
                faults.inject()
            self.assertEqual(server.ingest(self.batch(random, 3))[0], 200)
            self.check(world, path)

    def dropped(self, world, drop):
        try:
            return bool(world.postgres.rows(drop))
        except AssertionError:
            # It is still being left.
            return False


if __name__ == "__main__":
    unittest.main(verbosity=2)
