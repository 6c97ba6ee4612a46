"""A row that cannot be read holds nothing up: it is listed, shown, offered again and let go of, by administrators alone."""

import json
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.reads import metric  # noqa: E402
from support.world import World, environment_without_settings  # noqa: E402

WITHIN_SECONDS = 120
# Received at the end of time, which no reader of ours takes for a time.
POISON = """INSERT INTO sheaf.entity_events
    SELECT t.tenant_id, 900000 + n, '2013-01-01T00:00:00Z', 0, 'p', gen_random_uuid(), 'infinity', '{"1": "of-the-tenant"}'
    FROM sheaf.tenants t, generate_series(1, 2) n WHERE t.name = 'demo'"""


def instants(path):
    """The events of the file, by their second."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        found = [json.loads(line) for line in file.read().split("\n")[:-1]]
    return [line["after"]["observed_at"] for line in found if line["source"]["table"] == "entity_events"]


class DeadLetters(unittest.TestCase):
    def test_letters_are_listed_shown_offered_again_and_let_go_of(self):
        with World() as world, Faults("row that cannot be read") as faults:
            path = os.path.join(world.directory, "changes.jsonl")
            server = world.server(settings={"changes": {"file": path}})
            other = world.server()

            def write(second):
                event = {"type": "device", "id": "d", "observed_at": f"2013-01-01T00:00:{second:02}Z", "attributes": {"n": second}}
                self.assertEqual(server.ingest([event])[0], 200)

            def ask(method, path, document=None, key=None, of=server):
                return of.send(method, path, document, key=key or of.admin_key)

            write(1)
            wait_until(lambda: len(instants(path)) == 1, "the first event is in the file", WITHIN_SECONDS)
            world.postgres.rows(POISON)
            faults.inject()
            write(2)
            wait_until(lambda: len(instants(path)) == 2, "what follows is in the file", WITHIN_SECONDS)

            status, page = ask("GET", "/v1/dead-letters?sink=file&reason=unreadable&status=open")
            self.assertEqual((status, len(page["items"])), (200, 2), page)
            ids = [item["id"] for item in page["items"]]
            for item in page["items"]:
                self.assertLessEqual({"id", "sink", "position", "reason", "received_at", "status"}, set(item))
                self.assertEqual((item["sink"], item["reason"], item["status"]), ("file", "unreadable", "open"))
            # Newest first, page by page.
            _, first = ask("GET", "/v1/dead-letters?sink=file&limit=1")
            _, second = ask("GET", f"/v1/dead-letters?sink=file&limit=1&cursor={first['next_cursor']}")
            self.assertEqual([first["items"][0]["id"], second["items"][0]["id"]], ids)
            self.assertIsNone(second["next_cursor"])
            self.assertEqual(ask("GET", "/v1/dead-letters?sink=other")[1]["items"], [])
            self.assertEqual(ask("GET", "/v1/dead-letters?status=gone")[0], 400)

            status, letter = ask("GET", f"/v1/dead-letters/{ids[0]}")
            self.assertEqual(status, 200, letter)
            self.assertEqual((letter["is_whole"], letter["actions"]), (True, []))
            self.assertEqual(letter["payload"]["columns"]["ingested_at"], {"bytes": "7fffffffffffffff", "type": 1184})
            self.assertIn("of-the-tenant", letter["payload"]["columns"]["attrs"]["json"])

            # Nobody else sees them.
            for method, target, document in (
                ("GET", "/v1/dead-letters", None),
                ("GET", f"/v1/dead-letters/{ids[0]}", None),
                ("POST", "/v1/dead-letters/replay", {"ids": ids}),
                ("POST", "/v1/dead-letters/discard", {"ids": ids}),
            ):
                self.assertEqual(ask(method, target, document, key=server.key)[0], 403, target)
            self.assertEqual(ask("GET", "/v1/dead-letters/d_00000000000000000000000000")[0], 404)
            self.assertEqual(ask("POST", "/v1/dead-letters/replay", {"ids": []})[0], 400)

            # On a server that does not follow the changes itself.
            status, answer = ask("POST", "/v1/dead-letters/replay", {"ids": ids}, of=other)
            self.assertEqual((status, answer["replayed"]), (200, 0), answer)
            self.assertEqual({failed["id"] for failed in answer["failed"]}, set(ids))
            self.assertEqual({failed["reason"] for failed in answer["failed"]}, {"unreadable"})
            _, letter = ask("GET", f"/v1/dead-letters/{ids[0]}")
            self.assertEqual([action["action"] for action in letter["actions"]], ["ask_replay", "refuse"])
            self.assertTrue(letter["actions"][0]["key_id"].startswith("k_"), letter)

            wait_until(lambda: metric(server, "sheaf_dead_letters_waiting", sink="file") == 2, "the holes are told", 60)
            # The cache and the journal have none: what cannot be read could never be offered to them.
            self.assertEqual(metric(server, "sheaf_dead_letters_total", reason="unreadable"), 2)
            self.assertEqual(metric(server, "sheaf_dead_letters_total", reason="too_large"), 0)
            self.assertEqual(self.doctor(server), "warn")

            status, answer = ask("POST", "/v1/dead-letters/discard", {"ids": ids})
            self.assertEqual((status, answer["discarded"], answer["failed"]), (200, 2, []))
            status, answer = ask("POST", "/v1/dead-letters/discard", {"ids": ids})
            self.assertEqual((status, answer["discarded"], answer["failed"]), (200, 0, []))
            _, answer = ask("POST", "/v1/dead-letters/replay", {"ids": ids})
            self.assertEqual({failed["reason"] for failed in answer["failed"]}, {"discarded"})
            wait_until(lambda: metric(server, "sheaf_dead_letters_waiting", sink="file") == 0, "no holes are told", 60)
            _, page = ask("GET", "/v1/dead-letters?status=open")
            self.assertEqual(page["items"], [])
            self.assertEqual(self.doctor(server), "ok")
            self.assertEqual(len(instants(path)), 2)

            # Asked for while nobody follows: it is written down, and done when somebody does.
            world.postgres.rows(POISON.replace("900000", "900010"))
            faults.inject()
            wait_until(lambda: len(self.waiting(ask)) == 2, "there are letters", WITHIN_SECONDS)
            ids = self.waiting(ask)
            server.stop()
            status, answer = ask("POST", "/v1/dead-letters/replay", {"ids": ids}, of=other)
            self.assertEqual({failed["reason"] for failed in answer["failed"]}, {"replay_asked"})
            server.start()
            wait_until(lambda: set(self.waiting(ask)) == set(ids), "they were offered again", WITHIN_SECONDS)

    def waiting(self, ask):
        """The letters that are open."""
        status, page = ask("GET", "/v1/dead-letters?sink=file&status=open")
        self.assertEqual(status, 200, page)
        return [item["id"] for item in page["items"]]

    def doctor(self, server):
        """How the check of dead letters comes out."""
        command = [os.environ["SHEAF_BIN"], "doctor", "--json", *server.target()]
        done = subprocess.run(command, capture_output=True, text=True, env=environment_without_settings(), check=False)
        checks = json.loads(done.stdout)["checks"]
        return next(check["status"] for check in checks if check["name"] == "dead letters")


if __name__ == "__main__":
    unittest.main(verbosity=2)
