"""Clients that write everything there is to write, with a journal, through whatever happens to the servers."""

import http.client
import json
import os
import random
import threading
import time
import urllib.parse

from .database import wait_until
from .instants import DAY, SECOND, text_of
from .journal import Journal

BASE = 1_700_000_000 * SECOND
TIMEOUT_SECONDS = 10
PAUSE_SECONDS = 0.05
KIND = "device"
OWN_ENTITIES, SHARED_ENTITIES, EDITED_ENTITIES = 6, 3, 3
EXTRA_ATTRIBUTES = 4
EVENTS_MAX = 12
# Outcomes that leave open whether anything was stored.
UNKNOWN_STATUSES = (409, 429, 503, 507)


def path_of(kind, name):
    return "/v1/entities/" + urllib.parse.quote(kind, safe="") + "/" + urllib.parse.quote(name, safe="")


class Client(threading.Thread):
    """One writer of one tenant. All its choices come from its seed; what it meets on the way does not change them."""

    def __init__(self, number, tenant, key, ports, journal, seed, pause):
        super().__init__(daemon=True)
        # Seconds between two requests.
        self.pause = pause
        self.number = number
        self.tenant = tenant
        self.key = key
        # The ports of servers, of which any may be dead.
        self.ports = ports
        self.journal = journal
        self.random = random.Random(f"client {number} {seed}")
        self.stopping = threading.Event()
        # Whether it may go on, and whether it waits until it may.
        self.going = threading.Event()
        self.going.set()
        self.rests = threading.Event()
        self.connection = None
        self.port = None
        self.count = 0
        self.value = 0
        self.time = BASE + number * SECOND
        self.earlier = []
        self.acked = 0
        self.statuses = {}
        # Answers that no fault excuses.
        self.faults = []

    def run(self):
        kinds = [self.fresh, self.late, self.again, self.correction, self.addition, self.timeless, self.edit]
        weights = [8, 2, 2, 2, 2, 1, 3]
        try:
            self.introduce()
            while not self.stopping.is_set():
                self.rest()
                self.random.choices(kinds, weights)[0]()
                self.stopping.wait(self.pause)
        finally:
            self.close()

    def rest(self):
        while not self.going.is_set() and not self.stopping.is_set():
            self.rests.set()
            self.going.wait(self.pause)
        self.rests.clear()

    # What it sends. Every value is another one, so that each row can be told whose it is.

    def unique(self):
        self.value += 1
        return self.value * 100 + self.number

    def introduce(self):
        """Every attribute once: to remove one that the catalogue lacks would do nothing."""
        names = ["n", "edit", "timeless"] + [f"extra{number}" for number in range(EXTRA_ATTRIBUTES)]
        attributes = {name: "yes" if name == "edit" else self.unique() for name in names}
        event = self.event(f"own-{self.number}-0", self.time, **attributes)
        self.ingest([event], keyed=True, retries=True)

    def event(self, name, time, **attributes):
        wire = {"type": KIND, "id": name, "attributes": attributes}
        if time is not None:
            wire["observed_at"] = text_of(time)
        return wire

    def name(self):
        if self.random.random() < 0.2:
            return f"shared-{self.random.randrange(SHARED_ENTITIES)}"
        return f"own-{self.number}-{self.random.randrange(OWN_ENTITIES)}"

    def fresh(self):
        self.batch(0)

    def late(self):
        self.batch(self.random.randrange(1, 400) * DAY)

    def batch(self, late):
        events = []
        for _ in range(self.random.randint(1, EVENTS_MAX)):
            self.time += 10 * SECOND
            values = {"n": self.unique(), "who": f"c{self.number}", "odd": self.time % 3 == 0}
            events.append(self.event(self.name(), self.time - late, **values))
        self.earlier = (self.earlier + events)[-50:]
        self.ingest(events)

    def again(self):
        """The same events in another request."""
        if self.earlier:
            self.ingest(self.random.sample(self.earlier, min(3, len(self.earlier))))

    def correction(self):
        if self.earlier:
            event = self.random.choice(self.earlier)
            self.ingest([{**event, "attributes": {"n": self.unique()}}])

    def addition(self):
        if self.earlier:
            event = self.random.choice(self.earlier)
            self.ingest([{**event, "attributes": {f"extra{self.random.randrange(EXTRA_ATTRIBUTES)}": self.unique()}}])

    def timeless(self):
        """Events that get the server's time: with a key, or a retry would be further events."""
        events = [self.event(self.name(), None, timeless=self.unique()) for _ in range(self.random.randint(1, 3))]
        self.ingest(events, keyed=True)

    def edit(self):
        name = f"edited-{self.number}-{self.random.randrange(EDITED_ENTITIES)}"
        op = self.random.choices(["patch", "replace", "delete"], [6, 2, 1])[0]
        self.time += 10 * SECOND
        time = self.time if self.random.random() < 0.7 else None
        attributes = {} if op == "delete" else {"n": self.unique(), "edit": self.random.choice([None, "yes"])}
        event = {**self.event(name, time, **attributes), "op": op}
        method = {"patch": "PATCH", "replace": "PUT", "delete": "DELETE"}[op]
        path, body = path_of(KIND, name), None
        if op == "delete":
            if time is not None:
                path += "?observed_at=" + urllib.parse.quote(text_of(time))
        else:
            body = {"attributes": attributes}
            if time is not None:
                body["observed_at"] = text_of(time)
        self.send(method, path, body, [event], None, retries=False)

    def ingest(self, events, keyed=None, retries=None):
        keyed = self.random.random() < 0.7 if keyed is None else keyed
        retries = self.random.random() < 0.75 if retries is None else retries
        key = f"c{self.number}-{self.count}-{self.random.randrange(10**9)}" if keyed else None
        self.send("POST", "/v1/ingest", events, events, key, retries)

    # How it sends.

    def send(self, method, path, body, events, key, retries):
        self.count += 1
        operation = f"{self.number}-{self.count}"
        while True:
            self.journal.sent(operation, self.tenant, method, key, events)
            status, text = self.attempt(method, path, body, key)
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if self.settled(operation, method, status, text):
                return
            time.sleep(PAUSE_SECONDS)
            if not retries or self.stopping.is_set():
                return

    def settled(self, operation, method, status, text):
        """Whether the outcome is known now."""
        if status in (200, 201):
            self.journal.acked(operation, json.loads(text))
            self.acked += 1
            return True
        if status == 204:
            self.journal.acked(operation, {})
            return True
        if status == 404 and method == "DELETE":
            self.journal.refused(operation, status)
            return True
        self.journal.unknown(operation, status)
        if status is not None and status not in UNKNOWN_STATUSES:
            self.faults.append((method, status, text))
        return False

    def attempt(self, method, path, body, key):
        headers = {"Authorization": "Bearer " + self.key, "Content-Type": "application/json"}
        if key:
            headers["Idempotency-Key"] = key
        data = None if body is None else json.dumps(body).encode()
        if self.connection is None:
            self.port = self.random.choice(self.ports)
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        try:
            self.connection.request(method, path, data, headers)
            response = self.connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return None, type(error).__name__
        if response.status in (429, 503):
            if not response.headers["Retry-After"]:
                self.faults.append((method, response.status, "no Retry-After"))
            # Perhaps another server can.
            self.close()
        return response.status, text

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None


class Clients:
    """Several clients of both tenants of a world, running while the block runs."""

    def __init__(self, world, ports, seed, count=4, name="clients", pause=0.0):
        self.journal = Journal(os.path.join(world.directory, name + ".journal"))
        self.tenants = {"demo": world.key, "other": world.other_key}
        names = list(self.tenants)
        self.clients = [
            Client(number, names[number % 2], self.tenants[names[number % 2]], ports, self.journal, seed, pause)
            for number in range(count)
        ]  # fmt: skip

    def __enter__(self):
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        for client in self.clients:
            client.stopping.set()
        for client in self.clients:
            client.join(60)
            if client.is_alive():
                raise AssertionError("a client does not end")

    def pause(self):
        """Until `resume`: what was sent is answered."""
        for client in self.clients:
            client.going.clear()
        wait_until(lambda: all(client.rests.is_set() for client in self.clients), "the clients rest", 60)

    def resume(self):
        for client in self.clients:
            client.going.set()

    def acked(self):
        return sum(client.acked for client in self.clients)

    def wait_for_acks(self, more, within=60):
        """Until this many further requests are acknowledged."""
        wanted = self.acked() + more
        wait_until(lambda: self.acked() >= wanted, f"{more} more requests are acknowledged", within)

    def statuses(self):
        total = {}
        for client in self.clients:
            for status, count in client.statuses.items():
                total[status] = total.get(status, 0) + count
        return total

    def faults(self):
        return [fault for client in self.clients for fault in client.faults]
