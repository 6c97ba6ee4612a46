"""One bad row among thousands costs itself and no neighbour, is told exactly, and is kept with what was sent."""

import json
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server, entity_path  # noqa: E402
from support.database import Database  # noqa: E402
from support.faults import seeded  # noqa: E402

SERVER = None
DATABASE = None
ROWS = 10_000
TIME = "2013-01-01T06:00:00Z"


def setUpModule():
    global SERVER, DATABASE
    SERVER = Server()
    DATABASE = Database(SERVER)
    for name, kind in [("i", "int"), ("f", "float"), ("d", "decimal"), ("t", "text"), ("b", "bool"), ("w", "time")]:
        SERVER.send("POST", "/v1/attributes", {"name": name, "type": kind})
    schema = {"minimum": 0}
    SERVER.send("POST", "/v1/attributes", {"name": "positive", "type": "float", "schema": schema})


def tearDownModule():
    SERVER.stop()


def line(kind, name, attributes, observed_at=TIME):
    """A line whose attributes are given as the JSON text of their object, for what json.dumps would not write."""
    head = json.dumps({"type": kind, "id": name, "observed_at": observed_at})[:-1]
    return f'{head}, "attributes": {attributes}}}'.encode()


def bad_lines(kind):
    """{name: (line, code, field)}; the attribute is the only one, so that nothing of the event can be stored."""
    value = {
        "text for an int": ('{"i": "three"}', "type_mismatch", "i"),
        "a fraction for an int": ('{"i": 3.5}', "number_not_exact", "i"),
        "an int of 65 bits": ('{"i": 9223372036854775808}', "out_of_range", "i"),
        "a float beyond a double": ('{"f": 1e999}', "out_of_range", "f"),
        "an integer that no double holds": ('{"f": 9007199254740993}', "number_not_exact", "f"),
        "a number for a text": ('{"t": 1}', "type_mismatch", "t"),
        "a number for a bool": ('{"b": 1}', "type_mismatch", "b"),
        "no time": ('{"w": "yesterday"}', "type_mismatch", "w"),
        "a NUL character": ('{"t": "a\\u0000b"}', "invalid_text", "t"),
        "a lone surrogate": ('{"t": "a\\ud800b"}', "invalid_text", "t"),
        "a value below its schema": ('{"positive": -1}', "schema_violation", "positive"),
        "a value of 300 KiB": ('{"t": "%s"}' % ("x" * 300 * 1024), "value_too_large", "t"),
        "1,001 attributes": ("{%s}" % ", ".join(f'"many{n}": 1' for n in range(1001)), "too_many_attributes", "attributes"),
        "a decimal of 10^5 digits": ('{"d": %s}' % ("9" * 100_000), "out_of_range", "d"),
        "a decimal of a huge exponent": ('{"d": 1e131000}', "out_of_range", "d"),
        "a decimal of a tiny exponent": ('{"d": "1e-16000"}', "out_of_range", "d"),
        "an attribute twice": ('{"i": 1, "i": 2}', "duplicate_key", "i"),
        "an attribute without a name": ('{"": 1}', "invalid_name", ""),
        "a NUL in a name": ('{"a\\u0000b": 1}', "invalid_name", "a\0b"),
        "a NUL byte": ('{"t": "a\x00b"}', "*", None),
        "a reserved name": ('{"observed_at": 1}', "reserved_name", "observed_at"),
    }
    lines = {name: (line(kind, "bad", text), code, field) for name, (text, code, field) in value.items()}
    good = '"attributes": {"i": 1}'
    lines |= {
        "half a line": (b'{"type": "bad", "id": "bad", "attri', "malformed_json", None),
        "no JSON at all": (b"what is this?", "malformed_json", None),
        "invalid UTF-8": (line(kind, "bad", '{"t": "@"}').replace(b"@", b"\xff\xfe"), "*", None),
        "an overlong encoding": (line(kind, "bad", '{"t": "@"}').replace(b"@", b"\xc0\xaf"), "*", None),
        "an encoded surrogate": (line(kind, "bad", '{"t": "@"}').replace(b"@", b"\xed\xa0\x80"), "*", None),
        "no type": (f'{{"id": "bad", {good}}}'.encode(), "missing_type", None),
        "no id": (f'{{"type": "{kind}", {good}}}'.encode(), "missing_id", None),
        "a NUL in an id": (f'{{"type": "{kind}", "id": "a\\u0000", {good}}}'.encode(), "*", None),
        "a type with a control character": (f'{{"type": "a\\u0001", "id": "bad", {good}}}'.encode(), "invalid_name", "type"),
        "a time of 1970": (line(kind, "bad", '{"i": 1}', "1970-01-01T00:00:00Z"), "time_out_of_range", "observed_at"),
        "a time of 2300": (line(kind, "bad", '{"i": 1}', "2300-01-01T00:00:00Z"), "time_out_of_range", "observed_at"),
    }
    return lines


def good_lines(kind):
    return [line(kind, f"e{n}", f'{{"i": {n}, "t": "row {n}"}}') for n in range(ROWS - 1)]


class BadRows(unittest.TestCase):
    def check_stored(self, kind, count):
        names = [name for name, _, _ in DATABASE.events(kind)]
        self.assertEqual(len(names), count)
        self.assertEqual(len(set(names)), count)
        self.assertNotIn("bad", names)

    def test_a_batch_of_10000_stores_9999_and_names_the_other(self):
        places = seeded("places of the bad row")
        for number, (name, (bad, _, _)) in enumerate(places.sample(sorted(bad_lines("big").items()), 4)):
            with self.subTest(bad=name):
                kind = f"big{number}"
                place = places.randrange(ROWS)
                lines = good_lines(kind)
                lines.insert(place, bad)
                status, answer = SERVER.ingest(lines)
                self.assertEqual(status, 200)
                counts = (answer["events"], answer["accepted"], answer["refused"])
                self.assertEqual(counts, (ROWS, ROWS - 1, 1))
                self.assertEqual([row["index"] for row in answer["rejected"]], [place])
                self.check_kept(answer, place, bad)
                self.check_stored(kind, ROWS - 1)

    def test_a_batch_that_wants_all_or_nothing_stores_nothing_and_names_the_bad_row(self):
        places = seeded("places of the bad row with on_error=reject")
        entities = DATABASE.count("sheaf.entities")
        for name, (bad, _, _) in places.sample(sorted(bad_lines("strict").items()), 3):
            with self.subTest(bad=name):
                place = places.randrange(ROWS)
                lines = good_lines("strict")
                lines.insert(place, bad)
                status, answer = SERVER.ingest(lines, on_error="reject")
                self.assertEqual((status, answer["code"]), (422, "batch_refused"), answer)
                self.assertEqual([row["index"] for row in answer["rejected"]], [place])
                self.check_kept(answer, place, bad)
                self.assertEqual((answer["accepted"], answer["refused"]), (0, ROWS))
                self.assertEqual(DATABASE.events("strict"), [])
        self.assertEqual(SERVER.get("/v1/entities", type="strict")["items"], [])
        self.assertEqual(DATABASE.count("sheaf.entities WHERE entity_type = 'bad'"), 0)
        self.assertLessEqual(DATABASE.count("sheaf.entities"), entities + ROWS)

    def test_each_kind_of_badness_has_its_code_and_keeps_what_was_sent(self):
        kind = "kinds"
        for name, (bad, code, field) in bad_lines(kind).items():
            with self.subTest(bad=name):
                lines = [line(kind, "before", '{"i": 1}'), bad, line(kind, "after", '{"i": 2}')]
                status, answer = SERVER.ingest(lines)
                self.assertEqual((status, answer["refused"], len(answer["rejected"])), (200, 1, 1), answer)
                rejected = answer["rejected"][0]
                self.assertEqual(rejected["index"], 1)
                if code != "*":
                    self.assertEqual((rejected["code"], rejected["field"]), (code, field), rejected["reason"])
                kept = SERVER.get("/v1/rejections", batch_id=answer["batch_id"])["items"]
                self.assertEqual(len(kept), 1)
                for member in ("index", "code", "reason"):
                    self.assertEqual(kept[0][member], rejected[member])
                # The answer names the field as it was sent; PostgreSQL, which keeps it, has no text with a NUL.
                field = rejected["field"] and rejected["field"].replace("\0", "\ufffd")
                self.assertEqual(kept[0]["field"], field)
                self.assertEqual((kept[0]["status"], kept[0]["batch_id"]), ("open", answer["batch_id"]))
                self.check_raw(kept[0]["raw"], bad)
        self.check_stored(kind, 2)

    def check_kept(self, answer, place, bad):
        kept = SERVER.get("/v1/rejections", batch_id=answer["batch_id"])["items"]
        self.assertEqual([(row["index"], row["code"]) for row in kept], [(place, answer["rejected"][0]["code"])])
        self.check_raw(kept[0]["raw"], bad)

    def check_raw(self, raw, sent):
        """All of what was sent, as far as it is text and not larger than what is kept."""
        sent = sent.decode(errors="replace")
        if len(sent) < 10_000 and "\ufffd" not in sent:
            self.assertEqual(raw, sent)
        else:
            self.assertEqual(raw[:20], sent[:20])

    def test_a_bad_value_is_refused_alone_and_the_rest_of_its_event_is_stored(self):
        status, answer = SERVER.ingest([line("rest", "a", '{"i": "three", "t": "kept", "b": 7, "f": 2.5}')])
        self.assertEqual((status, answer["accepted"], answer["refused"], answer["values"]), (200, 1, 0, 2), answer)
        self.assertEqual({row["field"] for row in answer["rejected"]}, {"i", "b"})
        self.assertEqual(SERVER.get("/v1/entities/rest/a")["attributes"], {"t": "kept", "f": 2.5})
        self.assertEqual(len(SERVER.get("/v1/rejections", batch_id=answer["batch_id"])["items"]), 2)

    def test_more_than_a_hundred_refusals_are_all_kept(self):
        lines = [line("many", f"e{n}", '{"i": "x"}') for n in range(250)]
        status, answer = SERVER.ingest([*lines, line("many", "good", '{"i": 1}')])
        self.assertEqual((status, answer["refused"], len(answer["rejected"])), (200, 250, 100))
        found, cursor = [], {}
        while True:
            page = SERVER.get("/v1/rejections", batch_id=answer["batch_id"], limit=100, **cursor)
            found += [row["index"] for row in page["items"]]
            if not page["next_cursor"]:
                break
            cursor = {"cursor": page["next_cursor"]}
        self.assertEqual(sorted(found), list(range(250)))

    def test_a_batch_of_only_bad_rows_is_told_as_such(self):
        status, answer = SERVER.ingest([line("nothing", "a", '{"i": "x"}'), b"{"])
        self.assertEqual((status, answer["code"], answer["refused"]), (422, "all_refused", 2), answer)
        self.assertEqual(len(SERVER.get("/v1/rejections", batch_id=answer["batch_id"])["items"]), 2)

    def test_awkward_text_that_is_valid_is_stored_as_it_was_sent(self):
        texts = {
            "bom": "\ufeffbegins with a byte order mark",
            "astral": "\U0001f33e \U0010ffff",
            "noncharacter": "\ufffe\uffff",
            "bidi": "a\u202eb\u200f",
            "controls": "tab\t newline\n bell\x07 del\x7f",
            "quotes": "' \" \\ ' -- /* */ $$",
            "decomposed": "e\u0301 is not \u00e9 in a value",
        }
        for name, text in texts.items():
            status, answer = SERVER.ingest([{"type": "text", "id": name, "observed_at": TIME, "attributes": {"t": text}}])
            self.assertEqual(status, 200, answer)
            self.assertEqual(SERVER.get(entity_path("text", name))["attributes"]["t"], text, name)

    def test_a_body_may_begin_with_a_byte_order_mark_or_is_refused_in_the_open(self):
        lines = [b"\xef\xbb\xbf" + line("mark", "a", '{"i": 1}'), line("mark", "b", '{"i": 2}')]
        status, answer = SERVER.ingest(lines)
        self.assertEqual((status, answer["accepted"] + answer["refused"]), (200, 2), answer)
        self.assertEqual(SERVER.get("/v1/entities/mark/b")["attributes"], {"i": 2})


if __name__ == "__main__":
    unittest.main(verbosity=2)
