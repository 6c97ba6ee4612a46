"""Both sides compared again and again while everything is written that there is to write: no look tells a difference.

    SHEAF_BIN=target/debug/sheaf target/venv/bin/python tests/e2e/reconcile_during_writes.py [--minutes 60] [--seed N]

Clients of two tenants merge, correct, replace, delete and report up to 400 days late; a part comes by staging. One partition is
archived meanwhile, so that what is late for it has a table of its own. Every look has to end with both sides found equal, or, a few
of them, with the reason why they could not be compared; at the end everything is read anew. What a look is worth is seen after
that: an event that no sink can take is no difference, and one that is removed by hand has to be found.
"""

import argparse
import collections
import json
import os
import random
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.clients import Clients  # noqa: E402
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.world import World, environment_without_settings  # noqa: E402

CLIENTS = 4
PAUSE_SECONDS = 0.15
STAGED_PAUSE_SECONDS = 0.5
WITHIN_SECONDS = 180
CLEAN, DIFFERENT, NOT_COMPARED = 0, 5, 6
# Short of these the run has shown little, and fails.
LOOKS_MIN = 6
COMPARED_SHARE_MIN = 0.8
# One look of so many reads everything.
FULL_EVERY = 7
ARCHIVED_BEFORE = "2023-09-01T00:00:00Z"
# Of an attribute that there is not: no sink can take it.
UNREADABLE = """INSERT INTO sheaf.entity_events SELECT tenant_id, entity_id, observed_at + interval '1 microsecond', 0, 'p', batch_id, now(),
    '{"9999999": 1}' FROM sheaf.entity_events ORDER BY observed_at DESC LIMIT 1"""


class Staging(threading.Thread):
    """Requests that are answered before they are durable; a flush writes them in subtransactions."""

    def __init__(self, server, seed):
        super().__init__(daemon=True)
        self.server = server
        self.random = random.Random(f"staging {seed}")
        self.stopping = threading.Event()
        self.events = 0

    def run(self):
        while not self.stopping.is_set():
            events = [
                {
                    "type": "staged",
                    "id": f"s{self.random.randrange(20)}",
                    "observed_at": f"2023-11-{1 + self.random.randrange(20):02}T{self.random.randrange(3):02}:00:00Z",
                    "attributes": {f"a{self.random.randrange(3)}": self.random.randrange(1000)},
                }
                for _ in range(10)
            ]
            status, _ = self.server.ingest(events, ack="staged")
            self.events += len(events) if status == 202 else 0
            self.stopping.wait(STAGED_PAUSE_SECONDS)


class Looks:
    def __init__(self, world, server):
        self.world = world
        self.server = server
        self.codes = collections.Counter()
        self.reasons = collections.Counter()
        self.read = collections.Counter()
        self.seconds = []

    def look(self, *arguments):
        command = [os.environ["SHEAF_BIN"], "reconcile", "--json", *arguments, *self.server.target()]
        begun = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, env=environment_without_settings(), check=False)
        if not done.stdout:
            raise AssertionError(f"nothing was told: {done.returncode} {done.stderr}")
        return done.returncode, json.loads(done.stdout), time.monotonic() - begun

    def look_while_writing(self):
        count = len(self.seconds)
        arguments = ["--settled-after", str((0, 0, 2)[count % 3])]
        if count % FULL_EVERY == FULL_EVERY - 1:
            arguments += ["--full", "--documents"]
        code, told, seconds = self.look(*arguments)
        if code not in (CLEAN, NOT_COMPARED):
            raise AssertionError(f"look {count + 1} {arguments}: {code} {json.dumps(told)}")
        self.codes[code] += 1
        self.reasons[told["reason"]] += told["reason"] is not None
        self.read.update(told["read"])
        self.seconds.append(seconds)

    def describe(self):
        seconds = sorted(self.seconds)
        print(
            f"{len(seconds)} looks while it was written: {self.codes[CLEAN]} found both sides equal, {self.codes[NOT_COMPARED]} could not "
            f"compare them {dict(+self.reasons)}; {seconds[0]:.1f} to {seconds[-1]:.1f} s, {seconds[len(seconds) // 2]:.1f} in the middle",
            flush=True,
        )
        names = ("events", "facts", "files", "partitions_whole", "partitions_new", "hours_drilled")
        print("read:", ", ".join(f"{self.read[name]} {name}" for name in names), flush=True)


def archive_one(world, server):
    """The oldest partition that is whole, so that late events of its time have a table of their own."""
    listed = world.command(server, "partition", "list", "--json")["partitions"]
    past = [one["name"] for one in listed if one["to"] < ARCHIVED_BEFORE]
    command = [os.environ["SHEAF_BIN"], "partition", "archive", past[0], "--wait", str(WITHIN_SECONDS), *server.target()]
    done = subprocess.run(command, capture_output=True, text=True, env=environment_without_settings(), check=False)
    if done.returncode != 0:
        raise AssertionError(f"{past[0]} is not archived: {done.stdout}{done.stderr}")


def run(world, minutes, seed):
    server = world.server(settings={"lake": {"location": os.path.join(world.directory, "lake")}})
    looks, staging = Looks(world, server), Staging(server, seed)

    def is_clean(*arguments):
        code, told, _ = looks.look(*arguments)
        if code == DIFFERENT:
            raise AssertionError(f"{arguments}: {json.dumps(told)}")
        return told if code == CLEAN and told["read"]["hours"] > 0 else None

    with Clients(world, [server.port], seed, CLIENTS, pause=PAUSE_SECONDS) as clients:
        clients.wait_for_acks(CLIENTS * 20)
        staging.start()
        wait_until(is_clean, "the lake has begun", WITHIN_SECONDS)
        ends = time.monotonic() + 60 * minutes
        archiving = threading.Thread(target=archive_one, args=(world, server), daemon=True)
        archiving.start()
        while time.monotonic() < ends or len(looks.seconds) < LOOKS_MIN or archiving.is_alive():
            looks.look_while_writing()
        staging.stopping.set()
        staging.join(WITHIN_SECONDS)
    looks.describe()
    events, corrected = (
        world.postgres.count(f"sheaf.entity_events{where}") for where in ("", " WHERE seq > 0")
    )
    late, archived = world.postgres.count("sheaf.entity_events_late"), world.postgres.count("sheaf.partition_archives WHERE state = 'dropped'")
    print(
        f"{clients.acked()} requests and {staging.events} staged events; {events} events, {corrected} of them of an instant that had one, "
        f"{late} late ones; {archived} partition archived",
        flush=True,
    )
    if clients.faults():
        raise AssertionError(f"answers that nothing excuses: {clients.faults()[:3]}")
    if archived != 1 or min(events, corrected, late, staging.events) == 0:
        raise AssertionError("something was never written")
    if looks.codes[CLEAN] < COMPARED_SHARE_MIN * len(looks.seconds):
        raise AssertionError("too few looks compared anything")

    told = wait_until(lambda: is_clean("--settled-after", "0", "--full", "--documents"), "all of it is equal", WITHIN_SECONDS)
    if told["read"]["events"] < events:
        raise AssertionError(f"not everything was read: {told}")
    # An event that waits as a dead letter is none that is missing.
    world.postgres.rows(UNREADABLE)
    wait_until(lambda: is_clean("--settled-after", "0", "--full")["read"]["unreadable"] == 1, "a letter is told as one", WITHIN_SECONDS)
    with Faults("event removed by hand") as faults:
        world.postgres.rows(
            "DELETE FROM sheaf.entity_events e USING (SELECT * FROM sheaf.entity_events ORDER BY ingested_at LIMIT 1) o "
            "WHERE (e.tenant_id, e.entity_id, e.observed_at, e.seq) = (o.tenant_id, o.entity_id, o.observed_at, o.seq)"
        )
        faults.inject()

        def is_found():
            code, told, _ = looks.look("--settled-after", "0", "--full")
            return code == DIFFERENT and told["differences"]["extra"] > 0

        wait_until(is_found, "it is found", WITHIN_SECONDS)


def main():
    parser = argparse.ArgumentParser(description="Both sides compared while they are written.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0.3)
    arguments = parser.parse_args()
    with World() as world:
        run(world, arguments.minutes, arguments.seed)


if __name__ == "__main__":
    main()
