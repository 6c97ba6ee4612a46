"""Replicas that are behind, and most of all those that do not know it: what a read says of its age is true, reads with a token
and reads with a bound leave such a replica, and a lag that is not known is not called a small one."""

import contextlib
import os
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.reads import Line, metric, read, write  # noqa: E402
from support.replica import sources  # noqa: E402
from support.sessions import Sessions  # noqa: E402
from support.world import World  # noqa: E402

WORLD = None
ONE, TWO = None, None
SERVER = None
# A server that knows of one replica only.
SINGLE = None
SEED = 1
DELAY_SECONDS = 2.0
SLACK_SECONDS = 1.5
# Reads that are answered within the default bound of `eventual`.
EVENTUAL_SECONDS_MAX = 3.0


def setUpModule():
    global WORLD, ONE, TWO, SERVER, SINGLE
    WORLD = World()
    unittest.addModuleCleanup(WORLD.close)
    ONE, TWO = WORLD.replica("one"), WORLD.replica("two")
    SERVER = WORLD.server(settings=sources(ONE, TWO))
    SINGLE = WORLD.server(settings=sources(ONE))


def filtered(name):
    """A read that no cache answers."""
    return {"path": "/v1/entities", "type": "behind", "filter": f"external_id = '{name}'"}


def used(server, replica):
    """Whether a read that may be a little old is answered by the replica."""
    return read(server, **filtered("none"), consistency="eventual").source == f"replica:{replica.name}"


def wait_used(server, replica):
    wait_until(lambda: used(server, replica), f"{replica.name} is used", 60)


class Behind(unittest.TestCase):
    def setUp(self):
        for replica in (ONE, TWO):
            wait_used(SERVER, replica)
        wait_used(SINGLE, ONE)

    def tearDown(self):
        for replica in (ONE, TWO):
            replica.heal()
            with contextlib.suppress(AssertionError):
                replica.resume()

    def test_a_replica_that_shows_everything_two_seconds_late_is_said_to_be_two_seconds_behind(self):
        self.addCleanup(ONE.apply_late, "0")
        with Faults("replica that replays two seconds late") as faults:
            ONE.apply_late(f"{DELAY_SECONDS:g}s")

            def lags():
                answers = [read(SINGLE, **filtered("none"), consistency="analytics") for _ in range(10)]
                found = [answer.lag for answer in answers if answer.from_replica()]
                # Those from before the delay are behind by less; later ones by no less.
                return found if len(found) == 10 and min(found) >= DELAY_SECONDS - 0.3 else None

            faults.inject(len(wait_until(lags, "it is said to be two seconds behind", 60)))
            nearest = min(abs(lag - DELAY_SECONDS) for lag in wait_until(lags, "it still is", 60))
            self.assertLess(nearest, 0.3)

            def exported():
                # As of the watch's last look; no number while the delay begins, when nothing was replayed for a moment.
                return metric(SINGLE, "sheaf_source_lag_seconds", source="replica:one") >= DELAY_SECONDS - 0.3

            wait_until(exported, "the metric says so too", 10)
            # What it was told meanwhile a read with a token does not get from there.
            token = write(SINGLE, "/v1/entities/behind/late", {"n": 1})
            begun = time.monotonic()
            answer = read(SINGLE, **filtered("late"), token=token)
            self.assertEqual([item["attributes"] for item in answer.document()["items"]], [{"n": 1}], answer.shown())
            print(f"with the token it was answered by {answer.source} after {time.monotonic() - begun:.2f} s")

    def leave(self, server, replica, faults, what):
        """A replica that gets no further is left for every read that must not be old, and answers no read untruthfully."""
        with contextlib.closing(Line(server.port, server.key)) as line:
            faults.inject()
            stopped_at = time.time()
            token = write(server, "/v1/entities/behind/left", {"n": stopped_at})
            written_at = time.time()
            strays, answers = [], 0
            while time.time() < stopped_at + EVENTUAL_SECONDS_MAX + SLACK_SECONDS:
                for asked in ({"token": token}, {"consistency": "eventual", "max_lag": "1s"}, {"consistency": "eventual"}):
                    answer = line.read(**filtered("left"), **asked)
                    self.assertEqual(answer.status, 200, answer.shown())
                    items = answer.document()["items"]
                    shows = items and items[0]["attributes"]["n"] == stopped_at
                    answers += 1
                    if "token" in asked:
                        self.assertTrue(shows, f"{what}: {answer.shown()}")
                    bound = 1.0 if "max_lag" in asked else EVENTUAL_SECONDS_MAX
                    if answer.sent_at > written_at + bound + SLACK_SECONDS / 2:
                        self.assertTrue(shows, f"{what}: {answer.sent_at - written_at:.2f} s after the write: {answer.shown()}")
                    if answer.complete_until > written_at:
                        self.assertTrue(shows, f"{what}: it says that it is complete: {answer.shown()}")
                    if answer.source == f"replica:{replica.name}" and not shows:
                        strays.append(answer)
            for answer in strays:
                # An unknown lag is honest as well; a small one is not.
                if answer.lag is not None:
                    late = answer.answered_at - written_at
                    self.assertGreater(answer.lag, late - 0.5, f"{what}: {late:.2f} s after the write: {answer.shown()}")
            last = max((answer.sent_at - stopped_at for answer in strays), default=0)
            print(f"{what}: {answers} reads, of which {len(strays)} from {replica.name}, the last {last:.2f} s after it stopped")

    def test_a_replica_whose_replay_stands_still_is_left(self):
        with Faults("replay paused") as faults:
            ONE.pause()
            self.leave(SERVER, ONE, faults, "paused")
            ONE.resume()
            wait_used(SERVER, ONE)

    def test_a_replica_that_gets_nothing_and_has_replayed_all_it_got_is_left(self):
        with Faults("replication stalled without a word") as faults:
            ONE.wait_caught_up()
            ONE.link.stall()
            self.leave(SINGLE, ONE, faults, "stalled")
            # What a formula of receipt and replay would call no lag at all; what is left is less than a record.
            naive = "SELECT pg_last_wal_receive_lsn() - pg_last_wal_replay_lsn()"
            self.assertLess(int(ONE.value(naive)), 16 << 10, "it has replayed all that it got")
            ONE.heal()
            wait_used(SINGLE, ONE)

    def test_a_lag_that_cannot_be_known_is_not_called_a_small_one(self):
        with Faults("heartbeat that cannot be written") as faults:
            with WORLD.postgres.held("TABLE sheaf.replication_heartbeat IN EXCLUSIVE MODE"):
                faults.inject()
                begun = time.time()
                write(SERVER, "/v1/entities/behind/unknown", {"n": 1})

                def unknown():
                    answer = read(SERVER, **filtered("unknown"), consistency="analytics")
                    if answer.from_replica() and answer.lag is not None:
                        self.assertGreater(answer.lag, answer.answered_at - begun - SLACK_SECONDS, answer.shown())
                    elif not answer.from_replica():
                        self.assertEqual((answer.source, answer.lag), ("primary", 0.0), answer.shown())
                    exported = metric(SERVER, "sheaf_source_lag_seconds", source="replica:one")
                    # It is not exported, or as no number, or it grows.
                    told = exported is None or exported != exported or exported > EVENTUAL_SECONDS_MAX
                    # Until then the last one that was written may say truthfully that it is near enough.
                    is_late = time.time() - begun > EVENTUAL_SECONDS_MAX + SLACK_SECONDS
                    return is_late and told and not read(SERVER, **filtered("unknown"), consistency="eventual").from_replica()

                wait_until(unknown, "what is not known is not told", 30)
                for _ in range(10):
                    answer = read(SERVER, **filtered("unknown"), consistency="eventual")
                    self.assertEqual(answer.source, "primary", "no replica is known to be near enough: " + answer.shown())
            wait_used(SERVER, ONE)

    def test_sessions_never_go_back_while_one_replica_after_the_other_stands_still(self):
        with Faults("replica that stands still under sessions") as faults:
            with Sessions([SERVER, SINGLE], WORLD.key, SEED) as sessions:
                for replica in (ONE, TWO):
                    sessions.wait_for_source(f"replica:{replica.name}")
                    replica.pause()
                    sessions.wait_for(60)
                    replica.resume()
                    replica.link.stall()
                    sessions.wait_for(60)
                    replica.heal()
                    faults.inject(2)
                    sessions.wait_for_source(f"replica:{replica.name}")
            sessions.wait_converged()
            sessions.check()


if __name__ == "__main__":
    unittest.main(verbosity=2)
