"""What a server needs comes late, goes, or is taken by others: it lives, says that it is not ready, and serves as soon as it
can, without being started again."""

import contextlib
import json
import os
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.load import assert_sound  # noqa: E402
from support.world import World  # noqa: E402

CONNECTIONS = 40
READY_SECONDS_MAX = 15


def status_of(server, path):
    """None while nobody listens."""
    try:
        return server.call("GET", path)[0]
    except OSError:
        return None


class StartOrder(unittest.TestCase):
    def test_a_server_that_starts_before_postgresql_lives_and_becomes_ready_by_itself(self):
        with World() as world, Faults("start of the server before PostgreSQL") as faults:
            for number in range(2):
                world.postgres.stop()
                server = world.plan()
                server.start(wait=False)
                faults.inject()
                wait_until(lambda: status_of(server, "/healthz") == 200, "it says that it lives")
                status, _, text = server.call("GET", "/readyz")
                self.assertEqual((status, json.loads(text)["status"]), (503, "not_ready"))
                for method, path, body in (("GET", "/v1/entities/a/b", None), ("POST", "/v1/ingest", b"[]")):
                    status, headers, text = server.call(method, path, body)
                    self.assertEqual((status, json.loads(text)["code"]), (503, "database_unavailable"), text)
                    self.assertTrue(headers["Retry-After"])
                # Longer than the first pauses between its attempts.
                time.sleep(1)
                self.assertTrue(server.lives(), server.log_text())
                world.postgres.start()
                server.wait_ready(READY_SECONDS_MAX)
                event = {"type": "start", "id": f"e{number}", "observed_at": "2024-01-01T00:00:00Z", "attributes": {"n": 1}}
                self.assertEqual(server.ingest([event])[0], 200)
            assert_sound(self, server)

    def test_a_server_that_waits_for_postgresql_stops_when_it_is_told_to(self):
        with World() as world, Faults("SIGTERM of a server that waits for PostgreSQL") as faults:
            world.postgres.stop()
            server = world.plan()
            server.start(wait=False)
            wait_until(lambda: status_of(server, "/healthz") == 200, "it says that it lives")
            begun = time.monotonic()
            self.assertEqual(server.terminate(), 0, server.log_text())
            faults.inject()
            self.assertLess(time.monotonic() - begun, 30)

    def test_what_waiting_does_not_mend_ends_the_start(self):
        with World() as world, Faults("start on a database that is not as it must be") as faults:
            world.postgres.rows("CREATE DATABASE nothing", "postgres")
            for name, said in (("nothing", "sheaf migrate up"), ("nowhere", 'database "nowhere" does not exist')):
                server = world.plan()
                with open(server.config, encoding="utf-8") as file:
                    text = file.read().replace('/sheaf"', f'/{name}"')
                with open(server.config, "w", encoding="utf-8") as file:
                    file.write(text)
                server.start(wait=False)
                faults.inject()
                self.assertEqual(server.process.wait(30), 1)
                self.assertIn(said, server.log_text())

    def test_connections_that_others_have_taken_are_told_and_come_back(self):
        with World(settings={"max_connections": str(CONNECTIONS)}) as world:
            server = world.server(settings={"database": {"app_connections": 4, "search_connections": 4}})
            self.assertEqual(server.send("PATCH", "/v1/entities/a/b", {"attributes": {"n": 1}})[0], 201)
            with Faults("connections taken by others") as faults:
                with taken(world.postgres) as count:
                    faults.inject(count)
                    # What it has is killed, and there is no other to be had.
                    ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'sheaf %'"
                    world.postgres.rows(ours)
                    with taken(world.postgres) as more:
                        faults.inject(more)
                        for method, body in (("GET", None), ("PATCH", b'{"attributes":{"n":2}}')):
                            status, headers, text = server.call(method, "/v1/entities/a/b", body)
                            self.assertEqual((status, json.loads(text)["code"]), (503, "database_unavailable"), text)
                            self.assertTrue(headers["Retry-After"])
                        self.assertEqual(server.call("GET", "/healthz")[0], 200)
                        self.assertEqual(server.call("GET", "/readyz")[0], 503)
                        self.assertRegex(server.log_text(), "too many clients|remaining connection slots")
                server.wait_ready(READY_SECONDS_MAX)
                self.assertEqual(server.send("PATCH", "/v1/entities/a/b", {"attributes": {"n": 3}})[0], 200)
                self.assertTrue(server.lives())
            assert_sound(self, server)


@contextlib.contextmanager
def taken(postgres):
    """Takes every connection that is left to those who are no superusers; gives their number."""
    command = postgres.command()
    command[command.index("-U") + 1] = "sheaf_app"
    sessions = []
    try:
        while True:
            pipe = subprocess.PIPE
            session = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
            sessions.append(session)
            session.stdin.write("\\echo here\n")
            session.stdin.flush()
            if session.stdout.readline().strip() != "here":
                break
        yield len(sessions) - 1
    finally:
        for session in sessions:
            with contextlib.suppress(BrokenPipeError):
                session.communicate()


if __name__ == "__main__":
    unittest.main(verbosity=2)
