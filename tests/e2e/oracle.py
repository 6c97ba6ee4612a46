"""The checks of the fault tests see what they claim to see: each kind of loss, made by hand, is found and named."""

import itertools
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from faults import run  # noqa: E402
from support import model  # noqa: E402
from support.checks import Checker  # noqa: E402
from support.clients import Clients  # noqa: E402
from support.faults import Faults, schedule, seeded  # noqa: E402
from support.world import World  # noqa: E402

WORLD = None
# (what is broken, SQL, what the checks call it)
DAMAGE = [
    ("an event is gone", "DELETE FROM sheaf.entity_events {one}", "D1"),
    ("an event changes its value", "UPDATE sheaf.entity_events SET attrs = '{{}}' {one}", "D3"),
    (
        "an event is there twice",
        "INSERT INTO sheaf.entity_events (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)"
        " SELECT tenant_id, entity_id, observed_at + interval '1 us', seq, op, batch_id, ingested_at, attrs"
        " FROM sheaf.entity_events {one}",
        "D3",
    ),
    ("a document forgets its times", "UPDATE sheaf.entity_jsonb SET times = '{{}}'", "P1"),
]


def setUpModule():
    global WORLD
    WORLD = World()


def tearDownModule():
    WORLD.close()


class Oracle(unittest.TestCase):
    def test_every_kind_of_damage_is_found_and_named(self):
        server = WORLD.server()
        clients = Clients(WORLD, [server.port], seeded("clients").random(), name="oracle")
        self.addCleanup(clients.journal.close)
        with clients:
            clients.wait_for_acks(150)
        checker = Checker(server, clients.tenants, clients.journal)
        checker.settle()
        checker.check()
        server.kill()
        with Faults("damage done by hand") as faults:
            for name, sql, expected in DAMAGE:
                with self.subTest(damage=name):
                    WORLD.postgres.rows("CREATE DATABASE broken TEMPLATE sheaf", "postgres")
                    one = "WHERE (entity_id, observed_at, seq) = (SELECT entity_id, observed_at, seq FROM sheaf.entity_events"
                    one += " JOIN sheaf.entities USING (tenant_id, entity_id) WHERE external_id = 'own-0-1' AND seq = 0 LIMIT 1)"
                    sql = "SET session_replication_role = replica; " + sql.format(one=one)
                    WORLD.postgres.rows(sql, "broken")
                    faults.inject()
                    with open(server.config, encoding="utf-8") as file:
                        config = file.read()
                    with open(server.config, "w", encoding="utf-8") as file:
                        file.write(config.replace('/sheaf"', '/broken"'))
                    server.start()
                    checker = Checker(server, clients.tenants, clients.journal)
                    with self.assertRaisesRegex(AssertionError, expected):
                        checker.check()
                    server.kill()
                    with open(server.config, "w", encoding="utf-8") as file:
                        file.write(config)
                    WORLD.postgres.rows("DROP DATABASE broken WITH (FORCE)", "postgres")

    def test_a_seed_gives_one_schedule_of_random_faults(self):
        first, again, other = (list(itertools.islice(schedule(seed, run.Run.FAULTS), 40)) for seed in (7, 7, 8))
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)
        self.assertEqual({fault.name for fault in first}, set(run.Run.FAULTS), "every fault comes before long")

    def test_the_model_keeps_the_rules_that_it_is_there_for(self):
        rules = model.Model()

        def add(time, attributes, op=model.PATCH):
            return rules.apply("e", model.Event(op, time, attributes))

        self.assertEqual(add(10, {"a": 1}), model.ACCEPTED)
        self.assertEqual(add(10, {"a": 1.0}), model.DUPLICATE)
        self.assertEqual(add(10, {"b": 2}), model.MERGED)
        self.assertEqual(add(10, {"a": 3, "c": 1}), model.CORRECTED)
        self.assertEqual(add(10, {"a": 1}), model.CORRECTED, "A, B, A at one instant is two corrections")
        self.assertEqual(add(20, {}), model.ACCEPTED, "an event without attributes is a row")
        self.assertEqual(add(5, {"a": 0, "d": 4}), model.ACCEPTED)
        self.assertEqual(rules.document("e").attributes(), {"a": 1, "b": 2, "c": 1, "d": 4}, "late values do not win")
        self.assertEqual(add(30, {}, model.DELETE), model.ACCEPTED)
        self.assertFalse(rules.document("e").exists())
        self.assertEqual(add(25, {"a": 9}), model.ACCEPTED)
        self.assertFalse(rules.document("e").exists(), "what is older than a delete does not bring back")
        self.assertEqual(rules.apply("e", model.Event(model.PATCH, None, {"z": True})), model.ACCEPTED)
        document = rules.document("e")
        self.assertEqual((document.attributes(), document.newest, document.floor), ({"z": True}, 31, 30))
        self.assertEqual(add(31, {"z": 1}), model.CORRECTED, "true is not 1")
        self.assertEqual(add(40, {"q": 1}, model.REPLACE), model.ACCEPTED)
        self.assertEqual(rules.document("e").attributes(), {"q": 1})


if __name__ == "__main__":
    unittest.main(verbosity=2)
