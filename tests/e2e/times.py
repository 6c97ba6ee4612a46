"""Times and the partitions they need: no server clock in an identity, no partition for a time that is refused."""

import json
import os
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server  # noqa: E402
from support.database import Database  # noqa: E402
from support.faults import Faults  # noqa: E402

SERVER = None
DATABASE = None


def setUpModule():
    global SERVER, DATABASE
    SERVER = Server()
    DATABASE = Database(SERVER)


def tearDownModule():
    SERVER.stop()


class Clock(unittest.TestCase):
    def test_an_event_without_a_time_replays_to_the_time_it_got_first(self):
        events = [{"type": "clock", "id": "a", "attributes": {"n": n}} for n in range(3)]
        status, first = SERVER.ingest(events, {"Idempotency-Key": "clock"})
        self.assertEqual((status, first["accepted"]), (200, 3), first)
        before = history("clock", "a")
        self.assertEqual(len(before), 3, "several in one request are never made one")
        for restarted in (False, True):
            if restarted:
                SERVER.kill()
                SERVER.start()
            status, headers, text = SERVER.call(
                "POST",
                "/v1/ingest",
                b"\n".join(json.dumps(event).encode() for event in events),
                {"Content-Type": "application/x-ndjson", "Idempotency-Key": "clock"},
            )
            self.assertEqual((status, headers["Idempotency-Replayed"]), (200, "true"), text)
            self.assertEqual({**json.loads(text), "token": None}, {**first, "token": None})
            self.assertEqual(history("clock", "a"), before)

    def test_without_a_key_an_event_without_a_time_is_a_new_one_each_time(self):
        for _ in range(2):
            SERVER.ingest([{"type": "clock", "id": "b", "attributes": {"n": 1}}])
        self.assertEqual(len(history("clock", "b")), 2)

    def test_no_key_column_of_the_history_has_a_default(self):
        sql = (
            "SELECT c.relname, a.attname FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid"
            " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.adnum"
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = 'sheaf' AND c.relname LIKE 'entity\\_events%'"
        )
        self.assertEqual(DATABASE.rows(sql), [])
        key = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'entity_events_pkey'"
        self.assertEqual(DATABASE.value(key), "PRIMARY KEY (tenant_id, entity_id, observed_at, seq)")
        partitioned = "SELECT pg_get_partkeydef('sheaf.entity_events'::regclass)"
        self.assertEqual(DATABASE.value(partitioned), "RANGE (observed_at)")


class Partitions(unittest.TestCase):
    def test_writes_go_on_when_the_partition_of_now_is_dropped(self):
        with Faults("drop of the partition of now") as faults:
            for round_number in range(3):
                self.assertEqual(write("dropped", round_number), (201, 1) if round_number == 0 else (200, 1 + round_number))
                name = DATABASE.partition_of(DATABASE.value("SELECT now()"))
                DATABASE.rows(f"DROP TABLE sheaf.{name}")
                faults.inject()
            self.assertEqual(write("dropped", 99), (200, 4))
        self.assertIsNotNone(DATABASE.partition_of(DATABASE.value("SELECT now()")))
        self.assertEqual(SERVER.get("/v1/entities/dropped/a")["attributes"], {"n": 99})

    def test_no_write_fails_while_partitions_are_dropped_under_it(self):
        outcomes = []
        stop = threading.Event()

        def go_on(number):
            while not stop.is_set():
                status, answer = SERVER.ingest([{"type": "falling", "id": f"e{number}", "attributes": {"n": 1}}])
                outcomes.append((status, answer))

        writers = [threading.Thread(target=go_on, args=(number,)) for number in range(3)]
        with Faults("drop of the partition of now under writes") as faults:
            for writer in writers:
                writer.start()
            try:
                for _ in range(5):
                    name = DATABASE.partition_of(DATABASE.value("SELECT now()"))
                    if name:
                        DATABASE.rows(f"DROP TABLE sheaf.{name}")
                        faults.inject()
            finally:
                stop.set()
                for writer in writers:
                    writer.join()
        self.assertEqual([outcome for outcome in outcomes if outcome[0] != 200], [])

    def test_times_out_of_the_accepted_range_are_refused_and_make_no_partitions(self):
        before = DATABASE.partitions()
        times = [
            "1970-01-01T00:00:00Z", "1989-12-31T23:59:59.999999Z", "2300-01-01T00:00:00Z", "9999-12-31T23:59:59Z",
            "0001-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "2262-04-12T00:00:00Z", "1969-12-31T23:59:59Z",
        ]  # fmt: skip
        times += [f"{year}-06-01T00:00:00Z" for year in [*range(1500, 1990, 35), *range(2100, 9999, 400)]]
        events = [{"type": "far", "id": "a", "observed_at": time, "attributes": {"n": 1}} for time in times]
        status, answer = SERVER.ingest(events)
        self.assertEqual((status, answer["refused"]), (422, len(times)), answer)
        self.assertEqual({row["code"] for row in answer["rejected"]}, {"time_out_of_range"})
        self.assertEqual(SERVER.send("PATCH", "/v1/entities/far/a", {"attributes": {"n": 1}, "observed_at": times[0]})[0], 422)
        status, _, text = SERVER.call("POST", "/api/v2/write?precision=s", b"far,id=a n=1 0\nfar,id=a n=1 10413792000")
        self.assertEqual((status, json.loads(text)["code"]), (400, "invalid"), text)
        self.assertEqual(DATABASE.partitions(), before)
        self.assertEqual(SERVER.call("GET", "/v1/entities/far/a")[0], 404)

    def test_every_month_of_the_accepted_range_makes_no_more_partitions_than_it_needs(self):
        years = range(1990, 2020)
        times = [f"{year}-{month:02}-15T00:00:00Z" for year in years for month in range(1, 13)]
        events = [{"type": "near", "id": "a", "observed_at": time, "attributes": {"n": 1}} for time in times]
        status, answer = SERVER.ingest(events)
        self.assertEqual((status, answer["accepted"]), (200, len(times)), answer)
        self.assertLessEqual(len(DATABASE.partitions()), len(years) + 40, "old times have wide partitions")


def write(kind, number):
    status, answer = SERVER.send("PATCH", f"/v1/entities/{kind}/a", {"attributes": {"n": number}})
    return status, answer.get("version", answer)


def history(kind, name):
    return SERVER.get(f"/v1/entities/{kind}/{name}/history", limit=100)["items"]


if __name__ == "__main__":
    unittest.main(verbosity=2)
