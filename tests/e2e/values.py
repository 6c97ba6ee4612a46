"""Every value comes back digit by digit: extremes of each type, over every way in, compared as raw JSON text."""

import math
import os
import struct
import sys
import unittest
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server, entity_path  # noqa: E402
from support.faults import seeded  # noqa: E402

SERVER = None
TIME = "2013-01-01T06:00:00Z"
TYPES = ("int", "float", "decimal", "text", "bool", "time", "json")
REFUSED = None

# (type, JSON text that is sent, JSON text that comes back, or REFUSED)
TABLE = [
    ("int", "0", "0"),
    ("int", "-0", "0"),
    ("int", "3.0", "3"),
    ("int", "3e0", "3"),
    ("int", "30e-1", "3"),
    ("int", "9223372036854775807", "9223372036854775807"),
    ("int", "-9223372036854775808", "-9223372036854775808"),
    ("int", "9223372036854775807.000", "9223372036854775807"),
    ("int", "9007199254740993", "9007199254740993"),
    ("int", "9223372036854775808", REFUSED),
    ("int", "-9223372036854775809", REFUSED),
    ("int", "3.5", REFUSED),
    ("int", '"3"', REFUSED),
    ("int", "true", REFUSED),
    ("float", "0", "0.0"),
    ("float", "-0.0", "0.0"),
    ("float", "0.1", "0.1"),
    ("float", "39.02", "39.02"),
    ("float", "0.30000000000000004", "0.30000000000000004"),
    ("float", "0.3000000000000000444", "0.30000000000000004"),
    ("float", "1.7976931348623157e308", "1.7976931348623157e+308"),
    ("float", "-1.7976931348623157e308", "-1.7976931348623157e+308"),
    ("float", "2.2250738585072014e-308", "2.2250738585072014e-308"),
    ("float", "5e-324", "5e-324"),
    ("float", "9007199254740992", "9007199254740992.0"),
    ("float", "9007199254740993", REFUSED),
    ("float", "18014398509481984", "1.8014398509481984e+16"),
    ("float", "1.8e308", REFUSED),
    ("float", "1e400", REFUSED),
    ("float", '"1"', REFUSED),
    ("decimal", '"12.50"', '"12.50"'),
    ("decimal", "12.50", '"12.50"'),
    ("decimal", '"0.000"', '"0.000"'),
    ("decimal", '"-0.10"', '"-0.10"'),
    ("decimal", '"99999999999999999999999999999999999999.99"', '"99999999999999999999999999999999999999.99"'),
    ("decimal", "123456789012345678901234567890.123456789", '"123456789012345678901234567890.123456789"'),
    ("decimal", '"1e3"', '"1000"'),
    ("decimal", '"1E-3"', '"0.001"'),
    ("decimal", '"0.' + "0" * 300 + '1"', '"0.' + "0" * 300 + '1"'),
    ("decimal", '"' + "9" * 1000 + '"', '"' + "9" * 1000 + '"'),
    ("decimal", '"' + "9" * 1001 + '"', REFUSED),
    ("decimal", '"1e131000"', REFUSED),
    ("decimal", '"NaN"', REFUSED),
    ("decimal", '"Infinity"', REFUSED),
    ("decimal", '"1,5"', REFUSED),
    ("decimal", '""', REFUSED),
    ("text", '""', '""'),
    ("text", '"NULL"', '"NULL"'),
    ("text", '"\\\\N"', '"\\\\N"'),
    ("text", '"\\\\."', '"\\\\."'),
    ("text", '"{}"', '"{}"'),
    ("text", '"\\u00e9"', '"é"'),
    ("text", '"\\ud83c\\udf3e"', '"🌾"'),
    ("text", '"e\\u0301"', '"e\u0301"'),
    ("text", '"\\u0000"', REFUSED),
    ("text", '"\\ud800"', REFUSED),
    ("text", "1", REFUSED),
    ("bool", "true", "true"),
    ("bool", "false", "false"),
    ("bool", "1", REFUSED),
    ("bool", '"true"', REFUSED),
    ("time", '"2013-01-01T06:00:00Z"', '"2013-01-01T06:00:00Z"'),
    ("time", '"2013-01-01T06:00:00.000001Z"', '"2013-01-01T06:00:00.000001Z"'),
    ("time", '"2013-01-01T06:00:00.120000Z"', '"2013-01-01T06:00:00.12Z"'),
    ("time", '"2013-01-01T06:00:00.9999999Z"', '"2013-01-01T06:00:00.999999Z"'),
    ("time", '"2013-01-01T06:00:00+05:30"', '"2013-01-01T00:30:00Z"'),
    ("time", '"1969-12-31T23:59:59.9999999Z"', '"1969-12-31T23:59:59.999999Z"'),
    ("time", '"9999-12-31T23:59:59.999999Z"', '"9999-12-31T23:59:59.999999Z"'),
    ("time", '"2013-02-29T00:00:00Z"', REFUSED),
    ("time", '"2013-01-01T06:00:00"', REFUSED),
    ("time", '"2013-01-01"', REFUSED),
    ("time", '"infinity"', REFUSED),
    ("time", "1357020000", REFUSED),
    ("json", "[]", "[]"),
    ("json", "{}", "{}"),
    ("json", "[null]", "[null]"),
    ("json", '{"a":null,"b":[1,2.50,"x"]}', '{"a": null, "b": [1, 2.50, "x"]}'),
    ("json", "[123456789012345678901234567890.10]", "[123456789012345678901234567890.10]"),
    ("json", '{"a":1,"a":2}', REFUSED),
    ("json", '["\\u0000"]', REFUSED),
]  # fmt: skip


def setUpModule():
    global SERVER
    SERVER = Server()
    for kind in TYPES:
        assert SERVER.send("POST", "/v1/attributes", {"name": kind, "type": kind})[0] == 201


def tearDownModule():
    SERVER.stop()


def reads_back(text, name, expected):
    """The exact text stands in the answer, as the value of the attribute."""
    return f'"attributes":{{"{name}":{expected}}}' in text


def events_of(name, kind, sent):
    return f'{{"type":"v","id":"{name}","observed_at":"{TIME}","attributes":{{"{kind}":{sent}}}}}'


class Values(unittest.TestCase):
    def check(self, path, kind, expected):
        status, _, text = SERVER.call("GET", path)
        if expected is REFUSED:
            self.assertEqual(status, 404, text)
            return
        self.assertEqual(status, 200, text)
        self.assertTrue(reads_back(text, kind, expected), f"{expected} is not in {text}")
        status, _, text = SERVER.call("GET", path + "/history")
        self.assertEqual(status, 200, text)
        self.assertTrue(reads_back(text, kind, expected), f"{expected} is not in {text}")
        status, _, text = SERVER.call("GET", path + "?as_of=2014-01-01T00:00:00Z")
        self.assertTrue(reads_back(text, kind, expected), f"{expected} is not in {text}")

    def test_ingested_values_read_back_digit_by_digit(self):
        for number, (kind, sent, expected) in enumerate(TABLE):
            with self.subTest(type=kind, sent=sent[:50]):
                status, _, text = SERVER.call(
                    "POST", "/v1/ingest", events_of(f"i{number}", kind, sent).encode(), {"Content-Type": "application/x-ndjson"}
                )
                self.assertEqual(status, 422 if expected is REFUSED else 200, text)
                self.check(entity_path("v", f"i{number}"), kind, expected)

    def test_edited_values_read_back_digit_by_digit(self):
        for number, (kind, sent, expected) in enumerate(TABLE):
            with self.subTest(type=kind, sent=sent[:50]):
                body = f'{{"attributes":{{"{kind}":{sent}}},"observed_at":"{TIME}"}}'.encode()
                path = entity_path("v", f"e{number}")
                status, _, text = SERVER.call("PATCH", path, body, {"Content-Type": "application/json"})
                # A key that stands twice is a fault of the document, and not of a value.
                self.assertIn(status, (400, 422) if expected is REFUSED else (201,), text)
                self.check(path, kind, expected)

    def test_lists_filters_and_sorts_use_the_exact_value(self):
        big = [2**53 - 1, 2**53, 2**53 + 1, 2**53 + 2, 2**63 - 2, 2**63 - 1, -(2**63), -(2**63) + 1]
        SERVER.ingest([{"type": "big", "id": str(n), "observed_at": TIME, "attributes": {"int": n}} for n in big])
        for n in big:
            items = SERVER.get("/v1/entities", type="big", filter=f'"int" = {n}')["items"]
            self.assertEqual([item["attributes"]["int"] for item in items], [n])
        items = SERVER.get("/v1/entities", type="big", sort="int")["items"]
        self.assertEqual([item["attributes"]["int"] for item in items], sorted(big))
        decimals = ["0.1", "0.10000000000000000000000000000000000001", "0.2", "-5", "1000000000000000000000000000000000"]
        SERVER.ingest([{"type": "dec", "id": text, "observed_at": TIME, "attributes": {"decimal": text}} for text in decimals])
        items = SERVER.get("/v1/entities", type="dec", sort="decimal")["items"]
        self.assertEqual([item["id"] for item in items], ["-5", *decimals[:3], decimals[4]])
        items = SERVER.get("/v1/entities", type="dec", filter='"decimal" > 0.1 AND "decimal" < 0.2')["items"]
        self.assertEqual([item["id"] for item in items], [decimals[1]])

    def test_random_doubles_read_back_as_the_same_double(self):
        random = seeded("random doubles")
        doubles = {}
        while len(doubles) < 2000:
            value = struct.unpack("<d", random.randbytes(8))[0]
            if math.isfinite(value) and not (value.is_integer() and abs(value) > 2**53):
                doubles[f"f{len(doubles):04}"] = value
        lines = [events_of(name, "float", repr(value)).replace('"v"', '"double"').encode() for name, value in doubles.items()]
        status, answer = SERVER.ingest(lines)
        self.assertEqual((status, answer["refused"]), (200, 0), answer)
        found, cursor = {}, {}
        while True:
            page = SERVER.get("/v1/entities", type="double", limit=1000, **cursor)
            found |= {item["id"]: item["attributes"]["float"] for item in page["items"]}
            if not page["next_cursor"]:
                break
            cursor = {"cursor": page["next_cursor"]}
        self.assertEqual(found, doubles)

    def test_an_undeclared_attribute_takes_its_type_from_its_first_value(self):
        for sent, kind, back in (
            ("1", "float", "1.0"),
            ("1.50", "float", "1.5"),
            ('"1"', "text", '"1"'),
            ("true", "bool", "true"),
            ("[1]", "json", "[1]"),
            ('{"a":1}', "json", '{"a": 1}'),
        ):
            name = f"inferred_{kind}_{len(sent)}"
            body = f'{{"attributes":{{"{name}":{sent}}}}}'.encode()
            SERVER.call("PATCH", f"/v1/entities/inferred/{name}", body, {"Content-Type": "application/json"})
            attribute = SERVER.get(f"/v1/attributes/{name}")
            self.assertEqual((attribute["type"], attribute["origin"]), (kind, "inferred"))
            text = SERVER.call("GET", f"/v1/entities/inferred/{name}")[2]
            self.assertTrue(reads_back(text, name, back), text)

    def test_a_name_is_one_name_however_it_is_composed(self):
        def edit(attributes):
            return SERVER.send("PATCH", "/v1/entities/name/a", {"attributes": attributes})[0]

        self.assertEqual(edit({"e\u0301": 1, "k": 5}), 201)
        self.assertEqual(edit({"\u00e9": 2, "\u212a": 3}), 200)
        document = SERVER.get("/v1/entities/name/a")
        # The Kelvin sign is a capital K; case counts.
        self.assertEqual(document["attributes"], {"\u00e9": 2.0, "K": 3.0, "k": 5.0})
        self.assertEqual(edit({"\u00e9": 1, "e\u0301": 2}), 422, "one name twice")
        self.assertEqual(SERVER.get("/v1/entities/name/a"), document)
        found = SERVER.get("/v1/entities", filter='"e\u0301" = 2', select="\u212a")["items"]
        self.assertEqual([item["attributes"] for item in found], [{"K": 3.0}])

    def test_names_are_normalised_once_at_the_edge_and_otherwise_kept_apart(self):
        # (what is sent, what it is known by); each gets its number as its value.
        table = [
            ("\u00c5", "\u00c5"),
            ("A\u030a1", "\u00c51"),
            ("\u212b2", "\u00c52"),
            ("case", "case"),
            ("Case", "Case"),
            ("CASE", "CASE"),
            ("stra\u00dfe", "stra\u00dfe"),
            ("strasse", "strasse"),
            ("\ufb01n", "\ufb01n"),
            ("\uff41", "\uff41"),
            ("a", "a"),
            ("\u0430", "\u0430"),
            ("\u05e9\u05dc\u05d5\u05dd", "\u05e9\u05dc\u05d5\u05dd"),
            ("\u202eabc", "\u202eabc"),
            ("abc", "abc"),
            (" abc", " abc"),
            ("i\u0307", "i\u0307"),
            ("\u0130", "\u0130"),
        ]
        sent = {name: number for number, (name, _) in enumerate(table)}
        expected = {name: float(number) for number, (_, name) in enumerate(table)}
        self.assertEqual((len(sent), len(expected)), (len(table), len(table)))
        status, answer = SERVER.ingest([{"type": "names", "id": "a", "observed_at": TIME, "attributes": sent}])
        self.assertEqual((status, answer["values"], answer["rejected"]), (200, len(table), []))
        self.assertEqual(SERVER.get("/v1/entities/names/a")["attributes"], expected)
        for name, known_by in table:
            with self.subTest(name=name):
                self.assertEqual(SERVER.get("/v1/attributes/" + urllib.parse.quote(name, safe=""))["name"], known_by)
                found = SERVER.get("/v1/entities", type="names", filter=f'"{name}" = {sent[name]}')["items"]
                self.assertEqual(len(found), 1)
        for names in (("\u00e9", "e\u0301"), ("K", "\u212a"), ("\u00c5", "\u212b"), ("n", "n")):
            with self.subTest(twice=names):
                line = '{"type":"names","id":"b","attributes":{"%s":1,"%s":2}}' % names
                status, answer = SERVER.ingest([line.encode()])
                self.assertEqual((status, {row["code"] for row in answer["rejected"]}), (422, {"duplicate_key"}), answer)
        for name in ("", "a\u0000", "a\n", "\u0085", "\u007f", "x" * 256, "\u00e9" * 128):
            with self.subTest(refused=name[:10]):
                status, answer = SERVER.ingest([{"type": "names", "id": "c", "attributes": {name: 1}}])
                self.assertEqual((status, {row["code"] for row in answer["rejected"]}), (422, {"invalid_name"}), answer)


if __name__ == "__main__":
    unittest.main(verbosity=2)
