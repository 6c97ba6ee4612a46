"""A history is the same while its past moves to the lake, and never a part of itself."""

import json
import os
import subprocess
import sys
import threading
import unittest
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults, seeded  # noqa: E402
from support.world import World, environment_without_settings  # noqa: E402

ENTITIES = 4
YEARS = (2010, 2012, 2014)
WITHIN_SECONDS = 300
EVENTS = "SELECT partition_name FROM sheaf.event_partitions WHERE lower_bound < '2013-01-01' ORDER BY lower_bound"


def random_event(random, year):
    attributes = {"level": random.choice([random.randrange(800) / 7, None])}
    if random.random() < 0.5:
        attributes["word"] = f"w{random.randrange(3)}"
    if random.random() < 0.1:
        attributes["page"] = "x" * random.randrange(9000)
    at = f"{year}-0{random.randrange(1, 9)}-{random.randrange(1, 28):02}T{random.randrange(24):02}:00:00Z"
    return {"type": "device", "id": f"d{random.randrange(ENTITIES)}", "observed_at": at, "attributes": attributes}


def questions():
    """Paths, and bodies of queries over several histories."""
    found = []
    for number in range(ENTITIES):
        path = f"/v1/entities/device/d{number}"
        for query in (
            {"limit": 1000},
            {"limit": 50, "order": "desc"},
            {"limit": 1000, "corrections": "true"},
            {"limit": 1000, "attribute": "level", "from": "2010-03-01T00:00:00Z", "to": "2014-03-01T00:00:00Z"},
            {"bucket": "4w", "attribute": "level", "agg": "avg,min,max,sum,count,first,last", "fill": "previous"},
            {"bucket": "1d", "order": "desc", "limit": 1000},
        ):
            found.append((path + "/history?" + urllib.parse.urlencode(query), None))
        for at in ("2010-05-20T00:00:00Z", "2012-05-20T00:00:00Z", "2014-05-20T00:00:00Z"):
            found.append((f"{path}?as_of={at}&times=true", None))
    for group in ("entity", "all"):
        found.append(("/v1/history/query", {"attribute": ["level", "word"], "from": "2010-01-01T00:00:00Z", "group": group, "limit": 1000}))
    return found


def answer_of(server, question, consistency="strong", token=None):
    """Status, where it is from, and the answer but for what its cursor is."""
    path, body = question
    path += ("&" if "?" in path else "?") + f"consistency={consistency}"
    headers = {"Content-Type": "application/json"}
    if token:
        headers["X-Consistency-Token"] = token
    method, body = ("POST", json.dumps(body)) if body else ("GET", None)
    status, answered, text = server.call(method, path, body, headers)
    answer = json.loads(text)
    if answer.get("next_cursor"):
        answer["next_cursor"] = True
    if "as_of=" in path:
        # Of what a keyframe says it is not known when it arrived.
        answer.pop("updated_at", None)
    return status, answered.get("X-Data-Source"), answer


def partition(server, step, name):
    command = [os.environ["SHEAF_BIN"], "partition", step, name, *server.target()]
    result = subprocess.run(command, capture_output=True, text=True, env=environment_without_settings(), check=False)
    if result.returncode != 0:
        raise AssertionError(f"{command}: {result.stdout}{result.stderr}")


class HistoryOfTheLake(unittest.TestCase):
    def answers(self, server, consistency="strong", token=None):
        found, sources = [], set()
        for question in questions():
            status, source, answer = answer_of(server, question, consistency, token)
            self.assertIn(status, (200, 404), (question, answer))
            answer.pop("request_id", None)
            found.append(answer)
            sources.add(source)
        return found, sources

    def compare(self, wanted, found, when):
        for question, one, other in zip(questions(), wanted, found):
            self.assertEqual(one, other, f"{when}: {question}")

    def test_a_history_is_the_same_in_every_state_of_an_archive(self):
        random = seeded("history of the lake")
        with World() as world:
            lake = os.path.join(world.directory, "lake")
            server = world.server(settings={"lake": {"location": lake}})
            for year in YEARS:
                _, stored = server.ingest([random_event(random, year) for _ in range(200)])
            server.send("DELETE", "/v1/entities/device/d1?observed_at=2010-04-01T00:00:30Z", None)
            put = {"attributes": {"level": 5}, "observed_at": "2012-02-02T00:00:30Z"}
            status, _ = server.send("PUT", "/v1/entities/device/d2", put)
            self.assertEqual(status, 200)
            # The token of what was written last.
            _, stored = server.ingest([random_event(random, 2014)])
            wanted, sources = self.answers(server)
            self.assertEqual(sources, {"primary"})
            found, sources = self.answers(server, "analytics", stored["token"])
            self.compare(wanted, found, "at level analytics")
            self.assertIn("lake", sources)

            # Somebody reads all the time while one partition after the other leaves.
            stop, rounds, wrong = threading.Event(), [], []

            def read():
                while not stop.is_set() and not wrong:
                    try:
                        self.compare(wanted, self.answers(server)[0], "while it is archived")
                        rounds.append(1)
                    except AssertionError as error:
                        wrong.append(error)

            reader = threading.Thread(target=read)
            reader.start()
            try:
                with Faults("partition that was archived while it is read") as faults:
                    for (name,) in world.postgres.rows(EVENTS):
                        partition(server, "archive", name)
                        faults.inject()
            finally:
                stop.set()
                reader.join()
            self.assertEqual(wrong, [])
            self.assertTrue(rounds)
            found, sources = self.answers(server)
            self.compare(wanted, found, "once it is archived")
            self.assertEqual(sources - {"primary"}, {"primary,lake"})

            # Without its files, what is archived is refused and never left out.
            os.rename(lake, lake + ".away")
            again = world.server(settings={"lake": {"location": lake}})
            path = "/v1/entities/device/d0/history"
            status, _, refused = answer_of(again, (path + "?limit=1000", None))
            self.assertEqual((status, refused.get("code")), (503, "archive_unavailable"), refused)
            status, source, _ = answer_of(again, (path + "?from=2014-01-01T00:00:00Z", None))
            self.assertEqual((status, source), (200, "primary"))
            again.stop()
            if os.path.exists(lake):
                os.rename(lake, lake + ".new")
            os.rename(lake + ".away", lake)

            # What comes late is there at once, and in the lake later.
            late = {"type": "device", "id": "d0", "observed_at": "2010-06-06T06:06:06Z", "attributes": {"level": 12.5, "word": "late"}}
            status, stored = server.ingest([late])
            self.assertEqual((status, stored["refused"]), (200, 0), stored)
            asked = (path + "?from=2010-06-06T06:06:06Z&to=2010-06-06T06:06:07Z", None)
            attributes = late["attributes"]
            for consistency in ("strong", "analytics"):
                status, source, answer = answer_of(server, asked, consistency, stored["token"])
                self.assertEqual([item["attributes"] for item in answer["items"]], [attributes], (consistency, source))
            status, _, then = answer_of(server, ("/v1/entities/device/d0?as_of=2010-06-06T07:00:00Z&times=true", None))
            self.assertEqual(then["attributes"]["word"], "late", then)

            # And back again.
            newest = world.postgres.rows(
                "SELECT partition_name FROM sheaf.partition_archives WHERE state = 'dropped' ORDER BY lower_bound DESC LIMIT 1"
            )[0][0]
            before, _ = self.answers(server)
            partition(server, "restore", newest)
            self.compare(before, self.answers(server)[0], "once a part is restored")
            wait_until(server.is_ready, "the server is ready", WITHIN_SECONDS)


if __name__ == "__main__":
    unittest.main(verbosity=2)
