"""Merges, corrections, replacements and deletes of events with many kilobytes of attributes: `as_of` tells each apart at its instant,
from PostgreSQL, from the lake, and from both once the past is archived."""

import json
import os
import random
import subprocess
import sys
import unittest
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.world import World, environment_without_settings  # noqa: E402

WITHIN_SECONDS = 180
PATH = "/v1/entities/device/long"
ATTRIBUTES = 12


def noise(name):
    """A kilobyte that is kept beside its row however it is compressed, and is another for each name."""
    return random.Random(name).randbytes(400).hex() + name


def at(month, day):
    return f"2010-{month:02}-{day:02}T00:00:00Z"


class LongValues(unittest.TestCase):
    def as_of(self, server, instant, consistency, token):
        query = urllib.parse.urlencode({"as_of": instant, "consistency": consistency})
        headers = {"X-Consistency-Token": token}
        status, answered, text = server.call("GET", f"{PATH}?{query}", headers=headers)
        self.assertIn(status, (200, 404), text)
        attributes = json.loads(text)["attributes"] if status == 200 else None
        return attributes, answered["X-Data-Source"]

    def check(self, server, expected, consistency, token, sources):
        for instant, attributes in expected.items():
            found, source = self.as_of(server, instant, consistency, token)
            self.assertEqual(found, attributes, f"as of {instant} at {consistency} from {source}")
            self.assertIn(source, sources, instant)

    def test_each_is_seen_as_of_its_instant_from_wherever_it_is_read(self):
        with World() as world:
            server = world.server(settings={"lake": {"location": os.path.join(world.directory, "lake")}})
            expected, document = {at(1, 1): None}, {}

            def write(month, attributes):
                status, answer = server.ingest([{"type": "device", "id": "long", "observed_at": at(month, 2), "attributes": attributes}])
                self.assertEqual((status, answer["refused"]), (200, 0), answer)
                return answer["token"]

            def said(names, word):
                return {f"page{n}": noise(f"{word} {n}") for n in names}

            # Nine kilobytes and more in one event.
            first = said(range(ATTRIBUTES), "first")
            self.assertGreater(len(json.dumps(first)), 9_000)
            write(2, first)
            # A merge at its instant adds, and one later changes some.
            write(2, {"beside": noise("beside")})
            document = {**first, "beside": noise("beside")}
            expected[at(2, 3)] = dict(document)
            write(3, {**said((0, 1), "later"), "beside": None})
            document = {**{name: value for name, value in document.items() if name != "beside"}, **said((0, 1), "later")}
            expected[at(3, 3)] = dict(document)
            # A correction of the first replaces exactly what it says again; what was said later stays.
            write(2, said((0, 5), "corrected"))
            expected[at(2, 3)] = {**expected[at(2, 3)], **said((0, 5), "corrected")}
            document.update(said((5,), "corrected"))
            expected[at(3, 3)] = dict(document)
            # All of it is replaced, and something is merged after that.
            whole = said(range(2, ATTRIBUTES), "whole")
            status, _ = server.send("PUT", PATH, {"attributes": whole, "observed_at": at(4, 2)})
            self.assertEqual(status, 200)
            expected[at(4, 3)] = dict(whole)
            write(5, said((2,), "merged"))
            expected[at(5, 3)] = {**whole, **said((2,), "merged")}
            status, _, text = server.call("DELETE", f"{PATH}?observed_at={at(6, 2)}")
            self.assertEqual(status, 204, text)
            expected[at(6, 3)] = None
            # It lives again, without anything of before.
            token = write(7, said((0,), "again"))
            expected[at(7, 3)] = said((0,), "again")

            self.check(server, expected, "strong", token, ("primary",))
            with_lake = ("lake", "primary,lake", "lake,primary")

            def is_followed():
                return "lake" in self.as_of(server, at(7, 3), "analytics", token)[1]

            wait_until(is_followed, "the lake has all of it", WITHIN_SECONDS)
            self.check(server, expected, "analytics", token, with_lake)
            # What was corrected is apart, and each value is there once.
            query = "SELECT count(*), count(DISTINCT attribute) FROM facts_corrected WHERE external_id = 'long'"
            status, answer = server.send("POST", "/v1/sql", {"query": query})
            self.assertEqual((status, answer["rows"]), (200, [[2, 2]]), answer)

            name = world.postgres.partition_of("2010-02-02")
            command = [os.environ["SHEAF_BIN"], "partition", "archive", name, "--wait", str(WITHIN_SECONDS), *server.target()]
            done = subprocess.run(command, capture_output=True, text=True, env=environment_without_settings(), check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertEqual(world.postgres.count("sheaf.entity_events WHERE observed_at < '2011-01-01'"), 0)
            self.check(server, expected, "strong", token, ("primary", *with_lake))


if __name__ == "__main__":
    unittest.main(verbosity=2)
