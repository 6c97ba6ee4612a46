"""The lake after a failover: questions find nothing that the database lost, what is written afterwards comes, and the old primary is
neither followed nor asked when it comes back."""

import contextlib
import http.client
import os
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from promoted import CUT_ALL, settings_of  # noqa: E402
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.reads import write  # noqa: E402
from support.world import World  # noqa: E402

WRITES = 10
WITHIN_SECONDS = 180
RETURN_SECONDS = 5
FACTS = {"query": "SELECT external_id, value_float FROM facts WHERE entity_type = 'promoted'"}


class PromotedLake(unittest.TestCase):
    def ask(self, server):
        """What the lake has of each entity; None where there is no answer for now."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, answer = server.send("POST", "/v1/sql", FACTS)
            if status == 200:
                return {name: number for name, number in answer["rows"]}
            self.assertEqual(status, 503, answer)
        return None

    def wait_for(self, server, names, of):
        """Until these are found. Whatever is answered before is of those that there may be."""

        def found():
            names_found = self.ask(server)
            self.assertLessEqual(set(names_found or ()), of, "it is not in the database")
            return names_found is not None and names <= set(names_found)

        wait_until(found, f"the lake has {sorted(names)}", WITHIN_SECONDS)

    def test_the_lake_has_nothing_that_a_failover_lost_also_when_the_old_primary_comes_back(self):
        with World() as world:
            replica = world.replica("one")
            lake = {"lake": {"location": os.path.join(world.directory, "lake")}}
            server = world.server(settings={**settings_of(world, replica), **lake})
            kept = {f"kept{n}" for n in range(WRITES)}
            lost = {f"lost{n}" for n in range(WRITES)}

            def put(name):
                with contextlib.suppress(AssertionError, OSError, http.client.HTTPException):
                    return write(server, f"/v1/entities/promoted/{name}", {"n": 1.5})

            for name in sorted(kept):
                self.assertTrue(put(name))
            self.wait_for(server, kept, kept)
            replica.wait_caught_up()
            with Faults("promotion after the lake had what no replica got") as faults:
                replica.link.stall()
                for name in sorted(lost):
                    self.assertTrue(put(name))
                self.wait_for(server, kept | lost, kept | lost)
                world.postgres.crash()
                replica.promote()
                faults.inject()
                wait_until(lambda: put("after"), "writes go on", WITHIN_SECONDS)
                there = kept | {"after"}
                self.wait_for(server, there, there)
            with Faults("old primary that comes back") as faults:
                world.postgres.start()
                faults.inject()
                slots = "SELECT slot_name, confirmed_flush_lsn, active FROM pg_replication_slots"
                before = world.postgres.rows(slots)
                self.assertEqual([row[2] for row in before], ["f"], before)
                ends, answered = time.monotonic() + RETURN_SECONDS, 0
                while time.monotonic() < ends:
                    # New connections are made, and the old primary is named first.
                    for postgres in (replica, world.postgres):
                        postgres.rows(CUT_ALL)
                    found = self.ask(server)
                    answered += found is not None
                    self.assertLessEqual(set(found or ()), there)
                wait_until(lambda: put("beside"), "writes go on", WITHIN_SECONDS)
                there = there | {"beside"}
                self.wait_for(server, there, there)
                print(f"{answered} questions were answered while two took themselves for the primary")
                self.assertEqual(world.postgres.rows(slots), before, "the old primary was followed")


if __name__ == "__main__":
    unittest.main()
