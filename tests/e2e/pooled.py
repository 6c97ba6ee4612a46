"""Everything through PgBouncer in transaction mode: each transaction may get another connection, on the primary and on a
replica, and nothing of a tenant, a setting or a token stays behind on one."""

import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.pgbouncer import PgBouncer  # noqa: E402
from support.reads import read, write  # noqa: E402
from support.sessions import Sessions  # noqa: E402
from support.world import World  # noqa: E402

WORLD = None
REPLICA = None
SERVER = None
SEED = 4


def setUpModule():
    global WORLD, REPLICA, SERVER
    WORLD = World()
    unittest.addModuleCleanup(WORLD.close)
    REPLICA = WORLD.replica("one")
    primary, replica = PgBouncer(WORLD.postgres, "before-primary"), PgBouncer(REPLICA, "before-one")
    for pooler in (primary, replica):
        WORLD.keep(pooler)
    SERVER = WORLD.server(settings={"database": {"url": primary.url()}, "replicas.one": {"url": replica.url()}})


class Pooled(unittest.TestCase):
    def test_sessions_of_two_tenants_through_poolers_are_right_and_see_nothing_of_each_other(self):
        with Faults("transaction on a connection of somebody else's") as faults:
            keys = (WORLD.key, WORLD.other_key)
            both = [Sessions([SERVER], key, f"{SEED} {place}", count=3, name="same") for place, key in enumerate(keys)]
            with both[0], both[1]:
                for sessions in both:
                    sessions.wait_for_source("replica:one")
                    sessions.wait_for(60)
            for sessions in both:
                sessions.wait_converged()
                sessions.check()
                faults.inject(sum(sessions.counts.values()))
        for postgres in (WORLD.postgres, REPLICA):
            ours = len(postgres.backends("sheaf_app")) + len(postgres.backends("sheaf_search"))
            self.assertLessEqual(ours, 4, "two connections a role")

    def test_a_replica_that_dies_behind_its_pooler_is_left_and_found_again(self):
        question = {"path": "/v1/entities", "type": "none", "consistency": "eventual"}
        wait_until(lambda: read(SERVER, **question).from_replica(), "the replica is used", 60)
        with Faults("replica that died behind its pooler") as faults:
            REPLICA.kill()
            faults.inject()
            for number in range(20):
                token = write(SERVER, "/v1/entities/pooled/a", {"n": number})
                answer = read(SERVER, "/v1/entities", type="pooled", token=token)
                self.assertEqual((answer.status, answer.source), (200, "primary"), answer.shown())
            REPLICA.start()
            REPLICA.wait_streaming()
            wait_until(lambda: read(SERVER, **question).from_replica(), "the replica is used again", 60)


if __name__ == "__main__":
    unittest.main(verbosity=2)
