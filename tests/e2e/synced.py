"""What is confirmed to PostgreSQL, and what a commit of the lake names, is on the disk before: a library between the server and
fsync tells when each ends, and makes it take its time."""

import collections
import json
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.world import World, environment_without_settings  # noqa: E402

FSYNC_MILLISECONDS = 1_500
ROUNDS = 4
WITHIN_SECONDS = 120
SLOT = "pg_replication_slots WHERE slot_name = 'sheaf_changes'"
SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* As many milliseconds as the file at SYNC_TAKES says. */
static void linger(void) {
    char text[16] = {0};
    int file = open(getenv("SYNC_TAKES"), O_RDONLY);
    if (file < 0) return;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    if (length > 0 && atol(text) > 0) usleep(atol(text) * 1000);
}

/* A line with the name of what is on the disk now, in the file at SYNC_ENDED. */
static void told(int synced) {
    char link[64], line[PATH_MAX + 1];
    snprintf(link, sizeof link, "/proc/self/fd/%d", synced);
    ssize_t length = readlink(link, line, PATH_MAX);
    int file = open(getenv("SYNC_ENDED"), O_WRONLY | O_APPEND);
    if (file < 0 || length < 0) return;
    line[length] = '\n';
    if (write(file, line, length + 1) != length + 1) abort();
    close(file);
}

static int sync_as(const char *name, int file) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    linger();
    int result = real(file);
    if (result == 0) told(file);
    return result;
}

int fsync(int file) { return sync_as("fsync", file); }
int fdatasync(int file) { return sync_as("fdatasync", file); }
"""


class Watched:
    """A library that a server is started with."""

    def __init__(self, directory):
        source, self.library = (os.path.join(directory, f"watched.{ending}") for ending in ("c", "so"))
        self.takes, self.ended = (os.path.join(directory, name) for name in ("sync-takes", "sync-ended"))
        with open(source, "w", encoding="utf-8") as file:
            file.write(SOURCE)
        subprocess.run(["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", self.library, source, "-ldl"], check=True)
        with open(self.ended, "w", encoding="utf-8"):
            pass
        self.take(0)

    def take(self, milliseconds):
        """The old text is longer or as long: nobody reads half of it."""
        with open(self.takes, "w", encoding="utf-8") as file:
            file.write(f"{milliseconds:08}")

    def paths(self):
        """What was synced, in order."""
        with open(self.ended, encoding="utf-8") as file:
            return file.read().splitlines()

    def start(self, server):
        environment = {**environment_without_settings(), "LD_PRELOAD": self.library, "SYNC_TAKES": self.takes, "SYNC_ENDED": self.ended}

        def launch(log):
            command = [os.environ["SHEAF_BIN"], "serve", "--config", server.config]
            return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)

        server.launch = launch
        return server.start()


def lines(path):
    """What is whole."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file.read().split("\n")[:-1]]


def position(text):
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)


class Synced(unittest.TestCase):
    def event(self, number):
        return {"type": "device", "id": f"d{number}", "observed_at": f"2013-01-01T00:00:{number:02}Z", "attributes": {"n": number}}

    def test_a_slot_is_confirmed_after_the_file_is_on_the_disk(self):
        with World() as world:
            path = os.path.join(world.directory, "changes.jsonl")
            watched = Watched(world.directory)
            server = watched.start(world.plan(settings={"changes": {"file": path}}))

            def confirmed():
                return position(world.postgres.value(f"SELECT confirmed_flush_lsn FROM {SLOT}"))

            def written(number):
                """The transaction of an event that is in the file, on the disk or not."""
                found = [line for line in lines(path) if line["source"]["table"] == "entity_events"]
                of_it = [line for line in found if line["after"]["observed_at"].startswith(f"2013-01-01T00:00:{number:02}")]
                return of_it[0]["source"]["lsn"] if of_it else None

            def seen(number):
                before = len(watched.paths())
                lsn = written(number)
                return lsn and (before, lsn)

            server.ingest([self.event(0)])
            wait_until(lambda: written(0) and confirmed() > written(0), "the first is confirmed", WITHIN_SECONDS)
            looked = 0
            with Faults("fsync of the file that takes its time") as faults:
                for number in range(1, ROUNDS + 1):
                    watched.take(FSYNC_MILLISECONDS)
                    server.ingest([self.event(number)])
                    # Looked up before it is seen to be written: what ends after that is not in it.
                    before, lsn = wait_until(lambda number=number: seen(number), "it is written", WITHIN_SECONDS)
                    while True:
                        so_far = confirmed()
                        if len(watched.paths()) > before:
                            break
                        self.assertLessEqual(so_far, lsn, "confirmed before it is on the disk")
                        looked += 1
                    faults.inject()
                    watched.take(0)
                    wait_until(lambda lsn=lsn: confirmed() > lsn, "it is confirmed after that", WITHIN_SECONDS)
            self.assertGreater(looked, 0)
            self.assertEqual(set(watched.paths()), {path})
            # Killed between the two.
            with Faults("kill -9 while the file is being synced") as faults:
                watched.take(60_000)
                server.ingest([self.event(30)])
                lsn = wait_until(lambda: written(30), "it is written", WITHIN_SECONDS)
                server.stop()
                faults.inject()
                self.assertLessEqual(confirmed(), lsn)
            # As after a loss of power: what was not synced is not there.
            with open(path, "r+", encoding="utf-8") as file:
                text = file.read()
                file.seek(0)
                file.truncate()
                file.writelines(line + "\n" for line in text.splitlines() if json.loads(line)["source"]["lsn"] < lsn)
            watched.take(0)
            server.start()
            wait_until(lambda: written(30) and confirmed() > lsn, "it came again", WITHIN_SECONDS)
            events = [line["after"]["observed_at"] for line in lines(path) if line["source"]["table"] == "entity_events"]
            self.assertEqual(len(events), ROUNDS + 2)
            self.assertEqual(len(set(events)), ROUNDS + 2)

    def test_a_commit_of_the_lake_names_files_that_are_on_the_disk_with_their_names(self):
        with World() as world:
            lake = os.path.join(world.directory, "lake")
            watched = Watched(world.directory)
            server = watched.start(world.plan(settings={"lake": {"location": lake}}))

            def files():
                return {os.path.join(directory, name) for directory, _, names in os.walk(lake) for name in names}

            def commits():
                found = world.postgres.rows("SELECT commit_number FROM sheaf.lake_positions")
                return int(found[0][0]) if found else 0

            found = collections.Counter()
            server.ingest([self.event(0)])
            wait_until(lambda: commits() > 1, "the lake has begun", WITHIN_SECONDS)
            with Faults("commit of the lake that is held up before it is one") as faults:
                for number in range(1, ROUNDS + 1):
                    holder = "UPDATE sheaf.lake_positions SET committed_at = committed_at;"
                    with world.postgres.session() as session:
                        session.do("BEGIN;")
                        session.do(holder)
                        before, at = files(), commits()
                        server.ingest([self.event(number)])
                        waits = "pg_stat_activity WHERE usename = 'sheaf_cdc' AND wait_event_type = 'Lock'"
                        wait_until(lambda waits=waits: world.postgres.count(waits) > 0, "a commit waits", WITHIN_SECONDS)
                        faults.inject()
                        new, paths = files() - before, watched.paths()
                        for path in new:
                            found[os.path.splitext(path)[1]] += 1
                            self.assertIn(path, paths, "it is not on the disk")
                            folder = os.path.dirname(path)
                            while len(folder) >= len(lake):
                                self.assertIn(folder, paths[paths.index(path) :], f"the name of {path} is not on the disk")
                                folder = os.path.dirname(folder)
                        session.do("ROLLBACK;")
                    wait_until(lambda at=at: commits() > at, "it is a commit then", WITHIN_SECONDS)
            print(f"files of commits that were held up: {dict(found)}")
            self.assertGreaterEqual(found[".parquet"], ROUNDS - 1)
            self.assertGreaterEqual(found[".avro"], ROUNDS)


if __name__ == "__main__":
    unittest.main(verbosity=2)
