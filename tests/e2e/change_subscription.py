"""Whoever follows the changes of a tenant gets every event of it at least once, in the order of commits, and nothing of others,
whatever dies; and goes on where it was."""

import collections
import http.client
import os
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server, entity_path  # noqa: E402
from support.database import wait_until  # noqa: E402
from support.faults import Faults, seeded  # noqa: E402
from support.following import Follower, Refused, Stream  # noqa: E402
from support.reads import metric, write  # noqa: E402
from support.world import World  # noqa: E402

ROUNDS = 6
WITHIN_SECONDS = 120
TIME = "2013-01-01T10:00:00Z"


def event(name, number, **more):
    second = f"{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}"
    return {"type": "device", "id": name, "observed_at": f"2013-01-01T{second}Z", "attributes": {"n": number, **more}}


def journal_of(world, name="journal"):
    return {"changes": {"journal": os.path.join(world.directory, name)}}


def follows(server):
    return metric(server, "sheaf_cdc_following", slot="sheaf_changes") == 1


def can_be_followed(server, key):
    try:
        Stream(server, key).close()
        return True
    except Refused:
        return False


class Writer(threading.Thread):
    """Writes one event after the other, each until it is stored, so that their order is that of their numbers."""

    def __init__(self, server, key, name):
        super().__init__(daemon=True)
        self.server, self.key, self.name = server, key, name
        self.written = 0
        self.stopping = threading.Event()

    def run(self):
        while not self.stopping.is_set():
            if self.store(event(self.name, self.written)):
                self.written += 1

    def store(self, one):
        try:
            status, _ = self.server.ingest([one], {"Idempotency-Key": f"{self.name}-{self.written}"}, key=self.key)
            return status == 200
        except (OSError, ValueError, http.client.HTTPException):
            time.sleep(0.05)
            return False

    def stop(self):
        self.stopping.set()
        self.join()


class ChangeSubscription(unittest.TestCase):
    def test_a_server_of_a_developer_is_followed_without_any_configuration(self):
        server = Server()
        try:
            wait_until(lambda: can_be_followed(server, server.key), "changes can be followed", WITHIN_SECONDS)
            other = server.create_tenant("other")
            path = entity_path("plane", "N14228")
            write(server, path, {"speed": 300}, observed_at="2012-01-01T10:00:00Z")
            with Stream(server, server.key) as mine, Stream(server, other) as theirs:
                token = write(server, path, {"seats": 149, "speed": None}, observed_at=TIME)
                change = mine.take(1)[0]
                ingested_at = change.pop("ingested_at")
                self.assertTrue(ingested_at.endswith("Z"))
                wanted = {"type": "plane", "id": "N14228", "observed_at": TIME, "attributes": {"seats": 149, "speed": None}}
                self.assertEqual(change, wanted)
                server.ingest([event("theirs", 1)], key=other)
                self.assertEqual(theirs.take(1)[0]["id"], "theirs", "the first that comes")
            # Through a restart: what was committed after the token, and nothing else.
            server.ingest([event("later", 1)])
            self.assertEqual(server.terminate(), 0)
            server.start()
            wait_until(lambda: can_be_followed(server, server.key), "changes can be followed again", WITHIN_SECONDS)
            server.ingest([event("last", 1)])
            with Stream(server, server.key, since=token) as stream:
                self.assertEqual([change["id"] for change in stream.take(2)], ["later", "last"])
        finally:
            server.stop()

    def test_nothing_is_missed_and_nothing_is_anothers_through_kills_of_the_server(self):
        random = seeded("change subscription")
        with World() as world:
            server = world.server(settings=journal_of(world))
            wait_until(lambda: can_be_followed(server, world.key), "changes can be followed", WITHIN_SECONDS)
            keys = {"mine": world.key, "theirs": world.other_key}
            followers, writers = {}, {}
            for name, key in keys.items():
                with Stream(server, key) as stream:
                    followers[name] = Follower(server, key, stream.token)
                writers[name] = Writer(server, key, name)
            for thread in (*followers.values(), *writers.values()):
                thread.start()
            with Faults("kill -9 of a server that is followed") as faults:
                for round_number in range(ROUNDS):
                    seen = {name: len(follower.received) for name, follower in followers.items()}
                    wait_until(lambda seen=seen: all(len(followers[name].received) > seen[name] for name in keys), "more comes", WITHIN_SECONDS)
                    time.sleep(random.random())
                    if round_number % 2:
                        server.stop()
                    else:
                        server.process.terminate()
                        server.process.wait(60)
                    faults.inject()
                    server.start()
            for name in keys:
                writers[name].stop()
                total = writers[name].written
                self.assertGreater(total, ROUNDS)
                follower = followers[name]
                numbers = lambda follower=follower: {change["attributes"]["n"] for change in follower.received}
                wait_until(lambda total=total, numbers=numbers: len(numbers()) >= total, "everything has come", WITHIN_SECONDS)
                follower.stop()
                self.assertEqual({change["id"] for change in follower.received}, {name}, "of this tenant alone")
                first_time = list(dict.fromkeys(change["attributes"]["n"] for change in follower.received))
                self.assertEqual(first_time, sorted(first_time), "in the order of commits")
                self.assertEqual(numbers() - set(range(total + 1)), set())
                codes = collections.Counter(bye["code"] for bye in follower.byes)
                self.assertEqual(set(codes), {"shutdown"})
                again = len(follower.received) - len(first_time)
                print(f"{name}: {total} events, {again} of them again, {follower.connected} connections, farewells {dict(codes)}")
                self.assertLessEqual(again, follower.connected, "of a transaction of one event nothing comes twice, but where it was cut off")

    def test_one_of_several_servers_is_followed_and_the_next_one_after_it(self):
        with World() as world:
            servers = [world.server(settings=journal_of(world, f"journal-{number}")) for number in range(2)]
            wait_until(lambda: any(follows(server) for server in servers), "one follows", WITHIN_SECONDS)
            (first, second) = servers if follows(servers[0]) else reversed(servers)
            wait_until(lambda: can_be_followed(first, world.key), "it can be followed", WITHIN_SECONDS)
            with self.assertRaises(Refused) as refused:
                Stream(second, world.key)
            self.assertEqual((refused.exception.status, refused.exception.code), (503, "changes_unavailable"))
            with Stream(first, world.key) as stream:
                second.ingest([event("through the other", 1)])
                self.assertEqual(stream.take(1)[0]["id"], "through the other")
            with Faults("kill -9 of the server that is followed") as faults:
                first.stop()
                faults.inject()
            wait_until(lambda: can_be_followed(second, world.key), "the other one takes over", WITHIN_SECONDS)
            with Stream(second, world.key) as stream:
                second.ingest([event("after it", 1)])
                self.assertEqual(stream.take(1)[0]["id"], "after it")

    def test_a_database_that_dies_ends_no_subscription(self):
        with World() as world:
            server = world.server(settings=journal_of(world))
            wait_until(lambda: can_be_followed(server, world.key), "changes can be followed", WITHIN_SECONDS)
            with Stream(server, world.key, timeout=WITHIN_SECONDS) as stream:
                server.ingest([event("before", 1)])
                self.assertEqual(stream.take(1)[0]["id"], "before")
                with Faults("crash of PostgreSQL under subscriptions") as faults:
                    world.postgres.kill()
                    world.postgres.start()
                    faults.inject()
                wait_until(server.is_ready, "the server is ready again", WITHIN_SECONDS)
                wait_until(lambda: server.ingest([event("after", 2)])[0] == 200, "it stores again", WITHIN_SECONDS)
                self.assertEqual(stream.take(1)[0]["id"], "after")


if __name__ == "__main__":
    unittest.main(verbosity=2)
