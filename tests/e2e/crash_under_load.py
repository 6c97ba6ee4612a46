"""Crashes under load: what was acknowledged is there exactly once, and clients see only answers they may retry."""

import json
import os
import signal
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server  # noqa: E402
from support.database import Database, wait_until  # noqa: E402
from support.faults import Faults, seeded  # noqa: E402
from support.load import Load, assert_sound  # noqa: E402

SERVER = None
DATABASE = None
REFILL_SECONDS_MAX = 5


def setUpModule():
    global SERVER, DATABASE
    SERVER = Server()
    DATABASE = Database(SERVER)


def tearDownModule():
    SERVER.stop()


class CrashUnderLoad(unittest.TestCase):
    def check_answers(self, load):
        """While the server itself lives, there is an answer to everything, and it is a good one or a 503."""
        others = [(status, answer) for status, answer in load.answers if status not in (200, 503)]
        self.assertEqual(others[:3], [], f"{len(others)} other answers")
        self.assertEqual(load.without_retry_after, 0, "a 503 without Retry-After")
        codes = {json.loads(answer)["code"] for status, answer in load.answers if status == 503}
        self.assertLessEqual(codes, {"database_unavailable", "overloaded"})
        count = sum(status == 503 for status, _ in load.answers)
        print(f"{load.kind}: {load.acked} acknowledged, {count} answers 503 {sorted(codes)}")

    def test_postgresql_crashes_and_comes_back_by_itself(self):
        delays = seeded("delays before the crash")
        with Faults("crash of PostgreSQL under load") as faults:
            with Load(SERVER, DATABASE, "postmaster") as load:
                for _ in range(4):
                    load.wait_for_acks(5)
                    time.sleep(delays.uniform(0.02, 0.5))
                    before = DATABASE.address()[0]
                    DATABASE.crash()
                    faults.inject()
                    wait_until(lambda: restarted(before), "sheaf dev starts PostgreSQL again")
                load.wait_for_acks(5)
        self.check_answers(load)
        load.settle(self)
        assert_sound(self, SERVER)

    def test_one_killed_backend_costs_a_pause_and_no_data(self):
        delays = seeded("delays before the kill of a backend")
        with Faults("kill -9 of a backend under load") as faults:
            with Load(SERVER, DATABASE, "backend") as load:
                for role in ("sheaf_writer", "sheaf_app", "sheaf_writer", "sheaf_app"):
                    load.wait_for_acks(5)
                    time.sleep(delays.uniform(0.02, 0.5))
                    os.kill(wait_until(lambda: backends_of(role), f"{role} is connected")[0], signal.SIGKILL)
                    faults.inject()
                    begun = time.monotonic()
                    self.assert_refilled(begun)
                    load.wait_for_acks(1)
                    self.assertLess(time.monotonic() - begun, REFILL_SECONDS_MAX, "the load goes on")
        self.check_answers(load)
        load.settle(self)
        assert_sound(self, SERVER)

    def assert_refilled(self, begun):
        """A write, a read and a filter all work within the time."""
        calls = [
            ("PATCH", "/v1/entities/refill/a", b'{"attributes":{"refill":1}}', {"Content-Type": "application/json"}),
            ("GET", "/v1/entities/refill/a", None, {}),
            ("GET", "/v1/entities?filter=refill%20%3E%200", None, {}),
        ]
        for method, path, body, headers in calls:
            while True:
                status, _, text = SERVER.call(method, path, body, headers)
                if status in (200, 201):
                    break
                self.assertEqual(status, 503, f"{method} {path}: {text}")
                self.assertLess(time.monotonic() - begun, REFILL_SECONDS_MAX, f"{method} {path}: {text}")
                time.sleep(0.02)
        self.assertLess(time.monotonic() - begun, REFILL_SECONDS_MAX)

    def test_the_server_is_killed_and_started_again(self):
        delays = seeded("delays before the kill of the server")
        with Faults("kill -9 of the server under load") as faults:
            with Load(SERVER, DATABASE, "server") as load:
                for _ in range(3):
                    load.wait_for_acks(5)
                    time.sleep(delays.uniform(0.02, 0.3))
                    SERVER.kill()
                    faults.inject()
                    SERVER.start()
                load.wait_for_acks(5)
        self.assertLessEqual(load.statuses(), {200, 503, None})
        load.settle(self)
        assert_sound(self, SERVER)

    def test_the_server_and_postgresql_are_killed_together(self):
        delays = seeded("delays before the kill of both")
        with Faults("kill -9 of the server and of PostgreSQL under load") as faults:
            with Load(SERVER, DATABASE, "both") as load:
                for round_number in range(2):
                    load.wait_for_acks(5)
                    time.sleep(delays.uniform(0.02, 0.3))
                    first, second = (SERVER, DATABASE) if round_number % 2 == 0 else (DATABASE, SERVER)
                    first.kill()
                    second.kill()
                    faults.inject()
                    SERVER.start()
                load.wait_for_acks(5)
        self.assertLessEqual(load.statuses(), {200, 503, None})
        load.settle(self)
        assert_sound(self, SERVER)

    def test_sigterm_under_load_stops_within_30_seconds_and_keeps_data_and_keys(self):
        keys = (SERVER.key, SERVER.admin_key)
        SERVER.send("PATCH", "/v1/entities/restart/a", {"attributes": {"kept": "yes"}})
        before = SERVER.get("/v1/entities/restart/a")
        with Faults("SIGTERM under load") as faults:
            with Load(SERVER, DATABASE, "sigterm") as load:
                load.wait_for_acks(5)
                begun = time.monotonic()
                self.assertEqual(SERVER.terminate(), 0)
                faults.inject()
                self.assertLess(time.monotonic() - begun, 30)
                self.assertEqual(DATABASE.processes(), [], "PostgreSQL stops with the server")
                SERVER.start()
                load.wait_for_acks(5)
        self.assertLessEqual(load.statuses(), {200, 503, None})
        self.assertEqual((SERVER.key, SERVER.admin_key), keys)
        self.assertEqual(SERVER.get("/v1/entities/restart/a"), before)
        load.settle(self)
        assert_sound(self, SERVER)


def restarted(before):
    """Whether a PostgreSQL that is not the one before takes connections."""
    try:
        return DATABASE.address()[0] != before and DATABASE.value("SELECT 1") == "1"
    except (OSError, IndexError, ValueError, AssertionError):
        # No pid file, half of one, or not ready.
        return False


def backends_of(role):
    try:
        return DATABASE.backends(role)
    except AssertionError:
        # It does not take connections at this moment.
        return []


if __name__ == "__main__":
    unittest.main(verbosity=2)
