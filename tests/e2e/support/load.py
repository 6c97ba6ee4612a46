"""Writers that keep a journal of what they were promised, and the check of those promises afterwards."""

import http.client
import json
import os
import subprocess
import threading
import time
import uuid

from .database import wait_until

EVENTS_PER_BATCH = 10
ENTITIES_PER_WRITER = 7
BASE_SECONDS = 1_700_000_000


class Journal:
    """One line before each request is sent and one after its answer, each on the disk before the test goes on."""

    def __init__(self, path):
        self.path = path
        self.file = open(path, "a", encoding="utf-8")

    def record(self, **entry):
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def read(self):
        with open(self.path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]


class Writer(threading.Thread):
    """Sends one batch after another. Even ones send each again with its key until it is answered with a 2xx; odd ones
    leave a batch whose outcome they do not know, so that it is only settled after the faults."""

    def __init__(self, load, number):
        super().__init__(daemon=True)
        self.load = load
        self.number = number
        self.connection = None

    def run(self):
        batch = 0
        while not self.load.stopping.is_set():
            self.deliver(batch)
            batch += 1
        self.close()

    def events(self, batch):
        first = batch * EVENTS_PER_BATCH
        return [
            {
                "type": self.load.kind,
                "id": f"w{self.number}-{index % ENTITIES_PER_WRITER}",
                "observed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(BASE_SECONDS + index)),
                "attributes": {"n": index, "writer": f"w{self.number}", "odd": index % 2 == 1},
            }
            for index in range(first, first + EVENTS_PER_BATCH)
        ]

    def deliver(self, batch):
        """Ends with the batch acknowledged, or unknown."""
        key = f"{self.load.kind}-{self.number}-{batch}-{uuid.uuid4()}"
        events = self.events(batch)
        rows = [(event["id"], BASE_SECONDS + event["attributes"]["n"]) for event in events]
        body = json.dumps(events).encode()
        self.load.journal.record(sent=key, rows=rows, body=body.decode())
        while True:
            status, answer = self.attempt(key, body)
            if status is not None and 200 <= status < 300:
                self.load.journal.record(acked=key, answer=answer)
                self.load.acked += 1
                return
            time.sleep(0.1)
            if self.load.stopping.is_set() or self.number % 2 == 1:
                return

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def attempt(self, key, body):
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.load.server.port, timeout=60)
            try:
                self.connection.request("POST", "/v1/ingest", body, self.load.headers(key))
            except BrokenPipeError:
                # Answered before its body was read: the answer is there all the same.
                pass
            response = self.connection.getresponse()
            answer = response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            self.load.answers.append((None, type(error).__name__))
            return None, None
        self.load.answers.append((response.status, answer))
        if response.status in (429, 503) and not response.headers["Retry-After"]:
            self.load.without_retry_after += 1
        return response.status, answer


class Load:
    """Runs writers while its block runs; `settle` then checks what they were promised."""

    def __init__(self, server, database, kind, writers=4):
        self.server, self.database, self.kind = server, database, kind
        self.journal = Journal(os.path.join(server.directory, kind + ".journal"))
        self.stopping = threading.Event()
        self.answers = []
        self.acked = 0
        self.without_retry_after = 0
        self.writers = [Writer(self, number) for number in range(writers)]

    def headers(self, key):
        return {
            "Authorization": "Bearer " + self.server.key,
            "Content-Type": "application/json",
            "Idempotency-Key": key,
        }

    def __enter__(self):
        for writer in self.writers:
            writer.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for writer in self.writers:
            writer.join(90)

    def wait_for_acks(self, more):
        """Until this many further batches are acknowledged."""
        wanted = self.acked + more
        wait_until(lambda: self.acked >= wanted, f"{more} more batches are acknowledged", 60)

    def statuses(self):
        return {status for status, _ in self.answers}

    def settle(self, test):
        """After the faults: retries what is unknown; every batch is there exactly once, and nothing else is."""
        self.journal.file.close()
        sent, acked = {}, {}
        for entry in self.journal.read():
            if "sent" in entry:
                sent[entry["sent"]] = entry
            else:
                acked[entry["acked"]] = entry["answer"]
        rows = self.stored(test)
        promised = {tuple(row) for key in acked for row in sent[key]["rows"]}
        test.assertEqual(promised - rows, set(), "acknowledged and not there")
        everything = {tuple(row) for entry in sent.values() for row in entry["rows"]}
        test.assertEqual(rows - everything, set(), "there and never sent")
        for key in sent.keys() - acked.keys():
            # Some of its parts may be there; the retry runs the others.
            status, _, answer = self.again(key, sent[key]["body"])
            test.assertEqual(status, 200, answer)
        test.assertEqual(self.stored(test), everything, "every batch is there after its retry")
        for key in list(acked)[:: max(1, len(acked) // 20)]:
            status, headers, answer = self.again(key, sent[key]["body"])
            test.assertEqual((status, headers["Idempotency-Replayed"]), (200, "true"), answer)
            test.assertEqual(without_token(answer), without_token(acked[key]), "the first answer, but for the token")
        test.assertEqual(self.stored(test), everything, "retries of acknowledged batches change nothing")
        unknown = len(sent) - len(acked)
        print(f"{self.kind}: {len(sent)} batches, {len(acked)} acknowledged, {unknown} unknown", flush=True)

    def again(self, key, body):
        return self.server.call("POST", "/v1/ingest", body.encode(), self.headers(key))

    def stored(self, test):
        events = self.database.events(self.kind)
        rows = {(name, seconds) for name, seconds, _ in events}
        test.assertEqual(len(events), len(rows), "an event is there twice")
        return rows


def without_token(answer):
    return {name: value for name, value in json.loads(answer).items() if name != "token"}


def assert_sound(test, server):
    """Every invariant holds, read from every row."""
    command = [os.environ["SHEAF_BIN"], "doctor", *server.target(), "--full"]
    # SHEAF_BIN is ours, and no setting.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHEAF_")}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    test.assertEqual(result.returncode, 0, result.stdout + result.stderr)
