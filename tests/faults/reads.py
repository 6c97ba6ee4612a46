"""Faults of replicas and caches at random under sessions, and no read may be wrong.

    cargo xtask faults --seed N --minutes M     runs it after run.py

Three servers, a primary that nothing happens to, two replicas, a Redis, sessions that write and read through all of it
(tests/e2e/support/sessions.py says what each answer is held to). The seed decides which faults come and when; each is printed
as it is injected. After each the sessions have to go on by themselves, and at the end every source shows the same.
"""

import argparse
import collections
import contextlib
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "e2e"))
from support.database import wait_until  # noqa: E402
from support.faults import schedule  # noqa: E402
from support.proxy import Proxy  # noqa: E402
from support.redis import RedisError  # noqa: E402
from support.replica import sources  # noqa: E402
from support.sessions import Sessions  # noqa: E402
from support.world import World  # noqa: E402

SESSIONS = 5
# What each session does between two faults, and how long that may take.
STEPS = 15
RECOVERY_SECONDS_MAX = 45


class Run:
    def __init__(self, world, seed):
        self.world = world
        self.replicas = [world.replica(name) for name in ("one", "two")]
        self.redis = world.redis()
        # Each server has a way of its own to Redis.
        self.ways = [world.keep(Proxy(self.redis.port)) for _ in range(3)]
        # The last has no replicas, so that it remembers what the primary says.
        reads_from = [sources(*self.replicas), sources(*self.replicas), {}]
        self.servers = [
            world.server(settings={**replicas, "redis": {"url": self.redis.url(way.port)}})
            for replicas, way in zip(reads_from, self.ways)
        ]
        self.sessions = Sessions(self.servers, world.key, seed, SESSIONS)
        self.injected = collections.Counter()

    def inject(self, fault):
        print(f"{fault.name} for {fault.seconds:.2f} s, choice {fault.choice:.3f}", flush=True)
        self.FAULTS[fault.name](self, fault)
        self.injected[fault.name] += 1
        self.heal()
        for server in self.servers:
            if not server.lives():
                raise AssertionError("a server ended by itself:\n" + server.log_text()[-3000:])
        self.sessions.wait_for(STEPS, RECOVERY_SECONDS_MAX)

    def heal(self):
        for replica in self.replicas:
            replica.heal()
        for way in self.ways:
            stalled = way.swallow_up or way.swallow_down
            way.heal()
            if stalled:
                way.cut()

    # Replicas.

    def replay_stands_still(self, fault):
        replica = fault.one_of(self.replicas)
        replica.pause()
        time.sleep(fault.seconds)
        replica.resume()

    def replay_is_late(self, fault):
        replica = fault.one_of(self.replicas)
        replica.apply_late("1500ms")
        time.sleep(fault.seconds)
        replica.apply_late("0")

    def replication_stalls(self, fault):
        fault.one_of(self.replicas).link.stall()
        time.sleep(fault.seconds)

    def replication_is_cut(self, fault):
        fault.one_of(self.replicas).link.cut()

    def replication_is_slow(self, fault):
        fault.one_of(self.replicas).link.delay = 0.05 + fault.choice
        time.sleep(fault.seconds)

    def replica_dies(self, fault):
        replica = fault.one_of(self.replicas)
        replica.kill()
        time.sleep(fault.seconds)
        replica.start()
        replica.wait_streaming()

    def replica_stands_still(self, fault):
        replica = fault.one_of(self.replicas)
        pids = replica.processes()
        self.signal(pids, signal.SIGSTOP)
        time.sleep(fault.seconds)
        self.signal(pids, signal.SIGCONT)

    def backend_of_a_replica_dies(self, fault):
        replica = fault.one_of(self.replicas)
        backends = replica.backends("sheaf_app") + replica.backends("sheaf_search")
        if backends:
            self.signal([fault.one_of(backends)], signal.SIGKILL)
        wait_until(lambda: self.takes_reads(replica), "the replica recovers", RECOVERY_SECONDS_MAX)

    def takes_reads(self, replica):
        with contextlib.suppress(AssertionError):
            return replica.value("SELECT 1") == "1"

    def way_to_a_replica_swallows(self, fault):
        fault.one_of(self.replicas).front.stall()
        time.sleep(fault.seconds)

    def replica_refuses(self, fault):
        front = fault.one_of(self.replicas).front
        front.refuse = True
        front.cut()
        time.sleep(fault.seconds)

    def replica_is_slow(self, fault):
        fault.one_of(self.replicas).front.delay = 0.01 + fault.choice * 0.3
        time.sleep(fault.seconds)

    # Redis and the way to it.

    def redis_dies(self, fault):
        self.redis.kill()
        time.sleep(fault.seconds)
        self.redis.start()

    def redis_stands_still(self, fault):
        with self.redis.standing_still():
            time.sleep(fault.seconds)

    def redis_is_emptied(self, fault):
        for _ in range(3):
            self.redis.call("FLUSHALL")
            time.sleep(fault.seconds / 3)

    def redis_is_full(self, fault):
        self.redis.call("CONFIG", "SET", "maxmemory-policy", "noeviction" if fault.choice < 0.5 else "allkeys-random")
        self.redis.call("CONFIG", "SET", "maxmemory", "1")
        time.sleep(fault.seconds)
        self.redis.call("CONFIG", "SET", "maxmemory", "0")

    def redis_ends_connections(self, _):
        for kind in ("normal", "pubsub"):
            # The connection that asks is one of them.
            with contextlib.suppress(OSError, RedisError):
                self.redis.call("CLIENT", "KILL", "TYPE", kind, "SKIPME", "no")

    def way_to_redis_swallows(self, fault):
        fault.one_of(self.ways).stall()
        time.sleep(fault.seconds)

    def way_to_redis_loses_answers(self, fault):
        fault.one_of(self.ways).swallow_down = True
        time.sleep(fault.seconds)

    def way_to_redis_is_slow(self, fault):
        fault.one_of(self.ways).delay = 0.005 + fault.choice * 0.1
        time.sleep(fault.seconds)

    def server_dies(self, fault):
        """Perhaps between a commit and its invalidation."""
        server = fault.one_of(self.servers)
        self.sessions.strict = False
        server.kill()
        time.sleep(fault.seconds / 4)
        server.start()
        self.sessions.wait_for(STEPS, RECOVERY_SECONDS_MAX)
        self.sessions.strict = True

    FAULTS = {
        function.__name__: function
        for function in (
            replay_stands_still, replay_is_late, replication_stalls, replication_is_cut, replication_is_slow, replica_dies,
            replica_stands_still, backend_of_a_replica_dies, way_to_a_replica_swallows, replica_refuses, replica_is_slow,
            redis_dies, redis_stands_still, redis_is_emptied, redis_is_full, redis_ends_connections, way_to_redis_swallows,
            way_to_redis_loses_answers, way_to_redis_is_slow, server_dies,
        )
    }  # fmt: skip

    def signal(self, pids, what):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)

    def check(self):
        self.sessions.wait_converged(RECOVERY_SECONDS_MAX)
        self.sessions.check()
        answered = {what for what in self.sessions.counts if what.startswith("from ")}
        expected = {"from primary", *(f"from replica:{replica.name}" for replica in self.replicas)}
        if not expected < answered:
            raise AssertionError(f"reads were answered {answered}, and by no cache or not by all of {expected}")


def main():
    parser = argparse.ArgumentParser(description="Faults of replicas and caches at random under sessions.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--minutes", type=float, default=1.0)
    arguments = parser.parse_args()
    print(f"tests/faults/reads.py --seed {arguments.seed} --minutes {arguments.minutes:g}", flush=True)
    ends = time.monotonic() + 60 * arguments.minutes
    with World() as world:
        run = Run(world, arguments.seed)
        with run.sessions:
            run.sessions.wait_for(STEPS)
            for fault in schedule(arguments.seed, Run.FAULTS):
                if time.monotonic() + fault.wait > ends:
                    break
                time.sleep(fault.wait)
                run.inject(fault)
            run.sessions.wait_for(STEPS)
        run.check()
    for name, count in sorted(run.injected.items()):
        print(f"injected {name}: {count}")
    if not run.injected:
        sys.exit("no fault was injected")


if __name__ == "__main__":
    main()
