"""What clients sent and were promised: a line on the disk before each request leaves and after each answer."""

import dataclasses
import hashlib
import json
import os
import threading
import time


@dataclasses.dataclass
class Operation:
    """One request of a client, with all its attempts."""

    number: str
    tenant: str
    method: str
    key: str | None
    # The events as they were sent; an edit is one event, with its `op`.
    events: list
    attempts: int = 0
    answer: dict | None = None
    # Attempts whose outcome the client was not told.
    unknown: int = 0
    refused: int | None = None
    # The batch of a request that was acknowledged as staged; what became of it is told later.
    staged: str | None = None

    def is_ingest(self):
        return self.method == "POST"

    def acked(self):
        return self.answer is not None


class Journal:
    """Shared by the clients of a run; each line is on the disk before `record` returns."""

    def __init__(self, path):
        self.path = path
        self.lock = threading.Lock()
        self.file = open(path, "a", encoding="utf-8")

    def record(self, **entry):
        entry["at"] = time.time()
        line = json.dumps(entry) + "\n"
        with self.lock:
            self.file.write(line)
            self.file.flush()
            os.fsync(self.file.fileno())

    def sent(self, number, tenant, method, key, events, ack="durable"):
        hashes = [hashlib.sha256(json.dumps(event, sort_keys=True).encode()).hexdigest()[:16] for event in events]
        self.record(
            sent=number, tenant=tenant, method=method, key=key, ack=ack, events=events, hashes=hashes
        )  # fmt: skip

    def acked(self, number, answer):
        self.record(acked=number, answer=answer)

    def staged(self, number, batch):
        self.record(staged=number, batch=batch)

    def unknown(self, number, why):
        """Sent, and its outcome is not known."""
        self.record(unknown=number, why=str(why))

    def refused(self, number, status):
        """Told that nothing of it was stored."""
        self.record(refused=number, status=status)

    def operations(self):
        """By number, in the order in which they were first sent."""
        found = {}
        with open(self.path, encoding="utf-8") as file:
            entries = [json.loads(line) for line in file]
        for entry in entries:
            if "sent" in entry:
                operation = found.get(entry["sent"])
                if operation is None:
                    fields = (entry[name] for name in ("sent", "tenant", "method", "key", "events"))
                    operation = found[entry["sent"]] = Operation(*fields)
                operation.attempts += 1
            elif "acked" in entry:
                found[entry["acked"]].answer = entry["answer"]
            elif "staged" in entry:
                found[entry["staged"]].staged = entry["batch"]
            elif "unknown" in entry:
                found[entry["unknown"]].unknown += 1
            else:
                found[entry["refused"]].refused = entry["status"]
        for operation in found.values():
            # The journal ends in the middle of a request whose client was stopped: nobody knows what became of it.
            told = operation.unknown + operation.acked() + (operation.refused is not None)
            operation.unknown += max(0, operation.attempts - told)
        return found

    def close(self):
        self.file.close()
