"""The server, its connection or its backend ends while events are being copied, some there and some not: nothing of them is
stored, and the retry stores all of them once."""

import json
import os
import signal
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.load import assert_sound  # noqa: E402
from support.proxy import Proxy  # noqa: E402
from support.world import World  # noqa: E402

WORLD = None
PROXY = None
SERVER = None
EVENTS = 4000
# One entity's history of about a megabyte, on a line that takes seconds for it.
BYTES_PER_SECOND = 200_000


def setUpModule():
    global WORLD, PROXY, SERVER
    WORLD = World()
    PROXY = Proxy(WORLD.postgres.port)
    SERVER = WORLD.server(PROXY.port)


def tearDownModule():
    PROXY.close()
    WORLD.close()


def body_of(kind):
    events = [
        {
            "type": kind,
            "id": "e",
            "observed_at": f"2024-04-01T{n // 3600:02}:{n // 60 % 60:02}:{n % 60:02}Z",
            "attributes": {"n": n, "text": f"{n:0200}"},
        }
        for n in range(EVENTS)
    ]
    return json.dumps(events).encode()


def send(key, body):
    return SERVER.call("POST", "/v1/ingest", body, {"Content-Type": "application/json", "Idempotency-Key": key})


def backend_in_a_copy():
    """The process that has copied some rows and not all, if there is one."""
    rows = WORLD.postgres.rows("SELECT pid, tuples_processed FROM pg_stat_progress_copy WHERE tuples_processed > 0")
    return int(rows[0][0]) if rows and int(rows[0][1]) < EVENTS else None


class CutInACopy(unittest.TestCase):
    def check(self, kind, cut, answered):
        body = body_of(kind)
        # The names and the partition are there, so that only the write itself is slow.
        first = [{"type": kind, "id": "e", "observed_at": "2024-03-31T23:59:59Z", "attributes": {"n": 0, "text": "a"}}]
        self.assertEqual(SERVER.ingest(first)[0], 200)
        answers = []

        def request():
            try:
                answers.append(send(kind, body))
            except OSError:
                # The server was killed, which is the point.
                pass

        writer = threading.Thread(target=request)
        PROXY.rate = BYTES_PER_SECOND
        writer.start()
        backend = wait_until(backend_in_a_copy, "some rows are copied and not all")
        cut(backend)
        PROXY.rate = 0
        writer.join(60)
        self.assertFalse(writer.is_alive())
        if not answered:
            self.assertEqual(answers, [])
            wait_until(lambda: backend_in_a_copy() is None, "the backend of the dead server ends")
            self.assertEqual(len(WORLD.postgres.events(kind)), 1, "nothing of it is there")
            SERVER.start()
        elif answers[0][0] != 200:
            self.assertEqual(answers[0][0], 503, answers[0][2])
            self.assertTrue(answers[0][1]["Retry-After"])
            self.assertEqual(len(WORLD.postgres.events(kind)), 1, "nothing of it is there")
        status, _, text = send(kind, body)
        self.assertEqual((status, json.loads(text)["accepted"]), (200, EVENTS), text)
        self.assertEqual(len(WORLD.postgres.events(kind)), 1 + EVENTS)
        assert_sound(self, SERVER)

    def test_the_server_is_killed_while_it_copies(self):
        with Faults("kill -9 of the server in a COPY") as faults:

            def cut(_):
                SERVER.kill()
                faults.inject()

            self.check("server", cut, answered=False)

    def test_the_connection_is_cut_while_it_copies(self):
        with Faults("connection cut in a COPY") as faults:
            self.check("connection", lambda _: faults.inject(PROXY.cut() > 0), answered=True)

    def test_the_backend_is_killed_while_it_copies(self):
        with Faults("kill -9 of the backend in a COPY") as faults:

            def cut(backend):
                os.kill(backend, signal.SIGKILL)
                faults.inject()
                wait_until(lambda: WORLD.postgres.answers() and SERVER.is_ready(), "PostgreSQL comes back by itself")

            self.check("backend", cut, answered=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
