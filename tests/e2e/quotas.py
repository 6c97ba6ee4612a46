"""What one tenant may take: rates, attributes, the size of an entity, connections. Past it, it is told; others are served."""

import contextlib
import http.client
import json
import os
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server, entity_path  # noqa: E402
from support.database import Database, wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.serving import Serving  # noqa: E402

SERVER = None
DATABASE = None
TIME = "2013-01-01T06:00:00Z"
ATTRIBUTES_MAX = 10_000
EVENT_ATTRIBUTES_MAX = 1_000
DOCUMENT_BYTES_MAX = 16 << 20
VALUES_PER_SECOND = 2_000
BURST_SECONDS = 2


def setUpModule():
    global SERVER, DATABASE
    SERVER = Server()
    DATABASE = Database(SERVER)


def tearDownModule():
    SERVER.stop()


def resident_bytes(server):
    with open(f"/proc/{server.process.pid}/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def percentile(seconds, share):
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * share))]


class Flood:
    """Threads that send events without a pause and whatever is answered, while their block runs."""

    def __init__(self, server, key, threads=4, events=50, kind="flood"):
        self.server, self.key, self.kind = server, key, kind
        self.events = events
        self.stopping = threading.Event()
        self.answers = []
        self.threads = [threading.Thread(target=self.run, args=(number,), daemon=True) for number in range(threads)]

    def run(self, number):
        batch = 0
        while not self.stopping.is_set():
            events = [
                {"type": self.kind, "id": f"{number}-{place}", "attributes": {f"a{n}": batch for n in range(10)}}
                for place in range(self.events)
            ]
            body = "\n".join(json.dumps(event) for event in events).encode()
            headers = {"Content-Type": "application/x-ndjson"}
            status, headers, text = self.server.call("POST", "/v1/ingest", body, headers, self.key)
            self.answers.append((status, headers["Retry-After"], json.loads(text)))
            batch += 1

    def __enter__(self):
        self.begun = time.monotonic()
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)
        self.seconds = time.monotonic() - self.begun

    def statuses(self):
        return {status for status, _, _ in self.answers}


class Rates(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        limits = f"[limits]\nvalues_per_second = {VALUES_PER_SECOND}\n"
        own = '[tenants.free.limits]\nvalues_per_second = 100000000\n[tenants."few at once".limits]\nrequests_concurrent = 1\n'
        own += "[tenants.spent.limits]\nvalues_per_second = 1\n"
        cls.server = Serving(SERVER, limits + own)
        cls.keys = {name: SERVER.create_tenant(name) for name in ("bound", "free", "few at once", "spent")}

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def edit(self, name, number):
        body = {"attributes": {"n": number}}
        status, _ = self.server.send("PATCH", f"/v1/entities/edited/{number}", body, key=self.keys[name])
        return status

    def test_a_flood_gets_its_rate_and_no_more_and_is_told_when_to_come_again(self):
        with Faults("request past the rate") as faults, Flood(self.server, self.keys["bound"]) as flood:
            served = 0
            while time.monotonic() - flood.begun < 5:
                self.assertIn(self.edit("free", served), (200, 201), "another tenant is not refused")
                served += 1
            faults.inject(sum(status == 429 for status, _, _ in flood.answers))
        self.assertEqual(flood.statuses(), {200, 429})
        stored = sum(answer["values"] for status, _, answer in flood.answers if status == 200)
        one_each = len(flood.threads) * 10 * flood.events
        self.assertLess(stored, VALUES_PER_SECOND * (flood.seconds + BURST_SECONDS) + one_each)
        self.assertGreater(stored, VALUES_PER_SECOND * flood.seconds / 2, "it gets what it may have")
        for status, retry_after, answer in flood.answers:
            if status == 429:
                self.assertEqual(answer["code"], "rate_limited")
                self.assertIn(int(retry_after), range(1, 60))
        print(f"{stored / flood.seconds:.0f} of {VALUES_PER_SECOND} values/s; {served} edits of another tenant meanwhile")
        # Waiting as long as was told is enough.
        waits = [int(retry_after) for status, retry_after, _ in flood.answers if status == 429]
        time.sleep(waits[-1])
        self.assertIn(self.edit("bound", 0), (200, 201))
        metrics = self.server.call("GET", "/metrics", key=self.server.admin_key)[2]
        self.assertIn('sheaf_throttled_requests_total{reason="values"}', metrics)
        self.assertNotIn('"bound"', metrics, "no label names a tenant")

    def test_the_sender_of_a_large_body_past_the_rate_sees_why_it_is_refused(self):
        event = {"type": "spent", "id": "a", "attributes": {f"a{n}": n for n in range(500)}}
        status, answer = self.server.send("POST", "/v1/ingest", [event], key=self.keys["spent"])
        self.assertEqual((status, answer["values"]), (200, 500))
        headers = {"Authorization": f"Bearer {self.keys['spent']}", "Content-Type": "application/x-ndjson"}
        with Faults("large body past the rate") as faults:
            for mib in (3, 8, 32):
                connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
                with self.subTest(mib=mib), contextlib.closing(connection):
                    # It sends all of the body before it looks for an answer.
                    connection.request("POST", "/v1/ingest", b" " * (mib << 20), headers)
                    answer = connection.getresponse()
                    self.assertEqual((answer.status, json.loads(answer.read())["code"]), (429, "rate_limited"))
                    faults.inject()

    def test_requests_at_once_are_bounded(self):
        with Faults("request beside another") as faults, Flood(self.server, self.keys["few at once"], events=5) as flood:
            wait_until(lambda: flood.statuses() >= {200, 429}, "some are served and some are not")
            faults.inject(sum(status == 429 for status, _, _ in flood.answers))
        self.assertEqual(flood.statuses(), {200, 429})


class Fairness(unittest.TestCase):
    def trickle(self, key, count):
        seconds = []
        for number in range(count):
            begun = time.monotonic()
            status, answer = SERVER.send("PATCH", f"/v1/entities/trickle/{number}", {"attributes": {"n": number}}, key=key)
            self.assertIn(status, (200, 201), answer)
            seconds.append(time.monotonic() - begun)
        return percentile(seconds, 0.99)

    def test_a_tenant_that_trickles_is_served_beside_one_that_floods(self):
        flooding, trickling = (SERVER.create_tenant(name) for name in ("flooding", "trickling"))
        self.trickle(trickling, 20)
        quiet = self.trickle(trickling, 30)
        with Faults("batch of a flood") as faults, Flood(SERVER, flooding, threads=6, events=200) as flood:
            wait_until(lambda: flood.answers, "the flood is there")
            beside = self.trickle(trickling, 30)
            faults.inject(len(flood.answers))
        self.assertLessEqual(flood.statuses(), {200, 429, 503})
        print(f"p99 of an edit: {quiet * 1000:.1f} ms alone, {beside * 1000:.1f} ms beside {len(flood.answers)} batches")


class Attributes(unittest.TestCase):
    def test_new_attributes_past_the_quota_are_refused_and_the_rest_of_their_events_is_stored(self):
        key = SERVER.create_tenant("inventive")
        resident = None
        requests = 3 * ATTRIBUTES_MAX // EVENT_ATTRIBUTES_MAX
        with Faults("attribute past the quota") as faults:
            for number in range(requests):
                invented = {f"invented {number} {n}": n for n in range(EVENT_ATTRIBUTES_MAX - 1)}
                event = {"type": "inventive", "id": f"e{number}", "observed_at": TIME, "attributes": {"known": number, **invented}}
                status, answer = SERVER.ingest([event], key=key)
                self.assertEqual((status, answer["accepted"]), (200, 1), answer["rejected"][:1])
                self.assertLessEqual({row["code"] for row in answer["rejected"]}, {"quota_exceeded"})
                faults.inject(len(answer["rejected"]))
                if number == requests // 2:
                    resident = resident_bytes(SERVER)
                    self.assertGreater(faults.count, 0)
        grown = resident_bytes(SERVER) - resident
        self.assertLess(grown, 64 << 20, "what is refused is not remembered")
        tenant = DATABASE.value("SELECT tenant_id FROM sheaf.tenants WHERE name = 'inventive'")
        self.assertEqual(DATABASE.count(f"sheaf.attributes WHERE tenant_id = {tenant}"), ATTRIBUTES_MAX)
        for number in (0, requests - 1):
            status, _, text = SERVER.call("GET", f"/v1/entities/inventive/e{number}", key=key)
            self.assertEqual(json.loads(text)["attributes"]["known"], number)
        self.assertEqual(set(json.loads(text)["attributes"]), {"known"}, "nothing else is stored of the last")
        status, answer = SERVER.send("PATCH", "/v1/entities/inventive/edited", {"attributes": {"known": 1, "new": 1}}, key=key)
        self.assertEqual((status, answer["errors"][0]["code"]), (422, "quota_exceeded"), answer)
        status, answer = SERVER.send("POST", "/v1/attributes", {"name": "new", "type": "int"}, key=key)
        self.assertEqual((status, answer["code"]), (429, "quota_exceeded"), answer)
        status, _ = SERVER.send("PATCH", "/v1/entities/other/a", {"attributes": {"new": 1}})
        self.assertEqual(status, 201, "another tenant has its own quota")


class Entities(unittest.TestCase):
    def check_readable(self, name, key, known):
        status, _, text = SERVER.call("GET", entity_path("huge", name), key=key)
        self.assertEqual(status, 200, text[:300])
        self.assertEqual(json.loads(text)["attributes"]["known"], known)
        self.assertLess(len(text), 2 * DOCUMENT_BYTES_MAX)
        status, _, listed = SERVER.call("GET", "/v1/entities", key=key, query={"type": "huge", "select": "known"})
        self.assertEqual(status, 200, listed[:300])
        self.assertIn(name, [item["id"] for item in json.loads(listed)["items"]])
        return json.loads(text)["attributes"]

    def test_an_entity_of_every_attribute_that_a_tenant_may_have_is_read_and_listed(self):
        key = SERVER.create_tenant("wide")
        with Faults("attribute of one entity") as faults:
            for number in range(12):
                attributes = {f"w{number} {n}": n for n in range(EVENT_ATTRIBUTES_MAX - 1)}
                event = {"type": "huge", "id": "wide", "observed_at": f"2013-01-01T06:00:{number:02}Z"}
                status, answer = SERVER.ingest([{**event, "attributes": {"known": number, **attributes}}], key=key)
                self.assertEqual(status, 200, answer)
                faults.inject(len(attributes))
        attributes = self.check_readable("wide", key, 11)
        self.assertEqual(len(attributes), ATTRIBUTES_MAX)

    def test_an_entity_that_would_be_50_mb_stays_within_its_bound(self):
        key = SERVER.create_tenant("deep")
        value = "x" * 250_000
        codes, sent = set(), 0
        with Faults("value past the bound of a document") as faults:
            # New attributes at first, and then other values of those that are there.
            for request, letter in enumerate("xxxxxy"):
                events = []
                for number in range(10):
                    place = number if letter == "y" else 10 * request + number
                    attributes = {f"v{place} {n}": letter * 250_000 for n in range(4)}
                    sent += sum(len(text) for text in attributes.values())
                    time_of = f"2013-01-01T{6 + request:02}:{number:02}:"
                    events.append({"type": "huge", "id": "deep", "observed_at": time_of + "00Z", "attributes": attributes})
                    events.append({"type": "huge", "id": "deep", "observed_at": time_of + "30Z", "attributes": {"known": 1}})
                status, answer = SERVER.ingest(events, key=key)
                self.assertEqual(status, 200, answer)
                codes |= {row["code"] for row in answer["rejected"]}
                faults.inject(len(answer["rejected"]))
        self.assertGreaterEqual(sent, 50_000_000)
        self.assertEqual(codes, {"quota_exceeded"})
        attributes = self.check_readable("deep", key, 1)
        held = sum(len(text) for text in attributes.values() if isinstance(text, str))
        self.assertLessEqual(held, DOCUMENT_BYTES_MAX)
        self.assertGreater(held, DOCUMENT_BYTES_MAX * 3 // 4, "the bound is what stopped it")
        status, _ = SERVER.send("PATCH", "/v1/entities/huge/deep", {"attributes": {"known": 2}}, key=key)
        self.assertEqual(status, 200, "it can still be changed")
        self.check_readable("deep", key, 2)


class Connections(unittest.TestCase):
    def test_reads_past_the_pool_are_told_within_their_time_and_the_health_is_told_at_once(self):
        server = Serving(SERVER, "app_connections = 2\nsearch_connections = 2\n")
        self.addCleanup(server.stop)
        self.assertEqual(server.send("PATCH", "/v1/entities/pool/a", {"attributes": {"n": 1}})[0], 201)
        answers = []

        def read():
            begun = time.monotonic()
            status, headers, _ = server.call("GET", "/v1/entities/pool/a")
            answers.append((status, headers["Retry-After"] is not None, time.monotonic() - begun))

        threads = [threading.Thread(target=read, daemon=True) for _ in range(8)]
        with Faults("connection that is held") as faults:
            with DATABASE.held("TABLE sheaf.entity_jsonb IN ACCESS EXCLUSIVE MODE"):
                for thread in threads:
                    thread.start()
                DATABASE.wait_for_waiters(2)
                faults.inject(2)
                wait_until(lambda: len(answers) >= 6, "those without a connection are answered", 15)
                for status, says_when, seconds in answers:
                    self.assertEqual((status, says_when), (503, True))
                    self.assertLess(seconds, 12)
                begun = time.monotonic()
                self.assertEqual(server.call("GET", "/healthz")[0], 200)
                self.assertLess(time.monotonic() - begun, 2)
            for thread in threads:
                thread.join(30)
        self.assertEqual(len(answers), len(threads), "nobody waits for ever")
        wait_until(lambda: server.call("GET", "/v1/entities/pool/a")[0] == 200, "all is as before")


if __name__ == "__main__":
    unittest.main(verbosity=2)
