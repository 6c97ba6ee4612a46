"""One read as a client sees it: the answer, where it came from, how old it says it is."""

import contextlib
import dataclasses
import http.client
import json
import time
import urllib.parse

from .instants import SECOND, micros_of

TIMEOUT_SECONDS = 60
HEADERS = (
    "X-Data-Source", "X-Data-Lag-Seconds", "X-Data-Timestamp", "X-Consistency-Level", "X-Cache-Hit", "X-Consistency-Token",
)  # fmt: skip


@dataclasses.dataclass
class Read:
    status: int
    headers: object
    text: str
    # When it was sent and answered, by the clock that PostgreSQL on this machine has as well.
    sent_at: float
    answered_at: float

    def header(self, name):
        return self.headers[name]

    @property
    def source(self):
        return self.headers["X-Data-Source"]

    @property
    def level(self):
        return self.headers["X-Consistency-Level"]

    @property
    def token(self):
        return self.headers["X-Consistency-Token"]

    @property
    def lag(self):
        """Seconds, or None where it is unknown."""
        text = self.headers["X-Data-Lag-Seconds"]
        return None if text == "unknown" else float(text)

    @property
    def complete_until(self):
        """In seconds since 1970."""
        return micros_of(self.headers["X-Data-Timestamp"]) / SECOND

    @property
    def seconds(self):
        return self.answered_at - self.sent_at

    def document(self):
        return json.loads(self.text)

    def code(self):
        """Of a refusal."""
        return self.document().get("code") if self.text else None

    def from_replica(self):
        return (self.source or "").startswith("replica:")

    def from_cache(self):
        return self.source in ("cache", "redis")

    def shown(self):
        """For messages."""
        told = {name: self.headers[name] for name in HEADERS if self.headers[name] is not None}
        return f"{self.status} {told} {self.text[:300]}"


class Line:
    """A connection to a server that is kept from one request to the next, and made anew after it broke."""

    def __init__(self, port, key):
        self.port = port
        self.key = key
        self.connection = None

    def read(self, path, token=None, **query):
        """`query` has the read options as well: `consistency`, `max_lag`."""
        if query:
            path += ("&" if "?" in path else "?") + urllib.parse.urlencode(query)
        return self.send("GET", path, headers={"X-Consistency-Token": token} if token else {})

    def send(self, method, path, document=None, headers=None):
        headers = {"Authorization": "Bearer " + self.key, **(headers or {})}
        body = None
        if document is not None:
            body = json.dumps(document).encode()
            headers["Content-Type"] = "application/json"
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        sent_at = time.time()
        try:
            self.connection.request(method, path, body, headers)
            response = self.connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        return Read(response.status, response.headers, text, sent_at, time.time())

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None


def read(server, path, token=None, key=None, **query):
    """One read on a connection of its own."""
    with contextlib.closing(Line(server.port, key or server.key)) as line:
        return line.read(path, token, **query)


def write(server, path, attributes, key=None, **members):
    """The token of an edit that has to succeed."""
    with contextlib.closing(Line(server.port, key or server.key)) as line:
        answer = line.send("PATCH", path, {"attributes": attributes, **members})
    if answer.status not in (200, 201):
        raise AssertionError(f"PATCH {path}: {answer.shown()}")
    return answer.document()["token"]


def metric(server, name, **labels):
    """The value of a metric with these labels; None where there is none. NaN is what it is."""
    status, _, text = server.call("GET", "/metrics", key=server.admin_key)
    if status != 200:
        raise AssertionError(f"/metrics: {status} {text}")
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    for line in text.splitlines():
        series, _, value = line.rpartition(" ")
        family, _, rest = series.partition("{")
        if family == name and all(label in rest for label in wanted):
            return float(value)
    return None
