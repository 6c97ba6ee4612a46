"""Heads, filters, cursors and names that are made to hurt: refused, or taken as the text that they are."""

import json
import os
import socket
import string
import sys
import time
import unittest
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server, entity_path  # noqa: E402
from support.database import Database, Statements  # noqa: E402

SERVER = None
DATABASE = None
STRANGER = None
SECONDS_MAX = 10
TIME = "2013-01-01T06:00:00Z"

INJECTIONS = [
    "'", "''", '"', '""', "\\", "\\'", "`", ";", "--", "/*", "*/", "$1", "$$", "%", "_", "%%", "?", ":x", "{}",
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
        {"type": "plane", "id": f"p{n:02}", "observed_at": TIME, "attributes": {"seats": n, "model": f"m{n % 3}", "list": [n, "a"]}}
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


def history_of_many(document, key=None):
    return SERVER.send("POST", "/v1/history/query", document, key=key)


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
            "a number of 10^5 digits": "seats = " + "9" * 100_000,
            "an endless text": "model = '" + "x" * 1_000,
            "depth 10^4 of CASEI": "CASEI(" * 10_000 + "model" + ")" * 10_000 + " = 'a'",
            "an array of 2,000": "A_CONTAINS(list, (" + ",".join(["'a'"] * 2_000) + "))",
            "depth 10^4 of an array": "A_CONTAINS(list, " + "(" * 10_000 + "'a'" + ")" * 10_000 + ")",
            "an endless instant": "T_AFTER(observed_at, TIMESTAMP('" + "2" * 100_000 + "'))",
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

    def test_a_pattern_that_can_match_in_many_ways_is_decided_soon(self):
        text = "a" * 200_000
        status, answer = SERVER.ingest([{"type": "long", "id": "a", "observed_at": TIME, "attributes": {"long": text}}])
        self.assertEqual(status, 200, answer)
        for pattern in ("%a" * 1_000 + "b", "%_" * 1_000 + "b", "a%" * 1_000 + "_b", "%" * 10_000 + "b", "%aa_%" * 500 + "b%"):
            begun = time.monotonic()
            status, answer = search({"type": "long", "filter": f"\"long\" LIKE '{pattern}'"})
            self.assertIn(status, (200, 400), answer)
            self.assertEqual(answer.get("items", []), [])
            self.assertLess(time.monotonic() - begun, SECONDS_MAX, pattern[:10])

    def test_what_is_no_filter_is_refused_with_its_place(self):
        for text in (
            "seats", "seats =", "= 1", "seats == 1", "seats = 1 AND", "seats = 'a", "seats = one", "seats ~ 1", "seats = 1; x",
            "(seats = 1", "seats = 1)", "NOT", "IN (1)", "seats IN ()", "seats BETWEEN 1", "model LIKE 1", "f(seats) = 1",
            "seats = $1", "seats = :a", "seats = NULL", "\x00", "seats = 1 -- x", "seats = 1 /* x */", "ORDER BY 1",
        ):  # fmt: skip
            status, answer = search({"filter": text})
            self.assertEqual(status, 400, f"{text!r}: {answer}")
            self.assertIn(answer["code"], ("invalid_filter", "unknown_attribute", "filter_too_complex"), text)
            self.assertIn("offset", answer["errors"][0], text)


class Amplifiers(unittest.TestCase):
    """Short questions with endless answers: refused, or cut to a page."""

    def bounded(self, call, why):
        begun = time.monotonic()
        status, answer = call()
        self.assertIn(status, (200, 400, 422), f"{why}: {str(answer)[:300]}")
        self.assertLess(time.monotonic() - begun, SECONDS_MAX, why)
        self.assertLess(len(json.dumps(answer)), 500_000, why)
        return status, answer

    def test_facets_with_endless_buckets_are_refused_or_cut(self):
        for facet in (
            {"histogram": 0}, {"histogram": -1}, {"histogram": 1e-300}, {"histogram": 1e-9}, {"histogram": 1e308}, {"histogram": "1us"},
            {"top": 0}, {"top": -1}, {"top": 101}, {"top": 10**9}, {"top": 1.5}, {},
        ):  # fmt: skip
            status, _ = self.bounded(lambda facet=facet: search({"type": "plane", "facets": {"seats": facet}}), facet)
            if facet.get("top", 1) not in range(1, 101) or facet.get("histogram", 1) in (0, -1):
                self.assertEqual(status, 400, facet)
        many = {f"a{n}": {"top": 100} for n in range(1_000)}
        self.assertEqual(self.bounded(lambda: search({"type": "plane", "facets": many}), "1,000 facets")[0], 400)

    def test_buckets_of_endless_ranges_are_refused_or_cut(self):
        path = entity_path("plane", "p01") + "/history"
        for bucket in ("1us", "1ms", "1s", "0s", "-1s", "10000000w", "1e9s"):
            for fill in ("none", "null", "previous", "linear"):
                query = {"attribute": "seats", "bucket": bucket, "agg": "avg", "fill": fill}
                query |= {"from": "1990-01-01T00:00:00Z", "to": "2030-01-01T00:00:00Z"}
                status, answer = self.bounded(lambda query=query: ask(path, **query), query)
                if status == 200:
                    self.assertLessEqual(len(answer["items"]), 100, query)
                body = {"type": "plane", "attribute": ["seats"], "bucket": bucket, "agg": ["avg"], "fill": fill}
                body |= {"from": query["from"], "to": query["to"]}
                status, answer = self.bounded(lambda body=body: history_of_many(body), body)
                if status == 200:
                    self.assertLessEqual(len(answer["items"]), 100, body)

    def test_a_question_about_the_history_of_everything_is_refused_with_the_way_out(self):
        for body in ({}, {"type": "plane"}, {"attribute": ["seats"]}, {"type": "plane", "from": TIME}):
            status, answer = history_of_many(body)
            self.assertEqual((status, answer["code"]), (422, "unbounded_query"), body)
            self.assertTrue(answer["hint"], body)


class Heads(unittest.TestCase):
    def test_heads_past_their_bounds_are_refused_and_cost_their_own_connection(self):
        get = "GET /v1/entities HTTP/1.1"
        heads = {
            "a URL of 1 MB": ([f"GET /v1/entities?filter={'x' * (1 << 20)} HTTP/1.1"], (414, 431)),
            "a URL of 70 KB": ([f"GET /v1/entities/{'x' * 70_000} HTTP/1.1"], (414, 431)),
            "a header of 1 MB": ([get, "X-Long: " + "x" * (1 << 20)], (431,)),
            "a token of 1 MB": ([get, "X-Consistency-Token: t1." + "x" * (1 << 20)], (431,)),
            "a name of 1 MB": ([get, "X" * (1 << 20) + ": x"], (400, 431)),
            "10,000 headers": ([get, *(f"X-{n}: x" for n in range(10_000))], (431,)),
            "200 headers": ([get, *(f"X-{n}: x" for n in range(200))], (431,)),
            "10,000 of one header": ([get, *["X: x"] * 10_000], (431,)),
        }
        for name, (lines, expected) in heads.items():
            for key in (SERVER.key, None):
                with self.subTest(head=name, key=key is not None):
                    kept = [f"Authorization: Bearer {key}"] if key else []
                    begun = time.monotonic()
                    answer = send_head(lines[:1] + kept + lines[1:])
                    self.assertLess(time.monotonic() - begun, SECONDS_MAX)
                    self.assertTrue(answer.startswith(b"HTTP/1.1 "), answer[:100])
                    self.assertIn(int(answer.split()[1]), expected, answer[:300])
                    self.assertLess(len(answer), 5_000, "the answer does not amplify")
                    self.assertEqual(ask("/v1/entities", limit=1)[0], 200, "others are served")


def send_head(lines):
    """What is answered to a request without a body; the server may hang up before it has all of it."""
    answer = b""
    with socket.create_connection(("127.0.0.1", SERVER.port), 30) as connection:
        try:
            connection.sendall("\r\n".join([*lines, "Host: here", "Connection: close", "", ""]).encode())
        except ConnectionError:
            pass
        try:
            while received := connection.recv(65536):
                answer += received
        except ConnectionError:
            pass
    return answer


class Injections(unittest.TestCase):
    def setUp(self):
        self.before = fingerprint()

    def tearDown(self):
        self.assertEqual(fingerprint(), self.before, "a table has changed")

    def fine(self, status, answer, where):
        self.assertIn(status, (200, 400, 404, 414, 422), f"{where}: {answer}")

    def test_injections_into_queries_are_refused_or_find_nothing(self):
        statements = Statements(DATABASE)
        count = 0
        for text in INJECTIONS:
            quoted_text, quoted_name = text.replace("'", "''"), text.replace('"', '""')
            questions = [
                *({"filter": filter} for filter in (
                    text, f"seats = {text}", f"model = '{text}'", f"{text} = 1", f"model = '{quoted_text}'",
                    f'"{quoted_name}" = 1',
                    f"model LIKE '{quoted_text}'", f"external_id IN ('{quoted_text}')", f"CASEI(model) = CASEI('{quoted_text}')",
                    {"op": "=", "args": [{"property": text}, 1]}, {"op": "=", "args": [{"property": "model"}, text]},
                    {"op": text, "args": [{"property": "seats"}, 1]},
                )),
                {"sort": [text]}, {"sort": ["-" + text]}, {"select": [text]}, {"type": text}, {"cursor": text},
                {"facets": {text: {"top": 3}}}, {"count": text}, {text: 1}, {"filter": f"A_CONTAINS({text}, ('a'))"},
                {"filter": f"T_AFTER(observed_at, TIMESTAMP('{text}'))"}, {"filter": f"A_CONTAINS(list, ('{quoted_text}'))"},
            ]  # fmt: skip
            for question in questions:
                begun = time.monotonic()
                self.fine(*search(question), question)
                self.assertLess(time.monotonic() - begun, 5, question)
                count += 1
            for member in ("type", "filter", "from", "to", "bucket", "fill", "group", "cursor"):
                self.fine(*history_of_many({"type": "plane", "attribute": ["seats"], "from": TIME, member: text}), (member, text))
            for member in ("attribute", "agg"):
                body = {"type": "plane", "attribute": ["seats"], "from": TIME, "bucket": "1d", "agg": ["avg"], member: [text]}
                self.fine(*history_of_many(body), (member, text))
            status, answer = search({"filter": f"model = '{quoted_text}'"})
            if status == 200:
                self.assertEqual(answer["items"], [], text)
            for name in "filter sort select type cursor limit count facets filter-lang consistency max_lag as_of explain".split():
                self.fine(*ask("/v1/entities", **{name: text}), (name, text))
            path = entity_path(text or "x", text or "x")
            for parameter in ("attribute", "from", "to", "order", "bucket", "agg", "fill", "corrections"):
                self.fine(*ask(path + "/history", **{parameter: text}), (parameter, text))
            encoded = urllib.parse.quote(text, safe="")
            for other in (path, "/v1/attributes/" + encoded, "/v1/ingest/batches/" + encoded):
                self.fine(*ask(other), other)
            for parameter in ("batch_id", "code", "type", "status", "from"):
                self.fine(*ask("/v1/rejections", **{parameter: text}), (parameter, text))
        print(f"asked {count} searches with {len(INJECTIONS)} injections")
        check_statements(self, statements)

    def test_a_filter_that_is_true_for_all_only_finds_the_tenants_own(self):
        found = {item["type"] for item in SERVER.get("/v1/entities", filter="seats >= 0 OR seats IS NULL")["items"]}
        self.assertLessEqual(found, {"plane", "stored", "long"})


class StoredInjections(unittest.TestCase):
    def test_injections_as_names_and_values_are_stored_as_they_are(self):
        statements = Statements(DATABASE)
        relations = DATABASE.value("SELECT count(*) FROM pg_class")
        for number, text in enumerate(INJECTIONS):
            attributes = {"x" + text: text, "number": number}
            event = {"type": "stored", "id": f"{number}{text}", "observed_at": TIME, "attributes": attributes}
            status, answer = SERVER.ingest([event])
            self.assertEqual((status, answer["refused"]), (200, 0), f"{text!r}: {answer}")
            path = entity_path("stored", f"{number}{text}")
            self.assertEqual(SERVER.get(path)["attributes"], attributes)
            self.assertEqual(SERVER.get(path + "/history")["items"][0]["attributes"], attributes)
            name, value = text.replace('"', '""'), text.replace("'", "''")
            condition = f"\"x{name}\" = '{value}' AND number = {number}"
            status, answer = search({"filter": condition, "sort": ["-x" + text], "select": ["x" + text]})
            self.assertEqual(status, 200, f"{text!r}: {answer}")
            self.assertEqual([item["attributes"] for item in answer["items"]], [{"x" + text: text}])
            listed = SERVER.get("/v1/entities", filter=f"number = {number}", sort=f'-"x{name}"', select=f'"x{name}"')
            self.assertEqual([item["attributes"] for item in listed["items"]], [{"x" + text: text}])
            status, answer = SERVER.send("PATCH", path, {"attributes": {"x" + text: None}, "observed_at": "2013-01-02T00:00:00Z"})
            self.assertEqual(status, 200, answer)
        self.assertEqual(DATABASE.value("SELECT count(*) FROM pg_class"), relations, "nothing was created or dropped")
        check_statements(self, statements)


class Cursors(unittest.TestCase):
    QUERY = {"type": "plane", "filter": "seats >= 0", "sort": "-seats", "limit": "3"}
    HISTORIES = {"type": "plane", "attribute": ["seats"], "from": "2012-01-01T00:00:00Z", "limit": 3}

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
            changed = cursor[:place] + flipped + cursor[place + 1 :]
            self.refused(*ask("/v1/entities", **self.QUERY, cursor=changed), f"character {place}")
        inside = cursor[3:]
        others = ["", "c1.", "x", cursor[:-1], cursor + "A", inside, cursor * 2, "c2." + inside, cursor.lower()]
        for other in [*others, "c1." + "A" * 5_000]:
            self.refused(*ask("/v1/entities", **self.QUERY, cursor=other), other[:60])

    def test_a_cursor_serves_only_its_query_and_its_tenant(self):
        cursor = SERVER.get("/v1/entities", **self.QUERY)["next_cursor"]
        self.refused(*ask("/v1/entities", STRANGER, **self.QUERY, cursor=cursor), "another tenant")
        for change in ({"type": "other"}, {"filter": "seats >= 1"}, {"sort": "seats"}, {"sort": "-seats,model"}):
            self.refused(*ask("/v1/entities", **{**self.QUERY, **change}, cursor=cursor), change)
        self.refused(*ask("/v1/entities", cursor=cursor), "no query")
        for path in ("/v1/attributes", "/v1/rejections", "/v1/entities/plane/p01/history"):
            self.refused(*ask(path, cursor=cursor), path)
        self.refused(*history_of_many({**self.HISTORIES, "cursor": cursor}), "another route")

    def test_a_cursor_of_many_histories_serves_only_its_question_and_its_tenant(self):
        cursor = history_of_many(self.HISTORIES)[1]["next_cursor"]
        self.assertEqual(history_of_many({**self.HISTORIES, "cursor": cursor})[0], 200)
        for place in range(3, len(cursor), 7):
            changed = cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
            self.refused(*history_of_many({**self.HISTORIES, "cursor": changed}), f"character {place}")
        self.refused(*history_of_many({**self.HISTORIES, "cursor": cursor}, STRANGER), "another tenant")
        for change in ({"type": "other"}, {"attribute": ["model"]}, {"from": TIME}, {"filter": "seats >= 1"}, {"group": "all"}):
            self.refused(*history_of_many({**self.HISTORIES, **change, "cursor": cursor}), change)
        self.refused(*ask("/v1/entities", **self.QUERY, cursor=cursor), "another route")


def check_statements(test, statements):
    """What clients sent is in no statement: it reaches PostgreSQL as parameters only."""
    text = statements.finish()
    test.assertGreater(text.count("sheaf.entity_jsonb"), 50, "statements are logged")
    for injection in INJECTIONS:
        # Shorter ones occur in our own statements.
        if len(injection) > 9 and injection != "current_user":
            test.assertNotIn(injection, text)
            test.assertNotIn(injection.replace("'", "''"), text)


def fingerprint():
    """The relations of the schema, and of each table its rows."""
    sql = "SELECT relname FROM pg_class WHERE relnamespace = 'sheaf'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1"
    tables = DATABASE.rows(sql)
    counts = [(name, DATABASE.count(f"sheaf.{name}")) for (name,) in tables]
    secrets = DATABASE.value("SELECT md5(string_agg(s::text, '')) FROM sheaf.settings s")
    return counts, secrets, DATABASE.value("SELECT count(*) FROM pg_proc"), DATABASE.value("SELECT count(*) FROM pg_authid")


if __name__ == "__main__":
    unittest.main(verbosity=2)
