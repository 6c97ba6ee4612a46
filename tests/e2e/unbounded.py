"""A filter that would read most documents of a large tenant is refused with the way out, and the way out is one."""

import json
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server  # noqa: E402
from support.database import Database, wait_until  # noqa: E402

SERVER = None
DATABASE = None
# More than are read, by more than what statistics may be wrong by.
DEVICES = 205_000
PINNED_WITHIN_SECONDS = 300


def setUpModule():
    """Puts the documents into the tables as a server would have left them: writing is not what is tested."""
    global SERVER, DATABASE
    SERVER = Server()
    DATABASE = Database(SERVER)
    numbers = {}
    for name, kind in (("wear", "int"), ("lot", "text"), ("rare", "int")):
        pin = "hot" if name == "lot" else "cold"
        status, answer = SERVER.send("POST", "/v1/attributes", {"name": name, "type": kind, "pin": pin})
        assert status == 201, answer
        numbers[name] = DATABASE.value(f"SELECT attribute_id FROM sheaf.attributes WHERE name = '{name}'")
    filled = "SELECT count(*) FROM sheaf.attributes WHERE name = 'lot' AND value_index = 'filled'"
    wait_until(lambda: DATABASE.value(filled) == "1", "the value index of an attribute that nobody has is filled")
    tenant = DATABASE.value("SELECT tenant_id FROM sheaf.tenants WHERE name = 'demo'")
    wear, lot, rare = numbers["wear"], numbers["lot"], numbers["rare"]
    DATABASE.rows(
        "INSERT INTO sheaf.entities (tenant_id, entity_type, external_id, created_at)"
        f" SELECT {tenant}, CASE WHEN n <= 10 THEN 'sensor' ELSE 'device' END, 'd' || n, now() FROM generate_series(1, {DEVICES}) n"
    )
    DATABASE.rows(
        "INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, deleted, updated_at, hot_attrs, cold_attrs, present, times)"
        f" SELECT tenant_id, entity_id, 1, now(), false, now(), jsonb_build_object('{lot}', 'l' || n % 5000),"
        f" jsonb_build_object('{wear}', n % 100) || CASE WHEN n % 50000 = 0 THEN jsonb_build_object('{rare}', n) ELSE '{{}}' END,"
        f" ARRAY[{lot}, {wear}] || CASE WHEN n % 50000 = 0 THEN ARRAY[{rare}] ELSE '{{}}' END, '{{}}'"
        f" FROM (SELECT *, substr(external_id, 2)::bigint AS n FROM sheaf.entities WHERE tenant_id = {tenant}) e"
    )
    DATABASE.rows(
        "INSERT INTO sheaf.entity_index_text (tenant_id, attribute_id, entity_id, value)"
        f" SELECT tenant_id, {lot}, entity_id, hot_attrs ->> '{lot}' FROM sheaf.entity_jsonb"
    )
    DATABASE.rows("ANALYZE")


def tearDownModule():
    SERVER.stop()


def search(filter, **members):
    return SERVER.send("POST", "/v1/entities/search", {"filter": filter, "limit": 1_000, **members})


class Unbounded(unittest.TestCase):
    def refused(self, status, answer, why):
        self.assertEqual((status, answer["code"]), (422, "unbounded_query"), f"{why}: {answer}")
        self.assertIn('"wear"', answer["detail"], why)
        self.assertIn('pin the attribute "wear" hot', answer["hint"], why)

    def found(self, count, status, answer):
        self.assertEqual(status, 200, answer)
        self.assertEqual(len(answer["items"]), count, answer)

    def test_a_filter_on_what_most_documents_have_is_refused_with_the_way_out_and_that_is_one(self):
        # On every route, and whatever stands beside it that narrows nothing.
        for filter in ("wear >= 99", "wear = 7", "wear <> 7", "wear >= 99 OR lot = 'l1'", "wear >= 99 OR rare > 0"):
            self.refused(*search(filter), filter)
            self.refused(*search(filter, type="device"), filter)
        status, _, text = SERVER.call("GET", "/v1/entities", query={"filter": "wear >= 99"})
        self.refused(status, json.loads(text), "GET")
        many = {"filter": "wear >= 99", "attribute": ["wear"], "from": "2013-01-01T00:00:00Z"}
        self.refused(*SERVER.send("POST", "/v1/history/query", many), "histories")
        # A condition that few entities pass, or a type that few have.
        self.found(1, *search("wear = 1 AND lot = 'l1' AND external_id = 'd1'"))
        self.found(41, *search("wear = 1 AND lot = 'l1'"))
        self.found(4, *search("wear < 50 AND rare > 0"))
        self.found(4, *search("lot > 'l4' AND wear < 50 AND rare > 0 OR rare > 0"))
        self.found(1, *search("wear = 7", type="sensor"))
        # The attribute pinned hot, as the hint says.
        status, answer = SERVER.send("PATCH", "/v1/attributes/wear", {"pin": "hot"})
        self.assertEqual(status, 200, answer)
        filled = "SELECT count(*) FROM sheaf.attributes WHERE name = 'wear' AND value_index = 'filled'"
        wait_until(lambda: DATABASE.value(filled) == "1", "upkeep has moved and indexed the values", PINNED_WITHIN_SECONDS)
        wait_until(lambda: search("wear > 98", limit=1)[0] == 200, "the pin is in force")
        for filter, count in (("wear = 7", 2_050), ("wear >= 99", 2_050), ("wear >= 99 OR lot = 'l1'", 2_091), ("wear > 98 OR wear < 1 OR rare > 0", 4_100)):
            status, answer = search(filter, limit=1, count="exact")
            self.assertEqual((status, answer.get("count")), (200, {"kind": "exact", "value": count}), filter)

    def test_a_list_of_a_rare_type_in_the_order_of_an_index_is_whole(self):
        # Of 205,000 rows of the index ten are of the type, and far apart.
        expected = sorted((f"l{n}", f"d{n}") for n in range(1, 11))
        for filter in (None, "lot >= 'l1'"):
            for sort, meant in (("lot", expected), ("-lot", expected[::-1])):
                found, cursor = [], None
                while cursor or not found:
                    query = {"type": "sensor", "sort": [sort], "limit": 3, "filter": filter, "cursor": cursor}
                    status, answer = SERVER.send("POST", "/v1/entities/search", query)
                    self.assertEqual(status, 200, answer)
                    found += [item["id"] for item in answer["items"]]
                    cursor = answer["next_cursor"]
                self.assertEqual(found, [name for _, name in meant], (filter, sort))


if __name__ == "__main__":
    unittest.main(verbosity=2)
