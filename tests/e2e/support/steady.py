"""Reads at a steady rate, whatever becomes of them, and whether what each shows is what it has to show.

When a read is due is fixed beforehand, so that a service that stands still is seen in every read that was due meanwhile, and
not in one. Each level has a process of its own; the writer is in that of the sessions, which read what it wrote.
"""

import contextlib
import dataclasses
import http.client
import itertools
import multiprocessing
import queue
import random
import threading
import time

from .clients import path_of
from .instants import SECOND, text_of
from .reads import Line
from .sessions import BOUNDS, EXCUSED, SLACK_SECONDS, Counter
from .tokens import Token, opened

ENTITIES = 300
# A second, in all: far from what two processors can do.
READS = {"eventual": 80, "session": 50, "strong": 50}
WRITES = 15
# Reads of one level that are under way at once at most. What is due beyond that waits, and that is seen in it.
UNDER_WAY_MAX = 64
# The longest that a read may take, whatever fails.
DEADLINE_SECONDS = 30.0
BROKEN = "broken_connection"
ENDS_WITHIN_SECONDS = 90


@dataclasses.dataclass
class Written:
    """A write; when it was acknowledged and its position are absent where it is not known whether it was stored."""

    entity: str
    number: int
    sent_at: float
    acked_at: float | None = None
    position: Token | None = None


@dataclasses.dataclass
class Shown:
    """A read, and what it was answered."""

    level: str
    entity: str
    due: float
    sent_at: float
    answered_at: float
    # The position of the token that it was sent with.
    token: Token | None
    status: int | None = None
    code: str | None = None
    retry_after: str | None = None
    source: str | None = None
    complete_until: float | None = None
    # What the entity says of itself.
    name: str | None = None
    number: int | None = None

    @property
    def seconds(self):
        """From when it was due; a refusal is no answer, however fast it comes."""
        return self.answered_at - self.due if self.status == 200 else float("inf")


class Reader:
    """All reads of one level, each made by whoever is free."""

    def __init__(self, level, ports, key, kind, writer=None):
        self.level, self.ports, self.key, self.kind = level, ports, key, kind
        self.writer = writer
        self.random = random.Random(f"{level} {kind}")
        self.due = queue.SimpleQueue()
        self.shown = []

    def run(self, begins, stopping):
        threads = [threading.Thread(target=self.work, daemon=True) for _ in range(UNDER_WAY_MAX)]
        for thread in threads:
            thread.start()
        for due in due_times(begins, READS[self.level], stopping):
            self.due.put((due, self.random.choice(self.ports), f"e{self.random.randrange(ENTITIES)}", self.random.random()))
        for _ in threads:
            self.due.put(None)
        for thread in threads:
            thread.join()

    def work(self):
        lines = {port: Line(port, self.key) for port in self.ports}
        while (task := self.due.get()) is not None:
            due, port, entity, choice = task
            self.shown.append(self.read(lines[port], due, entity, choice))
        for line in lines.values():
            line.close()

    def read(self, line, due, entity, choice):
        token = None
        if self.writer is not None:
            written, token = self.writer.last
            # A session looks at what it wrote, and at something else.
            entity = written if choice < 0.5 else entity
        position = opened(token) if token else None
        sent_at = time.time()
        try:
            answer = line.read(path_of(self.kind, entity), token, consistency=self.level)
        except (OSError, http.client.HTTPException):
            return Shown(self.level, entity, due, sent_at, time.time(), position, code=BROKEN)
        shown = Shown(self.level, entity, due, answer.sent_at, answer.answered_at, position, answer.status)
        if answer.status == 200:
            attributes = answer.document()["attributes"]
            shown.name, shown.number = attributes["name"], attributes["n"]
            shown.source, shown.complete_until = answer.source, answer.complete_until
        else:
            shown.code, shown.retry_after = answer.code(), answer.header("Retry-After")
        return shown


class Writer:
    """Writes one after the other, each with the next number of its entity."""

    def __init__(self, ports, key, kind, first):
        self.ports, self.key, self.kind = ports, key, kind
        self.random = random.Random(f"writer {kind}")
        # The entity and the token of the last write that was acknowledged, replaced as one.
        self.last = first
        self.numbers = dict.fromkeys((f"e{place}" for place in range(ENTITIES)), 1)
        self.written = []

    def run(self, begins, stopping):
        lines = [Line(port, self.key) for port in self.ports]
        for _ in due_times(begins, WRITES, stopping):
            self.write(self.random.choice(lines), f"e{self.random.randrange(ENTITIES)}")
        for line in lines:
            line.close()

    def write(self, line, entity):
        self.numbers[entity] += 1
        number = self.numbers[entity]
        written = Written(entity, number, time.time())
        self.written.append(written)
        # Each later than the one before, also where that is stored after it.
        body = {"attributes": attributes_of(entity, number), "observed_at": text_of(int(written.sent_at * SECOND))}
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer = line.send("PATCH", path_of(self.kind, entity), body)
            if answer.status in (200, 201):
                written.acked_at, written.position = answer.answered_at, opened(answer.token)
                self.last = (entity, answer.token)


def due_times(begins, a_second, stopping):
    """The instants, each when it has come."""
    for count in itertools.count():
        due = begins + count / a_second
        if stopping.wait(max(0.0, due - time.time())):
            return
        yield due


def attributes_of(entity, number):
    # As large as an entity usually is.
    return {"n": number, "name": entity, "text": "x" * 100, **{f"a{place}": place for place in range(7)}}


def run_level(pipe, level, ports, key, kind, first):
    """The process of a level: told when to begin, and that it is to end; gives what it has seen."""
    writer = Writer(ports, key, kind, first) if level == "session" else None
    reader = Reader(level, ports, key, kind, writer)
    stopping = threading.Event()
    pipe.send("ready")
    begins = pipe.recv()
    threads = [threading.Thread(target=part.run, args=(begins, stopping)) for part in (reader, writer) if part is not None]
    for thread in threads:
        thread.start()
    # Or whoever wanted it has ended.
    with contextlib.suppress(EOFError):
        pipe.recv()
    stopping.set()
    for thread in threads:
        thread.join()
    pipe.send((reader.shown, writer.written if writer else []))


class Load:
    """Reads and writes while the block runs; afterwards `shown` and `written`. `kind` is another one each time."""

    def __init__(self, servers, key, kind):
        self.servers, self.key, self.kind = servers, key, kind
        self.shown, self.written = [], []
        self.processes = []

    def __enter__(self):
        ports = [server.port for server in self.servers]
        first = self.introduce()
        context = multiprocessing.get_context("spawn")
        for level in READS:
            pipe, other = context.Pipe()
            process = context.Process(target=run_level, args=(other, level, ports, self.key, self.kind, first), daemon=True)
            process.start()
            other.close()
            self.processes.append((process, pipe))
        for _, pipe in self.processes:
            pipe.recv()
        begins = time.time() + 0.1
        for _, pipe in self.processes:
            pipe.send(begins)
        return self

    def introduce(self):
        """Every entity, with the number 1; an entity and a token that covers all."""
        sent_at = time.time()
        names = [f"e{place}" for place in range(ENTITIES)]
        observed_at = text_of(int(sent_at * SECOND))
        shared = {"type": self.kind, "observed_at": observed_at}
        events = [{**shared, "id": name, "attributes": attributes_of(name, 1)} for name in names]
        status, answer = self.servers[0].ingest(events)
        if status != 200:
            raise AssertionError(f"introducing {self.kind}: {status} {answer}")
        position, acked_at = opened(answer["token"]), time.time()
        self.written = [Written(name, 1, sent_at, acked_at, position) for name in names]
        return names[0], answer["token"]

    def __exit__(self, kind, *_):
        for _, pipe in self.processes:
            with contextlib.suppress(OSError):
                pipe.send("end")
        for process, pipe in self.processes:
            if kind is None:
                if not pipe.poll(ENDS_WITHIN_SECONDS):
                    raise AssertionError("a process of readers does not end")
                shown, written = pipe.recv()
                self.shown += shown
                self.written += written
            process.join(ENDS_WITHIN_SECONDS)


@dataclasses.dataclass(frozen=True)
class Promotion:
    """When the old primary was ended, the timeline of the new one, and up to where that has what the old one had."""

    ended_at: float
    timeline: int
    lsn: int

    def left_behind(self, position):
        return position.timeline < self.timeline and position.lsn > self.lsn


def problems(shown, written, promotion=None):
    """What is wrong with which reads: an answer that is older than it may be or says to be, that nobody wrote, or that is
    another's; a refusal without a known reason; one that took too long."""
    sent = {(each.entity, each.number): each.sent_at for each in written}
    before = counters(written, lambda position: promotion is None or position.timeline < promotion.timeline)
    # What the new primary does not have nobody can be shown any more.
    after = counters(written, lambda position: promotion is None or not promotion.left_behind(position))
    found = []
    for read in shown:
        is_after = promotion is not None and read.answered_at > promotion.ended_at
        is_new = promotion is not None and read.token is not None and read.token.timeline >= promotion.timeline
        known, of_token = (after if is_after else before)[read.entity], (after if is_new else before)[read.entity]
        why = wrong(read, known, of_token, sent) if read.status == 200 else refused(read, promotion)
        if read.answered_at - read.sent_at > DEADLINE_SECONDS:
            why = f"it took {read.answered_at - read.sent_at:.1f} s"
        if why:
            found.append((why, read))
    return found


def counters(written, has):
    """What was acknowledged of each entity in a history that has these positions."""
    found = {}
    for each in written:
        counter = found.setdefault(each.entity, Counter(each.entity))
        if each.position is not None and has(each.position):
            counter.acked.append((each.acked_at, each.position.lsn, each.number))
    return found


def refused(read, promotion):
    if read.status == 503 and read.code in EXCUSED and read.retry_after:
        return None
    is_old = promotion is not None and read.token is not None and read.token.timeline < promotion.timeline
    if is_old and (read.status, read.code) == (409, "stale_timeline"):
        return None
    return "no refusal that is known"


def wrong(read, known, of_token, sent):
    if read.name != read.entity:
        return "another entity"
    if not sent.get((read.entity, read.number), float("inf")) <= read.answered_at:
        return "nobody had written that"
    least = {"says that it is complete": known.acknowledged_before(read.complete_until)}
    if read.level == "strong":
        least["acknowledged before it was sent"] = known.acknowledged_before(read.sent_at)
    if read.level in BOUNDS:
        least["acknowledged too long before"] = known.acknowledged_before(read.sent_at - BOUNDS[read.level] - SLACK_SECONDS)
    if read.token is not None:
        least["in the token"] = of_token.reached_by(read.token.lsn)
    return " and ".join(f"{why}: {number}" for why, number in least.items() if number > read.number) or None
