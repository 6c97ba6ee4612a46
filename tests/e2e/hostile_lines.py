"""Hostile line protocol: a bad line is told in InfluxDB's form, its neighbours are stored, and nothing is made up."""

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
SECONDS = 1357020000
TIME = "2013-01-01T06:00:00Z"

# Each must be refused; what InfluxDB's client is told begins with `partial write`.
BAD = [
    b"m", b"m ", b"m,", b"m,id", b"m,id=", b"m,id= f=1", b"m,=a f=1", b",id=a f=1", b" f=1", b"m,id=a f", b"m,id=a f=",
    b"m,id=a =1", b"m,id=a f=1,", b"m,id=a f=1,,g=2", b"m,id=a,,b=c f=1", b"m,id=a f=1 x", b"m,id=a f=1 1.5", b"m,id=a f=1 1e9",
    b"m,id=a f=1 1357020000 7", b"m,id=a f=1i5", b"m,id=a f=1.5i", b"m,id=a f=--1", b"m,id=a f=+", b"m,id=a f=0x10",
    b"m,id=a f=NaN", b"m,id=a f=inf", b"m,id=a f=-Infinity", b"m,id=a f=1e", b"m,id=a f=1e999", b"m,id=a f=1_000",
    b"m,id=a f=tru", b"m,id=a f=tRUE", b'm,id=a f="open', b'm,id=a f="a"b', b"m,id=a f='a'", b"m,id=a f=9223372036854775808i",
    b"m,id=a f=-9223372036854775809i", b"m,id=a f=18446744073709551616u", b"m,id=a f=9223372036854775808u", b"m,id=a f=-1u",
    b"m,id=a f=1 9223372036854775807", b"m,id=a f=1 -9223372036854775808", b"m,id=a f=1 99999999999999999999999",
    b"m,id=a f=1 0", b"m,id=a,id=b f=1", b"m,id=a f=1,f=2", b"m,id=\xff f=1", b'm,id=a f="\xc0\xaf"', b"m\x00,id=a f=1",
    b"m,i\x00=a f=1", b"m,id=a f\x00=1", b"m,id=a\x00 f=1", b'm,id=a f="\x00"', b"m,id=a\x01 f=1",
    b"m,id=" + b"x" * 600 + b" f=1", b"m,id=a " + b"x" * 300 + b"=1", b"m,id=a " + b",".join(b"f%d=1" % n for n in range(1001)),
    b'm,id=a f="' + b"x" * 300_000 + b'"', b"m,id=a external_id=1", b"m,id=a\\", b"m\\,id=a", b"{}", b"[1]",
]  # fmt: skip


def setUpModule():
    global SERVER, DATABASE
    SERVER = Server()
    DATABASE = Database(SERVER)


def tearDownModule():
    SERVER.stop()


def write(body, path="/api/v2/write", **query):
    status, headers, text = SERVER.call("POST", path, body, {"Content-Type": "text/plain"}, query={"precision": "s", **query})
    return status, headers, json.loads(text) if text else None


class HostileLines(unittest.TestCase):
    def test_each_bad_line_is_refused_and_its_neighbours_are_stored(self):
        for number, bad in enumerate(BAD):
            with self.subTest(line=bad[:60]):
                good = [f"good,id=g{number}-{place} f={number} {SECONDS}".encode() for place in (0, 1)]
                status, _, answer = write(b"\n".join([good[0], bad, good[1]]))
                self.assertEqual((status, answer["code"]), (400, "invalid"), answer)
                self.assertTrue(answer["message"].startswith("partial write: "), answer)
                self.assertTrue(answer["message"].endswith(" dropped=1"), answer)
                self.assertEqual(answer["line"], 2)
                self.assertLess(len(answer["message"]), 400, "the answer does not amplify")
                for place in (0, 1):
                    path = entity_path("good", f"g{number}-{place}")
                    self.assertEqual(SERVER.get(path)["attributes"]["f"], number)
                kept = SERVER.get("/v1/rejections", batch_id=answer["batch_id"])["items"]
                self.assertTrue(kept and {row["index"] for row in kept} == {1}, kept)
        others = "sheaf.entities WHERE entity_type NOT IN ('good', 'm', 'typed') AND entity_type NOT LIKE '%fuzz%'"
        self.assertEqual(DATABASE.count(others), 0)
        # A line of which only one field is bad may leave its entity behind, and no other does.
        self.assertLessEqual({name for name, _, _ in DATABASE.events("m")}, {"a"})

    def test_the_old_route_says_the_same_in_its_own_form(self):
        for bad in (b"m,id=a f=", b"m", b"m,id=a f=NaN", b"m,id=a f=1 x"):
            status, headers, answer = write(bad, "/write", db="x")
            self.assertEqual((status, set(answer)), (400, {"error"}), answer)
            self.assertEqual(headers["X-Influxdb-Error"], answer["error"])
            self.assertIn("dropped=1", answer["error"])

    def test_an_error_cannot_write_headers_or_log_lines(self):
        evil = b"m,id=a f=\r\nX-Evil: yes\r\n\r\n\x1b[31mred\x07"
        for path in ("/write", "/api/v2/write"):
            status, headers, answer = write(evil, path, db="x")
            self.assertEqual(status, 400)
            self.assertIsNone(headers["X-Evil"])
            self.assertNotIn("\x1b", str(answer) + str(headers))
        self.assertNotIn("\x1b[31mred", SERVER.log_text())
        self.assertNotIn("\nX-Evil", SERVER.log_text())

    def test_what_is_odd_and_valid_is_stored_exactly(self):
        lines = {
            b'w,id=e1 f="quote \\" and backslash \\\\"': {"f": 'quote " and backslash \\'},
            b'w,id=e2 f="a, b=c d"': {"f": "a, b=c d"},
            b'w,id=e3 f="line\nbreak"': {"f": "line\nbreak"},
            b"w,id=e4 n\\ a\\=m\\,e=1": {"n a=m,e": 1.0},
            b"w,id=e5,t\\,a\\=g=v\\ a\\,l f=1": {"t,a=g": "v a,l", "x": 1.0},
            b"w,id=e6 i=9223372036854775807i,j=-9223372036854775808i,u=9223372036854775807u": {
                "i": 2**63 - 1,
                "j": -(2**63),
                "u": 2**63 - 1,
            },
            b"w,id=e7 a=t,b=T,c=true,d=f,e=FALSE": {"a": True, "b": True, "c": True, "d": False, "e": False},
            b"w,id=e8 y=1e3,z=-1.5E-3,q=.5": {"y": 1000.0, "z": -0.0015, "q": 0.5},
            "w,id=e9 é=\"ü\"".encode(): {"é": "ü"},
        }
        for number, (line, attributes) in enumerate(lines.items()):
            # A tenant of its own, since one name has one type.
            key = SERVER.create_tenant(f"odd{number}")
            body = b"# a comment\n\n" + line.replace(b" f=1", b" x=1") + f" {SECONDS}\n".encode()
            status, _, text = SERVER.call("POST", "/api/v2/write", body, key=key, query={"precision": "s", "id_tag": "id"})
            self.assertEqual(status, 204, f"{line}: {text}")
            status, _, text = SERVER.call("GET", entity_path("w", f"e{number + 1}"), key=key)
            found = json.loads(text)
            found["attributes"].pop("id")
            self.assertEqual((found["observed_at"], found["attributes"]), (TIME, attributes), line)

    def test_a_field_of_another_type_is_refused_and_the_type_stays(self):
        self.assertEqual(write(b"typed,id=a typed=1i 1357020000")[0], 204)
        for value in (b"1.5", b'"a"', b"true"):
            status, _, answer = write(b"typed,id=a typed=" + value + b" 1357020001")
            self.assertEqual((status, answer["code"]), (400, "invalid"), answer)
        self.assertEqual(SERVER.get("/v1/entities/typed/a")["attributes"]["typed"], 1)

    def test_random_lines_get_an_answer_and_never_an_error_of_ours(self):
        random = seeded("random lines")
        pieces = [bytes([byte]) for byte in b',= \\"\n#{}\x00\r\t1iute.-+'] + [b"\xc3\xa9", b"\xff", b"\\ ", b'\\"', b"9" * 30]
        whole = b'fuzz,id=a,region=eu usage=12.5,count=3i,note="a \\"b\\", c",up=t 1357020000'
        statuses = {}
        for _ in range(500):
            line = whole
            for _ in range(random.randrange(1, 4)):
                place, length = random.randrange(len(line)), random.randrange(3)
                line = line[:place] + random.choice(pieces) + line[place + length :]
            status, _, answer = write(line)
            self.assertIn(status, (204, 400), f"{line}: {answer}")
            statuses[status] = statuses.get(status, 0) + 1
        print(f"random lines: {statuses}")


if __name__ == "__main__":
    unittest.main(verbosity=2)
