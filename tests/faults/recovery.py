"""How long reads feel it when a replica or Redis fails, at each level; and none of them is wrong meanwhile.

    SHEAF_BIN=target/release/sheaf target/venv/bin/python tests/faults/recovery.py [--strict] [--fault NAME]..

Two servers that read from a primary and two replicas and share a Redis; reads by id at a steady rate, and a writer
(tests/e2e/support/steady.py). Each fault comes after some undisturbed seconds, lasts, and is ended. A fault is felt until the
last window of half a second in which the 99th percentile is above twice that of the undisturbed seconds; a refusal counts as
never answered. "nothing" is measured in the same way, and is what the machine adds by itself. It fails where an answer is wrong;
where a fault is felt for more than two seconds it says so, and fails with `--strict`.
"""

import argparse
import collections
import contextlib
import dataclasses
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "e2e"))
from support.database import wait_until  # noqa: E402
from support.proxy import Proxy  # noqa: E402
from support.reads import metric, read  # noqa: E402
from support.replica import sources  # noqa: E402
from support.steady import ENTITIES, READS, WRITES, Load, Promotion, problems  # noqa: E402
from support.tokens import lsn_of  # noqa: E402
from support.world import World  # noqa: E402

WINDOW_SECONDS, STEP_SECONDS = 0.5, 0.05
FACTOR = 2
FELT_SECONDS_MAX = 2.0
# Where undisturbed reads take longer or are refused, the machine has other work and there is nothing to compare with.
NORMAL_SECONDS_MAX = 0.1
SETTLED_WITHIN_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Spans:
    """Seconds: until reads are at their pace, undisturbed, with the fault, and after it."""

    before: float = 3.0
    undisturbed: float = 5.0
    fault: float = 10.0
    after: float = 5.0


class Run:
    def __init__(self, world):
        self.world = world
        # Things happen to the second, and to the way to the first.
        self.one, self.two = world.replica("one"), world.replica("two")
        self.redis = world.redis()
        self.way = world.keep(Proxy(self.redis.port))
        hosts = f"127.0.0.1:{world.postgres.port},127.0.0.1:{self.two.port}"
        settings = {
            "database": {"url": f"postgresql://{hosts}/sheaf"},
            "redis": {"url": self.redis.url(self.way.port)},
            **sources(self.one),
            **sources(self.two, direct=True),
        }
        self.servers = [world.server(settings=settings) for _ in range(2)]
        self.promotion = None

    def settle(self):
        """Until every server reads from both replicas and reaches Redis."""
        for server in self.servers:
            found = set()

            def used(server=server, found=found):
                found.add(read(server, "/v1/entities", type="none", consistency="eventual").source)
                return found >= {"replica:one", "replica:two"} and metric(server, "sheaf_cache_redis_up") == 1.0

            wait_until(used, f"the server at {server.port} uses everything", SETTLED_WITHIN_SECONDS)

    # Each is injected when its block begins, and ended when that ends.

    @contextlib.contextmanager
    def nothing(self):
        yield

    @contextlib.contextmanager
    def replica_killed(self):
        self.two.kill()
        yield
        self.two.start()
        self.two.wait_streaming()

    @contextlib.contextmanager
    def replica_stalled(self):
        pids = [self.two.process.pid, *self.two.processes()]
        send(pids, signal.SIGSTOP)
        yield
        send(pids, signal.SIGCONT)

    @contextlib.contextmanager
    def replica_lagging(self):
        self.two.pause()
        yield
        self.two.resume()

    @contextlib.contextmanager
    def way_to_replica_swallows(self):
        self.one.front.stall()
        yield
        self.one.heal()

    @contextlib.contextmanager
    def redis_killed(self):
        self.redis.kill()
        yield
        self.redis.start()

    @contextlib.contextmanager
    def redis_stopped(self):
        with self.redis.standing_still():
            yield

    @contextlib.contextmanager
    def redis_slow(self):
        self.way.delay = 0.05
        yield
        self.way.delay = 0.0

    @contextlib.contextmanager
    def redis_flushed(self):
        self.redis.call("FLUSHALL")
        yield

    @contextlib.contextmanager
    def redis_restarted(self):
        self.redis.kill()
        self.redis.start()
        yield

    @contextlib.contextmanager
    def replica_promoted(self):
        """In place of the primary, which is gone; the other replica follows it. There is no way back."""
        ended_at = time.time()
        self.world.postgres.crash()
        self.two.promote()
        self.one.link.lead_to(self.two.port)
        history = self.two.value("SELECT pg_read_file('pg_wal/00000002.history')")
        self.promotion = Promotion(ended_at, 2, lsn_of(history.split()[1]))
        yield

    # The last leaves nothing for others to happen to.
    FAULTS = (
        nothing, replica_killed, replica_stalled, replica_lagging, way_to_replica_swallows, redis_killed, redis_stopped, redis_slow,
        redis_flushed, redis_restarted, replica_promoted,
    )  # fmt: skip

    def measure(self, fault, spans):
        self.settle()
        with Load(self.servers, self.world.key, fault.__name__) as load:
            time.sleep(spans.before)
            begun = time.time()
            time.sleep(spans.undisturbed)
            injected = time.time()
            with fault(self):
                time.sleep(max(0.0, injected + spans.fault - time.time()))
                ended = time.time()
            time.sleep(spans.after)
            instants = begun, injected, ended, time.time()
        for server in self.servers:
            if not server.lives():
                raise AssertionError("a server ended by itself:\n" + server.log_text()[-3000:])
        return Measured(fault.__name__, load, instants, problems(load.shown, load.written, self.promotion))


def send(pids, what):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, what)


class Measured:
    """What a fault did to the reads of each level."""

    def __init__(self, name, load, instants, problems):
        self.name = name
        self.problems = problems
        self.levels = [Level(level, load.shown, instants, problems) for level in READS]

    def is_wrong(self):
        return bool(self.problems)

    def is_passed(self):
        return all(level.outcome() == "pass" for level in self.levels)

    def show(self):
        for level in self.levels:
            print(f"{self.name:<24}{level.row()}", flush=True)
        for why, shown in self.problems[:10]:
            print(f"WRONG: {why}: {shown}", flush=True)


class Level:
    HEADING = f"{'level':<10}{'reads':>6}{'p99':>8}{'worst':>9}{'felt':>7}{'after':>7}{'wrong':>6}  {'':<8}refused; answered by"

    def __init__(self, name, shown, instants, problems):
        begun, injected, ended, end = instants
        shown = [read for read in shown if read.level == name]
        self.name = name
        self.count = len(shown)
        self.wrong = sum(read.level == name for _, read in problems)
        self.normal = percentile([read.seconds for read in shown if begun <= read.due < injected])
        disturbed = [read for read in shown if injected <= read.due < end]
        self.worst = max((read.answered_at - read.due for read in disturbed), default=0.0)
        self.refused = collections.Counter(f"{read.status or ''} {read.code}".strip() for read in disturbed if read.status != 200)
        self.sources = collections.Counter(read.source for read in disturbed if read.source)
        self.felt = felt(disturbed, injected, ended, FACTOR * self.normal)
        self.felt_after = felt(disturbed, ended, end, FACTOR * self.normal)

    def outcome(self):
        if self.normal > NORMAL_SECONDS_MAX:
            return "void"
        return "pass" if max(self.felt, self.felt_after) <= FELT_SECONDS_MAX else "missed"

    def row(self):
        figures = f"{1000 * self.normal:>8.1f}{1000 * self.worst:>9.1f}{self.felt:>7.2f}{self.felt_after:>7.2f}{self.wrong:>6}"
        return f"{self.name:<10}{self.count:>6}{figures}  {self.outcome():<8}{self.answers()}"

    def answers(self):
        return f"{counted(self.refused)}; {counted(self.sources)}"


def counted(counter):
    return ", ".join(f"{what} {count}" for what, count in counter.most_common()) or "none"


def percentile(seconds):
    """The 99th, of fewer than 101 the second slowest: a single hiccup of the machine is no fault. The worst is told beside it."""
    ordered = sorted(seconds)
    return ordered[(len(ordered) - 1) * 99 // 100] if ordered else float("inf")


def felt(shown, begins, ends, limit):
    """How long it takes from then on until no window is beyond the limit any more."""
    last, window = begins, begins
    while window < ends:
        due = [read.seconds for read in shown if window <= read.due < min(window + WINDOW_SECONDS, ends)]
        if due and percentile(due) > limit:
            last = window + STEP_SECONDS
        window += STEP_SECONDS
    return last - begins


def main():
    names = [fault.__name__ for fault in Run.FAULTS]
    parser = argparse.ArgumentParser(description="How long reads feel it when a replica or Redis fails.")
    parser.add_argument("--fault", action="append", choices=names, help="this one, and others that are named; else all")
    parser.add_argument("--strict", action="store_true", help=f"fail where one is felt for more than {FELT_SECONDS_MAX:g} s")
    arguments = parser.parse_args()
    rates = ", ".join(f"{rate} {level}" for level, rate in READS.items())
    print(f"{rates} reads and {WRITES} writes a second of {ENTITIES} entities on 2 servers")
    print(
        f"p99: of the undisturbed seconds before, ms, above {1000 * NORMAL_SECONDS_MAX:g} void; worst: of all since the fault, ms,"
        " from when a read was due"
    )
    print(
        f"felt: seconds from the injection until the p99 of {WINDOW_SECONDS:g} s stays at or below {FACTOR} x p99;"
        f" after: the same from the end of the fault; at most {FELT_SECONDS_MAX:g} s is a pass"
    )
    print(f"{'fault':<24}{Level.HEADING}", flush=True)
    with World() as world:
        run = Run(world)
        measured = []
        for fault in Run.FAULTS:
            if arguments.fault is None or fault.__name__ in arguments.fault:
                measured.append(run.measure(fault, Spans()))
                measured[-1].show()
    for each in measured:
        if each.name != "nothing":
            print(f"injected {each.name}: 1")
    if any(each.is_wrong() for each in measured):
        sys.exit("answers are wrong")
    if arguments.strict and not all(each.is_passed() for each in measured if each.name != "nothing"):
        sys.exit("a fault is felt for too long")


if __name__ == "__main__":
    main()
