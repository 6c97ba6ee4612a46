"""Tokens over HTTP with real replicas: a token is never before the commit that it stands for, holds on every replica until each
has got there, cannot be made or moved by anyone, and is waited for for so long and no longer."""

import base64
import os
import string
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.reads import Line, read, write  # noqa: E402
from support.replica import sources  # noqa: E402
from support.tokens import LSN_MAX, lsn_of, opened, signing_key  # noqa: E402
from support.world import World  # noqa: E402

WORLD = None
ONE, TWO = None, None
SERVER = None
WRITES = 30
READS = 60
LEVELS = ("strong", "session", "eventual", "analytics")
# The deadline of a read is 30 s; a wait for a token has to end well before.
WAIT_SECONDS_MAX = 20
WAITERS = 24
PAGES_OF = 7
ITEMS = 40
ROUNDS = 6


def setUpModule():
    global WORLD, ONE, TWO, SERVER
    WORLD = World()
    unittest.addModuleCleanup(WORLD.close)
    ONE, TWO = WORLD.replica("one"), WORLD.replica("two")
    SERVER = WORLD.server(settings=sources(ONE, TWO))


def path(name):
    return f"/v1/entities/told/{name}"


def filtered(name):
    """A read that no cache answers."""
    return {"path": "/v1/entities", "type": "told", "filter": f"external_id = '{name}'"}


def shown(answer):
    """The number that a filtered read shows, or None."""
    items = answer.document()["items"]
    return items[0]["attributes"]["n"] if items else None


def wait_used(*replicas):
    for replica in replicas:
        found = lambda: read(SERVER, **filtered("none"), consistency="eventual").source  # noqa: E731
        wait_until(lambda replica=replica: found() == f"replica:{replica.name}", f"{replica.name} is used", 60)


class Commits(unittest.TestCase):
    def test_a_token_is_never_before_the_end_of_the_commit_that_it_stands_for(self):
        WORLD.postgres.rows("SELECT pg_create_logical_replication_slot('told', 'test_decoding')")
        try:
            tokens = {}
            for number in range(WRITES):
                mark = 700_000_000 + number
                if number % 2:
                    tokens[mark] = write(SERVER, path(f"commit{number % 5}"), {"mark": mark})
                else:
                    event = {"type": "told", "id": f"commit{number % 5}", "attributes": {"mark": mark}}
                    status, answer = SERVER.ingest([event])
                    self.assertEqual(status, 200, answer)
                    tokens[mark] = answer["token"]
            changes = WORLD.postgres.rows("SELECT lsn, xid, data FROM pg_logical_slot_get_changes('told', NULL, NULL)")
        finally:
            WORLD.postgres.rows("SELECT pg_drop_replication_slot('told')")
        # The end of each commit's record.
        ends = {xid: lsn_of(lsn) for lsn, xid, data in changes if data.startswith("COMMIT")}
        for mark, token in tokens.items():
            of_it = {xid for _, xid, data in changes if str(mark) in data}
            self.assertTrue(of_it, f"the change with {mark} is decoded")
            committed = max(ends[xid] for xid in of_it)
            self.assertGreaterEqual(opened(token).lsn, committed, f"the token of {mark} is before its commit")
        print(f"{len(tokens)} tokens against the ends of their commits")


class Replicas(unittest.TestCase):
    def setUp(self):
        for replica in (ONE, TWO):
            replica.heal()
        wait_used(ONE, TWO)

    def test_one_replica_that_has_caught_up_says_nothing_of_the_other(self):
        with Faults("one of two replicas behind a token") as faults:
            for behind, ahead in ((ONE, TWO), (TWO, ONE)):
                behind.pause()
                try:
                    for number in range(5):
                        token = write(SERVER, path("uneven"), {"n": number})
                        ahead.wait_caught_up()
                        found = set()
                        # The same token again and again: that it was reached once says nothing of the next source.
                        for _ in range(READS // 5):
                            answer = read(SERVER, **filtered("uneven"), token=token)
                            self.assertEqual((answer.status, shown(answer)), (200, number), answer.shown())
                            found.add(answer.source)
                        self.assertNotIn(f"replica:{behind.name}", found)
                        faults.inject()
                    self.assertIn(f"replica:{ahead.name}", found, "the one that has it is used")
                finally:
                    behind.resume()
                wait_used(behind)

    def test_a_server_without_replicas_reads_the_primary_at_every_level(self):
        alone = WORLD.server()
        with Faults("server without any replica") as faults:
            for number in range(5):
                token = write(alone, path("alone"), {"n": number})
                for level in LEVELS:
                    for held in (token, None):
                        answer = read(alone, **filtered("alone"), token=held, consistency=level)
                        self.assertEqual((answer.status, answer.source, shown(answer)), (200, "primary", number), answer.shown())
                        self.assertEqual((answer.level, answer.lag), (level, 0.0), answer.shown())
                faults.inject()
        alone.stop()

    def test_later_pages_are_not_older_than_the_first(self):
        with Faults("replica paused between pages") as faults:
            for number in range(ROUNDS):
                behind = (ONE, TWO)[number % 2]
                behind.wait_caught_up()
                behind.pause()
                try:
                    events = [{"type": "paged", "id": f"p{place:02}", "attributes": {"round": number}} for place in range(ITEMS)]
                    status, answer = SERVER.ingest(events)
                    self.assertEqual(status, 200, answer)
                    question = {"type": "paged", "sort": "external_id", "limit": PAGES_OF}
                    # The first page shows the new round; what comes after it asks for nothing.
                    first = read(SERVER, "/v1/entities", token=answer["token"], **question)
                    pages, cursor = [first], first.document()["next_cursor"]
                    while cursor:
                        page = read(SERVER, "/v1/entities", consistency="eventual", cursor=cursor, **question)
                        self.assertEqual(page.status, 200, page.shown())
                        pages.append(page)
                        cursor = page.document()["next_cursor"]
                    items = [item for page in pages for item in page.document()["items"]]
                    self.assertEqual([item["id"] for item in items], [f"p{place:02}" for place in range(ITEMS)])
                    found = [page.source for page in pages]
                    rounds = {item["attributes"]["round"] for item in items}
                    self.assertEqual(rounds, {number}, f"pages from {found}, of which {behind.name} was behind")
                    faults.inject()
                finally:
                    behind.resume()
                wait_used(behind)


class Forged(unittest.TestCase):
    def refused(self, token, status, code, **query):
        for level in LEVELS:
            for question in (filtered("forged"), {"path": path("forged")}, {"path": path("forged") + "/history"}):
                answer = read(SERVER, **question, token=token, consistency=level, **query)
                self.assertEqual((answer.status, answer.code()), (status, code), answer.shown())
                self.assertIsNone(answer.token, "a refusal gives no token")

    def test_a_token_with_any_bit_changed_is_refused(self):
        token = write(SERVER, path("forged"), {"n": 1})
        alphabet = string.ascii_letters + string.digits + "-_"
        changed = []
        for place, character in enumerate(token):
            other = alphabet[alphabet.index(character) ^ (1 << place % 6)] if character in alphabet else "x"
            changed.append(token[:place] + other + token[place + 1 :])
        changed += ["", "t1.", token[3:], token[:-1], token + "A", token * 2, token.lower(), "t2." + token[3:], "t1." + "A" * 300]
        changed.append("t1." + base64.urlsafe_b64encode(bytes(44)).decode().rstrip("="))
        with Faults("changed token") as faults:
            for text in changed:
                answer = read(SERVER, path("forged"), token=text or " ")
                self.assertEqual((answer.status, answer.code()), (400, "invalid_token"), f"{text}: {answer.shown()}")
                faults.inject()
            self.refused(changed[10], 400, "invalid_token")

    def test_the_token_of_another_tenant_is_refused_by_name(self):
        foreign = write(SERVER, path("forged"), {"n": 1}, key=WORLD.other_key)
        with Faults("token of another tenant") as faults:
            self.refused(foreign, 400, "foreign_token")
            faults.inject()

    def test_tokens_of_other_histories_are_told_apart(self):
        key = signing_key(WORLD.postgres)
        told = write(SERVER, path("forged"), {"n": 1})
        token = opened(told)
        self.assertEqual(token.sealed(key), told, "a token that is made here is one of the server's")
        with Faults("token of another history") as faults:
            for made, expected in (
                (token.changed(timeline=token.timeline - 1), (409, "stale_timeline")),
                (token.changed(timeline=token.timeline - 1, lsn=LSN_MAX), (409, "stale_timeline")),
                (token.changed(system_id=token.system_id ^ 1), (400, "invalid_token")),
                (token.changed(lsn=LSN_MAX), (503, "token_not_reached")),
            ):
                answer = read(SERVER, path("forged"), token=made.sealed(key))
                self.assertEqual((answer.status, answer.code()), expected, f"{made}: {answer.shown()}")
                self.assertEqual(answer.header("Retry-After") is not None, answer.status == 503)
                self.assertLess(answer.seconds, WAIT_SECONDS_MAX)
                faults.inject()

    def test_a_token_of_a_later_timeline_is_refused_by_itself_and_leaves_every_other_request_alone(self):
        """A server made it, as one whose promotion was undone or of a copy: that is no reason to refuse anybody else."""
        key = signing_key(WORLD.postgres)
        token = opened(write(SERVER, path("undone"), {"n": 0}))
        with Faults("token of a later timeline") as faults:
            for number, ahead in enumerate((1, 2, 1000), 1):
                later = token.changed(timeline=token.timeline + ahead).sealed(key)
                self.refused(later, 409, "stale_timeline")
                faults.inject()
                written = write(SERVER, path("undone"), {"n": number})
                self.assertEqual(opened(written).timeline, token.timeline)
                status, answer = SERVER.ingest([{"type": "told", "id": "undone", "attributes": {"again": number}}])
                self.assertEqual(status, 200, answer)
                for level in LEVELS:
                    answer = read(SERVER, **filtered("undone"), token=written, consistency=level)
                    self.assertEqual((answer.status, shown(answer)), (200, number), answer.shown())
                    answer = read(SERVER, path("undone"), consistency=level)
                    self.assertEqual(answer.status, 200, answer.shown())
        wait_used(ONE, TWO)

    def test_tokens_from_far_ahead_wait_a_bounded_time_and_hold_nobody_up(self):
        key = signing_key(WORLD.postgres)
        far = opened(write(SERVER, path("forged"), {"n": 1})).changed(lsn=LSN_MAX).sealed(key)
        waited = []

        def wait(place):
            level = LEVELS[place % len(LEVELS)]
            waited.append(read(SERVER, **filtered("forged"), token=far, consistency=level))

        threads = [threading.Thread(target=wait, args=(place,), daemon=True) for place in range(WAITERS)]
        with Faults("token from far ahead") as faults:
            for thread in threads:
                thread.start()
            line = Line(SERVER.port, WORLD.key)
            slowest, count = 0.0, 0
            while any(thread.is_alive() for thread in threads) or count < 20:
                answer = line.read(path("forged"))
                self.assertEqual(answer.status, 200, answer.shown())
                slowest, count = max(slowest, answer.seconds), count + 1
                time.sleep(0.01)
            line.close()
            for answer in waited:
                self.assertEqual((answer.status, answer.code()), (503, "token_not_reached"), answer.shown())
                self.assertLess(answer.seconds, WAIT_SECONDS_MAX)
                faults.inject()
        longest = max(answer.seconds for answer in waited)
        print(f"{WAITERS} waited {longest:.2f} s at most; of {count} reads beside them the slowest took {slowest:.2f} s")
        self.assertEqual(len(waited), WAITERS)
        self.assertLess(slowest, longest + 2, "reads beside them do not queue behind them")


if __name__ == "__main__":
    unittest.main(verbosity=2)
