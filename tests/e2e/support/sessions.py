"""Sessions that count up, read back, and know what they may not see.

Each session writes counters of its own and reads everybody's, over several servers, at every level. For each answer it is
known how old it may be at most:

- R1: a read with a token shows every write whose token is not beyond it.
- R2: reads in one session, each with the token of the one before, never go back.
- strong: everything that was acknowledged before the read was sent.
- a bound on the lag: everything that was acknowledged longer ago than that.
- X-Data-Timestamp: everything that was acknowledged before that instant, which is of the same clock.

And nothing shows what nobody sent. A counter is deleted at times; not being there is one of its states.
"""

import collections
import http.client
import itertools
import random
import threading
import time
import traceback

from .clients import path_of
from .database import wait_until
from .instants import SECOND, text_of
from .reads import Line
from .tokens import opened

KIND = "counter"
COUNTERS = 3
PAUSE_SECONDS = 0.004
# The most that an answer of a level may be behind, and what sampling and waiting may add to it on a busy machine.
BOUNDS = {"eventual": 3.0, "analytics": 300.0}
SLACK_SECONDS = 1.5
# Refusals that a fault of a replica or a cache may cause a read that does not ask for the primary.
EXCUSED = ("token_not_reached", "lag_exceeded", "overloaded", "database_unavailable")


class Counter:
    """What is known of one: every write that was sent, and what became of it. Guarded by the lock of all."""

    def __init__(self, name):
        self.name = name
        self.sent = 0
        # Writes that delete it; it begins as one that is not there.
        self.absent = {0}
        # (acknowledged at, position of its token, number), in this order.
        self.acked = []

    def acknowledged_before(self, instant):
        return max((number for at, _, number in self.acked if at < instant), default=0)

    def reached_by(self, lsn):
        return max((number for _, position, number in self.acked if position <= lsn), default=0)

    def state_of(self, number, least):
        """The oldest write, not older than `least`, that what was shown can be of; None if there is no such write."""
        if number is not None:
            return number if number >= least and number not in self.absent else None
        return min((place for place in self.absent if least <= place <= self.sent), default=None)


class Session(threading.Thread):
    def __init__(self, sessions, number, seed):
        super().__init__(daemon=True)
        self.all = sessions
        self.number = number
        self.random = random.Random(f"session {number} {seed}")
        self.lines = [Line(server.port, sessions.key) for server in sessions.servers]
        self.own = [Counter(f"{sessions.name}-{number}-{place}") for place in range(COUNTERS)]
        # The token and its position.
        self.held = (None, 0)
        # By counter: the oldest write that a read with the token may show.
        self.seen = {}
        self.done = 0

    def run(self):
        while not self.all.stopping.is_set():
            try:
                self.random.choices([self.write, self.read, self.adopt], [3, 9, 1])[0]()
            except (OSError, http.client.HTTPException) as error:
                self.all.count("broken connection")
                if self.all.strict:
                    self.all.problem(f"a connection to the server broke: {error!r}")
            except Exception:
                # An answer that has not its form.
                self.all.problem(traceback.format_exc())
            self.done += 1
            self.all.stopping.wait(PAUSE_SECONDS)
        for line in self.lines:
            line.close()

    def write(self):
        counter = self.random.choice(self.own)
        with self.all.lock:
            deletes = counter.sent not in counter.absent and self.random.random() < 0.1
            counter.sent += 1
            number = counter.sent
            if deletes:
                counter.absent.add(number)
        path, line = path_of(KIND, counter.name), self.random.choice(self.lines)
        # Each later than the one before, also of those whose outcome is not known.
        observed_at = text_of(int(time.time() * SECOND))
        if deletes:
            answer = line.send("DELETE", f"{path}?observed_at={observed_at}")
        else:
            attributes = {"n": number, "name": counter.name}
            answer = line.send("PATCH", path, {"attributes": attributes, "observed_at": observed_at})
        self.all.count(f"write {answer.status}")
        if answer.status not in (200, 201, 204):
            # Of a write before, whose outcome was not known, nothing may be there to delete.
            if self.all.strict and not (deletes and answer.status == 404):
                self.all.problem(f"write {number} of {counter.name}: {answer.shown()}")
            return
        position = opened(answer.token)
        with self.all.lock:
            counter.acked.append((answer.answered_at, position.lsn, number))
        self.learn(answer.token, position.lsn, counter, number)

    def learn(self, token, lsn, counter, number):
        """A token covers what came with it; one that is not older than ours covers what ours did."""
        if lsn >= self.held[1]:
            self.held = (token, lsn)
            self.seen[counter.name] = max(self.seen.get(counter.name, 0), number)

    def adopt(self):
        """Goes on from where another session is, as a user does who was told of a change."""
        other = self.random.choice(self.all.members)
        # What its token covers is added after the token: what is copied before the token, the token covers.
        seen, held = dict(other.seen), other.held
        if held[1] >= self.held[1]:
            self.held = held
            for name, number in seen.items():
                self.seen[name] = max(self.seen.get(name, 0), number)

    def read(self):
        counter = self.random.choice(self.random.choice([self, *self.all.members]).own)
        level = self.random.choices(["strong", "session", "eventual", "analytics", "max_lag"], [2, 6, 4, 2, 2])[0]
        query = {"consistency": level}
        bound = BOUNDS.get(level)
        if level == "max_lag":
            bound = self.random.choice([0.5, 1.0, 3.0])
            query = {"consistency": "eventual", "max_lag": f"{int(bound * 1000)}ms"}
        # A token is honoured at every level.
        token, lsn = self.held if level == "session" or self.random.random() < 0.2 else (None, 0)
        if level == "session" and token is None:
            return
        seen = self.seen.get(counter.name, 0)
        with self.all.lock:
            acked_before = counter.acknowledged_before(time.time())
        shape = self.random.choices([self.by_id, self.by_filter, self.by_history], [6, 2, 2])[0]
        answer, number = shape(counter, self.random.choice(self.lines), token, query)
        name = shape.__name__
        self.all.count(f"{level} {answer.status}" if number is not Refused else f"{level} {answer.status} {answer.code()}")
        self.all.took(level, answer.seconds)
        if number is Refused:
            excused = answer.status == 503 and answer.code() in EXCUSED and answer.header("Retry-After")
            if not excused or level == "strong" and self.all.strict:
                self.all.problem(f"{name} of {counter.name} at {level}: {answer.shown()}")
            return
        self.all.count(f"from {answer.source}")
        self.check(counter, answer, number, (level, bound, acked_before), (token, lsn, seen), name)

    def check(self, counter, answer, number, asked, held, shape):
        level, bound, acked_before = asked
        token, lsn, seen = held
        least = {}
        with self.all.lock:
            if level == "strong":
                least["acknowledged before it was sent"] = acked_before
            if bound is not None:
                least[f"acknowledged {bound} s before"] = counter.acknowledged_before(answer.sent_at - bound - SLACK_SECONDS)
            if token is not None:
                least["in the token"] = counter.reached_by(lsn)
                least["seen before in this session"] = seen
            # A refusal says nothing of where it came from.
            if answer.header("X-Data-Timestamp"):
                least["before X-Data-Timestamp"] = counter.acknowledged_before(answer.complete_until)
            floor = max(least.values(), default=0)
            state = counter.state_of(number, floor)
            sent = counter.sent
        if state is None or state > sent:
            expected = {why: place for why, place in least.items() if place == floor}
            self.all.problem(
                f"{shape} of {counter.name} at {level} shows {number}, and at least {expected} of {sent} has to be there:"
                f" {answer.shown()}"
            )
            return
        if answer.token:
            position = opened(answer.token)
            if token is not None and position.lsn < lsn:
                self.all.problem(f"a read with a token of {lsn:x} gives one of {position.lsn:x}: {answer.shown()}")
            self.learn(answer.token, position.lsn, counter, state)

    # The shapes of reads: each gives the answer and the number that it shows, None where there is no counter.

    def by_id(self, counter, line, token, query):
        answer = line.read(path_of(KIND, counter.name), token, **query)
        if answer.status == 404:
            return answer, None
        return answer, answer.document()["attributes"]["n"] if answer.status == 200 else Refused

    def by_filter(self, counter, line, token, query):
        answer = line.read("/v1/entities", token, type=KIND, filter=f"external_id = '{counter.name}'", **query)
        # A name that the catalogue of this server does not have yet.
        if answer.status != 200:
            return answer, Refused
        items = answer.document()["items"]
        return answer, items[0]["attributes"]["n"] if items else None

    def by_history(self, counter, line, token, query):
        answer = line.read(path_of(KIND, counter.name) + "/history", token, order="desc", limit=1, **query)
        if answer.status == 404:
            return answer, None
        if answer.status != 200:
            return answer, Refused
        items = answer.document()["items"]
        return answer, items[0]["attributes"].get("n") if items else None


class Refused:
    """In place of a number: the answer shows none."""


class Sessions:
    """Run while the block runs; `check` fails with everything that was wrong. `strict`: nothing but replicas and caches is
    broken meanwhile, so that writes and strong reads always succeed. Whose counters have the same name must not be of the
    same tenant."""

    numbers = itertools.count()

    def __init__(self, servers, key, seed, count=6, strict=True, name=None):
        self.servers = servers
        self.key = key
        self.name = name or f"s{next(Sessions.numbers)}"
        self.strict = strict
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.problems = []
        self.counts = collections.Counter()
        self.seconds = collections.defaultdict(list)
        self.members = []
        self.members = [Session(self, number, seed) for number in range(count)]

    def __enter__(self):
        for session in self.members:
            session.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for session in self.members:
            session.join(90)
            if session.is_alive():
                raise AssertionError("a session does not end")

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def took(self, level, seconds):
        with self.lock:
            self.seconds[level].append(seconds)

    def problem(self, text):
        with self.lock:
            self.problems.append(text)

    def wait_for(self, more, within=60):
        """Until every session has done so much more."""
        wanted = {session: session.done + more for session in self.members}
        wait_until(lambda: all(session.done >= done for session, done in wanted.items()), "the sessions go on", within)

    def wait_for_source(self, source, within=60):
        """Until a read was answered from there that begins now."""
        before = self.counts[f"from {source}"]
        wait_until(lambda: self.counts[f"from {source}"] > before + 2, f"reads are answered by {source}", within)

    def slowest(self):
        return max((max(seconds) for seconds in self.seconds.values()), default=0.0)

    def report(self):
        shown = ", ".join(f"{what}: {count}" for what, count in sorted(self.counts.items()))
        print(f"sessions: {shown}; the slowest read took {self.slowest():.2f} s", flush=True)

    def check(self):
        self.report()
        if self.problems:
            shown = "\n".join(self.problems[:10])
            raise AssertionError(f"{len(self.problems)} answers are wrong:\n{shown}")

    def wait_converged(self, within=30):
        """After the sessions: what every server shows at every level is the same, and the newest there is."""
        counters = [counter for session in self.members for counter in session.own]
        lines = [Line(server.port, self.key) for server in self.servers]
        for counter in counters:
            path = path_of(KIND, counter.name)
            newest = lines[0].read(path, consistency="strong")
            for line in lines:
                for level in ("eventual", "analytics"):

                    def same(line=line, level=level):
                        answer = line.read(path, consistency=level)
                        # Two refusals differ by their numbers.
                        return answer.status == newest.status and (answer.status == 404 or answer.text == newest.text)

                    wait_until(same, f"{counter.name} at {level} is what the primary has: {newest.shown()}", within)
        for line in lines:
            line.close()
