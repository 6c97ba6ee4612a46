"""A server of the release before and one of today on one database, under load, as in an upgrade without a pause.

    scripts/two_versions.sh [SECONDS]     builds what it needs, with RELEASED_BIN and SHEAF_BIN for this

The release makes the schema and serves; today's program migrates it while clients write; both serve, and clients write to both
the same entities; the release's server ends, and clients go on. Then what is there is compared with the journal and the
reference model, through today's server, and by `sheaf doctor --full`.
"""

import os
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "e2e"))
from support.checks import Checker  # noqa: E402
from support.clients import Clients  # noqa: E402
from support.load import Load, assert_sound  # noqa: E402
from support.world import World, WorldServer  # noqa: E402

CLIENTS = 8
PAUSE_SECONDS = 0.01
SEED = 1


class Program:
    """While the block runs, what is started is this executable."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        self.before = os.environ["SHEAF_BIN"]
        os.environ["SHEAF_BIN"] = self.path

    def __exit__(self, *_):
        os.environ["SHEAF_BIN"] = self.before


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    test = unittest.TestCase()
    released, today = os.environ["RELEASED_BIN"], os.environ["SHEAF_BIN"]
    with Program(released):
        world = World()
    with world:
        with Program(released):
            old = world.server()
        database = world.postgres
        before = database.value("SELECT max(version) FROM sheaf.schema_version")
        with Load(old, database, "migrated") as load:
            load.wait_for_acks(20)
            world.command(WorldServer(world), "migrate", "up", "--as", "sheaf_superuser")
            load.wait_for_acks(20)
        load.settle(test)
        after = database.value("SELECT max(version) FROM sheaf.schema_version")
        print(f"{released} made version {before}; {today} brought it to {after} under load", flush=True)

        new = world.server()
        # Clients choose among these whenever they connect.
        ports = [old.port, new.port]
        clients = Clients(world, ports, SEED, CLIENTS, pause=PAUSE_SECONDS)
        with clients:
            clients.wait_for_acks(CLIENTS)
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                time.sleep(1)
                test.assertTrue(old.lives() and new.lives(), "both servers live")
            served = {port: sum(client.port == port for client in clients.clients) for port in ports}
            test.assertTrue(all(served.values()), f"both serve: {served}")
            clients.wait_for_acks(CLIENTS)
            ports.remove(old.port)
            test.assertEqual(old.terminate(), 0, "the release's server ends in order")
            clients.wait_for_acks(10 * CLIENTS)
        print(f"{clients.acked()} requests acknowledged by both; statuses {clients.statuses()}", flush=True)
        test.assertEqual(clients.faults()[:3], [], "answers that nothing excuses")
        settling = Checker(new, clients.tenants, clients.journal)
        print(f"{settling.settle()} requests with an unknown outcome were retried", flush=True)
        checker = Checker(new, clients.tenants, clients.journal)
        checker.problems = settling.problems
        checker.check()
        print(f"{checker.rows} rows of {checker.entities} entities are what the journal and the model say", flush=True)
        assert_sound(test, new)


if __name__ == "__main__":
    main()
