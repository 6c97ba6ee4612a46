"""InfluxDB's own Python clients write to sheaf unchanged, and what they wrote reads back exactly."""

import datetime
import os
import sys
import unittest
import urllib.parse

import influxdb
import influxdb_client
from influxdb_client.client.exceptions import InfluxDBError
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server  # noqa: E402

SERVER = None
EPOCH = 1357020000  # 2013-01-01T06:00:00Z
AWKWARD = 'a b,c=d"e\\f é'
# This client doubles a backslash in a tag, which InfluxDB, and so sheaf, takes for two.
UNSLASHED = 'a b,c=d"e é'


def setUpModule():
    global SERVER
    SERVER = Server()


def tearDownModule():
    SERVER.stop()


def entity(kind, name):
    path = "/v1/entities/" + "/".join(urllib.parse.quote(part, safe="") for part in (kind, name))
    return SERVER.get(path)


class Version2(unittest.TestCase):
    def setUp(self):
        self.client = influxdb_client.InfluxDBClient(url=SERVER.url, token=SERVER.key, org="any")
        self.addCleanup(self.client.close)
        self.write = self.client.write_api(write_options=SYNCHRONOUS)

    def test_ping_answers(self):
        self.assertTrue(self.client.ping())

    def test_every_type_and_escape_reads_back(self):
        point = (
            influxdb_client.Point("v2 types," + AWKWARD)
            .tag("host", AWKWARD)
            .tag("region", "eu")
            .field("usage", 12.5)
            .field("count", 9007199254740993)
            .field("small", -0.0)
            .field("up", True)
            .field("note", 'he said "no" \\ and\nleft ' + AWKWARD)
            .field("odd, field=key", 1)
            .time(EPOCH * 10**9, influxdb_client.WritePrecision.NS)
        )
        self.write.write(bucket="any", record=point)
        items = SERVER.get("/v1/entities", type="v2 types," + AWKWARD, limit=10)["items"]
        self.assertEqual(len(items), 1)
        found = items[0]
        self.assertEqual(found["observed_at"], "2013-01-01T06:00:00Z")
        self.assertEqual(
            found["attributes"],
            {
                "host": AWKWARD,
                "region": "eu",
                "usage": 12.5,
                "count": 9007199254740993,
                "small": 0.0,
                "up": True,
                "note": 'he said "no" \\ and\nleft ' + AWKWARD,
                "odd, field=key": 1,
            },
        )
        escaped = AWKWARD.replace("=", "\\=").replace(",", "\\,").replace(" ", "\\ ")
        self.assertEqual(found["id"], f"host={escaped},region=eu")
        self.assertEqual(entity(found["type"], found["id"])["attributes"], found["attributes"])

    def test_every_precision_means_its_unit(self):
        units = {"ns": 10**9, "us": 10**6, "ms": 10**3, "s": 1}
        for precision, per_second in units.items():
            line = f"v2_precision,id={precision} value=1 {EPOCH * per_second}"
            self.write.write(bucket="any", record=line, write_precision=precision)
            self.assertEqual(entity("v2_precision", precision)["observed_at"], "2013-01-01T06:00:00Z")

    def test_gzip_is_taken(self):
        with influxdb_client.InfluxDBClient(url=SERVER.url, token=SERVER.key, org="any", enable_gzip=True) as client:
            client.write_api(write_options=SYNCHRONOUS).write(bucket="any", record=f"v2_gzip,id=a value=1 {EPOCH}000000000")
        self.assertEqual(entity("v2_gzip", "a")["attributes"]["value"], 1)

    def test_the_batching_writer_delivers_everything(self):
        failures = []
        with self.client.write_api(error_callback=lambda *failure: failures.append(failure)) as write:
            for number in range(2500):
                write.write(bucket="any", record=f"v2_batch,id=n{number % 10} value={number}i {EPOCH + number}000000000")
        self.assertEqual(failures, [])
        count = 0
        for name in range(10):
            history = SERVER.get(f"/v1/entities/v2_batch/n{name}/history", attribute="value", limit=1000)
            count += len(history["items"])
        self.assertEqual(count, 2500)

    def test_a_bad_line_among_good_ones_is_told_and_the_good_ones_are_stored(self):
        lines = [f"v2_bad,id=a value=1 {EPOCH}000000000", "v2_bad,id=b value=", f"v2_bad,id=c value=3 {EPOCH}000000000"]
        with self.assertRaises((ApiException, InfluxDBError)) as raised:
            self.write.write(bucket="any", record=lines)
        error = raised.exception
        self.assertEqual(getattr(error, "status", None) or error.response.status, 400)
        self.assertIn("partial write: unable to parse 'v2_bad,id=b value='", str(error))
        self.assertIn("dropped=1", str(error))
        self.assertEqual(entity("v2_bad", "a")["attributes"]["value"], 1.0)
        self.assertEqual(entity("v2_bad", "c")["attributes"]["value"], 3.0)

    def test_a_wrong_key_is_unauthorized_in_their_form(self):
        with influxdb_client.InfluxDBClient(url=SERVER.url, token="wrong", org="any") as client:
            with self.assertRaises(ApiException) as raised:
                client.write_api(write_options=SYNCHRONOUS).write(bucket="any", record="cpu,id=a value=1")
        self.assertEqual(raised.exception.status, 401)
        self.assertIn('"code":"unauthorized"', raised.exception.body.replace(" ", ""))


class Version1(unittest.TestCase):
    def setUp(self):
        self.client = influxdb.InfluxDBClient("127.0.0.1", SERVER.port, username="any", password=SERVER.key, database="db")
        self.addCleanup(self.client.close)

    def test_ping_and_create_database_answer(self):
        self.assertEqual(self.client.ping(), "1.8.10")
        self.client.create_database("db")

    def test_points_read_back(self):
        when = datetime.datetime(2013, 1, 1, 6, 0, 0, 250000, tzinfo=datetime.timezone.utc)
        point = {
            "measurement": "v1 points",
            "tags": {"host": UNSLASHED},
            "time": when.isoformat(),
            "fields": {"usage": 0.1, "count": 2**62 + 1, "up": False, "note": 'a "quoted", text'},
        }
        self.assertTrue(self.client.write_points([point]))
        found = SERVER.get("/v1/entities", type="v1 points")["items"][0]
        self.assertEqual(found["observed_at"], "2013-01-01T06:00:00.25Z")
        self.assertEqual(
            found["attributes"],
            {"host": UNSLASHED, "usage": 0.1, "count": 2**62 + 1, "up": False, "note": 'a "quoted", text'},
        )

    def test_every_precision_means_its_unit(self):
        units = {"n": 10**9, "u": 10**6, "ms": 10**3, "s": 1, "m": 1 / 60, "h": 1 / 3600}
        for precision, per_second in units.items():
            point = {
                "measurement": "v1_precision",
                "tags": {"id": precision},
                "time": round(EPOCH * per_second),
                "fields": {"value": 1.0},
            }
            self.assertTrue(self.client.write_points([point], time_precision=precision))
            self.assertEqual(entity("v1_precision", precision)["observed_at"], "2013-01-01T06:00:00Z", precision)

    def test_a_bad_line_among_good_ones_is_told_and_the_good_ones_are_stored(self):
        lines = [f"v1_bad,id=a value=1 {EPOCH}", "v1_bad,id=b value=", f"v1_bad,id=c value=3 {EPOCH}"]
        with self.assertRaises(influxdb.exceptions.InfluxDBClientError) as raised:
            self.client.write_points(lines, time_precision="s", protocol="line")
        self.assertEqual(raised.exception.code, 400)
        self.assertIn("partial write: unable to parse 'v1_bad,id=b value=': missing field value dropped=1", str(raised.exception))
        self.assertEqual(entity("v1_bad", "a")["attributes"]["value"], 1.0)
        self.assertEqual(entity("v1_bad", "c")["attributes"]["value"], 3.0)

    def test_the_error_text_is_also_a_header(self):
        status, headers, body = SERVER.call("POST", "/write?db=x", b"cpu usage=")
        self.assertEqual(status, 400)
        text = "partial write: unable to parse 'cpu usage=': missing field value dropped=1"
        self.assertEqual(headers["X-Influxdb-Error"], text)
        self.assertEqual(body.strip(), '{"error":"%s"}' % text)


if __name__ == "__main__":
    unittest.main(verbosity=2)
