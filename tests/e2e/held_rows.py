"""A transaction that stays open on a replica which reports it, and a replica that is gone and has left a slot behind: the
primary keeps rows for them that nobody there needs, and the metric and `sheaf doctor` say for whom and how many transactions
back. Past the bound doctor fails, and the log warns once."""

import json
import math
import os
import re
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.reads import metric  # noqa: E402
from support.world import World, environment_without_settings  # noqa: E402

WORLD = None
SERVER = None
SOME_TRANSACTIONS = 20_000
# The bound of a server: some 15 seconds of writing.
TRANSACTIONS_MAX = 1_000_000
WARNING = "rows that nobody needs are kept"
# A server looks every 15 seconds.
WITHIN_SECONDS = 120
REPORTS = {"hot_standby_feedback": "on"}


def setUpModule():
    global WORLD, SERVER
    WORLD = World()
    unittest.addModuleCleanup(WORLD.close)
    SERVER = WORLD.server()


def held(holder):
    """None before the first look, no number where it is unknown."""
    return metric(SERVER, "sheaf_xmin_held_transactions", holder=holder)


def wait_held(holder, what, condition):
    def holds():
        value = held(holder)
        return value is not None and condition(value)

    wait_until(holds, what, WITHIN_SECONDS)
    return held(holder)


def told():
    """What doctor says of it."""
    command = [os.environ["SHEAF_BIN"], "doctor", *SERVER.target(), "--json"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment_without_settings(), check=False)
    checks = json.loads(result.stdout.splitlines()[0])["checks"]
    return next((check["status"], check["detail"]) for check in checks if check["name"] == "xmin")


def write(transactions):
    """As many on the primary, each with an id."""
    loop = f"FOR n IN 1..{transactions} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP"
    WORLD.postgres.rows(f"DO $$ BEGIN {loop}; END $$")


class HeldRows(unittest.TestCase):
    def assert_told(self, expected_status, subject, at_least):
        status, detail = told()
        self.assertEqual(status, expected_status, detail)
        found = re.search(rf"{subject} holds (\d+) transactions\b", detail)
        self.assertIsNotNone(found, detail)
        self.assertGreaterEqual(int(found.group(1)), at_least, detail)
        return detail

    def test_a_transaction_that_stays_open_on_a_replica_is_told_until_it_ends(self):
        with Faults("long transaction on a replica that reports it") as faults:
            wait_held("replica", "nobody holds anything", lambda value: value == 0)
            self.assertEqual(told(), ("ok", "no replica and no slot holds rows back"))
            replica = WORLD.replica("west", REPORTS)
            try:
                with replica.session() as session:
                    session.do("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1;")
                    session.say("SELECT pg_sleep(3600);")
                    sleeping = "pg_stat_activity WHERE wait_event = 'PgSleep'"
                    wait_until(lambda: replica.count(sleeping) == 1, "the transaction is open")
                    faults.inject()
                    write(SOME_TRANSACTIONS)
                    value = wait_held("replica", "the metric rises", lambda value: value >= SOME_TRANSACTIONS)
                    detail = self.assert_told("ok", "replica west", SOME_TRANSACTIONS)
                    print(f"the metric says {value:.0f}, doctor: {detail}")
                    replica.rows(f"SELECT pg_terminate_backend(pid) FROM {sleeping}")
                wait_held("replica", "the metric falls", lambda value: value < SOME_TRANSACTIONS)
            finally:
                replica.crash()
            wait_held("replica", "who is gone holds nothing", lambda value: value == 0)
            self.assertNotIn(WARNING, SERVER.log_text())

    def test_what_a_slot_keeps_for_a_replica_that_is_gone_is_an_alarm_until_the_slot_is_dropped(self):
        with Faults("replica that is gone and has left its slot") as faults:
            WORLD.postgres.rows("SELECT pg_create_physical_replication_slot('left_behind')")
            replica = WORLD.replica("east", {**REPORTS, "primary_slot_name": "left_behind"})
            kept = "pg_replication_slots WHERE slot_name = 'left_behind' AND xmin IS NOT NULL"
            wait_until(lambda: WORLD.postgres.count(kept) == 1, "the replica reports", WITHIN_SECONDS)
            replica.crash()
            faults.inject()
            write(TRANSACTIONS_MAX + 1)
            value = wait_held("slot", "the metric rises", lambda value: value > TRANSACTIONS_MAX)
            self.assertEqual(held("replica"), 0, "the replica itself is gone")
            detail = self.assert_told("fail", "slot left_behind", TRANSACTIONS_MAX)
            print(f"the metric says {value:.0f}, doctor: {detail}")
            wait_held("slot", "it is looked at again", lambda again: again > value)
            self.assertEqual(SERVER.log_text().count(WARNING), 1, "it is told once")
            wait_until(lambda: WORLD.postgres.count(f"{kept} AND NOT active") == 1, "nobody uses the slot", WITHIN_SECONDS)
            WORLD.postgres.rows("SELECT pg_drop_replication_slot('left_behind')")
            wait_held("slot", "the metric falls", lambda value: value == 0)
            self.assertEqual(told()[0], "ok")

    def test_what_may_not_be_seen_is_unknown_and_not_zero(self):
        with Faults("view that the role may not read") as faults:
            view = "SELECT ON pg_catalog.pg_stat_replication"
            WORLD.postgres.rows(f"REVOKE {view} FROM PUBLIC")
            try:
                faults.inject()
                for holder in ("replica", "slot", "slot_catalog"):
                    wait_held(holder, "it is no number", math.isnan)
                status, detail = told()
                self.assertEqual(status, "fail", detail)
                self.assertIn("what replicas and slots hold back is unknown", detail)
            finally:
                WORLD.postgres.rows(f"GRANT {view} TO PUBLIC")
            wait_held("replica", "it is known again", lambda value: value == 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
