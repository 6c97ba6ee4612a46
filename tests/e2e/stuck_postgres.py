"""PostgreSQL is there and does not answer: every connection is taken, or its processes stand still. Requests end with a 503
within their deadline, the health port answers all along, and afterwards everything works again by itself."""

import contextlib
import os
import signal
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.load import assert_sound  # noqa: E402
from support.proxy import Proxy  # noqa: E402
from support.world import World  # noqa: E402

WORLD = None
PROXY = None
SERVER = None
# A request waits 5 s for a connection; the rest is for two busy processors.
ACQUIRE_SECONDS_MAX = 9
# The deadline of reads and edits is 30 s.
DEADLINE_SECONDS_MAX = 35
HEALTH_SECONDS_MAX = 2
RECOVERY_SECONDS_MAX = 10
CONNECTIONS = 2
READERS = 12
KEEPALIVE_SECONDS_MAX = 60


def setUpModule():
    global WORLD, PROXY, SERVER
    WORLD = World()
    PROXY = Proxy(WORLD.postgres.port)
    pools = {"app_connections": CONNECTIONS, "search_connections": CONNECTIONS, "writer_connections": CONNECTIONS}
    SERVER = WORLD.server(PROXY.port, {"database": pools})


def tearDownModule():
    PROXY.close()
    WORLD.close()


def edit(number):
    body = {"attributes": {"n": number}, "observed_at": "2024-01-01T00:00:00Z"}
    return SERVER.send("PATCH", f"/v1/entities/stuck/e{number}", body)


def read(number):
    return SERVER.call("GET", f"/v1/entities/stuck/e{number}")


def search(_):
    return SERVER.call("GET", "/v1/entities?filter=n%20%3E%200")


class Requests:
    """Requests at the same time, and how long each took."""

    def __init__(self, calls):
        self.outcomes = []
        self.threads = [threading.Thread(target=self.run, args=call, daemon=True) for call in calls]
        for thread in self.threads:
            thread.start()

    def run(self, function, number):
        begun = time.monotonic()
        answer = function(number)
        self.outcomes.append((function.__name__, answer[0], time.monotonic() - begun, answer))

    def join(self, within):
        deadline = time.monotonic() + within
        for thread in self.threads:
            thread.join(max(0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self.threads)


class Health(threading.Thread):
    """Asks the health port all the time while the block runs."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.slowest, self.statuses = 0.0, []

    def run(self):
        while not self.ended.wait(0.05):
            begun = time.monotonic()
            self.statuses.append(SERVER.call("GET", "/healthz")[0])
            self.slowest = max(self.slowest, time.monotonic() - begun)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.join(30)


@contextlib.contextmanager
def standing_still(pids):
    """They neither run nor end."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


class StuckPostgres(unittest.TestCase):
    def setUp(self):
        for number in range(READERS):
            self.assertIn(edit(number)[0], (200, 201))

    def check_health(self, health):
        self.assertEqual(set(health.statuses), {200})
        self.assertLess(health.slowest, HEALTH_SECONDS_MAX)

    def works_again(self):
        begun = time.monotonic()

        def works():
            return all(function(0)[0] in (200, 201) for function in (edit, read, search))

        wait_until(works, "edits, reads and filters work again", RECOVERY_SECONDS_MAX)
        print(f"works again after {time.monotonic() - begun:.2f} s")
        wait_until(SERVER.is_ready, "it is ready", RECOVERY_SECONDS_MAX)

    def test_when_every_connection_is_taken_requests_are_told_to_come_back_in_time(self):
        with Faults("requests that found every connection taken") as faults:
            with Health() as health:
                with WORLD.postgres.held("TABLE sheaf.entity_jsonb IN ACCESS EXCLUSIVE MODE"):
                    first = Requests([(function, number) for number in range(CONNECTIONS) for function in (read, search, edit)])
                    WORLD.postgres.wait_for_waiters(2 * CONNECTIONS + 1)
                    begun = time.monotonic()
                    more = Requests([(function, number) for number in range(READERS) for function in (read, search)])
                    self.assertTrue(more.join(ACQUIRE_SECONDS_MAX + 5), "requests that cannot get a connection end")
                    for name, status, seconds, answer in more.outcomes:
                        self.assertEqual(status, 503, (name, answer))
                        self.assertTrue(answer[1]["Retry-After"])
                        self.assertLess(seconds, ACQUIRE_SECONDS_MAX, name)
                        faults.inject()
                    ready, _, text = SERVER.call("GET", "/readyz")
                    self.assertEqual(ready, 503, text)
                    print(f"all were told after {time.monotonic() - begun:.1f} s")
                self.assertTrue(first.join(20), "what had a connection goes on once it can")
                self.assertLessEqual({status for _, status, _, _ in first.outcomes}, {200, 201, 503})
                self.works_again()
            self.check_health(health)
        assert_sound(self, SERVER)

    def test_a_postmaster_that_stands_still_takes_no_connection_and_no_patience(self):
        with Faults("SIGSTOP of the postmaster") as faults:
            with Health() as health:
                with standing_still([WORLD.postgres.process.pid]):
                    PROXY.cut()
                    faults.inject()
                    requests = Requests([(function, number) for number in range(3) for function in (edit, read, search)])
                    self.assertTrue(requests.join(2 * ACQUIRE_SECONDS_MAX), "requests that need a new connection end")
                    for name, status, seconds, answer in requests.outcomes:
                        self.assertEqual(status, 503, (name, answer))
                        self.assertLess(seconds, 2 * ACQUIRE_SECONDS_MAX, name)
                    self.assertEqual(SERVER.call("GET", "/readyz")[0], 503)
                self.works_again()
            self.check_health(health)
        assert_sound(self, SERVER)

    def test_backends_that_stand_still_cost_their_requests_and_no_more(self):
        with Faults("SIGSTOP of a backend") as faults:
            with Health() as health:
                pids = [pid for role in ("sheaf_app", "sheaf_search", "sheaf_writer") for pid in WORLD.postgres.backends(role)]
                with standing_still(pids):
                    faults.inject(len(pids))
                    requests = Requests([(function, number) for number in range(4) for function in (edit, read, search)])
                    self.assertTrue(requests.join(DEADLINE_SECONDS_MAX), "requests end at their deadline at the latest")
                    # A pool that was not full makes a further connection, whose backend runs.
                    for name, status, seconds, answer in requests.outcomes:
                        self.assertIn(status, (200, 201, 503), (name, seconds, answer))
                    self.assertIn(503, {status for _, status, _, _ in requests.outcomes}, "somebody met a backend that stands still")
                self.works_again()
                for number in range(4):
                    self.assertIn(edit(number)[0], (200, 201))
            self.check_health(health)
        # The same edit again and again, whatever became of it: one row.
        self.assertEqual(len(WORLD.postgres.events("stuck")), READERS)
        assert_sound(self, SERVER)

    def test_a_partner_that_is_gone_without_a_word_is_noticed_by_the_kernel(self):
        """Nobody can cut a cable here: what is looked at is when the kernel asks the other side for a sign of life."""
        self.assertIn(edit(0)[0], (200, 201))
        timers = [seconds for port, seconds in keepalives() if port == PROXY.port]
        self.assertGreater(len(timers), 0, "connections with a keepalive timer")
        self.assertLess(max(timers), KEEPALIVE_SECONDS_MAX)


def keepalives():
    """(port of the other side, seconds until it is asked) of every connection with a keepalive timer; proc(5)."""
    with open("/proc/net/tcp", encoding="utf-8") as file:
        lines = [line.split() for line in file][1:]
    ticks = os.sysconf("SC_CLK_TCK")
    for _, _, remote, _, _, timer, *_ in lines:
        kind, when = timer.split(":")
        if int(kind, 16) == 2:
            yield int(remote.split(":")[1], 16), int(when, 16) / ticks


if __name__ == "__main__":
    unittest.main(verbosity=2)
