"""Faults at random under load, and then the proof that nothing acknowledged was lost, doubled or made up.

    cargo xtask faults --seed N --minutes M

Two servers on one PostgreSQL, a proxy between them, four clients of two tenants that keep a journal. The seed decides
which faults come, when, and what the clients send; each fault is printed as it is injected. After each the service has to
go on by itself. At the end everything is healed, unknown requests are retried, and what the servers hold is compared with
the journal and the reference model (support/checks.py), and by `sheaf doctor --full`.
"""

import argparse
import collections
import contextlib
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
from support.postgres import programs  # noqa: E402
from support.proxy import CUT, Proxy  # noqa: E402
from support.world import World  # noqa: E402

CLIENTS = 4
# Fast enough to meet every fault in the middle of something, slow enough to be checked in a short time.
PAUSE_SECONDS = 0.02
# After a fault is over, the service goes on within this time.
RECOVERY_SECONDS_MAX = 45


class Run:
    def __init__(self, world, seed):
        self.world = world
        self.postgres = world.postgres
        self.proxy = Proxy(world.postgres.port)
        self.servers = [world.plan(self.proxy.port) for _ in range(2)]
        for server in self.servers:
            server.start()
        self.clients = Clients(world, [server.port for server in self.servers], seed, CLIENTS, pause=PAUSE_SECONDS)
        self.injected = collections.Counter()

    def inject(self, fault):
        print(f"{fault.name} for {fault.seconds:.2f} s, choice {fault.choice:.3f}", flush=True)
        self.FAULTS[fault.name](self, fault)
        self.injected[fault.name] += 1
        self.proxy.heal()
        self.check_lives()
        self.clients.wait_for_acks(CLIENTS, RECOVERY_SECONDS_MAX)

    def check_lives(self):
        for server in self.servers:
            if not server.lives():
                raise AssertionError("a server ended by itself:\n" + server.log_text()[-3000:])

    def kill_server(self, fault):
        server = fault.one_of(self.servers)
        server.kill()
        time.sleep(fault.seconds)
        server.start()

    def server_leaves_and_joins(self, fault):
        server = fault.one_of(self.servers)
        code = server.terminate()
        if code != 0:
            raise AssertionError(f"a server that was asked to stop ended with {code}")
        time.sleep(fault.seconds)
        server.start()

    def pause_server(self, fault):
        self.pause(fault.one_of(self.servers).process.pid, fault)

    def kill_backend(self, fault):
        os.kill(self.backend(fault), signal.SIGKILL)
        self.wait_for_postgres()

    def pause_backend(self, fault):
        self.pause(self.backend(fault), fault)

    def backend(self, fault):
        role = "sheaf_writer" if fault.choice < 0.7 else "sheaf_app"

        def backends():
            # None for a moment, where a fault before has cut them all.
            with contextlib.suppress(AssertionError):
                return sorted(self.postgres.backends(role))

        return fault.one_of(wait_until(backends, f"{role} is connected"))

    def pause_postmaster(self, fault):
        self.pause(self.postgres.process.pid, fault)

    def crash_postgres(self, fault):
        self.postgres.crash()
        time.sleep(fault.seconds)
        self.postgres.start()

    def kill_postgres(self, fault):
        self.postgres.kill()
        time.sleep(fault.seconds)
        self.postgres.start()

    def restart_postgres(self, fault):
        self.postgres.stop(signal.SIGINT)
        time.sleep(fault.seconds / 4)
        self.postgres.start()

    def cut_connections(self, _):
        wait_until(self.proxy.cut, "there are connections to cut")

    def cut_at_commit(self, fault):
        times = 1 + int(fault.choice * 3)
        self.proxy.arm(CUT, "sheaf_writer", times)
        wait_until(lambda: self.proxy.fired == times, f"{times} commits are cut", RECOVERY_SECONDS_MAX)

    def swallow_both_ways(self, fault):
        self.proxy.swallow_up = self.proxy.swallow_down = True
        time.sleep(fault.seconds)
        self.proxy.cut()

    def swallow_answers(self, fault):
        self.proxy.swallow_down = True
        time.sleep(fault.seconds)
        self.proxy.cut()

    def slow_network(self, fault):
        self.proxy.delay = 0.005 + fault.choice * 0.05
        time.sleep(fault.seconds)

    FAULTS = {
        function.__name__: function
        for function in (
            kill_server, server_leaves_and_joins, pause_server, kill_backend, pause_backend, pause_postmaster, crash_postgres,
            kill_postgres, restart_postgres, cut_connections, cut_at_commit, swallow_both_ways, swallow_answers, slow_network,
        )
    }  # fmt: skip

    def pause(self, pid, fault):
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(fault.seconds)
        finally:
            os.kill(pid, signal.SIGCONT)

    def wait_for_postgres(self):
        def works():
            with contextlib.suppress(AssertionError):
                return self.postgres.value("SELECT 1") == "1"

        wait_until(works, "PostgreSQL comes back by itself", RECOVERY_SECONDS_MAX)

    def check(self):
        self.wait_for_postgres()
        for server in self.servers:
            server.wait_ready()
        check_all(self.servers, self.clients)
        assert_sound(unittest.TestCase(), self.servers[0])


def main():
    parser = argparse.ArgumentParser(description="Faults at random under load.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--minutes", type=float, default=1.0)
    arguments = parser.parse_args()
    print(f"cargo xtask faults --seed {arguments.seed} --minutes {arguments.minutes:g}", flush=True)
    for program in (os.environ["SHEAF_BIN"], os.path.join(programs(), "postgres")):
        print(subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip(), flush=True)
    ends = time.monotonic() + 60 * arguments.minutes
    with World() as world:
        run = Run(world, arguments.seed)
        with run.clients:
            run.clients.wait_for_acks(CLIENTS)
            for fault in schedule(arguments.seed, Run.FAULTS):
                if time.monotonic() + fault.wait > ends:
                    break
                time.sleep(fault.wait)
                run.inject(fault)
            run.clients.wait_for_acks(CLIENTS)
        run.check()
        run.proxy.close()
    for name, count in sorted(run.injected.items()):
        print(f"injected {name}: {count}")
    if not run.injected:
        sys.exit("no fault was injected")


if __name__ == "__main__":
    main()
