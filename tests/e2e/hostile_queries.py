"""Filters, cursors and names that are made to hurt: refused, or taken as the text that they are."""

import glob
import json
import os
import string
import sys
import time
import unittest
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server, entity_path  # noqa: E402
from support.database import Database, wait_until  # noqa: E402

SERVER = None
DATABASE = None
STRANGER = None
SECONDS_MAX = 10
TIME = "2013-01-01T06:00:00Z"

INJECTIONS = [
    "'", "''", '"', '""', "\\", "\\'", "`", ";", "--", "/*", "*/", "$1", "$$", "%", "_", "%%", "?", ":x", "\x01"[:0] + "{}",
    "' OR '1'='1", "' OR 1=1 --", "'; DROP TABLE sheaf.tenants; --", '"; DROP TABLE sheaf.entities; --',
    "1; SELECT pg_sleep(10)", "' || pg_sleep(10) || '", "') UNION SELECT key_hash FROM sheaf.api_keys --",
    "1 UNION ALL SELECT NULL, NULL, NULL", "(SELECT signing_key FROM sheaf.settings)", "pg_sleep(10)", "current_user",
    "$1) OR true --", "$$; DROP SCHEMA sheaf CASCADE; $$", "E'\\x27'", "\\u0027 OR 1=1", "U&'\\0027'", "'::regclass", "0x27",
    "{\"$gt\": \"\"}", "->>'a'", "'{}'::jsonb", "@> '{}'", "sheaf.current_tenant()", "set_config('sheaf.tenant','1',false)",
    "'; SET ROLE sheaf_owner; --", "'; COMMIT; DELETE FROM sheaf.entity_jsonb; --", "COPY sheaf.tenants TO PROGRAM 'id'",
    "lo_import('/etc/passwd')", "xp_cmdshell", "%27%20OR%201%3D1", "%00", "${jndi:ldap://a}", "{{7*7}}", "../../../etc/passwd",
    "\u02bc OR 1=1", "\uff07 OR 1=1 --", "a\u2028b", "\U0001f600'",
]  # fmt: skip


def setUpModule():
    global SERVER, DATABASE, STRANGER
    SERVER = Server()
    DATABASE = Database(SERVER)
    STRANGER = SERVER.create_tenant("stranger")
    events = [
        {"type": "plane", "id": f"p{n:02}", "observed_at": TIME, "attributes": {"seats": n, "model": f"m{n % 3}", "up": True}}
        for n in range(20)
    ]
    for key in (SERVER.key, STRANGER):
        assert SERVER.ingest(events, key=key)[0] == 200


def tearDownModule():
    SERVER.stop()


def ask(path, key=None, **query):
    status, _, text = SERVER.call("GET", path, key=key, query=query)
    return status, json.loads(text)


def search(document, key=None):
    return SERVER.send("POST", "/v1/entities/search", document, key=key)


class HostileFilters(unittest.TestCase):
    def test_filters_beyond_the_bounds_are_refused_at_once(self):
        texts = {
            "10^4 conditions": " AND ".join(["seats = 1"] * 10_000),
            "10^4 alternatives": " OR ".join(["seats = 1"] * 10_000),
            "depth 10^4": "(" * 10_000 + "seats = 1" + ")" * 10_000,
            "depth 10^4 of NOT": "NOT " * 10_000 + "seats = 1",
            "depth 10^4 of NOT in parentheses": "NOT (" * 10_000 + "seats = 1" + ")" * 10_000,
            "40 KB of parentheses": "(" * 40_000,
            "40 KB of closing parentheses": ")" * 40_000,
            "a list of 10^6": "seats IN (" + ",".join(["1"] * 1_000_000) + ")",
            "a list of 2,000": "seats IN (" + ",".join(["1"] * 2_000) + ")",
            "a list of 2,000 texts": "model IN (" + ",".join(["'a'"] * 2_000) + ")",
            "a text of 1 MB": "model = '" + "x" * 1_000_000 + "'",
            "a pattern of 10^4 wildcards": "model LIKE '" + "%_" * 5_000 + "'",
            "a number of 10^5 digits": "seats = " + "9" * 100_000,
            "an endless text": "model = '" + "x" * 1_000,
            "depth 10^4 of CASEI": "CASEI(" * 10_000 + "model" + ")" * 10_000 + " = 'a'",
        }
        trees = {"op": "=", "args": [{"property": "seats"}, 1]}
        nested = trees
        for _ in range(400):
            nested = {"op": "not", "args": [nested]}
        trees = {
            "10^4 nodes": {"op": "and", "args": [trees] * 3_000},
            "depth 400": nested,
            "a list of 2,000": {"op": "in", "args": [{"property": "seats"}, [1] * 2_000]},
        }
        for name, text in texts.items():
            with self.subTest(filter=name):
                self.check_refused(lambda text=text: search({"filter": text}), len(text))
                if len(text) < 30_000:
                    self.check_refused(lambda text=text: ask("/v1/entities", filter=text), len(text))
        for name, tree in trees.items():
            with self.subTest(tree=name):
                self.check_refused(lambda tree=tree: search({"filter": tree}), len(json.dumps(tree)))

    def check_refused(self, call, size):
        begun = time.monotonic()
        status, answer = call()
        # A body of a search is bounded as well, and says so in its own way.
        self.assertIn(status, (400,) if size < 200_000 else (400, 413), str(answer)[:300])
        self.assertLess(time.monotonic() - begun, SECONDS_MAX)
        self.assertLess(len(json.dumps(answer)), 5_000, "the answer does not amplify")

    def test_what_is_no_filter_is_refused_with_its_place(self):
        for text in ("seats", "seats =", "= 1", "seats == 1", "seats = 1 AND", "seats = 'a", "seats = one", "seats ~ 1", "seats = 1; x",
                     "(seats = 1", "seats = 1)", "NOT", "IN (1)", "seats IN ()", "seats BETWEEN 1", "model LIKE 1", "f(seats) = 1",
                     "seats = $1", "seats = :a", "seats = NULL", "\x00", "seats = 1 -- x", "seats = 1 /* x */", "ORDER BY 1"):  # fmt: skip
            status, answer = search({"filter": text})
            self.assertEqual(status, 400, f"{text!r}: {answer}")
            self.assertIn(answer["code"], ("invalid_filter", "unknown_attribute", "filter_too_complex"), text)
            self.assertIn("offset", answer["errors"][0], text)


class Injections(unittest.TestCase):
    def setUp(self):
        self.before = fingerprint()

    def tearDown(self):
        self.assertEqual(fingerprint(), self.before, "a table has changed")

    def fine(self, status, answer, where):
        self.assertIn(status, (200, 400, 404, 414, 422), f"{where}: {answer}")

    def test_injections_into_queries_are_refused_or_find_nothing(self):
        statements = Statements()
        count = 0
        for text in INJECTIONS:
            quoted_text, quoted_name = text.replace("'", "''"), text.replace('"', '""')
            questions = [
                {"filter": text}, {"filter": f"seats = {text}"}, {"filter": f"model = '{text}'"}, {"filter": f"{text} = 1"},
                {"filter": f"model = '{quoted_text}'"}, {"filter": f"model LIKE '{quoted_text}'"}, {"filter": f'"{quoted_name}" = 1'},
                {"filter": f"external_id IN ('{quoted_text}')"}, {"filter": f"CASEI(model) = CASEI('{quoted_text}')"},
                {"filter": {"op": "=", "args": [{"property": text}, 1]}}, {"filter": {"op": "=", "args": [{"property": "model"}, text]}},
                {"filter": {"op": text, "args": [{"property": "seats"}, 1]}},
                {"sort": [text]}, {"sort": ["-" + text]}, {"select": [text]}, {"type": text}, {"cursor": text},
                {"facets": {text: {"top": 3}}}, {"count": text}, {text: 1},
            ]  # fmt: skip
            for question in questions:
                begun = time.monotonic()
                self.fine(*search(question), question)
                self.assertLess(time.monotonic() - begun, 5, question)
                count += 1
            status, answer = search({"filter": f"model = '{quoted_text}'"})
            if status == 200:
                self.assertEqual(answer["items"], [], text)
            for name in ("filter", "sort", "select", "type", "cursor", "limit", "count", "facets", "filter-lang", "consistency", "max_lag", "as_of"):
                self.fine(*ask("/v1/entities", **{name: text}), (name, text))
            path = entity_path(text or "x", text or "x")
            for parameter in ("attribute", "from", "to", "order", "bucket", "agg", "fill", "corrections"):
                self.fine(*ask(path + "/history", **{parameter: text}), (parameter, text))
            for other in (f"/v1/attributes/{urllib.parse.quote(text, safe='')}", path, "/v1/ingest/batches/" + urllib.parse.quote(text, safe="")):
                self.fine(*ask(other), other)
            for parameter in ("batch_id", "code", "type", "status", "from"):
                self.fine(*ask("/v1/rejections", **{parameter: text}), (parameter, text))
        print(f"asked {count} searches with {len(INJECTIONS)} injections")
        statements.check(self)

    def test_a_filter_that_is_true_for_all_only_finds_the_tenants_own(self):
        found = {item["type"] for item in SERVER.get("/v1/entities", filter="seats >= 0 OR seats IS NULL")["items"]}
        self.assertLessEqual(found, {"plane", "stored"})


class StoredInjections(unittest.TestCase):
    def test_injections_as_names_and_values_are_stored_as_they_are(self):
        statements = Statements()
        relations = DATABASE.value("SELECT count(*) FROM pg_class")
        for number, text in enumerate(INJECTIONS):
            events = [{"type": "stored", "id": f"{number}{text}", "observed_at": TIME, "attributes": {"x" + text: text, "number": number}}]
            status, answer = SERVER.ingest(events)
            self.assertEqual((status, answer["refused"]), (200, 0), f"{text!r}: {answer}")
            path = entity_path("stored", f"{number}{text}")
            self.assertEqual(SERVER.get(path)["attributes"], {"x" + text: text, "number": number})
            self.assertEqual(SERVER.get(path + "/history")["items"][0]["attributes"], {"x" + text: text, "number": number})
            name, value = text.replace('"', '""'), text.replace("'", "''")
            found = search({"filter": f"\"x{name}\" = '{value}' AND number = {number}", "sort": [f'-"x{name}"'], "select": [f'"x{name}"']})
            self.assertEqual((found[0], [item["id"] for item in found[1].get("items", [])]), (200, [f"{number}{text}"]), f"{text!r}: {found[1]}")
            self.assertEqual(found[1]["items"][0]["attributes"], {"x" + text: text})
            status, answer = SERVER.send("PATCH", path, {"attributes": {"x" + text: None}, "observed_at": "2013-01-02T00:00:00Z"})
            self.assertEqual(status, 200, answer)
        self.assertEqual(DATABASE.value("SELECT count(*) FROM pg_class"), relations, "nothing was created or dropped")
        statements.check(self)


class Cursors(unittest.TestCase):
    QUERY = {"type": "plane", "filter": "seats >= 0", "sort": "-seats", "limit": "3"}

    def refused(self, status, answer, why):
        self.assertEqual((status, answer.get("code")), (400, "invalid_cursor"), f"{why}: {answer}")

    def test_a_cursor_with_any_bit_changed_is_refused(self):
        cursor = SERVER.get("/v1/entities", **self.QUERY)["next_cursor"]
        self.assertEqual(ask("/v1/entities", **self.QUERY, cursor=cursor)[0], 200)
        alphabet = string.ascii_letters + string.digits + "-_"
        for place in range(len(cursor)):
            # In base 64 a character stands for six bits: each is flipped alone in turn.
            if cursor[place] in alphabet:
                flipped = alphabet[alphabet.index(cursor[place]) ^ (1 << place % 6)]
            else:
                flipped = "x"
            self.refused(*ask("/v1/entities", **self.QUERY, cursor=cursor[:place] + flipped + cursor[place + 1 :]), f"character {place}")
        for other in ("", "c1.", "c1", "x", cursor[:-1], cursor + "A", cursor[3:], cursor * 2, "c2." + cursor[3:], cursor.lower(), "c1." + "A" * 5_000):
            self.refused(*ask("/v1/entities", **self.QUERY, cursor=other), other[:60])

    def test_a_cursor_serves_only_its_query_and_its_tenant(self):
        cursor = SERVER.get("/v1/entities", **self.QUERY)["next_cursor"]
        self.refused(*ask("/v1/entities", STRANGER, **self.QUERY, cursor=cursor), "another tenant")
        for change in ({"type": "other"}, {"filter": "seats >= 1"}, {"sort": "seats"}, {"sort": "-seats,model"}):
            self.refused(*ask("/v1/entities", **{**self.QUERY, **change}, cursor=cursor), change)
        self.refused(*ask("/v1/entities", cursor=cursor), "no query")
        for path in ("/v1/attributes", "/v1/rejections", "/v1/entities/plane/p01/history"):
            self.refused(*ask(path, cursor=cursor), path)


class Statements:
    """The text of every statement that PostgreSQL ran meanwhile, without parameters: from its own log."""

    def __init__(self):
        for setting in ("log_statement = 'all'", "log_parameter_max_length = 0"):
            DATABASE.rows(f"ALTER SYSTEM SET {setting}")
        DATABASE.rows("SELECT pg_reload_conf()")
        wait_until(lambda: DATABASE.value("SHOW log_statement") == "all", "statements are logged")
        self.log = glob.glob(os.path.join(SERVER.data, "postgres", "*.log"))[0]
        self.begin = os.path.getsize(self.log)

    def check(self, test):
        """What clients sent is not in them, and they are few however many the questions were."""
        ask("/v1/entities", filter="seats > 7")
        DATABASE.rows("ALTER SYSTEM RESET ALL")
        DATABASE.rows("SELECT pg_reload_conf()")
        with open(self.log, encoding="utf-8", errors="replace") as file:
            file.seek(self.begin)
            text = file.read()
        test.assertGreater(text.count("sheaf.entity_jsonb"), 50, "statements are logged")
        telling = [injection for injection in INJECTIONS if len(injection) > 9 and injection != "current_user"]
        for injection in telling:
            test.assertNotIn(injection, text)
            test.assertNotIn(injection.replace("'", "''"), text)


def fingerprint():
    """The relations of the schema, and of each table its rows."""
    tables = DATABASE.rows("SELECT relname FROM pg_class WHERE relnamespace = 'sheaf'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1")
    counts = [(name, DATABASE.count(f"sheaf.{name}")) for (name,) in tables]
    secrets = DATABASE.value("SELECT md5(string_agg(s::text, '')) FROM sheaf.settings s")
    return counts, secrets, DATABASE.value("SELECT count(*) FROM pg_proc"), DATABASE.value("SELECT count(*) FROM pg_authid")


if __name__ == "__main__":
    unittest.main(verbosity=2)
