"""A client that follows the changes of a tenant, and goes on where it was for as long as it is let."""

import contextlib
import http.client
import json
import threading
import time
import urllib.parse


class Refused(Exception):
    """The answer was no stream."""

    def __init__(self, status, code):
        super().__init__(f"{status} {code}")
        self.status, self.code = status, code


class Stream:
    """One answer. Iterates over (id, name of the event, its data); comments have neither id nor data."""

    def __init__(self, server, key, last_id=None, timeout=60, **query):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
        headers = {"Authorization": "Bearer " + key, "Accept": "text/event-stream"}
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        self.connection.request("GET", "/v1/changes?" + urllib.parse.urlencode(query), headers=headers)
        self.answer = self.connection.getresponse()
        self.token = self.answer.headers["X-Consistency-Token"]
        if self.answer.status != 200:
            text = self.answer.read().decode()
            self.close()
            raise Refused(self.answer.status, json.loads(text)["code"])

    def __iter__(self):
        fields = {}
        while line := self.answer.readline().decode():
            line = line.rstrip("\n")
            if line.startswith(":"):
                yield None, "comment", line[1:].strip()
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                yield fields.get("id"), fields["event"], json.loads(fields["data"])
                fields = {}

    def take(self, count):
        """The data of the next changes."""
        changes = []
        for _, name, data in self:
            if name == "change":
                changes.append(data)
            if len(changes) == count:
                return changes
        raise AssertionError(f"the stream ended after {changes}")

    def close(self):
        self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Follower(threading.Thread):
    """Follows until told to stop, and connects again whenever it is cut off, after the last event that it has received."""

    def __init__(self, server, key, since):
        super().__init__(daemon=True)
        self.server, self.key, self.since = server, key, since
        self.id = None
        self.received = []
        self.byes, self.connected, self.failure = [], 0, None
        self.stopping = threading.Event()

    def run(self):
        try:
            while not self.stopping.is_set():
                with contextlib.suppress(OSError, http.client.HTTPException):
                    self.follow()
                time.sleep(0.02)
        except Refused as refused:
            self.failure = refused

    def follow(self):
        try:
            stream = Stream(self.server, self.key, self.id, timeout=1, since=self.since)
        except Refused as refused:
            if refused.status == 503:
                return
            raise
        with stream:
            self.connected += 1
            for event_id, name, data in stream:
                if self.stopping.is_set():
                    return
                if name == "bye":
                    self.byes.append(data)
                elif name == "change":
                    self.received.append(data)
                    self.id = event_id

    def stop(self):
        self.stopping.set()
        self.join()
        if self.failure is not None:
            raise self.failure
