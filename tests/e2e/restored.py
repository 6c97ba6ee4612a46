"""The database is restored to a moment, and servers go on with it: caches, the lake, the files of changes and subscriptions are ahead
of it, and nothing of what they are ahead in is ever shown again."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.following import Refused, Stream  # noqa: E402
from support.postgres import Postgres  # noqa: E402
from support.reads import read, write  # noqa: E402
from support.tokens import opened  # noqa: E402
from support.world import World, environment_without_settings  # noqa: E402

WITHIN_SECONDS = 180
LEVELS = ("strong", "session", "eventual", "analytics")
FACTS = {"query": "SELECT external_id, value_float FROM facts WHERE entity_type = 'restored'"}
# What the command says that compares both sides.
CLEAN = 0


def path(name):
    return f"/v1/entities/restored/{name}"


class Restored(Postgres):
    """A copy of another one's files, which is started where the other one was with its log up to a moment."""

    def __init__(self, of):
        self.of = of
        self.base = os.path.join(os.path.dirname(of.base), "restored")
        self.directory, self.sockets, self.log = (os.path.join(self.base, name) for name in ("data", "sockets", "log"))
        self.port, self.room, self.environment, self.process, self.bin = of.port, None, of.environment, None, of.bin
        for place in (self.base, self.sockets):
            os.makedirs(place)
            self.give(place)
        source = ["-h", of.sockets, "-p", str(of.port), "-U", "sheaf_superuser"]
        self.run(["pg_basebackup", "-D", self.directory, *source, "--checkpoint=fast", "--no-sync"])

    def restore(self, until):
        with open(os.path.join(self.directory, "recovery.signal"), "w", encoding="utf-8") as file:
            self.give(file.name)
        self.settings = {
            **self.of.settings,
            "restore_command": f'cp "{self.of.directory}/pg_wal/%f" "%p"',
            "recovery_target_lsn": until,
            "recovery_target_action": "promote",
        }
        self.start()
        wait_until(lambda: self.value("SELECT pg_is_in_recovery()") == "f", "it takes writes", WITHIN_SECONDS)


class RestoredDatabase(unittest.TestCase):
    def facts(self, server):
        """What the lake has; None where there is no answer for now."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, answer = server.send("POST", "/v1/sql", FACTS)
            if status == 200:
                return sorted((name, number) for name, number in answer["rows"])
        return None

    def lines(self, file):
        with open(file, encoding="utf-8") as lines:
            found = [json.loads(line) for line in lines.read().split("\n")[:-1]]
        return [line["after"]["attrs"] for line in found if line["source"]["table"] == "entity_events" and line["after"]]

    def test_nothing_that_the_database_does_not_have_any_more_is_shown_and_everything_follows_it(self):
        with World(settings={"wal_keep_size": "512MB"}) as world:
            redis, file = world.redis(), os.path.join(world.directory, "changes.jsonl")
            kept_by = {
                "lake": {"location": os.path.join(world.directory, "lake")},
                "changes": {"file": file, "journal": os.path.join(world.directory, "journal")},
                "redis": {"url": redis.url()},
            }
            server = world.server(settings=kept_by)
            # One that only reads, and remembers.
            other = world.server(settings={"redis": kept_by["redis"]})
            servers = (server, other)
            write(server, path("counted"), {"n": 1.5})
            backup = Restored(world.postgres)
            kept = write(server, path("counted"), {"n": 2.5})
            moment = world.postgres.value("SELECT pg_current_wal_insert_lsn()")
            lost = [write(server, path(name), {"n": 3.5}) for name in ("counted", "lost")][-1]
            everything = [("counted", 1.5), ("counted", 2.5), ("counted", 3.5), ("lost", 3.5)]
            wait_until(lambda: self.facts(server) == everything, "the lake is ahead", WITHIN_SECONDS)
            wait_until(lambda: len(self.lines(file)) == 4, "the file is ahead", WITHIN_SECONDS)

            def remembered():
                for each in servers:
                    for name in ("counted", "lost"):
                        read(each, path(name), consistency="eventual")
                return all(read(each, path("counted"), consistency="eventual").from_cache() for each in servers)

            wait_until(remembered, "caches are ahead", WITHIN_SECONDS)
            self.assertIn("3.5", str(redis.contents()))
            with Faults("restore to a moment before what was shown") as faults:
                world.postgres.stop()
                world.keep(world.postgres)
                world.postgres = backup
                backup.restore(moment)
                faults.inject()
                there = [("counted", 1.5), ("counted", 2.5)]

                def writes():
                    with contextlib.suppress(AssertionError, OSError, http.client.HTTPException):
                        return write(server, path("after"), {"n": 4.5})

                # From the first answer on the lake shows what is there, or says that there is none for now.
                shown = []

                def writes_again():
                    shown.append(self.facts(server))
                    return writes()

                after = wait_until(writes_again, "writes go on", WITHIN_SECONDS)
                self.assertEqual(opened(after).timeline, opened(lost).timeline + 1)
                for each in servers:

                    def strong(each=each):
                        with contextlib.suppress(OSError, http.client.HTTPException):
                            answer = read(each, path("counted"), consistency="strong")
                            return answer if answer.status == 200 else None

                    answer = wait_until(strong, "strong reads go on", WITHIN_SECONDS)
                    self.assertEqual(answer.document()["attributes"], {"n": 2.5}, answer.shown())
                    for level in LEVELS:
                        for token in (kept, lost):
                            answer = read(each, path("counted"), token=token, consistency=level)
                            self.assertEqual((answer.status, answer.code()), (409, "stale_timeline"), answer.shown())
                        for name, expected in (("counted", {"n": 2.5}), ("lost", None)):
                            answer = read(each, path(name), consistency=level)
                            self.assertIn(answer.status, (200, 404), answer.shown())
                            found = answer.document()["attributes"] if answer.status == 200 else None
                            self.assertEqual(found, expected, f"{name} at {level}: {answer.shown()}")
                there.append(("after", 4.5))

                def followed():
                    shown.append(self.facts(server))
                    return shown[-1] == sorted(there)

                wait_until(followed, "the lake has what the database has", WITHIN_SECONDS)
                answers = [found for found in shown if found is not None]
                for found in answers:
                    self.assertEqual([fact for fact in found if fact not in there], [], "shown and not in the database")
                print(f"{len(answers)} answers of the lake meanwhile, {len(shown) - len(answers)} times there was none")
                wait_until(lambda: len(self.lines(file)) == len(there), "the file has what the database has", WITHIN_SECONDS)
                self.assertNotIn("3.5", str(self.lines(file)))
                slots = "pg_replication_slots WHERE slot_name = 'sheaf_changes' AND active"
                self.assertEqual(world.postgres.count(slots), 1, "its slot is made anew")
                with self.assertRaises(Refused) as refused:
                    Stream(server, world.key, since=lost).close()
                self.assertEqual((refused.exception.status, refused.exception.code), (409, "stale_timeline"))
                # The journal has begun anew after the first write.
                now = write(server, path("after"), {"n": 5.5})
                with Stream(server, world.key, since=now) as stream:
                    write(server, path("after"), {"n": 6.5})
                    (change,) = stream.take(1)
                    self.assertEqual(change["attributes"], {"n": 6.5})

                def compared():
                    command = [os.environ["SHEAF_BIN"], "reconcile", "--full", "--documents", "--json", *server.target()]
                    done = subprocess.run(command, capture_output=True, text=True, env=environment_without_settings(), check=False)
                    return done if done.returncode in (CLEAN, 5) else None

                done = wait_until(compared, "both sides are compared", WITHIN_SECONDS)
                self.assertEqual(done.returncode, CLEAN, done.stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
