"""Disks that are full or slow. What was acknowledged stays, clients are told to come back, and the service goes on by itself
once there is room again."""

import os
import shutil
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.checks import Checker  # noqa: E402
from support.clients import Clients  # noqa: E402
from support.database import wait_until  # noqa: E402
from support.disk import Room, SlowFsync  # noqa: E402
from support.faults import Faults, seeded  # noqa: E402
from support.load import assert_sound  # noqa: E402
from support.postgres import Postgres  # noqa: E402
from support.world import World  # noqa: E402

MEBIBYTE = 1024 * 1024
FSYNC_MILLISECONDS = 500


class Disk(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="sheaf-disk-")
        os.chmod(self.directory, 0o755)
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def small(self, **sizes_mb):
        """Directories of bounded size that belong to PostgreSQL."""
        paths = {name: os.path.join(self.directory, name) for name in sizes_mb}
        room = Room({paths[name]: size for name, size in sizes_mb.items()})
        self.addCleanup(room.close)
        account = Postgres.account()
        if account:
            for path in paths.values():
                room.own(path, account.pw_uid, account.pw_gid)
        return room, paths

    def finish(self, clients, server):
        """After the fault: nothing was lost, doubled or made up."""
        print(f"{clients.acked()} acknowledged, statuses {clients.statuses()}", flush=True)
        self.assertEqual(clients.faults(), [])
        checker = Checker(server, clients.tenants, clients.journal)
        checker.settle()
        checker.check()
        assert_sound(self, server)

    def load(self, world, server, name):
        clients = Clients(world, [server.port], seeded(name).random(), name="disk")
        self.addCleanup(clients.journal.close)
        return clients

    def test_a_full_data_disk_refuses_writes_and_heals_without_a_restart(self):
        room, paths = self.small(space=200)
        data = os.path.join(paths["space"], "data")
        log = os.path.join(self.directory, "wal")
        # The disk is about the data; the log of changes has room.
        os.makedirs(log)
        Postgres.give(log)
        with World(room=room, data=data, wal=log) as world, Faults("answer that the data disk is full") as faults:
            server = world.server()
            clients = self.load(world, server, "data disk")
            with clients:
                clients.wait_for_acks(50)
                self.assertEqual(server.ingest([filler(0, 0)])[0], 200)
                room.fill(paths["space"], MEBIBYTE // 2)
                refused = self.write_until_refused(server)
                faults.inject(refused)
                self.assertEqual(server.call("GET", "/healthz")[0], 200)
                self.assertEqual(server.call("GET", "/v1/entities/filler/e0")[0], 200, "what is there can be read")
                before = world.postgres.value("SELECT pg_postmaster_start_time()")
                room.empty(paths["space"])
                clients.wait_for_acks(50)
                self.assertEqual(server.ingest([filler(1, 0)])[0], 200)
                self.assertEqual(world.postgres.value("SELECT pg_postmaster_start_time()"), before, "nothing was restarted")
                self.assertTrue(server.lives())
            self.finish(clients, server)

    def write_until_refused(self, server):
        """Large events of one entity after the other, until three were refused for want of room."""
        refused = number = 0
        while refused < 3:
            status, answer = server.ingest([filler(number, index) for index in range(200)])
            number += 1
            self.assertIn(status, (200, 503, 507), answer)
            if status == 507:
                self.assertEqual(answer["code"], "storage_full")
                refused += 1
            self.assertLess(number, 1000, "the disk does not fill")
        return refused

    def test_a_full_log_disk_stops_postgresql_and_loses_nothing(self):
        room, paths = self.small(log=24)
        log = os.path.join(paths["log"], "wal")
        settings = {"max_wal_size": "8MB", "min_wal_size": "2MB", "wal_keep_size": "0"}
        with World(room=room, wal=log, wal_segment_mb=1, settings=settings) as world:
            server = world.server()
            clients = self.load(world, server, "log disk")
            with Faults("PANIC of PostgreSQL because its log is full") as faults:
                # Nobody reads from it, so that nothing of the log may go.
                world.postgres.rows("SELECT pg_create_physical_replication_slot('dead', true)")
                with clients:
                    clients.wait_for_acks(50)
                    wait_until(lambda: is_out_of_room(world, server), "PostgreSQL has no room for its log", 60)
                    faults.inject(world.postgres.log_text().count("PANIC"))
                    wait_until(lambda: self.is_refused(server), "an edit is refused while there is no room", 60)
                    self.assertEqual(server.call("GET", "/healthz")[0], 200)
                    world.postgres.stop()
                    room.resize(paths["log"], 200)
                    world.postgres.start()
                    world.postgres.rows("SELECT pg_drop_replication_slot('dead')")
                    clients.wait_for_acks(50)
                    self.assertTrue(server.lives())
            self.finish(clients, server)

    def is_refused(self, server):
        """PostgreSQL comes up for a moment whenever the rest of its last segment has room for one small change."""
        status, _, text = server.call("PATCH", "/v1/entities/a/b", b'{"attributes":{"n":1}}')
        self.assertIn(status, (200, 201, 503, 507), text)
        return status in (503, 507)

    def test_a_disk_that_syncs_in_half_a_second_delays_answers_and_loses_none(self):
        slow = SlowFsync(self.directory)
        settings = {"fsync": "on", "full_page_writes": "on"}
        with World(settings=settings, environment=slow.environment) as world, Faults("fsync of half a second") as faults:
            server = world.server()
            clients = self.load(world, server, "slow disk")
            with clients:
                clients.wait_for_acks(50)
                before = slow.count()
                slow.set(FSYNC_MILLISECONDS)
                slow.wait_for(2)
                # More at once than the queue holds: they wait, or are told to come back. None gets an error.
                self.crowd(server, 150)
                clients.wait_for_acks(4)
                faults.inject(slow.count() - before)
                slow.set(0)
                clients.wait_for_acks(50)
            self.finish(clients, server)

    def crowd(self, server, count):
        answers = []

        def send(number):
            event = {"type": "crowd", "id": f"e{number}", "observed_at": "2024-01-01T00:00:00Z", "attributes": {"n": number}}
            begun = time.monotonic()
            status, answer = server.ingest([event])
            answers.append((status, time.monotonic() - begun, answer))

        threads = [threading.Thread(target=send, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        begun = time.monotonic()
        self.assertEqual(server.call("GET", "/healthz")[0], 200)
        self.assertLess(time.monotonic() - begun, 2)
        for thread in threads:
            thread.join(60)
        self.assertEqual(len(answers), count, "every request ends")
        self.assertLessEqual({status for status, _, _ in answers}, {200, 429, 503}, answers[:3])
        stored = sum(status == 200 for status, _, _ in answers)
        slowest = max(seconds for _, seconds, _ in answers)
        print(f"{stored} of {count} at once were stored, the slowest in {slowest:.1f} s", flush=True)


def filler(number, index):
    """A large event that does not compress."""
    text = os.urandom(3000).hex()
    time = f"2024-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z"
    return {"type": "filler", "id": f"e{index}", "observed_at": time, "attributes": {"text": text}}


def is_out_of_room(world, server):
    """Writes until the log is full and PostgreSQL has said so with its last words."""
    try:
        server.ingest([filler(int(time.monotonic() * 10) % 80000, index) for index in range(50)])
    except OSError:
        raise AssertionError("the server ended") from None
    return "PANIC" in world.postgres.log_text() and "No space left on device" in world.postgres.log_text()


if __name__ == "__main__":
    unittest.main(verbosity=2)
