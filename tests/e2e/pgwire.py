"""PostgreSQL's protocol with the drivers of Python: over encrypted connections, within transactions, and to the server's end."""

import datetime
import decimal
import os
import signal
import subprocess
import sys
import threading
import unittest

import psycopg
import psycopg2

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import free_port  # noqa: E402
from support.database import wait_until  # noqa: E402
from support.world import World  # noqa: E402

WITHIN_SECONDS = 120
AT = datetime.datetime(2013, 1, 1, 10, tzinfo=datetime.timezone.utc)
FACTS = "SELECT external_id, value_int, value_decimal, value_json, observed_at, value_text FROM facts WHERE attribute = %s ORDER BY 1"


def certificate(directory):
    """One that this machine vouches for itself with, and its key."""
    paths = [os.path.join(directory, name) for name in ("pgwire.pem", "pgwire.key")]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out", paths[0], "-keyout", paths[1]]
    subprocess.run(command, check=True, capture_output=True)
    return paths


class PgWire(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World()
        cls.addClassCleanup(cls.world.close)
        cls.port = free_port()
        cls.certificate, key = certificate(cls.world.directory)
        cls.settings = {
            "lake": {"location": os.path.join(cls.world.directory, "lake")},
            "pgwire": {"listen": f"127.0.0.1:{cls.port}", "certificate_file": cls.certificate, "key_file": key},
        }
        cls.server = cls.world.server(settings=cls.settings)
        for name, kind in [("n", "int"), ("price", "decimal"), ("parts", "json")]:
            for tenant in (cls.world.key, cls.world.other_key):
                status, answer = cls.server.send("POST", "/v1/attributes", {"name": name, "type": kind}, key=tenant)
                assert status == 201, answer
        cls.token = cls.write(cls.world.key, "own")
        cls.write(cls.world.other_key, "other")
        # The lake begins some seconds after the server does.
        asked = ("POST", "/v1/sql", {"query": "SELECT count(*) FROM facts"})
        wait_until(lambda: cls.server.send(*asked)[0] == 200, "the lake is there", WITHIN_SECONDS)

    @classmethod
    def write(cls, key, word):
        events = [
            {
                "type": "device",
                "id": f"{word}-{number}",
                "observed_at": AT.isoformat(),
                "attributes": {"n": 9_007_199_254_740_993 + number, "price": f"{number}.50", "parts": [number], "word": word},
            }
            for number in range(3)
        ]
        status, answer = cls.server.ingest(events, key=key)
        assert (status, answer["refused"]) == (200, 0), answer
        return answer["token"]

    def connect(self, tenant="demo", key=None, **options):
        options.setdefault("sslmode", "verify-full")
        return psycopg.connect(
            host="localhost",
            hostaddr="127.0.0.1",
            port=self.port,
            user=tenant,
            password=key or self.world.key,
            dbname="sheaf",
            sslrootcert=self.certificate,
            connect_timeout=60,
            **options,
        )

    def caught_up(self, connection):
        connection.execute(f"SET sheaf.consistency_token = '{self.token}'")

    def test_values_come_back_as_they_were_written_in_both_forms(self):
        with self.connect() as connection:
            self.assertTrue(connection.pgconn.ssl_in_use)
            self.caught_up(connection)
            for is_binary in (False, True):
                with connection.cursor(binary=is_binary) as cursor:
                    rows = {}
                    for name in ("n", "price", "parts", "word"):
                        rows[name] = cursor.execute(FACTS, [name]).fetchall()
                self.assertEqual([row[1] for row in rows["n"]], [9_007_199_254_740_993 + n for n in range(3)])
                self.assertEqual([row[2] for row in rows["price"]], [decimal.Decimal(f"{n}.5") for n in range(3)])
                self.assertEqual([row[3] for row in rows["parts"]], [[n] for n in range(3)])
                self.assertEqual([row[4] for row in rows["word"]], [AT] * 3)
                self.assertEqual([row[0] for row in rows["word"]], ["own-0", "own-1", "own-2"])
                self.assertEqual([row[5] for row in rows["n"]], [None] * 3)

    def test_parameters_of_every_type_find_what_they_are(self):
        asked = "SELECT count(*) FROM facts WHERE "
        with self.connect() as connection:
            self.caught_up(connection)
            for condition, value, count in [
                ("value_int = %s", 9_007_199_254_740_993, 1),
                ("value_int > %b", 9_007_199_254_740_993, 2),
                ("value_decimal = %s", decimal.Decimal("1.50"), 1),
                ("value_decimal = %b", decimal.Decimal("1.50"), 1),
                ("observed_at = %s", AT, 12),
                ("observed_at = %b", AT, 12),
                ("observed_at > %s", AT, 0),
                ("value_text = %s", "own", 3),
                ("value_text = %s", "o' OR '1' = '1", 0),
                ("removed = %s", True, 0),
                ("removed = %b", False, 12),
                ("value_int = %s", None, 0),
            ]:
                found = connection.execute(asked + condition, [value]).fetchone()
                self.assertEqual(found, (count,), f"{condition} {value}")

    def test_an_older_driver_works_too(self):
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="demo", password=self.world.key, dbname="sheaf", sslmode="require"
        )
        self.addCleanup(connection.close)
        with connection, connection.cursor() as cursor:
            cursor.execute("SET sheaf.consistency_token = %s", [self.token])
            cursor.execute(FACTS, ["word"])
            self.assertEqual([row[0] for row in cursor.fetchall()], ["own-0", "own-1", "own-2"])
            cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
            self.assertIn(("facts",), cursor.fetchall())
            cursor.execute("SHOW sheaf.data_lag_seconds")
            self.assertGreaterEqual(float(cursor.fetchone()[0]), 0)

    def test_a_failed_transaction_is_rolled_back_and_the_connection_goes_on(self):
        with self.connect() as connection:
            self.caught_up(connection)
            connection.commit()
            with self.assertRaises(psycopg.Error) as refused:
                connection.execute("SELECT nothing FROM facts")
            self.assertEqual((refused.exception.sqlstate, refused.exception.diag.message_detail), ("42000", "code: invalid_parameter"))
            with self.assertRaises(psycopg.errors.InFailedSqlTransaction):
                connection.execute("SELECT 1 + 1")
            connection.rollback()
            self.assertEqual(connection.execute("SELECT 1").fetchone(), (1,))
            with self.assertRaises(psycopg.Error):
                connection.execute("INSERT INTO facts SELECT * FROM facts")

    def test_each_tenant_asks_for_itself_and_no_other_key_opens_it(self):
        with self.connect("other", self.world.other_key) as connection:
            def sees_its_own():
                words = connection.execute("SELECT DISTINCT value_text FROM facts WHERE attribute = 'word'").fetchall()
                connection.rollback()
                return words == [("other",)]

            wait_until(sees_its_own, "the lake has what the other tenant wrote", WITHIN_SECONDS)
        with self.connect("other", self.world.admin_key) as connection:
            self.assertEqual(connection.execute("SELECT current_user").fetchone(), ("other",))
        said = set()
        for tenant, key in [("other", self.world.key), ("nobody", self.world.key), ("demo", "shf_live_x"), ("nobody", self.world.admin_key)]:
            with self.assertRaises(psycopg.OperationalError) as refused:
                self.connect(tenant, key)
            said.add(str(refused.exception).split("FATAL:")[1].replace(tenant, "?").strip())
        self.assertEqual(said, {'password authentication failed for user "?"'})

    def test_a_question_is_cancelled_from_another_connection(self):
        endless = "SELECT count(*) FROM " + ", ".join(f"facts f{n}" for n in range(20))
        with self.connect() as connection:
            self.caught_up(connection)
            connection.commit()
            done, faults = threading.Event(), []

            def cancel():
                while not done.wait(0.2):
                    try:
                        connection.cancel_safe()
                    except psycopg.Error as fault:
                        faults.append(fault)

            canceller = threading.Thread(target=cancel)
            canceller.start()
            try:
                with self.assertRaises(psycopg.errors.QueryCanceled):
                    connection.execute(endless)
            finally:
                done.set()
                canceller.join()
            self.assertEqual(faults, [])
            connection.rollback()
            self.assertEqual(connection.execute("SELECT count(*) FROM entities").fetchone(), (3,))

    def test_a_server_that_stops_says_so_to_those_who_ask_nothing(self):
        port = free_port()
        settings = {**self.settings, "pgwire": {**self.settings["pgwire"], "listen": f"127.0.0.1:{port}"}}
        server = self.world.server(settings=settings)
        connection = psycopg.connect(host="127.0.0.1", port=port, user="demo", password=self.world.key, sslmode="require", autocommit=True)
        self.addCleanup(connection.close)
        self.assertEqual(connection.execute("SELECT 1").fetchone(), (1,))
        server.process.send_signal(signal.SIGTERM)
        self.assertEqual(server.process.wait(60), 0)
        with self.assertRaises(psycopg.OperationalError):
            connection.execute("SELECT 1")


if __name__ == "__main__":
    unittest.main(verbosity=2)
