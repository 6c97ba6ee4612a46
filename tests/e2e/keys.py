"""Keys: a revoked one is refused soon, guesses cost the database nothing, and guessers are told to wait."""

import hashlib
import http.client
import json
import os
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server  # noqa: E402
from support.database import Database, Statements, wait_until  # noqa: E402

SERVER = None
DATABASE = None
REVOKED_WITHIN_SECONDS = 30
LOOK_UP = "find_api_key"


def setUpModule():
    global SERVER, DATABASE
    SERVER = Server()
    DATABASE = Database(SERVER)


def tearDownModule():
    SERVER.stop()


class From:
    """A connection from an address of its own: all of 127.0.0.0/8 is this machine."""

    def __init__(self, address):
        self.address = address
        self.connection = None

    def __enter__(self):
        self.connection = http.client.HTTPConnection("127.0.0.1", SERVER.port, timeout=20, source_address=(self.address, 0))
        return self

    def __exit__(self, *_):
        self.connection.close()

    def ask(self, authorization, path="/v1/entities?limit=1"):
        self.connection.request("GET", path, headers={"Authorization": authorization} if authorization else {})
        answer = self.connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())


def broken(key, number):
    """The key with another secret and the old checksum."""
    head, checksum = key.rsplit("_", 1)
    return f"{head[:-6]}{number:06}_{checksum}"


class Revocation(unittest.TestCase):
    def new_key(self):
        return SERVER.send("POST", "/v1/tenants/demo/keys", {"scopes": ["read"]}, key=SERVER.admin_key)[1]

    def assert_refused_soon(self, key):
        begun = time.monotonic()
        wait_until(lambda: SERVER.call("GET", "/v1/entities", key=key)[0] == 401, "the key is refused", REVOKED_WITHIN_SECONDS)
        print(f"refused {time.monotonic() - begun:.1f} s after its revocation")

    def test_a_key_that_is_revoked_over_http_is_refused(self):
        key = self.new_key()
        self.assertEqual(SERVER.call("GET", "/v1/entities", key=key["key"])[0], 200)
        status, _, _ = SERVER.call("DELETE", f"/v1/tenants/demo/keys/{key['id']}", key=SERVER.admin_key)
        self.assertEqual(status, 204)
        self.assert_refused_soon(key["key"])

    def test_a_key_that_is_revoked_behind_the_servers_back_is_refused(self):
        key = self.new_key()
        self.assertEqual(SERVER.call("GET", "/v1/entities", key=key["key"])[0], 200)
        command = [os.environ["SHEAF_BIN"], "key", "revoke", key["id"], "--data-dir", SERVER.data]
        subprocess.run(command, check=True, capture_output=True)
        self.assert_refused_soon(key["key"])

    def test_a_key_that_has_expired_is_refused(self):
        expires = DATABASE.value("SELECT to_char(now() + interval '2 s', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")
        body = {"scopes": ["read"], "expires_at": expires}
        status, key = SERVER.send("POST", "/v1/tenants/demo/keys", body, key=SERVER.admin_key)
        self.assertEqual(status, 201, key)
        self.assert_refused_soon(key["key"])

    def test_a_key_does_what_its_scopes_say(self):
        key = self.new_key()["key"]
        status, answer = SERVER.send("PATCH", "/v1/entities/a/b", {"attributes": {}}, key=key)
        self.assertEqual((status, answer["code"]), (403, "forbidden"))

    def test_a_secret_is_shown_once_and_kept_nowhere(self):
        key = self.new_key()
        listed = SERVER.call("GET", "/v1/tenants/demo/keys", key=SERVER.admin_key)[2]
        self.assertIn(key["id"], listed)
        self.assertNotIn(key["key"], listed)
        secret = key["key"].split("_")[3]
        self.assertEqual(DATABASE.count(f"sheaf.api_keys k WHERE k::text LIKE '%{secret}%'"), 0)
        self.assertNotIn(secret, SERVER.log_text())

    def test_a_key_in_the_query_opens_nothing(self):
        with From("127.0.0.4") as client:
            for parameter in ("key", "token", "access_token", "api_key", "authorization"):
                status, _, _ = client.ask(None, f"/v1/entities?{parameter}={SERVER.key}")
                self.assertEqual(status, 401)


class Guessing(unittest.TestCase):
    def test_guesses_with_a_bad_checksum_never_reach_the_database(self):
        self.assertEqual(with_checksum(SERVER.key.rsplit("_", 1)[0]), SERVER.key)
        statements = Statements(DATABASE)
        count = 0
        for place in range(50):
            with From(f"127.0.1.{place + 1}") as client:
                for number in range(40):
                    status, _, answer = client.ask("Bearer " + broken(SERVER.key, number + 100 * place))
                    self.assertEqual((status, answer["code"]), (401, "unauthorized"))
                    count += 1
        self.assertEqual(statements.finish().count(LOOK_UP), 0, f"look-ups after {count} guesses")
        # The same log does show the look-ups of keys of the right form that nobody has.
        statements = Statements(DATABASE)
        with From("127.0.0.9") as client:
            for number in range(90):
                self.assertEqual(client.ask("Bearer " + unknown(SERVER.key, number))[0], 401)
        self.assertGreaterEqual(statements.finish().count(LOOK_UP), 90)

    def test_an_address_that_fails_too_often_is_told_to_wait(self):
        with From("127.0.0.5") as client:
            statuses = [client.ask("Bearer " + broken(SERVER.key, number))[0] for number in range(300)]
            self.assertEqual(set(statuses), {401, 429})
            self.assertEqual(statuses, sorted(statuses))
            status, headers, answer = client.ask("Bearer nonsense")
            self.assertEqual((status, answer["code"]), (429, "rate_limited"))
            self.assertGreater(int(headers["Retry-After"]), 0)
            # Keys of the right form are not looked up for it any more either.
            status, _, answer = client.ask("Bearer " + unknown(SERVER.key, 1))
            self.assertEqual(status, 429)
        with From("127.0.0.6") as client:
            self.assertEqual(client.ask("Bearer " + SERVER.key)[0], 200, "others are served")
            self.assertEqual(client.ask("Bearer nonsense")[0], 401, "others may err")

    def test_every_wrong_form_of_authorization_is_refused_alike(self):
        key = SERVER.key
        wrong = [
            "", "Bearer", "Bearer ", key, "Bearer " + key[:-1], "Bearer " + key + "x", "Bearer " + key.upper(), "Digest " + key,
            "Basic " + key, "Basic ====", "Bearer a b c", "Bearer " + "x" * 5000, "Token", "Bearer ' OR 1=1 --",
        ]  # fmt: skip
        answers = set()
        with From("127.0.0.7") as client:
            for authorization in wrong:
                status, _, answer = client.ask(authorization)
                self.assertEqual((status, answer["code"]), (401, "unauthorized"), authorization[:40])
                if authorization:
                    answers.add(answer["detail"])
        self.assertEqual(len(answers), 1, "what was wrong is not told")


def unknown(key, number):
    """A key of the right form and checksum that nobody has."""
    prefix, environment, _, secret, _ = key.split("_")
    return with_checksum(f"{prefix}_{environment}_{number:016x}_{secret}")


def with_checksum(body):
    return f"{body}_{hashlib.sha256(body.encode()).hexdigest()[:8]}"


if __name__ == "__main__":
    unittest.main(verbosity=2)
