"""Writers that meet: two servers that take the same entities in crossed order, a deadlock that PostgreSQL resolves against
us, and two hundred clients on one entity."""

import os
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults, seeded  # noqa: E402
from support.instants import micros_of  # noqa: E402
from support.load import assert_sound  # noqa: E402
from support.world import World  # noqa: E402

WORLD = None
SERVERS = []
SHARED = 40
HOT_WRITERS, HOT_WRITES = 200, 3
# Of a single edit beside the hot entity. Far from what it takes, and far from waiting for all of the others.
ASIDE_SECONDS_MAX = 5


def setUpModule():
    global WORLD, SERVERS
    WORLD = World(settings={"deadlock_timeout": "500ms"})
    SERVERS = [WORLD.server() for _ in range(2)]


def tearDownModule():
    WORLD.close()


def deadlocks():
    return int(WORLD.postgres.value("SELECT deadlocks FROM pg_stat_database WHERE datname = 'sheaf'"))


def run_all(targets):
    threads = [threading.Thread(target=target, args=arguments) for target, *arguments in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)


class Conflicts(unittest.TestCase):
    def test_two_servers_that_take_the_same_entities_in_crossed_order_do_not_meet_in_a_deadlock(self):
        source = seeded("orders of entities")
        before = deadlocks()
        writers, batches = 4, 15
        spans, failures = [], []

        def write(writer, orders):
            for number, order in enumerate(orders):
                at = f"2024-05-01T{writer:02}:{number:02}:00Z"
                events = [{"type": "crossed", "id": f"e{n}", "observed_at": at, "attributes": {"n": writer}} for n in order]
                begun = time.monotonic()
                status, answer = SERVERS[writer % 2].ingest(events)
                spans.append((writer, begun, time.monotonic()))
                if (status, answer.get("accepted")) != (200, SHARED):
                    failures.append((status, answer))

        with Faults("batches of two servers that ran at the same time on the same entities") as faults:
            work = []
            for writer in range(writers):
                order = list(range(SHARED))
                orders = []
                for _ in range(batches):
                    source.shuffle(order)
                    orders.append(list(order))
                work.append((write, writer, orders))
            run_all(work)
            faults.inject(sum(
                one % 2 != other % 2 and max(b1, b2) < min(e1, e2) for one, b1, e1 in spans for other, b2, e2 in spans if one < other
            ))  # fmt: skip
        self.assertEqual(failures[:3], [])
        self.assertEqual(len(WORLD.postgres.events("crossed")), writers * batches * SHARED)
        self.assertEqual(deadlocks(), before, "nothing had to be resolved by PostgreSQL")
        assert_sound(self, SERVERS[0])

    def test_a_deadlock_that_is_resolved_against_the_server_costs_a_second_run_and_nothing_else(self):
        database = WORLD.postgres
        events = [
            {"type": "dead", "id": name, "observed_at": "2024-05-01T00:00:00Z", "attributes": {"n": 0}} for name in ("a", "b")
        ]
        self.assertEqual(SERVERS[0].ingest(events)[0], 200)
        ids = database.rows("SELECT entity_id FROM sheaf.entities WHERE entity_type = 'dead' ORDER BY entity_id")
        (first,), (second,) = ids
        lock = "SELECT entity_id FROM sheaf.entity_jsonb WHERE entity_id = {} FOR UPDATE;"
        with Faults("deadlock resolved against the server") as faults:
            for number in range(2):
                before = deadlocks()
                with database.session() as session:
                    # It never looks for the deadlock itself, so that the server is the one that does, and pays.
                    session.do("BEGIN; SET LOCAL deadlock_timeout = '1h';" + lock.format(second))
                    answers = []
                    for event in events:
                        event.update(observed_at=f"2024-05-02T00:00:0{number}Z", attributes={"n": number + 1})
                    writer = threading.Thread(target=lambda: answers.append(SERVERS[0].ingest(events)))
                    writer.start()
                    database.wait_for_waiters()
                    session.say(lock.format(first) + "COMMIT;")
                writer.join(60)
                status, answer = answers[0]
                self.assertEqual((status, answer["accepted"]), (200, 2), answer)
                wait_until(lambda: deadlocks() > before, "PostgreSQL has counted the deadlock")
                faults.inject(deadlocks() - before)
        self.assertEqual(len(database.events("dead")), 6)
        assert_sound(self, SERVERS[0])

    def test_two_hundred_writers_on_one_entity_lose_nothing_and_leave_room_for_others(self):
        self.assertEqual(SERVERS[0].send("PATCH", "/v1/entities/hot/one", {"attributes": {"n": 0}})[0], 201)
        barrier = threading.Barrier(HOT_WRITERS + 1)
        others, statuses, done = [], [], threading.Event()

        def write(writer):
            barrier.wait()
            for number in range(HOT_WRITES):
                body = {"attributes": {"n": writer * 1000 + number + 1}}
                while True:
                    status, answer = SERVERS[writer % 2].send("PATCH", "/v1/entities/hot/one", body)
                    statuses.append(status)
                    if status not in (429, 503):
                        break
                    time.sleep(0.05)
                self.seen.append((answer["version"], answer["observed_at"], body["attributes"]["n"]))

        def aside():
            barrier.wait()
            number = 0
            while not done.is_set():
                begun = time.monotonic()
                edit = {"attributes": {"n": number}}
                while (status := SERVERS[0].send("PATCH", "/v1/entities/cold/one", edit)[0]) in (429, 503):
                    time.sleep(0.01)
                others.append((status, time.monotonic() - begun))
                number += 1

        self.seen = []
        beside = threading.Thread(target=aside)
        beside.start()
        with Faults("writers at the same time on one entity") as faults:
            run_all([(write, writer) for writer in range(HOT_WRITERS)])
            faults.inject(HOT_WRITERS)
        done.set()
        beside.join(60)
        self.assertLessEqual(set(statuses), {200, 429, 503})
        rows = SERVERS[1].get("/v1/entities/hot/one/history", corrections="true", limit=1000)["items"]
        # Times as text have no order: their last digits are absent where they are zero.
        stored = sorted((micros_of(row["observed_at"]), row["attributes"]["n"]) for row in rows)[1:]
        self.assertEqual(stored, sorted((micros_of(at), n) for _, at, n in self.seen), "each edit is a row, with the time that it was told")
        self.assertEqual(len(stored), HOT_WRITERS * HOT_WRITES)
        self.assertEqual(SERVERS[1].get("/v1/entities/hot/one")["attributes"]["n"], stored[-1][1])
        self.assertLessEqual({status for status, _ in others}, {200, 201})
        slowest = max(seconds for _, seconds in others)
        print(f"{len(statuses)} edits of the hot entity, {len(others)} beside it, the slowest in {slowest:.3f} s")
        self.assertLess(slowest, ASIDE_SECONDS_MAX)
        assert_sound(self, SERVERS[0])


if __name__ == "__main__":
    unittest.main(verbosity=2)
