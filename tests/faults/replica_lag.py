"""How long a read with the token of a write takes on a replica, beside how late the replica is.

    SHEAF_BIN=target/release/sheaf target/venv/bin/python tests/faults/replica_lag.py [--pairs N]

A client writes and waits for the answer. After every other write it reads the entity with the token, at a server that reads
from a replica; after the rest it asks the replica itself, again and again, until that shows the write: so late it is. Only
reads that the replica answered count. One that shows less than the write fails the run.
"""

import argparse
import os
import sys
import time

import psycopg2

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "e2e"))
from support.database import wait_until  # noqa: E402
from support.reads import Line, read  # noqa: E402
from support.replica import sources  # noqa: E402
from support.tokens import opened  # noqa: E402
from support.world import World  # noqa: E402

# On top of the replica's lag.
ALLOWED_SECONDS = 0.002
PERCENTILES = (50, 95, 99)


def percentile(sorted_values, part):
    return sorted_values[(len(sorted_values) - 1) * part // 100]


def measure(world, pairs):
    replica = world.replica("one")
    writer, reader = world.server(), world.server(settings=sources(replica, direct=True))

    def is_used():
        return read(reader, "/v1/entities", type="none", consistency="eventual").from_replica()

    wait_until(is_used, "the replica is used", 60)
    writing, reading = Line(writer.port, world.key), Line(reader.port, world.key)
    asked = psycopg2.connect(host=replica.sockets, port=replica.port, user="sheaf_superuser", dbname="sheaf")
    asked.autocommit = True
    lags, reads, elsewhere = [], [], 0
    with asked.cursor() as cursor:
        for count in range(pairs * 2):
            path = f"/v1/entities/pair/e{count % 25}"
            token = writing.send("PATCH", path, {"attributes": {"n": count}}).document()["token"]
            written_at = time.monotonic()
            if count % 2:
                lsn = opened(token).lsn
                position = f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
                shown = False
                while not shown:
                    cursor.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (position,))
                    (shown,) = cursor.fetchone()
                lags.append(time.monotonic() - written_at)
                continue
            answer = reading.read(path, token)
            seconds = time.monotonic() - written_at
            if answer.status != 200 or answer.document()["attributes"]["n"] != count:
                raise AssertionError(f"write {count}: {answer.shown()}")
            if answer.from_replica():
                reads.append(seconds)
            else:
                elsewhere += 1
    return sorted(lags), sorted(reads), elsewhere


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=20_000)
    pairs = parser.parse_args().pairs
    with World() as world:
        lags, reads, elsewhere = measure(world, pairs)
    print(f"{len(reads)} reads with a token on the replica ({elsewhere} answered by the primary or a cache), {len(lags)} lags")
    for part in PERCENTILES:
        lag, seconds = percentile(lags, part), percentile(reads, part)
        print(f"p{part}: lag {lag * 1000:.2f} ms, read {seconds * 1000:.2f} ms, {(seconds - lag) * 1000:.2f} ms more")
    is_met = percentile(reads, 99) <= percentile(lags, 99) + ALLOWED_SECONDS
    print("met" if is_met else "missed", f"at p99, at most {ALLOWED_SECONDS * 1000:.0f} ms more")


if __name__ == "__main__":
    main()
