"""Whoever has mended the cause of a refusal replays it: the data is as if it had been good when it was sent, once."""

import concurrent.futures
import json
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server, entity_path  # noqa: E402
from support.database import Database  # noqa: E402

SERVER = None
DATABASE = None
TIME = "2013-01-01T06:00:00Z"


def setUpModule():
    global SERVER, DATABASE
    SERVER = Server()
    DATABASE = Database(SERVER)


def tearDownModule():
    SERVER.stop()


class Tenant:
    """A tenant of one test, which refuses attributes that nobody has declared."""

    made = 0

    def __init__(self, **policy):
        Tenant.made += 1
        self.name = f"replays{Tenant.made}"
        self.key = SERVER.create_tenant(self.name, **{"unknown_attributes": "refuse", **policy})

    def send(self, method, path, document=None):
        return SERVER.send(method, path, document, key=self.key)

    def change(self, **policy):
        status, answer = SERVER.send("PATCH", f"/v1/tenants/{self.name}", policy, key=SERVER.admin_key)
        assert status == 200, answer

    def declare(self, name, kind, **more):
        status, answer = self.send("POST", "/v1/attributes", {"name": name, "type": kind, **more})
        assert status == 201, answer

    def ingest(self, *events, **query):
        _, answer = SERVER.ingest(events, key=self.key, **query)
        return answer

    def write(self, lines, **query):
        """The batch of some lines of which any is bad."""
        status, _, text = SERVER.call("POST", "/api/v2/write", "\n".join(lines).encode(), key=self.key, query=query)
        assert status == 400, (status, text)
        return json.loads(text)["batch_id"]

    def replay(self, **selection):
        _, answer = self.send("POST", "/v1/rejections/replay", selection)
        return answer

    def rejections(self, **query):
        status, _, text = SERVER.call("GET", "/v1/rejections", key=self.key, query=query)
        assert status == 200, text
        return json.loads(text)["items"]

    def entity(self, kind, name):
        """Its attributes; None where there is no such entity."""
        status, answer = self.send("GET", entity_path(kind, name))
        return answer["attributes"] if status == 200 else None

    def history(self, kind, name):
        """Its instants in order, each with what it holds."""
        _, answer = self.send("GET", entity_path(kind, name) + "/history")
        return [(item["observed_at"], item["attributes"]) for item in answer["items"]]


def event(name, attributes, observed_at=TIME):
    timed = {"observed_at": observed_at} if observed_at else {}
    return {"type": "plane", "id": name, **timed, "attributes": attributes}


def counted(answer):
    return {name: answer[name] for name in ("accepted", "duplicates", "merged", "corrected", "refused") if answer[name]}


class Replay(unittest.TestCase):
    def check_all_replayed(self, tenant, count):
        self.assertEqual([row["status"] for row in tenant.rejections()], ["replayed"] * count)

    def check_twice_changes_nothing(self, tenant, name, **selection):
        before = (tenant.entity("plane", name), tenant.history("plane", name), tenant.rejections())
        for _ in range(2):
            answer = tenant.replay(**selection)
            self.assertEqual((answer["events"], counted(answer)), (0, {}), answer)
        self.assertEqual((tenant.entity("plane", name), tenant.history("plane", name), tenant.rejections()), before)

    def test_an_unknown_attribute_is_mended_by_declaring_it(self):
        tenant = Tenant()
        tenant.declare("seats", "int")
        batch = tenant.ingest(event("N1", {"seats": 149, "gate": "B7"}), event("N2", {"gate": "B8"}))["batch_id"]
        self.assertEqual(tenant.entity("plane", "N2"), None)
        tenant.declare("gate", "text")
        answer = tenant.replay(batch_id=batch)
        self.assertEqual((answer["events"], counted(answer)), (2, {"accepted": 1, "merged": 1}), answer)
        self.assertEqual(tenant.history("plane", "N1"), [(TIME, {"seats": 149, "gate": "B7"})])
        self.assertEqual(tenant.history("plane", "N2"), [(TIME, {"gate": "B8"})])
        self.check_all_replayed(tenant, 2)
        self.check_twice_changes_nothing(tenant, "N1", batch_id=batch)

    def test_an_unknown_attribute_is_mended_by_the_tenants_policy(self):
        tenant = Tenant()
        tenant.ingest(event("N1", {"gate": "B7", "pilots": [1, 2]}))
        tenant.change(unknown_attributes="create")
        self.assertEqual(counted(tenant.replay(code="unknown_attribute")), {"accepted": 1})
        self.assertEqual(tenant.entity("plane", "N1"), {"gate": "B7", "pilots": [1, 2]})
        self.check_all_replayed(tenant, 2)

    def test_a_time_out_of_range_is_mended_by_the_tenants_policy(self):
        tenant = Tenant()
        tenant.declare("gate", "text")
        old = "1969-07-20T20:17:40Z"
        tenant.ingest(event("N1", {"gate": "B7", "crew": 3}, old))
        tenant.change(observed_at_min="1960-01-01T00:00:00Z")
        ids = [row["id"] for row in tenant.rejections(code="time_out_of_range")]
        answer = tenant.replay(ids=ids)
        # One value of it is still bad, and no refusal tells of that but the event's own: it stays.
        self.assertEqual(counted(answer), {"accepted": 1})
        self.assertEqual([(row["field"], row["id"]) for row in answer["rejected"]], [("crew", ids[0])])
        self.assertEqual(tenant.history("plane", "N1"), [(old, {"gate": "B7"})])
        tenant.declare("crew", "int")
        self.assertEqual(counted(tenant.replay(ids=ids)), {"merged": 1})
        self.assertEqual(tenant.history("plane", "N1"), [(old, {"gate": "B7", "crew": 3})])
        self.check_all_replayed(tenant, 1)
        self.check_twice_changes_nothing(tenant, "N1", ids=ids)

    def test_a_value_against_its_schema_is_mended_by_another_schema(self):
        tenant = Tenant()
        tenant.declare("depth", "float", schema={"minimum": 0})
        tenant.ingest(event("N1", {"depth": -3.5}))
        status, answer = tenant.send("PATCH", "/v1/attributes/depth", {"schema": {"minimum": -10}})
        self.assertEqual(status, 200, answer)
        self.assertEqual(counted(tenant.replay(code="schema_violation")), {"accepted": 1})
        self.assertEqual(tenant.entity("plane", "N1"), {"depth": -3.5})

    def test_a_type_mismatch_that_nobody_can_mend_stays_open_and_makes_no_refusal_of_its_own(self):
        tenant = Tenant()
        tenant.declare("seats", "int")
        tenant.ingest(event("N1", {"seats": "many"}), event("N2", {"seats": "few"}))
        before = tenant.rejections()
        for _ in range(3):
            answer = tenant.replay(code="type_mismatch")
            self.assertEqual((answer["code"], answer["events"], answer["refused"]), ("all_refused", 2, 2), answer)
            self.assertEqual([row["index"] for row in answer["rejected"]], [0, 1])
            self.assertEqual([row["id"] for row in answer["rejected"]], [row["id"] for row in reversed(before)])
        self.assertEqual(tenant.rejections(), before)

    def test_events_without_a_time_are_stored_when_they_were_received_and_once(self):
        tenant = Tenant()
        tenant.declare("seats", "int")
        tenant.ingest(event("N1", {"gate": "B7"}, None), event("N2", {"seats": 1, "gate": "B8"}, None))
        received = tenant.rejections()[0]["received_at"]
        part_at = tenant.history("plane", "N2")[0][0]
        tenant.declare("gate", "text")
        self.assertEqual(counted(tenant.replay(code="unknown_attribute")), {"accepted": 1, "merged": 1})
        self.assertEqual(tenant.history("plane", "N1"), [(received, {"gate": "B7"})])
        self.assertEqual(tenant.history("plane", "N2"), [(part_at, {"seats": 1, "gate": "B8"})])
        self.check_all_replayed(tenant, 2)

    def test_lines_keep_their_precision_and_the_tags_that_make_their_ids(self):
        tenant = Tenant()
        for name in ("host", "region"):
            tenant.declare(name, "text")
        seconds, millis = "1357020000", "1357020000000"
        tenant.write([f"cpu,host=a,region=eu n=1i {seconds}"], precision="s", id_tag="host")
        tenant.write([f"cpu,host=b,region=eu n=2i {millis}"], precision="ms", id_tag="host,region")
        tenant.write([f"cpu,host=c,region=eu n=3i,host=\"x\" {seconds}"], precision="s")
        tenant.declare("n", "int")
        answer = tenant.replay(code="unknown_attribute")
        self.assertEqual((answer["events"], counted(answer)), (3, {"accepted": 3}), answer)
        for name, n, host in [("a", 1, "a"), ("b,eu", 2, "b"), ("host=c,region=eu", 3, "c")]:
            with self.subTest(entity=name):
                (time, attributes), = tenant.history("cpu", name)
                self.assertEqual((time, attributes), (TIME, {"n": n, "host": host, "region": "eu"}))

    def test_a_missing_id_is_mended_by_the_tenants_rule(self):
        tenant = Tenant(line_protocol={"cpu": {"id_tags": ["host", "core"]}})
        for name, kind in [("host", "text"), ("n", "int")]:
            tenant.declare(name, kind)
        batch = tenant.write(["cpu,host=a n=1i 1357020000"], precision="s")
        self.assertEqual(tenant.rejections()[0]["code"], "missing_id")
        tenant.change(line_protocol={"cpu": {"id_tags": ["host"]}})
        self.assertEqual(counted(tenant.replay(batch_id=batch)), {"accepted": 1})
        self.assertEqual(tenant.history("cpu", "a"), [(TIME, {"n": 1, "host": "a"})])

    def test_what_was_corrected_since_is_not_brought_back(self):
        tenant = Tenant()
        tenant.declare("seats", "int")
        batch = tenant.ingest(event("N1", {"seats": 1, "gate": "B7"}))["batch_id"]
        tenant.ingest(event("N1", {"seats": 2}))
        tenant.declare("gate", "text")
        self.assertEqual(counted(tenant.replay(batch_id=batch)), {"merged": 1})
        self.assertEqual(tenant.history("plane", "N1"), [(TIME, {"seats": 2, "gate": "B7"})])

    def test_many_at_once_store_everything_once(self):
        tenant = Tenant()
        tenant.declare("seats", "int")
        count = 200
        timed = [event(f"N{n}", {"gate": f"B{n}"}) for n in range(count)]
        parts = [event(f"N{n}", {"seats": n, "gate": f"B{n}"}, "2013-01-02T00:00:00Z") for n in range(count)]
        untimed = [event(f"N{n}", {"gate": f"C{n}"}, None) for n in range(count)]
        batch = tenant.ingest(*timed, *parts, *untimed)["batch_id"]
        tenant.declare("gate", "text")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: tenant.replay(batch_id=batch), range(8)))
        totals = {name: sum(answer[name] for answer in answers) for name in ("accepted", "merged", "corrected", "refused")}
        self.assertEqual(totals, {"accepted": 2 * count, "merged": count, "corrected": 0, "refused": 0})
        self.assertEqual(len(tenant.rejections(status="open", limit=1000)), 0)
        for n in (0, 7, count - 1):
            history = tenant.history("plane", f"N{n}")
            self.assertEqual([attributes for _, attributes in history],
                             [{"gate": f"B{n}"}, {"seats": n, "gate": f"B{n}"}, {"gate": f"C{n}"}])

    def test_a_long_list_of_refusals_is_replayed_call_by_call(self):
        tenant = Tenant()
        tenant.declare("seats", "int")
        tenant.ingest(*[event(f"N{n}", {"seats": "x" if n % 2 else n, "gate": "B7"}) for n in range(1_200)])
        tenant.declare("gate", "text")
        after, calls, merged = {}, 0, 0
        while True:
            answer = tenant.replay(code="unknown_attribute", **after)
            calls, merged = calls + 1, merged + answer["merged"] + answer["accepted"]
            if "next" not in answer:
                break
            after = {"after": answer["next"]}
        self.assertEqual((calls, merged), (2, 1_200))
        self.assertEqual({row["field"] for row in tenant.rejections(status="open", limit=1000)}, {"seats"})


if __name__ == "__main__":
    unittest.main(verbosity=2)
