"""The primary is gone: replicas answer what may be as old as they are, and say so; keys that were good stay good for so long and
no longer; and what only the primary can answer is refused by name."""

import contextlib
import os
import signal
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.proxy import Proxy  # noqa: E402
from support.reads import read, write  # noqa: E402
from support.replica import sources  # noqa: E402
from support.world import World  # noqa: E402

AWAY_SECONDS = 10
# How old a replica may be that says whether a key is good, and how long a server believes it.
KEYS_SECONDS_MAX = 20 + 10
SLACK_SECONDS = 10
# Until the server notices; and for one request that was under way.
READ_SECONDS_MAX = 5


def path(name):
    return f"/v1/entities/away/{name}"


# What no cache answers, of a catalogue.
FILTERED = {"path": "/v1/entities", "type": "away", "filter": "n >= 0"}
FILTERED_NOTHING = {"path": "/v1/entities", "type": "away", "filter": "external_id = 'none'"}


class Away(unittest.TestCase):
    def test_replicas_answer_without_the_primary_for_as_long_as_their_lag_allows(self):
        with World() as world:
            replica = world.replica("one")
            server = world.server(settings=sources(replica))
            # The server uses the key of the other tenant, and its catalogue, for the first time while the primary is away.
            write(world.server(), path("kept"), {"n": 1}, key=world.other_key)
            token = write(server, path("kept"), {"n": 1})
            replica.wait_caught_up()
            wait_until(lambda: read(server, **FILTERED, token=token).from_replica(), "the replica is used", 60)
            with Faults("primary that died") as faults:
                world.postgres.kill()
                faults.inject()
                gone_at = time.time()
                lags = []
                while time.time() < gone_at + AWAY_SECONDS:
                    for key in (world.key, world.other_key):
                        answer = read(server, **FILTERED, key=key, consistency="eventual", max_lag="1h")
                        self.assertEqual((answer.status, answer.source), (200, "replica:one"), answer.shown())
                        self.assertGreaterEqual(answer.lag, answer.sent_at - gone_at, answer.shown())
                        self.assertEqual(len(answer.document()["items"]), 1, answer.shown())
                        self.assertLess(answer.seconds, READ_SECONDS_MAX, answer.shown())
                        lags.append(answer.lag)
                    answer = read(server, **FILTERED, token=token)
                    self.assertEqual((answer.status, answer.source, answer.level), (200, "replica:one", "session"), answer.shown())
                print(f"{len(lags)} answers of the replica without the primary, from {lags[0]:.2f} s to {lags[-1]:.2f} s behind")
                self.assertGreater(lags[-1], lags[0] + AWAY_SECONDS / 2)
                for question in (FILTERED, {"path": path("kept") + "/history"}):
                    for asked, code in (
                        ({"consistency": "eventual"}, "lag_exceeded"),
                        ({"consistency": "analytics", "max_lag": "2s"}, "lag_exceeded"),
                        ({"consistency": "session", "token": token, "max_lag": "2s"}, "token_not_reached"),
                        ({"consistency": "strong"}, "database_unavailable"),
                        ({"consistency": "session"}, "database_unavailable"),
                    ):
                        answer = read(server, **question, **asked)
                        self.assertEqual((answer.status, answer.code()), (503, code), f"{asked}: {answer.shown()}")
                        self.assertTrue(answer.header("Retry-After"), answer.shown())

                def refused():
                    answer = read(server, **FILTERED, consistency="eventual", max_lag="1h")
                    if answer.status == 200:
                        self.assertEqual(answer.source, "replica:one", answer.shown())
                        # A revoked key would be believed for as long.
                        self.assertLess(answer.answered_at - gone_at, KEYS_SECONDS_MAX + SLACK_SECONDS, answer.shown())
                    return answer.status != 200 and answer.code() == "database_unavailable"

                wait_until(refused, "no key is believed any more", KEYS_SECONDS_MAX + 2 * SLACK_SECONDS)
                print(f"keys were believed for {time.time() - gone_at:.1f} s")
                world.postgres.start()
                wait_until(lambda: read(server, **FILTERED).status == 200, "the primary answers again", 60)
                wait_until(lambda: read(server, **FILTERED, consistency="eventual").from_replica(), "the replica is used", 60)

    def test_a_primary_that_takes_connections_and_does_not_answer_keeps_no_read_from_the_replica(self):
        with World() as world:
            replica = world.replica("one")
            server = world.server(settings=sources(replica))
            write(server, path("kept"), {"n": 1})
            wait_until(lambda: read(server, **FILTERED, consistency="eventual").from_replica(), "the replica is used", 60)
            with Faults("primary that stands still") as faults:
                # The postmaster first: it starts no more of them then.
                pids = [world.postgres.process.pid, *world.postgres.processes()]
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGSTOP)
                try:
                    faults.inject()
                    stopped_at, slowest = time.time(), 0.0
                    while time.time() < stopped_at + AWAY_SECONDS:
                        answer = read(server, **FILTERED, consistency="eventual", max_lag="1h")
                        self.assertEqual((answer.status, answer.source), (200, "replica:one"), answer.shown())
                        # What was under way may wait until the primary is known to be lost.
                        self.assertLess(answer.seconds, READ_SECONDS_MAX, answer.shown())
                        slowest = max(slowest, answer.seconds if answer.sent_at > stopped_at + 2 else 0.0)
                finally:
                    for pid in pids:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGCONT)
                print(f"two seconds after the primary stood still, the slowest read took {slowest:.2f} s")
            wait_until(lambda: read(server, **FILTERED).status == 200, "the primary answers again", 60)

    def test_a_key_that_is_revoked_where_the_server_does_not_reach_is_refused_in_time(self):
        with World() as world:
            replica = world.replica("one")
            primary = world.keep(Proxy(world.postgres.port))
            server = world.server(database_port=primary.port, settings=sources(replica))
            other = world.server()
            question = {"consistency": "eventual", "max_lag": "1h"}
            status, key = other.send("POST", "/v1/tenants/demo/keys", {"scopes": ["read"]}, key=world.admin_key)
            self.assertEqual(status, 201, key)
            self.assertEqual(read(server, **FILTERED_NOTHING, key=key["key"]).status, 200)
            with Faults("server that is cut off from the primary") as faults:
                primary.refuse = True
                primary.cut()
                faults.inject()
                wait_until(lambda: read(server, **FILTERED_NOTHING, key=key["key"], **question).from_replica(), "the replica answers", 20)
                gone = other.call("DELETE", f"/v1/tenants/demo/keys/{key['id']}", key=world.admin_key)
                self.assertEqual(gone[0], 204, gone)
                revoked_at = time.time()
                refused = lambda: read(server, **FILTERED_NOTHING, key=key["key"], **question).status == 401  # noqa: E731
                wait_until(refused, "the key is refused", KEYS_SECONDS_MAX)
                print(f"refused {time.time() - revoked_at:.1f} s after it was revoked elsewhere")
                answer = read(server, **FILTERED_NOTHING, **question)
                self.assertEqual((answer.status, answer.source), (200, "replica:one"), answer.shown())


if __name__ == "__main__":
    unittest.main(verbosity=2)
