"""The command line compares the lake with PostgreSQL: what differs on either side is told exactly, put right, and equal after that."""

import json
import os
import subprocess
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.world import World, environment_without_settings  # noqa: E402

ENTITIES = 10
INSTANTS = 12
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


class Beside(threading.Thread):
    """Somebody who writes all the time, in an hour of its own: how far the lake is, is stored each second then, and every ten else."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server = server
        self.stopping = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.join()

    def run(self):
        second = 0
        while not self.stopping.wait(0.5):
            time = f"2014-01-01T00:{second // 60:02}:{second % 60:02}Z"
            self.server.ingest([{"type": "beside", "id": "one", "observed_at": time, "attributes": {"n": second}}])
            second += 1


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
            # Where there is no lake it is refused.
            command = [os.environ["SHEAF_BIN"], "reconcile", *world.plan().target()]
            done = subprocess.run(command, capture_output=True, text=True, env=environment_without_settings(), check=False)
            self.assertEqual((done.returncode, "there is no lake" in done.stderr), (2, True), done.stderr)
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

            with Beside(server):
                self.differ_and_be_put_right(world, server, faults, equal)

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

    def differ_and_be_put_right(self, world, server, faults, equal):
        # Rows that somebody removed, behind everybody's back.
        victims = "SELECT tenant_id, entity_id, observed_at FROM sheaf.entity_events ORDER BY 1, 2, 3 LIMIT 2"
        world.postgres.rows(f"DELETE FROM sheaf.entity_events WHERE (tenant_id, entity_id, observed_at) IN ({victims})")
        faults.inject()
        # The lake loses two events and has one otherwise: by its own writer, who is asked to, later than they came.
        chosen = "SELECT * FROM sheaf.entity_events ORDER BY tenant_id DESC, entity_id, observed_at"
        ask = """INSERT INTO sheaf.lake_repairs SELECT e.tenant_id, e.entity_id, e.observed_at, e.seq, p.catalog_name, {event},
            p.base_timeline, p.base_lsn, now() + interval '2 hours' FROM ({chosen}) e CROSS JOIN sheaf.lake_positions p"""
        world.postgres.rows(ask.format(event="NULL, NULL, NULL, NULL", chosen=f"{chosen} LIMIT 2"))
        other = """e.op, e.batch_id, e.ingested_at, jsonb_set(e.attrs, ARRAY[(SELECT a.attribute_id::text FROM sheaf.attributes a
            WHERE a.tenant_id = e.tenant_id AND a.name = 'n')], '-1')"""
        world.postgres.rows(ask.format(event=other, chosen=f"{chosen} OFFSET 5 LIMIT 1"))
        faults.inject()
        wait_until(lambda: self.number(world, "SELECT count(*) FROM sheaf.lake_repairs") == 0, "the lake has them so", WITHIN_SECONDS)
        wanted = {"missing": 6, "extra": 6, "changed": 1, "shown": 0, "hidden": 0}
        told = self.wait_for(server, "all of it is found", lambda code, told: code == DIFFERENT and told["differences"] == wanted)
        kinds = {fact["tenant_id"]: set() for fact in told["facts"]}
        for fact in told["facts"]:
            kinds[fact["tenant_id"]].add(fact["kind"])
        self.assertEqual([kinds[tenant] for tenant in sorted(kinds)], [{"extra"}, {"missing", "changed"}])
        # Only of the tenant that it is of.
        code, told = self.run_once(server, "--tenant", "other")
        self.assertEqual((code, told["differences"]), (DIFFERENT, {**wanted, "extra": 0}), told)
        code, told = self.run_once(server, "--repair")
        self.assertEqual((code, told["repaired"]), (CLEAN, {"events": 5, "facts_left": 0}), told)
        self.wait_for(server, "both sides are equal again", equal, "--full", "--documents")


if __name__ == "__main__":
    unittest.main(verbosity=2)
