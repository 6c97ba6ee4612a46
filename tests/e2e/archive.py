"""History that is left to the lake: through kills it is always read whole, and what comes late is in it."""

import collections
import datetime
import os
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults, seeded  # noqa: E402
from support.world import World  # noqa: E402

YEARS = (2010, 2012)
# What ended in the middle of 2014 or before is old enough, and what is of that year is not.
AFTER = f"{(datetime.date.today() - datetime.date(2014, 6, 1)).days}d"
ENTITIES = 12
EVENTS = 300
WITHIN_SECONDS = 400
ARCHIVES = "SELECT partition_name, state, coalesce(failure, '') FROM sheaf.partition_archives ORDER BY lower_bound"


def random_event(random, year):
    """Few instants, so that many events meet one that is there."""
    attributes = {"n": random.choice([random.randrange(5), None])}
    if random.random() < 0.5:
        attributes["word"] = f"w{random.randrange(3)}"
    return {
        "type": "device",
        "id": f"d{random.randrange(ENTITIES)}",
        "observed_at": f"{year}-0{random.randrange(1, 9)}-01T00:00:{random.randrange(20):02}Z",
        "attributes": attributes,
    }


class Archive(unittest.TestCase):
    def facts(self, server):
        """The value of each attribute of each entity at each instant, as questions over the lake have it."""
        query = "SELECT external_id, attribute, extract(epoch FROM observed_at), value_float, value_text FROM facts WHERE attribute IS NOT NULL"
        status, answer = server.send("POST", "/v1/sql", {"query": query})
        if status != 200:
            # The lake has not begun, or what was asked for is replaced at this moment.
            return None
        found = collections.defaultdict(list)
        for name, attribute, at, number, text in answer["rows"]:
            found[name, attribute, int(at)].append(number if text is None else text)
        for key, values in found.items():
            self.assertEqual(len(values), 1, f"one value of {key}")
        return {key: value for key, (value,) in found.items()}

    def stored(self, world):
        """The same as PostgreSQL has it."""
        sql = """SELECT external_id, attribute, extract(epoch FROM observed_at)::bigint, coalesce(value_float::text, ''),
            coalesce(value_text, '') FROM sheaf.entity_values_ts WHERE attribute IS NOT NULL"""
        found = {}
        for name, attribute, at, number, text in world.postgres.rows(sql):
            found[name, attribute, int(at)] = text or (float(number) if number else None)
        return found

    def histories(self, server, entities):
        """Every item of the histories of some entities."""
        found = {}
        for entity in entities:
            status, answer = server.send("GET", f"/v1/entities/device/{entity}/history?from=2009-01-01T00:00:00Z&limit=1000", None)
            self.assertEqual(status, 200, answer)
            found[entity] = [(item["observed_at"], item["attributes"]) for item in answer["items"]]
        return found

    def test_periods_are_archived_through_kills_and_read_whole_with_what_came_late(self):
        random = seeded("archive")
        with World() as world:
            settings = {"lake": {"location": os.path.join(world.directory, "lake")}, "archive": {"after": AFTER}}
            plain = {"lake": settings["lake"]}
            first = world.plan(settings=plain).start()
            for year in (*YEARS, 2014):
                first.ingest([random_event(random, year) for _ in range(EVENTS)])
            first.send("DELETE", "/v1/entities/device/d3?observed_at=2012-05-01T00:00:30Z", None)
            expected = self.stored(world)
            self.assertGreater(len(expected), 200)
            quiet = [f"d{number}" for number in range(6)]
            before = self.histories(first, quiet)
            wait_until(lambda: self.facts(first) == expected, "the lake has all of it", WITHIN_SECONDS)
            first.stop()

            late = []
            servers = [world.plan(settings=settings) for _ in range(2)]
            deadline = time.monotonic() + WITHIN_SECONDS
            with Faults("kill of a server that archives") as faults:
                while True:
                    for server in servers:
                        if not server.lives():
                            server.start()
                    # What arrives for a period at whatever moment of its archive.
                    event = random_event(random, random.choice(YEARS))
                    event["id"] = f"d{random.randrange(6, ENTITIES)}"
                    event["attributes"]["n"] = 1000 + len(late)
                    status, answer = servers[1].ingest([event])
                    self.assertEqual((status, answer["refused"]), (200, 0), answer)
                    late.append(event)
                    states = [row[1] for row in world.postgres.rows(ARCHIVES)]
                    self.assertFalse([row for row in world.postgres.rows(ARCHIVES) if "differ" in row[2]])
                    if states.count("dropped") >= len(YEARS):
                        break
                    self.assertLess(time.monotonic(), deadline, f"archives are {states}")
                    time.sleep(random.uniform(0.5, 6))
                    random.choice(servers).stop()
                    faults.inject()
            for server in servers:
                if not server.lives():
                    server.start()
            server = servers[0]
            for event in late:
                at = event["observed_at"]
                second = int(time.mktime(time.strptime(at, "%Y-%m-%dT%H:%M:%SZ"))) - time.timezone
                for name, value in event["attributes"].items():
                    expected[event["id"], name, second] = float(value) if name == "n" else value

            def is_whole():
                return self.facts(server) == expected

            wait_until(is_whole, "the lake has what was archived and what came late", WITHIN_SECONDS)
            partitions = [name for name in world.postgres.partitions() if "2010" in name or "2012" in name]
            self.assertEqual(partitions, [], "nothing of it is in PostgreSQL")
            self.assertEqual(self.histories(server, quiet), before)
            plan = world.command(server, "partition", "plan", "--json")
            self.assertTrue(plan["archived_before"].startswith("2013-01-01"), plan)
            self.assertGreater(plan["late_events"], 0)
            # What is archived last is put back from the lake, and archived again.
            newest = [row[0] for row in world.postgres.rows(ARCHIVES)][-1]
            world.command(server, "partition", "restore", newest)
            restored = world.postgres.count("sheaf.entity_events WHERE observed_at < '2013-01-01'")
            self.assertGreater(restored, 100, "it is in PostgreSQL again")
            self.assertEqual(self.histories(server, quiet), before)
            done = world.command(server, "partition", "archive", newest, "--wait", "200")
            self.assertEqual((done["state"], done["events"]), ("dropped", restored))
            self.assertEqual(self.histories(server, quiet), before)
            checks = {check["name"]: check for check in world.command(server, "doctor", "--json")["checks"]}
            self.assertEqual(checks["documents_are_the_fold"]["status"], "ok", checks["documents_are_the_fold"])
            self.assertEqual(checks["archive"]["status"], "ok", checks["archive"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
