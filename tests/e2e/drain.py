"""SIGTERM under load: the server ends within 30 s, what it had begun is answered, and nothing acknowledged is lost while
another server takes over."""

import os
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.checks import Checker  # noqa: E402
from support.clients import Clients  # noqa: E402
from support.faults import Faults, seeded  # noqa: E402
from support.load import assert_sound  # noqa: E402
from support.proxy import Proxy  # noqa: E402
from support.world import World  # noqa: E402

EXIT_SECONDS_MAX = 30
ROUNDS = 4


class Drain(unittest.TestCase):
    def setUp(self):
        self.world = World()
        self.addCleanup(self.world.close)

    def test_servers_that_leave_one_after_the_other_lose_nothing(self):
        servers = [self.world.server() for _ in range(2)]
        source = seeded("clients and moments")
        clients = Clients(self.world, [server.port for server in servers], source.random(), name="drain")
        self.addCleanup(clients.journal.close)
        with Faults("SIGTERM under load") as faults:
            with clients:
                for number in range(ROUNDS):
                    clients.wait_for_acks(50)
                    time.sleep(source.uniform(0, 0.2))
                    server = servers[number % 2]
                    begun = time.monotonic()
                    self.assertEqual(server.terminate(), 0, server.log_text()[-2000:])
                    faults.inject()
                    self.assertLess(time.monotonic() - begun, EXIT_SECONDS_MAX)
                    self.assertNotIn("cut off", server.log_text())
                    clients.wait_for_acks(20)
                    server.start()
        print(clients.statuses())
        self.assertEqual(clients.faults(), [])
        checker = Checker(servers[0], clients.tenants, clients.journal)
        checker.settle()
        checker.check()
        assert_sound(self, servers[0])

    def test_requests_that_have_begun_are_answered(self):
        proxy = Proxy(self.world.postgres.port)
        self.addCleanup(proxy.close)
        server = self.world.server(proxy.port)
        event = {"type": "begun", "observed_at": "2024-01-01T00:00:00Z", "attributes": {"n": 1}}
        names = [{**event, "id": f"e{number}"} for number in range(8)]
        self.assertEqual(server.ingest(names)[0], 200)
        answers = []

        def send(number):
            late = {**names[number], "observed_at": "2024-01-02T00:00:00Z"}
            answers.append(server.ingest([late], {"Idempotency-Key": f"begun-{number}"}))

        with Faults("SIGTERM while requests were in the middle") as faults:
            # Slow enough that all of them are on their way when the signal comes.
            proxy.delay = 0.05
            threads = [threading.Thread(target=send, args=(number,)) for number in range(len(names))]
            for thread in threads:
                thread.start()
            time.sleep(0.1)
            faults.inject(sum(thread.is_alive() for thread in threads))
            begun = time.monotonic()
            self.assertEqual(server.terminate(), 0, server.log_text()[-2000:])
            self.assertLess(time.monotonic() - begun, EXIT_SECONDS_MAX)
            for thread in threads:
                thread.join(10)
        statuses = [status for status, _ in answers]
        self.assertEqual(statuses, [200] * len(names), answers)
        self.assertEqual(len(self.world.postgres.events("begun")), 2 * len(names))


if __name__ == "__main__":
    unittest.main(verbosity=2)
