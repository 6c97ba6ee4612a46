"""Filters mean what the cql2 crate says, in both forms, wherever both read the same language.

Left out, because the crate is no reference for it: numbers that a double does not hold and spellings such as `.5` (it reads
doubles), times (it compares their texts), CASEI (it folds to lower case), arrays (it compares their elements as texts), names with
a dot (it takes them for paths), and literals of another type than the attribute (it finds nothing, where we refuse).
"""

import json
import os
import sys
import unittest

import cql2

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server  # noqa: E402
from support.database import wait_until  # noqa: E402
from support.faults import seeded  # noqa: E402

SERVER = None
FILTERS = 400
TIME = "2013-01-01T06:00:00Z"
# Where the values are decides what answers: a value index, the index on hot parts, the documents.
ATTRIBUTES = {
    "seats": ("int", "hot"), "rows": ("int", "cold"), "load": ("float", "hot"), "wear": ("decimal", "cold"),
    "model": ("text", "hot"), "a b": ("text", "cold"), "say \"x\"": ("text", None), "is_new": ("bool", "hot"),
}  # fmt: skip
NUMBERS = ["-5", "0", "1", "2", "2.5", "0.1", "100", "9007199254740992", "1000000000000000000000"]
TEXTS = ["", "a", "A", "ab", "it's", "é", "Z", "a%b", "a_b", "true", "1", "日本"]
PATTERNS = ["", "%", "_", "a%", "%b", "a_b", "_%_", "A%", "it's%", "é", "%本", "%%", "a%b"]
COMPARISONS = ["=", "<>", "<", "<=", ">", ">="]
DICE = seeded("filters")
ITEMS = {}


def value_of(kind):
    if kind == "int":
        return int(DICE.choice(["-5", "0", "1", "2", "100", "9007199254740992"]))
    if kind == "float":
        return float(DICE.choice(NUMBERS))
    if kind == "decimal":
        return float(DICE.choice(NUMBERS[:-2]))
    return DICE.choice(TEXTS) if kind == "text" else DICE.choice([True, False])


def setUpModule():
    global SERVER
    SERVER = Server()
    for name, (kind, pin) in ATTRIBUTES.items():
        status, answer = SERVER.send("POST", "/v1/attributes", {"name": name, "type": kind, "pin": pin})
        assert status == 201, answer
    for number in range(60):
        values = {name: value_of(kind) for name, (kind, _) in ATTRIBUTES.items() if DICE.random() < 0.75}
        ITEMS[f"i{number:02}"] = values
    events = [{"type": "item", "id": name, "observed_at": TIME, "attributes": values} for name, values in ITEMS.items()]
    status, answer = SERVER.ingest(events)
    assert (status, answer["refused"]) == (200, 0), answer
    query = {"filter": "seats > 0", "explain": "true", "limit": 1}

    def is_indexed():
        _, _, text = SERVER.call("GET", "/v1/entities", headers={"X-Tenant": "demo"}, key=SERVER.admin_key, query=query)
        return json.loads(text)["explain"]["parts"][0]["by"] == "typed_index"

    wait_until(is_indexed, "the value index is filled")


def tearDownModule():
    SERVER.stop()


class Filter:
    """A filter in our two forms."""

    def __init__(self, text, tree):
        self.text = text
        self.tree = tree


def literal(kind):
    if kind == "text":
        text = DICE.choice(TEXTS)
        return Filter("'" + text.replace("'", "''") + "'", text)
    if kind == "bool":
        truth = DICE.choice([True, False])
        return Filter("TRUE" if truth else "FALSE", truth)
    digits = DICE.choice(NUMBERS)
    return Filter(digits, json.loads(digits))


def condition():
    name = DICE.choice(list(ATTRIBUTES))
    kind, _ = ATTRIBUTES[name]
    quoted = name if name.isidentifier() else '"' + name.replace('"', '""') + '"'
    form = DICE.choice(["compare"] * 3 + ["between", "in", "like", "null"])
    subject, negated = {"property": name}, DICE.random() < 0.25
    if form == "null":
        made = Filter(f"{quoted} IS {'NOT ' if negated else ''}NULL", {"op": "isNull", "args": [subject]})
    elif form == "in":
        values = [literal(kind) for _ in range(DICE.randrange(1, 4))]
        inside = ", ".join(value.text for value in values)
        made = Filter(f"{quoted} {'NOT ' if negated else ''}IN ({inside})", {"op": "in", "args": [subject, [value.tree for value in values]]})
    elif form == "like" and kind == "text":
        pattern = DICE.choice(PATTERNS)
        inside = pattern.replace("'", "''")
        made = Filter(f"{quoted} {'NOT ' if negated else ''}LIKE '{inside}'", {"op": "like", "args": [subject, pattern]})
    elif form == "between" and kind != "bool":
        low, high = literal(kind), literal(kind)
        text = f"{quoted} {'NOT ' if negated else ''}BETWEEN {low.text} AND {high.text}"
        made = Filter(text, {"op": "between", "args": [subject, low.tree, high.tree]})
    else:
        sign, value = DICE.choice(COMPARISONS[:2] if kind == "bool" else COMPARISONS), literal(kind)
        return Filter(f"{quoted} {sign} {value.text}", {"op": sign, "args": [subject, value.tree]})
    return Filter(made.text, {"op": "not", "args": [made.tree]}) if negated else made


def filter_of(depth):
    if depth == 0 or DICE.random() < 0.3:
        return condition()
    if DICE.random() < 0.2:
        inner = filter_of(depth - 1)
        return Filter(f"NOT ({inner.text})", {"op": "not", "args": [inner.tree]})
    terms = [filter_of(depth - 1) for _ in range(DICE.randrange(2, 4))]
    op = DICE.choice(["and", "or"])
    text = f" {op.upper()} ".join(f"({term.text})" for term in terms)
    return Filter(text, {"op": op, "args": [term.tree for term in terms]})


def passing(expression):
    """The items for which the crate says true. What it cannot decide is unknown: a value is absent."""
    found = []
    for name, values in ITEMS.items():
        try:
            if expression.matches({"properties": values}):
                found.append(name)
        except Exception as error:  # The crate raises nothing narrower.
            assert "Could not reduce" in str(error), error
    return found


def search(filter, **members):
    status, answer = SERVER.send("POST", "/v1/entities/search", {"type": "item", "filter": filter, "limit": 100, **members})
    assert status == 200, f"{filter}: {answer}"
    return answer


class Reference(unittest.TestCase):
    def test_filters_find_what_the_crate_says_in_all_forms_of_both(self):
        telling = 0
        for _ in range(FILTERS):
            made = filter_of(3)
            by_text, by_tree = cql2.parse_text(made.text), cql2.parse_json(json.dumps(made.tree))
            expected = passing(by_text)
            self.assertEqual(passing(by_tree), expected, made.text)
            for form in (made.text, made.tree, by_tree.to_text(), by_text.to_json()):
                found = [item["id"] for item in search(form)["items"]]
                self.assertEqual(found, expected, f"{form} for {made.text}")
            telling += 0 < len(expected) < len(ITEMS)
            # A cursor serves one filter only: where it goes on under the other form, that is read as the very same filter.
            if len(expected) > 1:
                cursor = search(made.text, limit=1)["next_cursor"]
                found = [item["id"] for item in search(made.tree, cursor=cursor, limit=1)["items"]]
                self.assertEqual(found, expected[1:2], made.text)
        print(f"{FILTERS} filters, {telling} told items apart")
        self.assertGreater(telling, FILTERS // 2)


if __name__ == "__main__":
    unittest.main(verbosity=2)
