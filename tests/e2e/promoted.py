"""A replica becomes the primary: what was only on the old one is never shown again, tokens of its history are refused by name,
and nothing is written to it or read from it when it comes back."""

import contextlib
import http.client
import os
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.proxy import Proxy  # noqa: E402
from support.reads import Line, read, write  # noqa: E402
from support.replica import sources  # noqa: E402
from support.tokens import opened  # noqa: E402
from support.world import World  # noqa: E402

WRITES = 10
FAILOVER_SECONDS_MAX = 60
# What `eventual` may be behind, and what a busy machine adds.
EVENTUAL_SECONDS_MAX = 3.0 + 1.5
LEVELS = ("strong", "session", "eventual", "analytics")
READERS = 6
RETURN_SECONDS = 3
# What entities show on the new timeline: the last number that the replica had, or that they are not there.
SHOWN = {"lost1": None, "same": 1, "counted": WRITES - 1}
CUT_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> 'sheaf_superuser'"


def path(name):
    return f"/v1/entities/promoted/{name}"


def settings_of(world, replica):
    """Either may be the primary; the replica is read from while it is one."""
    hosts = f"127.0.0.1:{world.postgres.port},127.0.0.1:{replica.port}"
    return {"database": {"url": f"postgresql://{hosts}/sheaf"}, **sources(replica, direct=True)}


def number_of(answer):
    return answer.document()["attributes"]["n"] if answer.status == 200 else None


def attempt(server, where, **query):
    """A read, or None where the connection broke."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return read(server, where, **query)
    return None


class Promoted(unittest.TestCase):
    def test_what_only_the_old_primary_had_is_never_shown_again_and_its_tokens_are_refused(self):
        with World() as world:
            replica = world.replica("one")
            servers = [world.server(settings=settings_of(world, replica)) for _ in range(2)]
            server = servers[0]
            kept = [write(server, path("counted"), {"n": n}) for n in range(WRITES)][-1]
            write(server, path("same"), {"n": 1})
            replica.wait_caught_up()
            with Faults("promotion after writes that no replica got") as faults:
                replica.link.stall()
                lost = [write(server, path(f"lost{n}"), {"n": n}) for n in range(WRITES)]
                write(server, path("counted"), {"n": 1000})
                # Whatever remembers answers has them now.
                for each in servers:
                    for level in LEVELS:
                        for name in ("counted", "lost1"):
                            read(each, path(name), token=lost[-1], consistency=level)
                world.postgres.crash()
                replica.promote()
                faults.inject()
                begun = time.monotonic()

                def writes():
                    with contextlib.suppress(AssertionError, OSError, http.client.HTTPException):
                        return write(server, path("after"), {"n": 1})

                after = wait_until(writes, "writes go on", FAILOVER_SECONDS_MAX)
                print(f"writes went on {time.monotonic() - begun:.2f} s after the promotion")
                self.assertEqual(opened(after).timeline, opened(lost[0]).timeline + 1)
                self.check_history(servers, lost, kept, after)
            with Faults("old primary that comes back") as faults:
                world.postgres.start()
                faults.inject()
                self.assertEqual(world.postgres.value("SELECT pg_is_in_recovery()"), "f", "it takes itself for a primary")
                self.check_return(world, replica, servers, lost, kept)

    def check_history(self, servers, lost, kept, after):
        """Of the lost writes nothing is shown at any level; tokens of the old history are refused, those of the new one hold."""
        for server in servers:

            def strong(server=server):
                answer = attempt(server, path("counted"), consistency="strong")
                return answer if answer is not None and answer.status == 200 else None

            answer = wait_until(strong, "strong reads go on", FAILOVER_SECONDS_MAX)
            self.assertEqual(answer.document()["attributes"]["n"], WRITES - 1, answer.shown())
            for level in LEVELS:
                for token in (lost[0], lost[-1], kept):
                    answer = read(server, path("counted"), token=token, consistency=level)
                    self.assertEqual((answer.status, answer.code()), (409, "stale_timeline"), answer.shown())

            def new(server=server):
                """With the new history's token as soon as the server has noticed; nothing of the old one in between."""
                answer = read(server, path("after"), token=after)
                self.assertIn(answer.status, (200, 503), answer.shown())
                return answer.status == 200 and answer.document()["attributes"] == {"n": 1}

            wait_until(new, "the new history is read", FAILOVER_SECONDS_MAX)
        time.sleep(EVENTUAL_SECONDS_MAX)
        self.check_nothing_lost(servers)

    def check_nothing_lost(self, servers):
        for server in servers:
            for level in ("strong", "eventual", "analytics"):
                for name, expected in SHOWN.items():
                    answer = read(server, path(name), consistency=level)
                    if level == "analytics" and answer.from_cache():
                        # It may be minutes old, and says so.
                        continue
                    self.assertIn(answer.status, (200, 404), answer.shown())
                    self.assertEqual(number_of(answer), expected, f"{name} at {level}: {answer.shown()}")

    def check_return(self, world, replica, servers, lost, kept):
        # It is named first in the configuration, and whoever connects now finds that it takes writes.
        latecomer = world.plan(settings=settings_of(world, replica)).start(wait=False)
        everyone = (*servers, latecomer)
        there = "SELECT count(*), max(observed_at) FROM sheaf.entity_events"
        before = world.postgres.rows(there)
        timeline, ends = opened(lost[0]).timeline, time.monotonic() + RETURN_SECONDS
        outcomes = {}
        while time.monotonic() < ends:
            # New connections are made.
            for postgres in (replica, world.postgres):
                postgres.rows(CUT_ALL)
            for server in everyone:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    with contextlib.closing(Line(server.port, world.key)) as line:
                        answer = line.send("PATCH", path("returned"), {"attributes": {"n": 1}})
                    outcomes[answer.status] = outcomes.get(answer.status, 0) + 1
                    if answer.status == 503:
                        self.assertTrue(answer.header("Retry-After"), answer.shown())
                        continue
                    self.assertIn(answer.status, (200, 201), answer.shown())
                    self.assertEqual(opened(answer.document()["token"]).timeline, timeline + 1, "a write to the old primary")
                for level in LEVELS:
                    for name, expected in SHOWN.items():
                        answer = attempt(server, path(name), consistency=level)
                        if answer is None or answer.status not in (200, 404):
                            continue
                        if level != "analytics" or not answer.from_cache():
                            self.assertEqual(number_of(answer), expected, f"{name} at {level}: {answer.shown()}")
        print(f"while two took themselves for the primary, writes were answered {outcomes}")
        # Who knows of the promotion passes over the host that is named first, while it is there.
        for server in everyone:

            def written(server=server):
                with contextlib.suppress(AssertionError, OSError, http.client.HTTPException):
                    return write(server, path("beside"), {"by": f"{server.port}"})

            token = wait_until(written, f"the server at {server.port} writes again", FAILOVER_SECONDS_MAX)
            self.assertEqual(opened(token).timeline, timeline + 1)
            answer = read(server, path("counted"), token=kept)
            self.assertEqual((answer.status, answer.code()), (409, "stale_timeline"), answer.shown())
        self.assertEqual(world.postgres.rows(there), before, "something was written to the old primary")
        self.check_nothing_lost(everyone)
        world.postgres.stop()
        for server in everyone:
            wait_until(lambda server=server: write(server, path("alone"), {"by": f"{server.port}"}), "writes go on", FAILOVER_SECONDS_MAX)
        self.check_nothing_lost(everyone)

    def test_a_server_that_knows_the_old_primary_alone_shows_nothing_of_it_to_who_has_a_token_of_the_new_one(self):
        with World() as world:
            replica = world.replica("one")
            ignorant = world.server()
            write(ignorant, path("split"), {"n": 1})
            replica.wait_caught_up()
            with Faults("promotion while the old primary goes on") as faults:
                replica.promote()
                faults.inject()
                informed = world.server(database_port=replica.port)
                token = write(informed, path("split"), {"n": 2})
                question = {"path": "/v1/entities", "type": "promoted", "filter": "external_id = 'split'"}
                for level in LEVELS:
                    for asked in ({"path": path("split")}, {"path": path("split") + "/history"}, question):
                        answer = read(ignorant, **asked, token=token, consistency=level)
                        self.assertEqual((answer.status, answer.code()), (409, "stale_timeline"), answer.shown())
                        self.assertNotIn('"n":1', answer.text)
                # It stops nobody else: only a source that was asked shows that there was a promotion.
                self.assertEqual(read(ignorant, path("split")).status, 200)
                write(ignorant, path("split"), {"n": 3})
            with Faults("source that shows the promotion") as faults:
                told = world.server(settings=sources(replica, direct=True))
                faults.inject()

                def refused():
                    with contextlib.closing(Line(told.port, world.key)) as line:
                        answer = line.send("PATCH", path("split"), {"attributes": {"n": 4}})
                    return answer.status == 503 and read(told, path("split")).status == 503

                wait_until(refused, "the old primary takes no writes and gives no reads", FAILOVER_SECONDS_MAX)
                there = "SELECT count(*) FROM sheaf.entity_events"
                before = world.postgres.rows(there)
                for _ in range(WRITES):
                    self.assertTrue(refused())
                self.assertEqual(world.postgres.rows(there), before)

    def test_connections_to_an_old_primary_that_goes_on_are_left_although_nothing_cuts_them(self):
        with World() as world:
            replica = world.replica("one")
            # The address of the primary leads to another server later.
            address = world.keep(Proxy(world.postgres.port))
            server = world.server(database_port=address.port, settings=sources(replica, direct=True))
            before = opened(write(server, path("kept"), {"n": 1})).timeline
            replica.wait_caught_up()

            def ask(outcomes):
                with contextlib.closing(Line(server.port, world.key)) as line:
                    for _ in range(WRITES):
                        outcomes.append(line.send("PATCH", path("kept"), {"attributes": {"n": 1}}))

            def together():
                """As many at once as make use of all connections that there are."""
                outcomes = []
                threads = [threading.Thread(target=ask, args=(outcomes,), daemon=True) for _ in range(READERS)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(60)
                return outcomes

            def revoke():
                """What an administrator whose key is believed is told."""
                with contextlib.closing(Line(server.port, world.admin_key)) as line:
                    return line.send("DELETE", f"/v1/tenants/demo/keys/k_{world.key.split('_')[2]}").status

            with contextlib.closing(Line(server.port, world.admin_key)) as line:
                self.assertEqual(line.send("GET", "/v1/tenants").status, 200)
            self.assertEqual({answer.status for answer in together()}, {200})
            with Faults("promotion while the old primary goes on") as faults:
                replica.promote()
                faults.inject()

                def refused():
                    return read(server, path("kept"), consistency="strong").status == 503

                wait_until(refused, "the old primary is not read from", FAILOVER_SECONDS_MAX)
                self.assertEqual({answer.status for answer in together()}, {503})
                self.assertEqual(revoke(), 503, "a key was revoked on the old primary")
                address.target_port = replica.port
                wait_until(lambda: not refused(), "the new primary is read from", FAILOVER_SECONDS_MAX)
                for _ in range(5):
                    answers = together()
                    self.assertEqual({answer.status for answer in answers}, {200}, "a connection to the old primary was kept")
                    timelines = {opened(answer.document()["token"]).timeline for answer in answers}
                    self.assertEqual(timelines, {before + 1})

    def test_a_promotion_in_the_middle_of_waiting_reads_makes_none_of_them_wrong(self):
        with World() as world:
            replica = world.replica("one")
            server = world.server(settings=sources(replica, direct=True))
            write(server, path("waited"), {"n": 0})
            replica.wait_caught_up()
            question = {"path": "/v1/entities", "type": "promoted", "filter": "external_id = 'waited'"}
            wait_until(lambda: read(server, **question, consistency="eventual").from_replica(), "the replica is used", 60)
            replica.link.stall()
            # The last write with its token, replaced as one.
            last = [(0, write(server, path("waited"), {"n": 0}))]
            wrong, answers = [], []
            stopping = threading.Event()

            def ask(question):
                with contextlib.closing(Line(server.port, world.key)) as line:
                    while not stopping.is_set():
                        number, token = last[0]
                        answer = line.read(**question, token=token)
                        answers.append(answer)
                        if answer.status == 200:
                            document = answer.document()
                            items = document.get("items", [document])
                            if not items or items[0]["attributes"]["n"] < number:
                                wrong.append(f"{number} was written: {answer.shown()}")
                        elif (answer.status, answer.code()) != (409, "stale_timeline") and answer.status != 503:
                            wrong.append(answer.shown())

            # By filter and by id, which are read in different ways.
            questions = [question, {"path": path("waited")}] * (READERS // 2)
            threads = [threading.Thread(target=ask, args=(each,), daemon=True) for each in questions]
            for thread in threads:
                thread.start()
            with Faults("promotion while reads wait") as faults:
                try:
                    for number in range(1, WRITES * 5):
                        last[0] = (number, write(server, path("waited"), {"n": number}))
                    replica.promote()
                    faults.inject()
                    asked = len(answers)
                    wait_until(lambda: len(answers) > asked + 200, "reads go on")
                finally:
                    stopping.set()
                    for thread in threads:
                        thread.join(60)
            self.assertEqual(wrong, [])
            found = {}
            for answer in answers:
                what = answer.source if answer.status == 200 else answer.code()
                found[what] = found.get(what, 0) + 1
            print(f"reads with a token were answered {found}")
            # What was written on the old timeline is on no source of the new one.
            self.assertNotIn("replica:one", found)
            number, token = last[0]
            for level in LEVELS:
                answer = read(server, **question, token=token, consistency=level)
                if answer.status == 200:
                    self.assertEqual(answer.document()["items"][0]["attributes"]["n"], number, answer.shown())
                else:
                    self.assertIn(answer.status, (409, 503), answer.shown())


if __name__ == "__main__":
    unittest.main(verbosity=2)
