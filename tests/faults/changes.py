"""Faults at random of what follows changes, and then the proof that the lake has what PostgreSQL has, or had.

    cargo xtask faults --seed N --minutes M

Two servers with one lake on one PostgreSQL with a standby, and clients of two tenants that keep a journal and report much
late. The seed decides which faults come and when: servers and PostgreSQL die, the slot is dropped or made anew behind our
back, the standby takes over with what it has, partitions are archived, archives are interrupted, and partitions restored.
At the end the history over HTTP is compared with the journal and the reference model (support/checks.py), and both sides
by `sheaf reconcile`, which has to find them equal.
"""

import argparse
import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "e2e"))
from support.checks import check_all  # noqa: E402
from support.clients import Clients  # noqa: E402
from support.database import wait_until  # noqa: E402
from support.faults import schedule  # noqa: E402
from support.load import assert_sound  # noqa: E402
from support.replica import Replica  # noqa: E402
from support.world import World, environment_without_settings  # noqa: E402

CLIENTS = 4
PAUSE_SECONDS = 0.05
# After a fault is over, the service goes on within this time.
RECOVERY_SECONDS_MAX = 90
# A lake that begins anew reads everything that is there.
LAKE_SECONDS_MAX = 200
SLOT = "sheaf_changes"
# Events that only the old primary and the lake have, when the standby takes over.
LOST = 20
# What clients report late goes back 400 days from this time, when they begin.
ARCHIVED_BEFORE = "2023-11-01T00:00:00Z"
STATES = ("pg_replication_slots", "sheaf.change_sinks", "sheaf.lake_positions", "sheaf.partition_archives", "sheaf.history_boundaries")
# What `sheaf reconcile` ends with.
CLEAN, DIFFERENCES = 0, 5


class Run:
    def __init__(self, world, seed):
        self.world = world
        self.standbys = 0
        self.standby = self.new_standby()
        self.ports = []
        self.servers = self.new_servers()
        self.clients = Clients(world, self.ports, seed, CLIENTS, pause=PAUSE_SECONDS)
        self.injected = collections.Counter()
        self.archived = []

    def new_standby(self):
        self.standbys += 1
        return self.world.keep(Replica(self.world.postgres, f"standby{self.standbys}"))

    def new_servers(self):
        """On the primary of now; the clients find them."""
        settings = {"lake": {"location": os.path.join(self.world.directory, "lake")}}
        servers = [self.world.plan(settings=settings) for _ in range(2)]
        for server in servers:
            server.start()
        self.ports[:] = [server.port for server in servers]
        return servers

    def inject(self, fault):
        print(f"{fault.name} for {fault.seconds:.2f} s, choice {fault.choice:.3f}", flush=True)
        if self.FAULTS[fault.name](self, fault) is not False:
            self.injected[fault.name] += 1
        for server in self.servers:
            if not server.lives():
                raise AssertionError("a server ended by itself:\n" + server.log_text()[-3000:])
        self.clients.wait_for_acks(CLIENTS, RECOVERY_SECONDS_MAX)

    def kill_server(self, fault):
        server = fault.one_of(self.servers)
        server.stop()
        time.sleep(fault.seconds)
        server.start()

    def crash_postgres(self, fault):
        self.world.postgres.crash()
        time.sleep(fault.seconds)
        self.world.postgres.start()

    def drop_slot(self, fault):
        """Nobody has told the server, which may be following it."""
        return self.without_slot(fault, lambda: None)

    def replace_slot(self, fault):
        """Another one by the same name, which lacks what came in between."""
        return self.without_slot(
            fault, lambda: self.world.postgres.rows(f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")
        )

    def without_slot(self, fault, then):
        end = f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{SLOT}' AND active_pid IS NOT NULL"

        def dropped():
            if self.world.postgres.count(f"pg_replication_slots WHERE slot_name = '{SLOT}'") == 0:
                return True
            with contextlib.suppress(AssertionError):
                self.world.postgres.rows(end)
                self.world.postgres.rows(f"SELECT pg_drop_replication_slot('{SLOT}')")
                return True
            return False

        wait_until(dropped, "the slot is dropped", RECOVERY_SECONDS_MAX)
        with contextlib.suppress(AssertionError):
            then()

    def fail_over(self, _):
        """The standby takes over without the last events, which the lake may have."""
        self.clients.pause()
        self.standby.wait_caught_up()
        self.standby.link.stall()
        lost = [{"type": "lost", "id": f"l{number}", "attributes": {"n": number}} for number in range(LOST)]
        status, answer = self.servers[0].ingest(lost)
        if status == 200:
            # Sometimes it gets as far as the lake.
            headers = {"X-Consistency-Token": answer["token"]}
            self.servers[0].send("POST", "/v1/sql", {"query": "SELECT count(*) FROM facts"}, headers=headers)
        for server in self.servers:
            server.stop()
        self.world.postgres.crash()
        self.standby.promote()
        # It is closed with the world as it is, and the new one as the primary is.
        self.world.parts.remove(self.standby)
        self.world.keep(self.world.postgres)
        self.world.postgres = self.standby
        self.standby = self.new_standby()
        self.servers = self.new_servers()
        self.clients.resume()

    def archive(self, _):
        name = self.next_partition()
        if name is None:
            return False
        done = self.command("partition", "archive", name, "--wait", str(LAKE_SECONDS_MAX))
        if done.returncode != 0:
            raise AssertionError(f"{name} is not archived: {done.stdout}{done.stderr}")
        self.archived.append(name)
        return None

    def interrupt_archive(self, fault):
        name = self.next_partition()
        if name is None:
            return False
        command = [os.environ["SHEAF_BIN"], "partition", "archive", name, *self.servers[0].target()]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment_without_settings())
        time.sleep(fault.seconds * 2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        return None

    def restore(self, _):
        if not self.archived:
            return False
        name = self.archived.pop()
        done = self.command("partition", "restore", name)
        if done.returncode != 0:
            raise AssertionError(f"{name} is not restored: {done.stdout}{done.stderr}")
        return None

    def next_partition(self):
        """The one whose archive was begun, or the oldest that is whole; never one that is still written to."""
        plan = json.loads(self.command("partition", "plan", "--json").stdout)
        begun = [one["name"] for one in plan["archives"] if one["state"] not in ("dropped", "restored")]
        if begun:
            return begun[0]
        listed = json.loads(self.command("partition", "list", "--json").stdout)["partitions"]
        past = [one["name"] for one in listed if one["to"] < ARCHIVED_BEFORE]
        return past[0] if past else None

    def command(self, *arguments):
        command = [os.environ["SHEAF_BIN"], *arguments, *self.servers[0].target()]
        return subprocess.run(command, capture_output=True, text=True, env=environment_without_settings(), check=False)

    def describe(self):
        """How far everything is, for whoever looks for the cause."""
        for table in STATES:
            with contextlib.suppress(AssertionError):
                for (row,) in self.world.postgres.rows(f"SELECT row_to_json(t) FROM {table} t"):
                    print(table, row, flush=True)

    def check(self):
        for server in self.servers:
            server.wait_ready()
        check_all(self.servers, self.clients)
        self.check_lake()
        assert_sound(unittest.TestCase(), self.servers[0])

    def check_lake(self):
        def is_compared():
            """Not while the lake begins anew."""
            done = self.command("reconcile", "--full", "--documents", "--json")
            return done if done.returncode in (CLEAN, DIFFERENCES) else None

        done = wait_until(is_compared, "both sides are compared", LAKE_SECONDS_MAX)
        print(done.stdout.strip(), flush=True)
        if done.returncode != CLEAN:
            raise AssertionError("the lake has not what PostgreSQL has")

    FAULTS = {
        function.__name__: function
        for function in (kill_server, crash_postgres, drop_slot, replace_slot, fail_over, archive, interrupt_archive, restore)
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description="Faults at random of what follows changes.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--minutes", type=float, default=1.0)
    arguments = parser.parse_args()
    print(f"cargo xtask faults --seed {arguments.seed} --minutes {arguments.minutes:g}", flush=True)
    ends = time.monotonic() + 60 * arguments.minutes
    with World() as world:
        run = Run(world, arguments.seed)
        try:
            with run.clients:
                run.clients.wait_for_acks(CLIENTS)
                for fault in schedule(arguments.seed, Run.FAULTS):
                    if time.monotonic() + fault.wait > ends:
                        break
                    time.sleep(fault.wait)
                    run.inject(fault)
                run.clients.wait_for_acks(CLIENTS)
            run.check()
        except BaseException:
            run.describe()
            raise
    for name, count in sorted(run.injected.items()):
        print(f"injected {name}: {count}")
    if not run.injected:
        sys.exit("no fault was injected")


if __name__ == "__main__":
    main()
