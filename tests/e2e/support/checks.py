"""After the faults: what the server shows is compared with the journal and the model.

- D1: every event that was acknowledged is there exactly once.
- D2: an event is there whole or not at all; a batch is whole after its retry.
- D3: there is no row that nobody sent.
- D4: what has an unknown outcome is there or not, and exactly once after its retry.
- P1: every document is the fold of its entity's rows.

Only the entities of the journal's type are looked at, so that a test may have others beside them. All of it is read over
HTTP: history row by row, documents with their times, the status of batches.
"""

import json
import urllib.parse

from . import model
from .clients import KIND, path_of
from .instants import micros_of, text_of

PAGE = 1000


class Checker:
    """Reads through one server. `keys` maps each tenant to its key."""

    def __init__(self, server, keys, journal):
        self.server = server
        self.keys = keys
        self.journal = journal
        self.problems = []
        self.rows = 0
        self.entities = 0

    def settle(self):
        """Retries what has a key and an unknown outcome; afterwards it has one."""
        retried = 0
        for operation in self.journal.operations().values():
            if not operation.is_ingest() or operation.key is None or operation.acked():
                continue
            retried += 1
            events = operation.events
            self.journal.sent(operation.number, operation.tenant, operation.method, operation.key, events)
            status, _, text = self.post(operation)
            if status == 200:
                self.journal.acked(operation.number, json.loads(text))
            else:
                self.problems.append(f"the retry of {operation.number}: {status} {text}")
        return retried

    def post(self, operation):
        headers = {"Content-Type": "application/json", "Idempotency-Key": operation.key}
        body = json.dumps(operation.events).encode()
        return self.server.call("POST", "/v1/ingest", body, headers, self.keys[operation.tenant])

    def check(self):
        """All of it; fails with everything that is wrong."""
        operations = self.journal.operations()
        for tenant in self.keys:
            self.check_tenant(tenant, [each for each in operations.values() if each.tenant == tenant])
        self.check_replays(operations)
        if self.problems:
            shown = "\n".join(self.problems[:20])
            raise AssertionError(f"{len(self.problems)} things are wrong:\n{shown}")

    def check_tenant(self, tenant, operations):
        sent = {}
        for operation in operations:
            for place, wire in enumerate(operation.events):
                sent.setdefault(model.entity_of(wire), []).append(Candidate(operation, place, wire))
        listed = self.list_entities(tenant)
        for entity in listed - sent.keys():
            self.problems.append(f"D3: {tenant} has {entity}, which nobody sent")
        by_batch = {}
        for entity, candidates in sent.items():
            self.check_entity(tenant, entity, candidates, by_batch)
        for operation in operations:
            if operation.is_ingest() and operation.acked():
                self.check_counts(operation, by_batch.get(operation.answer["batch_id"], {}))

    def check_entity(self, tenant, entity, candidates, by_batch):
        rows = self.history(tenant, entity)
        self.rows += len(rows)
        self.entities += 1
        known = {}
        for candidate in candidates:
            if candidate.operation.is_ingest() and candidate.operation.acked():
                known.setdefault(candidate.operation.answer["batch_id"], []).append(candidate)
        # One without a time of its own fits many rows, so that it comes last: two deletes hold the same.
        candidates.sort(key=lambda candidate: candidate.event.time is None)
        open_ones = [candidate for candidate in candidates if candidate.could_be_without_batch()]
        instants = {}
        for row, batch in rows:
            # What came after its period was closed to writes is compared with its like alone, and always accepted.
            is_late = row.seq >= model.LATE_SEQ
            before = instants.setdefault((row.time, is_late), [])
            where = f"{tenant} {entity} at {text_of(row.time)} seq {row.seq}"
            if row.seq != len(before) + (model.LATE_SEQ if is_late else 0):
                self.problems.append(f"{where}: the seq before it is missing, or it is there twice")
            outcome = model.MERGED
            if any(name in model.fold(before).values for name in row.attributes) or row.op != model.PATCH:
                outcome = model.CORRECTED
            counts = by_batch.setdefault(batch, {})
            outcome = model.ACCEPTED if row.seq == 0 or is_late else outcome
            counts[outcome] = counts.get(outcome, 0) + 1
            if not any(candidate.take(row, before) for candidate in known.get(batch, open_ones)):
                what = f"{row.op} {row.attributes} of {batch}"
                self.problems.append(f"D3 or D2: {where} is {what}, which nobody sent, or it is there twice")
            before.append(row)
        for candidate in candidates:
            if candidate.operation.acked() and not candidate.taken and not candidate.is_covered(instants):
                number = candidate.operation.number
                self.problems.append(f"D1: {tenant} {entity}: event {candidate.place} of {number} is lost: {candidate.event}")
        self.check_document(tenant, entity, [row for row, _ in rows])

    def check_document(self, tenant, entity, rows):
        expected = model.fold(rows)
        status, _, text = self.server.call("GET", path_of(*entity) + "?times=true", key=self.keys[tenant])
        if not expected.exists():
            if status != 404:
                self.problems.append(f"P1: {tenant} {entity} is deleted or was never there, and found: {text}")
            return
        if status != 200:
            self.problems.append(f"P1: {tenant} {entity} has history, and is not found: {status} {text}")
            return
        document = json.loads(text)
        times = {name: micros_of(time) for name, time in document["times"].items()}
        shown = (document["attributes"], times, micros_of(document["observed_at"]))
        folded = (expected.attributes(), expected.times(), expected.newest)
        if not all(model.same(one, other) for one, other in zip(shown, folded)):
            self.problems.append(f"P1: {tenant} {entity} is {shown}, and its history folds to {folded}")

    def check_counts(self, operation, counted):
        """What the answer says of a batch is what its rows say."""
        answer = operation.answer
        told = {name: answer[name] for name in (model.ACCEPTED, model.MERGED, model.CORRECTED)}
        found = {name: counted.get(name, 0) for name in told}
        if told != found:
            what = f"{operation.number} (key {operation.key}, attempts {operation.attempts}, {answer['duplicates']} duplicates)"
            self.problems.append(f"counts: {what} was told {told}, and of {answer['batch_id']} there is {found}")
        total = sum(told.values()) + answer["duplicates"] + answer["refused"]
        if total != len(operation.events) or answer["events"] != total:
            self.problems.append(f"counts: {operation.number} has {len(operation.events)} events, and was told {answer}")

    def check_replays(self, operations):
        """Retries of acknowledged requests get their first answer and change nothing; their batches are durable."""
        keyed = [each for each in operations.values() if each.is_ingest() and each.acked() and each.key]
        for operation in keyed[:: max(1, len(keyed) // 30)]:
            status, headers, text = self.post(operation)
            if status != 200 or headers["Idempotency-Replayed"] != "true":
                self.problems.append(f"D4: the retry of the acknowledged {operation.number}: {status} {text}")
            elif without_token(json.loads(text)) != without_token(operation.answer):
                self.problems.append(f"D4: {operation.number} was told {operation.answer}, and then {text}")
            batch = operation.answer["batch_id"]
            status, _, text = self.server.call("GET", "/v1/ingest/batches/" + batch, key=self.keys[operation.tenant])
            if status != 200 or json.loads(text)["status"] != "durable":
                self.problems.append(f"{batch} was acknowledged, and its status is {status} {text}")

    def list_entities(self, tenant):
        query = {"type": KIND, "limit": PAGE}
        return {(item["type"], item["id"]) for item in self.pages(tenant, "/v1/entities", query)}

    def history(self, tenant, entity):
        """(row, batch) in the order of (time, seq)."""
        query = {"corrections": "true", "limit": PAGE}
        rows = []
        for item in self.pages(tenant, path_of(*entity) + "/history", query):
            op = model.DELETE if item.get("deleted") else model.REPLACE if item.get("replaced") else model.PATCH
            rows.append((model.Row(op, micros_of(item["observed_at"]), item["seq"], item["attributes"]), item["batch_id"]))
        return rows

    def pages(self, tenant, path, query):
        cursor = None
        while True:
            asked = {**query, **({"cursor": cursor} if cursor else {})}
            status, _, text = self.server.call("GET", path + "?" + urllib.parse.urlencode(asked), key=self.keys[tenant])
            if status == 404:
                return
            if status != 200:
                raise AssertionError(f"GET {path}: {status} {text}")
            page = json.loads(text)
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return


class Candidate:
    """An event that somebody sent, which a row may be of."""

    def __init__(self, operation, place, wire):
        self.operation = operation
        self.place = place
        self.event = model.event_of(wire)
        if operation.acked() and not operation.is_ingest() and "observed_at" in operation.answer:
            self.event.time = micros_of(operation.answer["observed_at"])
        self.taken = 0

    def could_be_without_batch(self):
        """Whether rows of it can have a batch that its answer does not name: edits, and attempts without a key."""
        operation = self.operation
        if operation.refused is not None:
            return operation.attempts > 1
        return not operation.is_ingest() or operation.unknown > 0

    def take(self, row, before):
        """Whether the row is this event's; it is counted as such."""
        attempts = 1 if self.operation.key else self.operation.attempts
        if self.taken >= attempts or self.event.time not in (None, row.time):
            return False
        event = model.Event(self.event.op, row.time, self.event.attributes)
        expected, _ = model.append(before, event)
        is_it = expected is not None and (expected.op == row.op or row.op == model.PATCH and expected.op == model.CORRECT)
        if not is_it or not model.covers(row.attributes, expected.attributes, exactly=True):
            return False
        self.taken += 1
        return True

    def is_covered(self, instants):
        """Whether it brought nothing new when it came: some state of its instant has all of it."""
        alike = [instants.get((self.event.time, is_late), []) for is_late in (False, True)]
        states = (rows[: count + 1] for rows in alike for count in range(len(rows)))
        return any(model.append(state, self.event)[1] == model.DUPLICATE for state in states)


def without_token(answer):
    return {name: value for name, value in answer.items() if name != "token"}


def check_all(servers, clients):
    """What clients were told is what there is: one server is asked to settle what is unknown, the other is read."""
    print(f"{clients.acked()} requests acknowledged; statuses {clients.statuses()}", flush=True)
    faults = clients.faults()
    if faults:
        raise AssertionError(f"{len(faults)} answers that no fault excuses: {faults[:3]}")
    settling = Checker(servers[0], clients.tenants, clients.journal)
    print(f"{settling.settle()} requests with an unknown outcome were retried", flush=True)
    checker = Checker(servers[1], clients.tenants, clients.journal)
    checker.problems = settling.problems
    checker.check()
    print(f"{checker.rows} rows of {checker.entities} entities are what the journal and the model say", flush=True)
