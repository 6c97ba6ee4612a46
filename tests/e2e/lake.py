"""The lake holds what PostgreSQL holds, corrected and once, whatever dies; and each tenant's questions see its own."""

import collections
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults, seeded  # noqa: E402
from support.world import World  # noqa: E402

ROUNDS = 6
EVENTS = 150
ENTITIES = 20
WITHIN_SECONDS = 180
# The lake has a row for an event without attributes too, so that each event is found there.
FACTS = """SELECT external_id, attribute, extract(epoch FROM observed_at), seq, value_int, value_text, value_float, removed
    FROM facts WHERE attribute IS NOT NULL OR op IN ('replace', 'delete')"""
# The same columns, corrections applied, as PostgreSQL has them.
STORED = """SELECT external_id, coalesce(attribute, ''), extract(epoch FROM observed_at)::bigint, seq, coalesce(value_int::text, ''),
    coalesce(value_text, ''), coalesce(value_float::text, ''), removed FROM sheaf.entity_values_ts v
    JOIN sheaf.tenants t USING (tenant_id) WHERE t.name = '{tenant}'"""


def random_event(random, tenant):
    """Few entities and instants, so that many events meet one that is there."""
    attributes = {}
    if random.random() < 0.9:
        attributes["n"] = random.choice([random.randrange(5), None])
    if random.random() < 0.5:
        attributes["word"] = f"{tenant}-{random.randrange(3)}"
    if random.random() < 0.5:
        attributes["level"] = random.randrange(8) / 4
    minute, second = random.randrange(3), random.randrange(60)
    return {
        "type": "device",
        "id": f"d{random.randrange(ENTITIES)}",
        "observed_at": f"2013-0{random.randrange(1, 4)}-01T00:{minute:02}:{second:02}Z",
        "attributes": attributes,
    }


class Lake(unittest.TestCase):
    def ask(self, server, key, query, token=None):
        headers = {"X-Consistency-Token": token} if token else {}
        return server.send("POST", "/v1/sql", {"query": query}, headers=headers, key=key)

    def rows(self, server, key, query):
        status, answer = self.ask(server, key, query)
        self.assertEqual(status, 200, answer)
        self.assertFalse(answer["truncated"])
        return answer["rows"]

    def facts(self, server, key):
        """Each fact with how often it is there, in the words of `STORED`."""
        found = collections.Counter()
        for name, attribute, at, seq, number, text, level, removed in self.rows(server, key, FACTS):
            shown = ["" if value is None else str(value) for value in (number, text)]
            level = "" if level is None else f"{level:g}"
            found[name, attribute or "", int(at), seq, *shown, level, "t" if removed else "f"] += 1
        return found

    def stored(self, world, tenant):
        rows = world.postgres.rows(STORED.format(tenant=tenant))
        return collections.Counter((name, attribute, int(at), int(seq), *rest) for name, attribute, at, seq, *rest in rows)

    def test_the_lake_has_each_fact_once_and_as_corrected_through_kills(self):
        random = seeded("lake")
        with World() as world:
            keys = {"demo": world.key, "other": world.other_key}
            settings = {"lake": {"location": os.path.join(world.directory, "lake")}}
            servers = [world.plan(settings=settings) for _ in range(2)]
            servers[0].start()
            with Faults("kill of a server that writes the lake, or of PostgreSQL") as faults:
                for number in range(ROUNDS):
                    for server in servers:
                        if not server.lives():
                            server.start()
                    for tenant, key in keys.items():
                        events = [random_event(random, tenant) for _ in range(random.randrange(EVENTS))]
                        events and servers[1].ingest(events, key=key)
                        entity = f"/v1/entities/device/d{random.randrange(ENTITIES)}"
                        servers[1].send("DELETE", entity + "?observed_at=2013-02-01T00:01:00Z", None, key=key)
                    if number % 3 == 2:
                        world.postgres.crash()
                        world.postgres.start()
                    else:
                        random.choice(servers).stop()
                    faults.inject()
            for server in servers:
                if not server.lives():
                    server.start()
            server = servers[0]
            for tenant, key in keys.items():
                stored = self.stored(world, tenant)
                self.assertGreater(len(stored), 100)

                def is_equal(tenant=tenant, key=key, stored=stored):
                    status, _ = self.ask(server, key, "SELECT 1 FROM facts LIMIT 1")
                    return status == 200 and self.facts(server, key) == stored

                try:
                    wait_until(is_equal, f"the lake has what PostgreSQL has of {tenant}", WITHIN_SECONDS)
                except AssertionError:
                    found = self.facts(server, key)
                    print("missing", list((stored - found).items())[:5], "too much", list((found - stored).items())[:5])
                    raise
                words = {row[0] for row in self.rows(server, key, "SELECT DISTINCT value_text FROM facts WHERE value_text IS NOT NULL")}
                self.assertTrue(words and all(word.startswith(tenant) for word in words), words)
                # What was replaced is kept apart, and nobody sees both.
                (corrected,) = self.rows(server, key, "SELECT count(*) FROM facts_corrected")[0]
                self.assertGreater(corrected, 0)

    def test_a_question_with_the_token_of_a_write_sees_it(self):
        with World() as world:
            server = world.server(settings={"lake": {"location": os.path.join(world.directory, "lake")}})
            for number in range(3):
                event = {"type": "device", "id": f"d{number}", "attributes": {"n": number}}
                status, answer = server.ingest([event])
                self.assertEqual(status, 200, answer)
                status, found = self.ask(server, server.key, "SELECT count(*) FROM facts", answer["token"])
                self.assertEqual((status, found.get("rows")), (200, [[number + 1]]), found)
            foreign = server.ingest([event], key=world.other_key)[1]["token"]
            status, refused = self.ask(server, server.key, "SELECT 1 FROM facts", foreign)
            self.assertEqual((status, refused["code"]), (400, "foreign_token"))

    def test_a_server_without_a_lake_says_so(self):
        with World() as world:
            status, answer = self.ask(world.server(), world.key, "SELECT 1")
            self.assertEqual((status, answer["code"]), (404, "not_found"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
