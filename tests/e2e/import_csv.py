"""`sheaf import` reads hostile CSV as Python's own reader does, and says of every row that it cannot take."""

import csv
import io
import json
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server  # noqa: E402
from support.faults import seeded  # noqa: E402

SERVER = None
COLUMNS = ["id", "a", "b", "c"]


def setUpModule():
    global SERVER
    SERVER = Server()
    # Declared as text, so that nothing is taken for a number.
    for name in COLUMNS[1:]:
        SERVER.send("POST", "/v1/attributes", {"name": name, "type": "text"})


def tearDownModule():
    SERVER.stop()


def load(name, content, *options):
    """Exit code, output and refused rows of an import of these bytes."""
    path = os.path.join(SERVER.directory, name + ".csv")
    with open(path, "wb") as file:
        file.write(content)
    command = [
        os.environ["SHEAF_BIN"], "import", path, "--type", name, "--id", "id", "--observed-at", "2013-01-01T06:00:00Z",
        "--url", SERVER.url, "--key-file", os.path.join(SERVER.data, "demo.key"),
        "--state-dir", os.path.join(SERVER.directory, "imports"), *options,
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    refused = []
    if os.path.exists(path + ".rejected.ndjson"):
        with open(path + ".rejected.ndjson", encoding="utf-8") as file:
            refused = [json.loads(line) for line in file]
    return result.returncode, result.stdout + result.stderr, refused


def stored(kind):
    """{id: attributes} of all entities of a type."""
    found, cursor = {}, {}
    while True:
        page = SERVER.get("/v1/entities", type=kind, limit=1000, **cursor)
        found |= {item["id"]: item["attributes"] for item in page["items"]}
        if not page["next_cursor"]:
            return found
        cursor = {"cursor": page["next_cursor"]}


def expected(content):
    """What Python reads: the documents of the good rows, and how many are bad. An empty line is no row."""
    header, *rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    rows = [row for row in rows if row]
    good = [dict(zip(header, row)) for row in rows if len(row) == len(header) and row[0]]
    documents = {row.pop("id"): {name: cell for name, cell in row.items() if cell} for row in good}
    return documents, len(rows) - len(good)


class ImportCsv(unittest.TestCase):
    def same(self, name, content):
        documents, bad = expected(content)
        code, output, refused = load(name, content)
        self.assertEqual(stored(name), documents, output)
        self.assertEqual(len(refused), bad, refused)
        self.assertNotIn("panicked", output)
        return bad

    def test_awkward_but_regular_files_are_read_as_python_reads_them(self):
        head = b"id,a,b,c\n"
        files = {
            "quotes": head + b'1,"a ""quoted"" word","","x"\n2,"""",\'q\',"a,b"\n',
            "breaks": head + b'1,"line\nbreak","carriage\rreturn","both\r\nof them"\n2,"\n","\n\n","ends with\n"\n',
            "ends": head + b"1,a,b,c\r\n2,d,e,f\n3,g,h,i\r\n4,j,k,l",
            "old_ends": b"id,a,b,c\r1,a,b,c\r2,d,e,f\r",
            "mark": b"\xef\xbb\xbf" + head + b"1,a,b,c\n",
            "empty_lines": head + b"\n1,a,b,c\n\n\r\n2,d,e,f\n\n",
            "spaces": head + b"1, a ,  ,\tc\t\n2,a b,b  c, \n",
            "middle_quotes": head + b'1,a"b,c""d,e"f"\n2,5\' 10",6",7\n',
            "after_quote": head + b'1,"a"b,"c" ,"d""e"f\n',
            "words": head + b"1,NULL,NA,\\N\n2,\\.,nan,-\n3,true,1e5,2013-01-01\n4,=1+1,@x,+1\n",
            "unicode": head + "1,é,\U0001f33e,e\u0301\n2,\u202eabc,\u2028,\ufeff\n".encode(),
            "escapes": head + b'1,\\",a\\,b\n2,\\n,\\t,\\\n',
            "long": head + b"1," + b"x" * 200_000 + b',"' + b'""' * 50_000 + b'",c\n',
            "header": b'"id","a","b","c"\n1,a,b,c\n',
        }
        for name, content in files.items():
            with self.subTest(file=name):
                self.same(name, content)

    def test_random_tables_are_read_as_python_reads_them(self):
        random = seeded("random tables")
        pieces = ["a", "é", "\U0001f33e", '"', ",", "\n", "\r", "\r\n", " ", "'", "\\", ";", "\t", "1", "NULL", "", "#"]
        bad = 0
        for number in range(12):
            text = io.StringIO()
            ends = ["\n", "\r\n", "\r"]
            end = random.choice(ends)
            csv.writer(text, lineterminator=end).writerow(COLUMNS)
            for row in range(150):
                cells = ["".join(random.choice(pieces) for _ in range(random.randrange(5))) for _ in COLUMNS[1:]]
                quoting = random.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
                this_end = end if end == "\r" else random.choice(ends[:2])
                csv.writer(text, lineterminator=this_end, quoting=quoting).writerow([f"r{row}", *cells])
            with self.subTest(table=number):
                bad += self.same(f"random{number}", text.getvalue().encode())
        print(f"random tables: {bad} bad rows by both")

    def test_rows_that_are_no_rows_are_listed_and_their_neighbours_stored(self):
        head = b"id,a,b,c\n1,a,b,c\n"
        tail = b"9,a,b,c\n"
        files = {
            "short": b"2,a\n",
            "longer": b"2,a,b,c,d\n",
            "wide": b"2," + b"," * 100_000 + b"\n",
            "no_id": b",a,b,c\n",
            "nul": b"2,a\x00b,,\n",
            "not_utf8": b"2,\xff\xfe,,\n",
            "overlong": b"2,\xc0\xaf,,\n",
            "too_large": b"2," + b"x" * 300_000 + b",,\n",
        }
        for name, bad in files.items():
            with self.subTest(row=name):
                _, output, refused = load("bad_" + name, head + bad + tail)
                self.assertEqual(len(refused), 1, output)
                self.assertEqual(set(stored("bad_" + name)) - {"2"}, {"1", "9"}, output)
                self.assertEqual(stored("bad_" + name).get("2", {}), {})

    def test_a_quote_without_an_end_costs_its_line_only(self):
        content = b'id,a,b,c\n1,a,b,c\n2,"open,b,c\n3,a,b,c\n4,a,b,c\n'
        _, output, refused = load("open_quote", content)
        self.assertEqual(len(refused), 1, output)
        self.assertEqual(set(stored("open_quote")), {"1", "3", "4"})

    def test_files_that_are_no_tables_are_refused(self):
        for name, content in {
            "nothing": b"",
            "two_ids": b"id,a,a\n1,2,3\n",
            "no_column": b"a,b\n1,2\n",
            "million_columns": b"id," + b"x," * 1_000_000 + b"y\n1\n",
            "binary": bytes(range(256)) * 100,
        }.items():
            with self.subTest(file=name):
                code, output, _ = load("none_" + name, content)
                self.assertNotEqual(code, 0, output)
                self.assertNotIn("panicked", output)
                self.assertEqual(stored("none_" + name), {})
                self.assertLess(len(output), 5_000, "the answer does not amplify")

    def test_what_the_terminal_is_shown_holds_no_escapes_of_the_file(self):
        content = b'id,\x1b[31mred,b\n1,2,3\n'
        _, output, _ = load("escape", content)
        self.assertNotIn("\x1b[31m", output)
        _, output, _ = load("escape2", b"id,a\n1,2,\x1b[31mred\n")
        self.assertNotIn("\x1b[31m", output)

    def test_an_import_can_be_repeated_and_changes_nothing(self):
        content = b"id,a,b,c\n" + b"".join(b"%d,a%d,b,c\n" % (n, n) for n in range(500))
        load("again", content)
        before = SERVER.get("/v1/entities", type="again", count="exact", limit=1000)
        code, output, _ = load("again", content)
        self.assertEqual(code, 0, output)
        self.assertEqual(SERVER.get("/v1/entities", type="again", count="exact", limit=1000)["items"], before["items"])


if __name__ == "__main__":
    csv.field_size_limit(10_000_000)
    unittest.main(verbosity=2)
