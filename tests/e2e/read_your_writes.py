"""A write, then a read with its token somewhere else: never stale, whoever answers.

    read_your_writes.py --pairs 1000000     the long form
"""

import collections
import http.client
import os
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults, seeded  # noqa: E402
from support.reads import Line, read  # noqa: E402
from support.replica import sources  # noqa: E402
from support.world import World  # noqa: E402

WORLD = None
SERVERS = []
# Each write with each of its reads.
PAIRS = 6_000
READS = 3
CLIENTS = 4
ENTITIES = 25
# What has to have answered some of the reads.
REPLICAS = ("replica:one", "replica:two")


def setUpModule():
    global WORLD
    WORLD = World()
    unittest.addModuleCleanup(WORLD.close)
    replicas = [WORLD.replica(name) for name in ("one", "two")]
    redis = WORLD.redis()
    settings = {**sources(*replicas, direct=True), "redis": {"url": redis.url()}}
    SERVERS.extend(WORLD.server(settings=settings) for _ in range(2))
    # One that has no replicas, and remembers what the primary says.
    SERVERS.append(WORLD.server(settings={"redis": {"url": redis.url()}}))


class Pairs(threading.Thread):
    """Writes at one server and reads at another, by id and by filter, at once and again."""

    def __init__(self, number, writes, random):
        super().__init__(daemon=True)
        self.number, self.writes, self.random = number, writes, random
        self.lines = [Line(server.port, WORLD.key) for server in SERVERS]
        self.sources = collections.Counter()
        self.seconds = []
        self.stale = []
        self.refused = []

    def run(self):
        for count in range(self.writes):
            try:
                self.write(count)
            except (OSError, http.client.HTTPException, KeyError, IndexError) as error:
                self.stale.append(f"write {count}: {error!r}")
        for line in self.lines:
            line.close()

    def write(self, count):
        name = f"e{self.number}-{self.random.randrange(ENTITIES)}"
        path = f"/v1/entities/pair/{name}"
        answer = self.random.choice(self.lines).send("PATCH", path, {"attributes": {"n": count}})
        if answer.status not in (200, 201):
            self.refused.append(answer.shown())
            return
        token = written = answer.document()["token"]
        for again in range(READS):
            line = self.random.choice(self.lines)
            # Without a level it is `session`; the others honour the token as well.
            query = self.random.choice([{}, {}, {"consistency": "eventual"}, {"consistency": "analytics"}])
            if self.random.random() < 0.7:
                answer = line.read(path, token, **query)
                found = [answer.document()] if answer.status == 200 else []
            else:
                answer = line.read("/v1/entities", token, type="pair", filter=f"external_id = '{name}'", **query)
                found = answer.document()["items"] if answer.status == 200 else []
            if answer.status not in (200, 404):
                self.refused.append(answer.shown())
                continue
            if not found or found[0]["attributes"]["n"] != count:
                self.stale.append(f"write {count} of {name}, read {again}: {answer.shown()}")
            self.sources[answer.source] += 1
            self.seconds.append(answer.seconds)
            # On from there, or once more from the write.
            token = self.random.choice([answer.token, written])


class ReadYourWrites(unittest.TestCase):
    def test_a_read_with_a_token_is_never_stale_whoever_answers(self):
        def all_used():
            found = {read(SERVERS[0], "/v1/entities", type="none", consistency="eventual").source for _ in range(10)}
            return found >= set(REPLICAS)

        wait_until(all_used, "both replicas are used", 60)
        random = seeded("pairs")
        clients = [Pairs(number, PAIRS // CLIENTS // READS, type(random)(random.random())) for number in range(CLIENTS)]
        begun = time.monotonic()
        with Faults("write read back with its token elsewhere") as faults:
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            total = sum((client.sources for client in clients), collections.Counter())
            faults.inject(total.total())
        seconds = sorted(second for client in clients for second in client.seconds)
        print(
            f"{total.total()} pairs of a write and a read in {time.monotonic() - begun:.0f} s, answered by {dict(total)};"
            f" p50 {seconds[len(seconds) // 2] * 1000:.1f} ms, p99 {seconds[len(seconds) * 99 // 100] * 1000:.1f} ms"
        )
        self.assertEqual([problem for client in clients for problem in client.stale][:5], [])
        self.assertEqual([problem for client in clients for problem in client.refused][:5], [])
        for source in REPLICAS:
            self.assertGreater(total[source], 0, f"{source} has answered")
        self.assertGreater(total["cache"] + total["redis"], 0, "a cache has answered")


if __name__ == "__main__":
    if "--pairs" in sys.argv:
        place = sys.argv.index("--pairs")
        PAIRS = int(sys.argv[place + 1])
        del sys.argv[place : place + 2]
    unittest.main(verbosity=2)
