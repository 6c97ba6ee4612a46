"""Replicas that cancel, refuse, hang, come and go: reads are answered all the same, by another replica or the primary, which
is neither overrun nor forgotten."""

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
from support.reads import Line, metric, read  # noqa: E402
from support.replica import sources  # noqa: E402
from support.sessions import Sessions  # noqa: E402
from support.world import World  # noqa: E402

WORLD = None
ONE, TWO = None, None
SERVER = None
SEED = 2
ENTITIES = 4_000
READERS = 8
# The deadline of a read is 30 s; the rest is for two busy processors.
DEADLINE_SECONDS_MAX = 35
FLAPS = 4
# In half a second that a replica is away: five failures open its breaker, those that are under way at the time fail as well
# on each pool, and what watches it looks some times whether it is back.
ATTEMPTS_MAX = 5 + 2 * READERS + 30
# A lock that replay takes over, as the transaction has a number: reads of the table on replicas have to end for it.
CONFLICT = (
    "BEGIN; SET LOCAL lock_timeout = '1s'; CREATE TEMP TABLE conflict ();"
    "LOCK TABLE sheaf.entity_jsonb IN ACCESS EXCLUSIVE MODE; COMMIT"
)


def setUpModule():
    global WORLD, ONE, TWO, SERVER
    WORLD = World()
    unittest.addModuleCleanup(WORLD.close)
    # What is cleaned up on the primary cancels at once what still reads it.
    ONE, TWO = WORLD.replica("one", {"max_standby_streaming_delay": "0"}), WORLD.replica("two")
    SERVER = WORLD.server(settings=sources(ONE, TWO))
    events = [{"type": "many", "id": f"m{n}", "attributes": {"n": n, "text": "x" * 50}} for n in range(ENTITIES)]
    status, answer = SERVER.ingest(events)
    assert status == 200, answer


def used(replica):
    answer = read(SERVER, "/v1/entities", type="none", consistency="eventual")
    return answer.source == f"replica:{replica.name}"


def wait_used(*replicas):
    for replica in replicas:
        wait_until(lambda replica=replica: used(replica), f"{replica.name} is used", 60)


class Readers:
    """Threads that read all the time at a level that replicas may serve, while their block runs."""

    def __init__(self, **query):
        self.query = {"type": "many", "limit": 1, "consistency": "eventual", **query}
        self.answers = []
        self.broken = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(READERS)]

    def run(self):
        with contextlib.closing(Line(SERVER.port, WORLD.key)) as line:
            while not self.stopping.is_set():
                try:
                    self.answers.append(line.read("/v1/entities", **self.query))
                except OSError as error:
                    self.broken.append(error)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)

    def sources(self):
        found = {}
        for answer in self.answers:
            found[answer.source] = found.get(answer.source, 0) + 1
        return found

    def slowest(self):
        return max(answer.seconds for answer in self.answers)


class Failing(unittest.TestCase):
    def setUp(self):
        wait_used(ONE, TWO)

    def check(self, readers, allowed=(200,)):
        self.assertEqual(readers.broken, [])
        for answer in readers.answers:
            self.assertIn(answer.status, allowed, answer.shown())
            if answer.status == 503:
                self.assertTrue(answer.header("Retry-After"), answer.shown())
        self.assertLess(readers.slowest(), DEADLINE_SECONDS_MAX)
        print(f"{len(readers.answers)} reads, {readers.sources()}, the slowest took {readers.slowest():.2f} s")

    def test_reads_that_a_replica_cancels_are_answered_by_another(self):
        before = ONE.conflicts()
        # Each looks at every document, so that one is always under way.
        with Faults("read cancelled by a recovery conflict") as faults:
            with Readers(count="exact", filter="n >= 0") as readers:
                deadline = time.monotonic() + 60
                while ONE.conflicts() - before < 3 and time.monotonic() < deadline:
                    # Where the primary is read meanwhile, the lock may not be had.
                    with contextlib.suppress(AssertionError):
                        WORLD.postgres.rows(CONFLICT)
            faults.inject(ONE.conflicts() - before)
        self.check(readers)
        for answer in readers.answers:
            self.assertEqual(answer.document()["count"]["value"], ENTITIES)

    def test_without_any_replica_the_primary_reads_and_still_writes(self):
        with Faults("replica that died") as faults:
            with Sessions([SERVER], WORLD.key, SEED) as sessions, Readers() as readers:
                sessions.wait_for(20)
                for replica in (ONE, TWO):
                    replica.kill()
                    faults.inject()
                sessions.wait_for(100)
                self.assertEqual(metric(SERVER, "sheaf_source_up", source="replica:one"), 0.0)
                self.assertEqual(SERVER.call("GET", "/readyz")[0], 200, "what it can do without does not make it unready")
                for replica in (ONE, TWO):
                    replica.start()
                    replica.wait_streaming()
                sessions.wait_for_source("replica:one")
                sessions.wait_for_source("replica:two")
            sessions.wait_converged()
            sessions.check()
        # Past the limit that protects the primary a read is told to come again.
        self.check(readers, (200, 503))
        self.assertGreater(sum(answer.source == "primary" for answer in readers.answers), 0)
        wait_until(lambda: metric(SERVER, "sheaf_source_up", source="replica:one") == 1.0, "it is up again")

    def test_a_replica_that_takes_connections_and_does_not_answer_costs_little_and_is_left(self):
        with Faults("replica that stands still") as faults, Readers() as readers:
            pids = [TWO.process.pid, *TWO.processes()]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            try:
                faults.inject()
                begun = time.time()

                def left():
                    """Nothing waits for it any more."""
                    recent = [answer for answer in readers.answers if answer.sent_at > time.time() - 1]
                    is_asked = any(answer.source == "replica:two" for answer in recent)
                    return time.time() > begun + 1 and len(recent) > 20 and not is_asked

                wait_until(left, "reads leave it", DEADLINE_SECONDS_MAX)
                print(f"it was left after {time.time() - begun:.2f} s")
            finally:
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
            wait_used(TWO)
        # What waited for it may end at its deadline.
        self.check(readers, (200, 503))

    def test_a_replica_that_comes_and_goes_is_asked_by_few(self):
        attempts = []
        with Faults("replica that comes and goes") as faults, Readers() as readers:
            for _ in range(FLAPS):
                TWO.front.refuse = True
                TWO.front.cut()
                # From here on nothing answers: before, answers on the connections that were there stood between failures.
                before = TWO.front.accepted
                faults.inject()
                time.sleep(0.5)
                attempts.append(TWO.front.accepted - before)
                TWO.front.heal()
                time.sleep(0.5)
        self.check(readers)
        print(f"connections tried in each half second that it was away: {attempts}")
        self.assertLess(max(attempts), ATTEMPTS_MAX)
        wait_used(TWO)

    def test_a_server_that_starts_without_its_replicas_serves_and_finds_them_later(self):
        with Faults("start without the replicas") as faults:
            for replica in (ONE, TWO):
                replica.front.refuse = True
                faults.inject()
            server = WORLD.server(settings=sources(ONE, TWO))
            for level in ("strong", "eventual", "analytics"):
                answer = read(server, "/v1/entities", type="many", limit=1, consistency=level)
                self.assertEqual((answer.status, answer.source), (200, "primary"), answer.shown())
            for replica in (ONE, TWO):
                replica.front.heal()
            question = {"path": "/v1/entities", "type": "many", "limit": 1, "consistency": "eventual"}
            wait_until(lambda: read(server, **question).from_replica(), "they are found", 60)
            server.stop()

    def test_a_replica_comes_and_goes_with_the_configuration_of_a_running_server(self):
        server = WORLD.server(settings=sources(ONE))
        with open(server.config, encoding="utf-8") as file:
            before = file.read()

        def found():
            return {read(server, "/v1/entities", type="none", consistency="eventual").source for _ in range(10)}

        with Faults("replica added or removed while the server runs") as faults:
            for text, condition in (
                (before + f'[replicas.two]\nurl = "{TWO.url()}"\n', lambda: "replica:two" in found()),
                (before, lambda: found() == {"replica:one"}),
            ):
                with open(server.config, "w", encoding="utf-8") as file:
                    file.write(text)
                server.process.send_signal(signal.SIGHUP)
                faults.inject()
                wait_until(condition, "the configuration is in force", 60)
        self.assertTrue(server.lives())
        server.stop()


if __name__ == "__main__":
    unittest.main(verbosity=2)
