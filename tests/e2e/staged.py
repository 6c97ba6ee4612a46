"""The staged mode over HTTP: what was acknowledged as staged becomes durable once, or is lost and said to be, and nobody is
told anything else.

    staged.py --rounds 200     the long form of the test that kills backends
"""

import contextlib
import http.client
import json
import os
import signal
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.checks import Checker  # noqa: E402
from support.clients import KIND, path_of  # noqa: E402
from support.database import wait_until  # noqa: E402
from support.faults import Faults, seeded  # noqa: E402
from support.instants import SECOND, micros_of, text_of  # noqa: E402
from support.journal import Journal  # noqa: E402
from support.proxy import CUT, HOLD, Proxy  # noqa: E402
from support.world import World  # noqa: E402

WORLD = None
ROUNDS = 2
BATCHES = 50
EVENTS = 3
FLUSHES = 5
BEGIN = micros_of("2024-05-01T00:00:00Z")
STOP_WITHIN_SECONDS = 30
BUCKETS = "sheaf.settings s, generate_series(0, s.bucket_count - 1) AS b (bucket)"
# What waits, however old it gets, is staged: these tests are not about the bound on its age.
PATIENT = {"staging": {"age_max": "1h"}}


def setUpModule():
    global WORLD
    WORLD = World()


def tearDownModule():
    WORLD.close()


def send_keyed(server):
    """One event without a time, so that it would be there twice if it were stored twice: its batch, and whether it is told
    to be a retry."""
    body = json.dumps([{"type": "keyed", "id": "a", "attributes": {"n": 1}}]).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": "once"}
    status, headers, text = server.call("POST", "/v1/ingest?ack=staged", body, headers)
    return (json.loads(text)["batch_id"], headers["Idempotency-Replayed"]) if status == 202 else None


class Stager:
    """Sends batches and keeps the journal; afterwards everything is compared with it."""

    def __init__(self, test, server, name):
        self.test = test
        self.server = server
        self.name = name
        self.journal = Journal(os.path.join(WORLD.directory, name + ".journal"))
        test.addCleanup(self.journal.close)
        self.count = 0
        # The state that was told of each batch; one that was told to be durable or lost is that for ever.
        self.told = {}

    def send(self, ack="staged"):
        """Sends one batch; its status, or None where the connection broke."""
        self.count += 1
        number = f"{self.name}-{self.count}"
        events = [
            {
                "type": KIND,
                "id": f"{self.name}-{(self.count + place) % 20}",
                "observed_at": text_of(BEGIN + (self.count * EVENTS + place) * SECOND),
                "attributes": {"n": self.count * EVENTS + place, "ack": ack},
            }
            for place in range(EVENTS)
        ]
        self.journal.sent(number, "demo", "POST", None, events, ack)
        try:
            status, headers, text = self.server.call(
                "POST", f"/v1/ingest?ack={ack}", json.dumps(events).encode(), {"Content-Type": "application/json"}
            )
        except (OSError, http.client.HTTPException) as error:
            self.journal.unknown(number, error)
            return None
        answer = json.loads(text)
        if status == 202:
            self.test.assertEqual((answer["ack"], answer["token"]), ("staged", None), text)
            self.test.assertIsNone(headers["X-Consistency-Token"])
            self.test.assertEqual(ack, "staged", "less than was asked for")
            self.journal.staged(number, answer["batch_id"])
        elif status == 200:
            self.test.assertEqual(answer["ack"], "durable")
            self.journal.acked(number, answer)
        else:
            self.test.assertEqual(status, 503, text)
            self.test.assertTrue(headers["Retry-After"], "a 503 without Retry-After")
            self.journal.unknown(number, text)
        return status

    def staged(self):
        """The batches that were acknowledged as staged, by number of request."""
        operations = self.journal.operations()
        return {number: each.staged for number, each in operations.items() if each.staged}

    def look(self, batch):
        """The state that is told of a batch now; nothing that was told before is taken back."""
        status, _, text = self.server.call("GET", "/v1/ingest/batches/" + batch)
        if status in (404, 503):
            return str(status), None
        self.test.assertEqual(status, 200, text)
        answer = json.loads(text)
        state, before = answer["status"], self.told.get(batch)
        if before in ("durable", "lost"):
            self.test.assertEqual(state, before, f"{batch} was told to be {before}")
        self.told[batch] = state
        self.test.assertEqual(answer["token"] is not None, state == "durable", text)
        self.test.assertEqual(answer["durable_at"] is not None, state == "durable", text)
        return state, answer

    def settle(self, allowed):
        """Waits until no batch is staged any more, and writes down what became of each. Gives back how many of each."""
        found = {}
        operations = self.journal.operations()
        for number, batch in self.staged().items():
            if operations[number].acked() or operations[number].refused is not None:
                continue
            state, answer = wait_until(
                lambda batch=batch: settled(self.look(batch)), f"{number} ({batch}) is {allowed}"
            )
            self.look(batch)
            self.test.assertIn(state, allowed, f"{number}: {answer}")
            if state == "durable":
                self.journal.acked(number, answer)
            else:
                self.journal.refused(number, state)
            found[state] = found.get(state, 0) + 1
        return found

    def check(self):
        """History, documents and counts are what the statuses say: of the lost ones nothing is there."""
        checker = Checker(self.server, {"demo": WORLD.key}, self.journal)
        checker.list_entities = lambda tenant: {
            entity for entity in Checker.list_entities(checker, tenant) if entity[1].startswith(self.name + "-")
        }
        checker.check()
        return checker.rows


def settled(found):
    return found if found[0] not in ("staged", "503") else None


@contextlib.contextmanager
def held():
    """No flush ends while the block runs, nor any lane that needs the same buckets."""
    with WORLD.postgres.session() as session:
        session.do(f"SELECT pg_advisory_lock(24239, b.bucket) FROM {BUCKETS} \\g /dev/null")
        try:
            yield session
        finally:
            with contextlib.suppress(BrokenPipeError, AssertionError):
                session.do("SELECT pg_advisory_unlock_all() \\g /dev/null")


def waiting():
    return WORLD.postgres.count("sheaf.staged_batches WHERE status = 'staged'")


def answers():
    try:
        return WORLD.postgres.value("SELECT 1") == "1"
    except (AssertionError, IndexError):
        return False


class Staged(unittest.TestCase):
    def tearDown(self):
        # One that a failed test leaves would flush what the next one stages.
        for server in WORLD.servers:
            server.stop()


class Crashes(Staged):
    def test_one_killed_backend_loses_what_is_staged_and_every_status_is_true(self):
        random = seeded("kills of a backend")
        server = WORLD.server(settings=PATIENT)
        stager = Stager(self, server, "backend")
        total = {}
        with Faults("kill -9 of a backend while batches are staged") as faults:
            for number in range(ROUNDS):
                # In every other round nothing is flushed before the kill.
                hold = held() if number % 2 == 0 else contextlib.nullcontext()
                with contextlib.suppress(BrokenPipeError):
                    with hold:
                        self.assertEqual(stager.send("staged"), 202)
                        kill_at = random.randrange(BATCHES)
                        for at in range(BATCHES):
                            stager.send()
                            if at == kill_at:
                                time.sleep(random.uniform(0, 0.15))
                                os.kill(random.choice(WORLD.postgres.backends("sheaf_writer")), signal.SIGKILL)
                                faults.inject()
                wait_until(answers, "PostgreSQL has recovered")
                wait_until(lambda: stager.send("durable") == 200, "durable writes go on")
                for state, count in stager.settle(("durable", "lost")).items():
                    total[state] = total.get(state, 0) + count
                wait_until(lambda: stager.send("staged") == 202, "staging goes on")
        for state, count in stager.settle(("durable",)).items():
            total[state] = total.get(state, 0) + count
        print(f"after {ROUNDS} kills: {total}, {stager.check()} rows")
        self.assertGreater(total.get("lost", 0), 0, "nothing was lost: the kills came too late")
        self.assertGreater(total["durable"], 0)

    def test_a_crash_of_postgresql_loses_what_is_staged_and_says_so(self):
        server = WORLD.server(settings=PATIENT)
        stager = Stager(self, server, "immediate")
        self.assertEqual(stager.send("durable"), 200)
        with Faults("crash of PostgreSQL with staged rows") as faults:
            with contextlib.suppress(BrokenPipeError):
                with held():
                    for _ in range(BATCHES):
                        self.assertEqual(stager.send(), 202)
                    self.assertEqual(waiting(), BATCHES)
                    lost, _ = send_keyed(server)
                    self.assertEqual(send_keyed(server), (lost, "true"))
                    WORLD.postgres.crash()
                    faults.inject()
            WORLD.postgres.start()
            self.assertEqual(stager.settle(("lost",)), {"lost": BATCHES})
        wait_until(lambda: waiting() == 0, "the loss is written down")
        wait_until(lambda: stager.send() == 202, "staging goes on")
        self.assertEqual(stager.settle(("durable",)), {"durable": 1})
        stager.check()
        batch, replayed = wait_until(lambda: send_keyed(server), "the lost request is staged again")
        self.assertEqual((batch != lost, replayed), (True, None))
        wait_until(lambda: stager.look(batch)[0] == "durable", "it is flushed")
        self.assertEqual(stager.look(lost)[0], "lost")
        self.assertEqual(send_keyed(server), (batch, "true"))
        self.assertEqual(len(WORLD.postgres.events("keyed")), 1)

    def test_the_server_and_postgresql_crash_together_and_nobody_is_told_a_lie(self):
        server = WORLD.plan(settings=PATIENT).start()
        stager = Stager(self, server, "both")
        with Faults("crash of the server and of PostgreSQL with staged rows") as faults:
            with contextlib.suppress(BrokenPipeError):
                with held():
                    for _ in range(BATCHES):
                        self.assertEqual(stager.send(), 202)
                    WORLD.postgres.crash()
                    server.kill()
                    faults.inject()
            WORLD.postgres.start()
            server.start()
            found = stager.settle(("lost", "unknown"))
            print(f"after both have crashed: {found}")
        stager.check()


class Restarts(Staged):
    def stage(self, name):
        """A server that is killed with staged rows."""
        server = WORLD.plan(settings=PATIENT).start()
        stager = Stager(self, server, name)
        for _ in range(BATCHES):
            self.assertEqual(stager.send(), 202)
        self.assertEqual(waiting(), BATCHES)
        server.kill()
        return server, stager

    def assert_flushed_once(self, server, stager):
        self.assertEqual(waiting(), BATCHES, "what is staged is still there")
        server.start()
        self.assertEqual(stager.settle(("durable",)), {"durable": BATCHES})
        self.assertEqual(stager.check(), BATCHES * EVENTS)

    def test_a_clean_restart_of_postgresql_keeps_what_is_staged_and_it_is_flushed_once(self):
        with Faults("restart of PostgreSQL with staged rows") as faults:
            with contextlib.suppress(BrokenPipeError):
                with held():
                    server, stager = self.stage("clean")
                    WORLD.postgres.stop(signal.SIGINT)
                    faults.inject()
            WORLD.postgres.start()
            self.assert_flushed_once(server, stager)

    def test_what_a_killed_server_has_staged_the_next_one_flushes_once(self):
        with Faults("kill -9 of the server with staged rows") as faults:
            with held():
                server, stager = self.stage("killed")
                faults.inject()
                # Else its flushes, which wait for the locks, might end after it.
                WORLD.postgres.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'sheaf_writer'")
                wait_until(lambda: not WORLD.postgres.backends("sheaf_writer"), "its connections are gone")
            self.assert_flushed_once(server, stager)

    def test_sigterm_flushes_what_is_staged_before_the_end(self):
        server = WORLD.plan(settings={"staging": {"age_max": "1h", "flush_every": "1m"}}).start()
        stager = Stager(self, server, "sigterm")
        with Faults("SIGTERM with staged rows") as faults:
            for _ in range(BATCHES):
                self.assertEqual(stager.send(), 202)
            self.assertGreater(waiting(), 0)
            faults.inject()
            begun = time.monotonic()
            self.assertEqual(server.terminate(), 0)
            self.assertLess(time.monotonic() - begun, STOP_WITHIN_SECONDS)
        self.assertEqual(waiting(), 0)
        server.start()
        self.assertEqual(stager.settle(("durable",)), {"durable": BATCHES})
        self.assertEqual(stager.check(), BATCHES * EVENTS)


class LostFlushes(Staged):
    """A flush has committed, and who asked for it does not know."""

    def setUp(self):
        self.proxy = Proxy(WORLD.postgres.port)
        self.addCleanup(self.proxy.close)
        # One that flushes: the next commit of a flush is that of the batches, and not of another that found nothing.
        settings = {"staging": {"age_max": "1h", "flushers": 1}}
        self.server = WORLD.plan(self.proxy.port, settings=settings).start()

    def lose_the_answer(self, action, stager):
        """Batches whose flush has committed, and whose answer is lost. How many."""
        self.assertEqual(stager.send("durable"), 200)
        with held():
            for _ in range(BATCHES):
                self.assertEqual(stager.send("staged"), 202)
            now = WORLD.postgres.value("SELECT clock_timestamp()")
            sql = "pg_stat_activity WHERE usename = 'sheaf_writer' AND wait_event = 'advisory' AND query LIKE '%stage_flush%'"
            sql += f" AND query_start > '{now}'"
            wait_until(lambda: WORLD.postgres.count(sql) == 1, "a flush has chosen all of them")
            self.assertEqual(waiting(), BATCHES)
            self.proxy.arm(action, "sheaf_writer", statement=b"stage_flush")
        wait_until(lambda: self.proxy.fired, "the flush has committed")
        self.assertEqual(waiting(), 0, "the flush has committed")
        return self.proxy.fired

    def assert_once(self, stager, allowed=("durable",), sent_durably=1):
        """Each batch is what its status says: nothing is there of a lost one, and no event of a durable one twice."""
        found = stager.settle(allowed)
        self.assertEqual(stager.check(), (found.get("durable", 0) + sent_durably) * EVENTS)
        wait_until(lambda: waiting() == 0, "nothing waits")
        return found

    def test_a_flush_whose_commit_is_done_and_whose_answer_is_cut_off_is_done_once(self):
        stager = Stager(self, self.server, "cut")
        with Faults("connection cut between the commit of a flush and its answer") as faults:
            for _ in range(FLUSHES):
                for _ in range(self.lose_the_answer(CUT, stager)):
                    faults.inject()
        found = self.assert_once(stager, sent_durably=FLUSHES)
        self.assertEqual(found["durable"], FLUSHES * BATCHES)

    def test_a_server_that_is_killed_between_the_commit_of_a_flush_and_its_answer_leaves_it_done_once(self):
        stager = Stager(self, self.server, "unknowing")
        with Faults("kill -9 of the server between the commit of a flush and its answer") as faults:
            for _ in range(self.lose_the_answer(HOLD, stager)):
                faults.inject()
            self.server.kill()
            self.proxy.cut()
            self.proxy.heal()
            self.server.start()
            self.assertEqual(self.assert_once(stager), {"durable": BATCHES})

    def test_postgresql_that_crashes_between_the_commit_of_a_flush_and_its_answer_has_all_of_it_or_says_it_is_lost(self):
        with Faults("crash of PostgreSQL between the commit of a flush and its answer") as faults:
            for name, is_on_disk in (("gone", False), ("kept", True)):
                stager = Stager(self, self.server, name)
                self.lose_the_answer(HOLD, stager)
                if is_on_disk:
                    # A commit that waits for the disk waits for what was committed before it.
                    WORLD.postgres.rows("CREATE TABLE public.written_behind_it ()")
                WORLD.postgres.crash()
                faults.inject()
                self.proxy.cut()
                self.proxy.heal()
                WORLD.postgres.start()
                found = self.assert_once(stager, ("durable",) if is_on_disk else ("durable", "lost"))
                self.assertEqual(len(found), 1, "the flush was one transaction")
                print(f"after the crash: {found}")
                wait_until(lambda stager=stager: stager.send("staged") == 202, "staging goes on")
                stager.settle(("durable",))
                stager.check()


class Stuck(Staged):
    def send(self, server, name, ack):
        events = [{"type": "stuck", "id": name, "observed_at": "2024-05-01T00:00:00Z", "attributes": {"n": 1}}]
        body = json.dumps(events).encode()
        return server.call("POST", f"/v1/ingest?ack={ack}", body, {"Content-Type": "application/json"})

    def test_behind_a_stuck_flush_staged_writes_are_refused_or_durable_and_nobody_reads_what_is_staged(self):
        refusing = WORLD.server()
        turning = WORLD.server(settings={"staging": {"policy": "durable"}})
        names = [f"stuck-{number}" for number in range(8)]
        with Faults("flush that waits for a lock") as faults:
            with held() as session:
                batches = {}
                for name in names:
                    status, _, text = self.send(refusing, name, "staged")
                    self.assertEqual(status, 202, text)
                    batches[name] = json.loads(text)["batch_id"]
                # The lowest bucket stays locked, which a flush of several asks for first: everybody else goes on.
                sql = "SELECT buckets[1] FROM sheaf.staged_batches WHERE status = 'staged' ORDER BY staged_at"
                buckets = [int(row[0]) for row in WORLD.postgres.rows(sql)]
                lowest = min(buckets)
                stuck = names[buckets.index(lowest)]
                free = next(name for name, bucket in zip(names, buckets) if bucket > lowest)
                session.do(f"SELECT pg_advisory_unlock(24239, b.bucket) FROM {BUCKETS} WHERE b.bucket <> {lowest} \\g /dev/null")
                faults.inject()
                for server in (refusing, turning):
                    path = path_of("stuck", stuck)
                    self.assertEqual([server.call("GET", path + end)[0] for end in ("", "/history")], [404, 404])
                    self.assertEqual(server.get("/v1/entities", type="stuck", filter=f"external_id = '{stuck}'")["items"], [])
                    self.assertEqual(server.get("/v1/ingest/batches/" + batches[stuck])["status"], "staged")
                    wait_until(lambda server=server: self.send(server, free, "staged")[0] != 202, "the backlog is too old")
                status, headers, text = self.send(refusing, free, "staged")
                self.assertEqual((status, json.loads(text)["code"]), (503, "overloaded"))
                self.assertTrue(headers["Retry-After"])
                status, headers, text = self.send(turning, free, "staged")
                self.assertEqual((status, json.loads(text)["ack"]), (200, "durable"), text)
                self.assertTrue(headers["X-Consistency-Token"])
                for server in (refusing, turning):
                    self.assertEqual(self.send(server, free, "durable")[0], 200)
            for batch in batches.values():
                path = "/v1/ingest/batches/" + batch
                wait_until(lambda path=path: refusing.get(path)["status"] == "durable", "it is flushed")
            wait_until(lambda: self.send(refusing, stuck, "staged")[0] == 202, "staging goes on")
        for name in names:
            self.assertEqual(refusing.get(path_of("stuck", name))["attributes"], {"n": 1})


if __name__ == "__main__":
    if "--rounds" in sys.argv:
        place = sys.argv.index("--rounds")
        ROUNDS = int(sys.argv[place + 1])
        del sys.argv[place : place + 2]
    unittest.main(verbosity=2)
