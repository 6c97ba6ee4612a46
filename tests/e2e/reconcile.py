"""The command line compares the lake with PostgreSQL: what differs on either side is told exactly, put right, and equal after that."""

import json
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.world import World, environment_without_settings  # noqa: E402

ENTITIES = 40
INSTANTS = 24
WITHIN_SECONDS = 180
CLEAN, DIFFERENT, NOT_COMPARED = 0, 5, 6


def events(tenant):
    return [
        {
            "type": "device",
            "id": f"d{entity}",
            "observed_at": f"2013-0{1 + instant % 3}-01T{instant:02}:00:00Z",
            "attributes": {"n": entity * 100 + instant, "word": f"{tenant}-{instant}", "level": instant / 4},
        }
        for entity in range(ENTITIES)
        for instant in range(INSTANTS)
    ]


class Reconcile(unittest.TestCase):
    def run_once(self, server, *arguments):
        """The exit code, and what was told."""
        command = [os.environ["SHEAF_BIN"], "reconcile", "--json", "--settled-after", "0", *arguments, *server.target()]
        done = subprocess.run(command, capture_output=True, text=True, env=environment_without_settings(), check=False)
        self.assertTrue(done.stdout, done.stderr)
        return done.returncode, json.loads(done.stdout)

    def wait_for(self, server, what, is_it, *arguments):
        found = []

        def holds():
            found[:] = [self.run_once(server, *arguments)]
            return is_it(*found[0])

        try:
            wait_until(holds, what, WITHIN_SECONDS)
        except AssertionError:
            print(what, found)
            raise
        return found[0][1]

    def number(self, world, sql):
        return int(world.postgres.rows(sql)[0][0])

    def test_what_differs_on_either_side_is_found_and_put_right(self):
        with World() as world, Faults("difference between the lake and PostgreSQL") as faults:
            server = world.server(settings={"lake": {"location": os.path.join(world.directory, "lake")}})
            for tenant, key in {"demo": world.key, "other": world.other_key}.items():
                status, answer = server.ingest(events(tenant), key=key)
                self.assertEqual(status, 200, answer)
            count = 2 * ENTITIES * INSTANTS
            self.assertEqual(self.number(world, "SELECT count(*) FROM sheaf.entity_events"), count)
            equal = lambda code, told: code == CLEAN and told["outcome"] == "clean" and told["read"]["hours"] > 0  # noqa: E731
            self.wait_for(server, "both sides are equal", equal)
            hours = self.number(world, "SELECT count(*) FROM sheaf.reconciled_hours WHERE events_facts > 0")
            self.assertEqual(hours, 2 * INSTANTS)

            # Rows that somebody removed, and a value that somebody changed, behind everybody's back.
            victims = "SELECT tenant_id, entity_id, observed_at FROM sheaf.entity_events ORDER BY 1, 2, 3 LIMIT 2"
            world.postgres.rows(f"DELETE FROM sheaf.entity_events WHERE (tenant_id, entity_id, observed_at) IN ({victims})")
            faults.inject()
            told = self.wait_for(
                server, "what is gone is found", lambda code, told: code == DIFFERENT and told["differences"]["extra"] == 6
            )
            self.assertEqual({fact["kind"] for fact in told["facts"]}, {"extra"})
            self.assertEqual(told["differences"]["missing"], 0)
            code, told = self.run_once(server, "--repair")
            self.assertEqual((code, told["repaired"]), (CLEAN, {"events": 2, "facts_left": 0}), told)
            self.wait_for(server, "both sides are equal again", equal)

            # The lake loses two events and has one otherwise: by its own writer, who is asked to.
            chosen = "SELECT * FROM sheaf.entity_events ORDER BY tenant_id DESC, entity_id, observed_at"
            ask = """INSERT INTO sheaf.lake_repairs SELECT e.tenant_id, e.entity_id, e.observed_at, e.seq, p.catalog_name, {event},
                p.base_timeline, p.base_lsn, now() FROM ({chosen}) e CROSS JOIN sheaf.lake_positions p"""
            world.postgres.rows(ask.format(event="NULL, NULL, NULL, NULL", chosen=f"{chosen} LIMIT 2"))
            other = """e.op, e.batch_id, e.ingested_at, jsonb_set(e.attrs, ARRAY[(SELECT a.attribute_id::text FROM sheaf.attributes a
                WHERE a.tenant_id = e.tenant_id AND a.name = 'n')], '-1')"""
            world.postgres.rows(ask.format(event=other, chosen=f"{chosen} OFFSET 5 LIMIT 1"))
            faults.inject()
            told = self.wait_for(
                server,
                "what the lake lost is found",
                lambda code, told: code == DIFFERENT and told["differences"]["missing"] == 6 and told["differences"]["changed"] == 1,
            )
            self.assertEqual(sum(told["differences"].values()), 7)
            self.assertEqual(len({fact["tenant_id"] for fact in told["facts"]}), 1)
            # Only of the tenant that it is of.
            code, of_demo = self.run_once(server, "--tenant", "demo")
            code_of_other, of_other = self.run_once(server, "--tenant", "other")
            self.assertEqual(sorted([code, code_of_other]), [CLEAN, DIFFERENT], (of_demo, of_other))
            code, told = self.run_once(server, "--repair")
            self.assertEqual((code, told["repaired"]), (CLEAN, {"events": 3, "facts_left": 0}), told)
            self.wait_for(server, "both sides are equal again", equal, "--full", "--documents")

            # While nobody writes the lake it is not known, and nothing is put right.
            server.stop()
            world.postgres.rows(
                "INSERT INTO sheaf.entity_events SELECT tenant_id, entity_id, observed_at + interval '1 second', 0, op, batch_id, now(), attrs "
                "FROM sheaf.entity_events ORDER BY tenant_id, entity_id, observed_at LIMIT 1"
            )
            self.wait_for(
                server,
                "it is told that the lake is behind",
                lambda code, told: code == NOT_COMPARED and told["outcome"] == "not_compared",
                "--wait",
                "1",
                "--repair",
            )
            self.assertEqual(self.number(world, "SELECT count(*) FROM sheaf.lake_repairs"), 0)

    def test_where_there_is_no_lake_it_is_refused(self):
        with World() as world:
            command = [os.environ["SHEAF_BIN"], "reconcile", *world.server().target()]
            done = subprocess.run(command, capture_output=True, text=True, env=environment_without_settings(), check=False)
            self.assertEqual((done.returncode, "there is no lake" in done.stderr), (2, True), done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
